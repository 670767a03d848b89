/* The stages of `bench run`. Owns the plan, the screen and the result file, and never touches an
 * engine: workers do. */
#include "harness/run.h"

#include "harness/check.h"
#include "harness/fetch.h"
#include "harness/interrupt.h"
#include "harness/launch.h"
#include "harness/machine.h"
#include "harness/progress.h"
#include "harness/prompt.h"
#include "harness/record.h"
#include "harness/show.h"
#include "harness/terminal.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- config and plan ---- */

enum status run_load_config(struct run *r, struct error *err) {
    enum status s =
        config_load(&r->config, r->config_path, r->sets.v, r->sets.n, &r->config_errors);
    if (s == STATUS_USAGE) plan_check(&r->config, &r->config_errors);
    if (s != STATUS_IO || r->config_errors.n != 1)
        return s == STATUS_OK ? s : error_set(err, s, "%s is not valid", r->config_path);
    *err = r->config_errors.e[0]; /* no finding in the file: there is none to read */
    r->config_errors.n = 0;
    return s;
}

/* Before the plan, which needs their lengths, and before workers, which only read. */
static enum status fetch_prompts(struct run *r, struct error *err) {
    const struct fetch_screen screen = {"run", r->quiet ? NULL : stderr, terminal_obeys(stderr)};
    const enum status s = fetch_prompts_of(&r->config, &screen, r->interrupts, &r->config_errors);
    if (s == STATUS_OK) return s;
    if (s != STATUS_INTERRUPTED) plan_check(&r->config, &r->config_errors);
    return error_set(err, s, "the prompts of %s are not there", r->config_path);
}

static enum status make_plan(struct run *r, struct error *err) {
    r->config.only = r->only;
    const enum status s = plan_make(&r->plan, &r->config, &r->config_errors);
    return s == STATUS_OK ? s : error_set(err, s, "%s cannot be planned", r->config_path);
}

/* What is resumed goes on with the texts that it began with. */
static enum status compare_texts(const struct run *r, struct error *err) {
    for (int i = 0; i < r->config.prompt.n; i++) {
        const char *source = r->config.prompt.v[i], *was = r->plan.text_sha256[i];
        char is[65];
        const enum status s = prompt_text_sha256(source, is, err);
        if (s != STATUS_OK) return s;
        if (strcmp(was, is) != 0)
            return error_set(err, STATUS_USAGE,
                             "cannot resume %s with another text: %s: sha256 was %s, is %s. Undo "
                             "that, or start over with --force",
                             r->dir.file, source, was, is);
    }
    return STATUS_OK;
}

static enum status read_plan(struct run *r, struct error *err) {
    const enum status s = plan_read(&r->plan, &r->config, r->dir.plan, err);
    return s == STATUS_OK ? compare_texts(r, err) : s;
}

enum status run_open(struct run *r, struct error *err) {
    char file[PATH_MAX_BYTES];
    enum run_mode mode = r->resume ? RUN_RESUME : r->force ? RUN_FORCE : RUN_NEW;
    const char *output = r->output ? r->output : r->config.output;
    enum status s = run_dir_file(&r->config, output, mode, file, err);
    if (s == STATUS_OK) s = fetch_prompts(r, err);
    if (s == STATUS_OK && !r->resume) s = make_plan(r, err);
    if (s == STATUS_OK) {
        s = run_dir_open(&r->dir, file, &r->config, mode, err);
        r->dir_open = s == STATUS_OK;
    }
    if (s != STATUS_OK) return s;
    if (r->dir.has_plan) return read_plan(r, err);
    if (r->resume) s = make_plan(r, err);
    return s == STATUS_OK ? plan_write(&r->plan, r->dir.plan, err) : s;
}

/* ---- cases ---- */

static enum status read_fragment(const struct run *r, int i, struct case_result *out,
                                 struct error *err) {
    char path[2 * PATH_MAX_BYTES];
    snprintf(path, sizeof path, "%s/case-%s.h5", r->dir.path, r->plan.cases[i].id);
    if (access(path, R_OK) != 0) return error_set(err, STATUS_IO, "%s: %s", path, strerror(errno));
    return record_read_case(path, r->plan.cases[i].id, false, out, err);
}

static bool is_done(const struct run *r, int i) {
    struct case_result result;
    if (!r->resume || read_fragment(r, i, &result, NULL) != STATUS_OK) return false;
    bool done = result.status == CASE_OK;
    result_free(&result);
    return done;
}

static enum status leave_skipped(const struct run *r, int i, struct error *err) {
    struct case_result result;
    result_init(&result, &r->plan.cases[i]);
    result.repeats = (int)r->config.repeats;
    enum status s = record_write_case(r->dir.path, &result, err);
    result_free(&result);
    return s;
}

enum status run_choose_cases(struct run *r, struct error *err) {
    size_t n = (size_t)r->plan.n + 1;
    r->wanted = calloc(n, sizeof *r->wanted);
    r->pending = calloc(n, sizeof *r->pending);
    r->results = calloc(n, sizeof *r->results);
    r->found = calloc(n, sizeof *r->found);
    if (!r->wanted || !r->pending || !r->results || !r->found)
        return error_set(err, STATUS_NO_MEMORY, "no memory for %d cases", r->plan.n);
    enum status s = STATUS_OK;
    for (int i = 0; s == STATUS_OK && i < r->plan.n; i++) {
        const struct case_plan *c = &r->plan.cases[i];
        const int chunk = r->once ? atoi(r->config.profile_chunk) : 0; /* "last": 0 */
        r->wanted[i] = !r->only || fnmatch(r->only, c->id, 0) == 0;
        r->n_wanted += r->wanted[i];
        bool skipped = c->coverage == COVER_SKIPPED;
        r->pending[i] = r->wanted[i] && !skipped && !is_done(r, i);
        if (r->wanted[i] && skipped) s = leave_skipped(r, i, err);
        if (r->wanted[i] && chunk >= c->chunks)
            s = error_set(err, STATUS_USAGE, "--chunk %d: %s has %d", chunk + 1, c->id, c->chunks);
    }
    if (s == STATUS_OK && r->n_wanted == 0)
        s = error_set(err, STATUS_USAGE,
                      "--only %s: no case has such an id; `bench plan %s` lists them", r->only,
                      r->config_path);
    return s;
}

/* ---- launches ---- */

/* From now on the time budget runs. */
static struct time_limit limit_of(const struct config *c) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    struct time_limit t = {.begin_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec};
    if (c->time_budget_s > 0) t.end_ns = t.begin_ns + c->time_budget_s * 1000000000;
    return t;
}

static bool lacks_trace(const struct run *r, const struct case_result *c) {
    return strcmp(r->config.cupti, "none") != 0 && c->status == CASE_OK && !c->kernel_trace.wanted;
}

/* Of the cases that ended well and have no trace yet. */
static int choose_traces(const struct run *r, bool *pending) {
    int n = 0;
    for (int i = 0; i < r->plan.n; i++) {
        struct case_result result;
        pending[i] = false;
        if (!r->wanted[i] || read_fragment(r, i, &result, NULL) != STATUS_OK) continue;
        pending[i] = lacks_trace(r, &result);
        n += pending[i];
        result_free(&result);
    }
    return n;
}

/* After everything that is measured: workers of their own, which put what they record into the
 * fragments. */
static enum status run_traces(struct run *r, struct launch_opts opts, struct error *err) {
    if (strcmp(r->config.cupti, "none") == 0) return STATUS_OK;
    bool *pending = calloc((size_t)r->plan.n + 1, sizeof *pending);
    if (!pending) return error_set(err, STATUS_NO_MEMORY, "no memory for %d cases", r->plan.n);
    const int n = choose_traces(r, pending);
    enum status s = STATUS_OK;
    opts.probe = PROBE_TRACE;
    if (n > 0 && !r->quiet)
        fprintf(stderr, "recording kernels of %d case%s with CUPTI\n", n, n == 1 ? "" : "s");
    for (int launch = 0; s == STATUS_OK && launch < r->plan.launches; launch++)
        s = launch_run(&r->plan, launch, pending, &opts, NULL, err);
    free(pending);
    return s;
}

enum status run_launches(struct run *r, struct error *err) {
    struct progress *screen = NULL;
    if (interrupt_count(r->interrupts))
        return error_set(err, STATUS_INTERRUPTED, "interrupted before anything ran");
    r->started = true;
    const struct progress_opts on = {.stream = stderr,
                                     .live = terminal_obeys(stderr) && !r->quiet,
                                     .color = terminal_colored(stderr, r->no_color),
                                     .quiet = r->quiet};
    /* Under a profiler a kernel may run hundreds of times: nobody knows how long a chunk takes. */
    const struct launch_opts opts = {.dir = r->dir.path,
                                     .watchdog_s = r->once ? 0 : r->config.watchdog_s,
                                     .probe = r->once ? PROBE_ONCE : PROBE_OFF,
                                     .limit = limit_of(&r->config),
                                     .interrupts = r->interrupts};
    for (int i = 0; i < r->plan.n_notes && !r->quiet; i++)
        fprintf(stderr, "note: %s\n", r->plan.notes[i]);
    enum status s = progress_open(&screen, &r->plan, r->pending, &on, err);
    if (s == STATUS_OK) {
        struct launch_observer observer = progress_observer(screen);
        /* After an interrupt the launches that are left only say that they did not start. */
        for (int launch = 0; launch < r->plan.launches; launch++) {
            enum status of_launch = launch_run(&r->plan, launch, r->pending, &opts, &observer, err);
            if (of_launch != STATUS_OK) s = of_launch;
            if (s != STATUS_OK && s != STATUS_INTERRUPTED) break;
        }
    }
    progress_close(screen);
    return s == STATUS_OK ? run_traces(r, opts, err) : s;
}

/* ---- results ---- */

bool run_can_merge(const struct run *r, enum status launched) {
    return r->started && (launched == STATUS_OK ||
                          (launched == STATUS_INTERRUPTED && interrupt_count(r->interrupts) == 1));
}

enum status run_check_cases(struct run *r, struct error *err) {
    for (int i = 0; i < r->plan.n; i++) {
        struct error why;
        if (!r->wanted[i]) continue;
        if (read_fragment(r, i, &r->results[i], &why) == STATUS_OK)
            r->found[r->n_found++] = &r->results[i];
        else if (r->n_lost++ == 0)
            error_set(&r->first_lost, STATUS_IO,
                      "case %s: its fragment is missing or damaged: %.700s", r->plan.cases[i].id,
                      why.text);
    }
    if (!r->config.invariance) return STATUS_OK;
    check_invariance(r->found, r->n_found);
    enum status s = STATUS_OK;
    for (int i = 0; s == STATUS_OK && i < r->n_found; i++)
        if (r->found[i]->status == CASE_OK) s = record_update_checks(r->dir.path, r->found[i], err);
    return s;
}

enum status run_merge(struct run *r, bool complete, struct error *err) {
    struct machine_facts facts;
    const char **ids = calloc((size_t)r->n_found + 1, sizeof *ids);
    if (!ids) return error_set(err, STATUS_NO_MEMORY, "no memory for %d ids", r->n_found);
    for (int i = 0; i < r->n_found; i++) ids[i] = r->found[i]->id;
    int damaged = 0;
    machine_facts_open(&facts, &r->plan, r->argc, r->argv);
    enum status s = record_merge(r->dir.path, r->dir.file, &facts.run, ids, r->n_found,
                                 complete && r->n_lost == 0, &damaged, err);
    machine_facts_close(&facts);
    free(ids);
    if (damaged > 0 && r->n_lost == 0)
        error_set(&r->first_lost, STATUS_IO,
                  "a fragment in %.700s went missing or was damaged before the merge", r->dir.path);
    r->n_lost += damaged;
    return s;
}

enum status run_show(struct run *r, struct error *err) {
    if (r->quiet && !r->json) return STATUS_OK;
    struct record_run run;
    enum status s = record_read_run(r->dir.file, &run, err);
    if (s != STATUS_OK) return s;
    const struct show_style style = {.color = terminal_colored(stdout, r->no_color),
                                     .width = terminal_width(stdout, SHOW_WIDTH)};
    if (r->json)
        show_json(stdout, &run, r->dir.file);
    else
        show_table(stdout, &run, r->dir.file, &style);
    record_run_free(&run);
    return STATUS_OK;
}

/* The first case with a failed check, or NULL. */
static const struct case_result *first_wrong(const struct run *r) {
    for (int i = 0; i < r->n_found; i++)
        if (result_failed_check(r->found[i]) != CHECKS) return r->found[i];
    return NULL;
}

/* What the cases came to. */
struct tally {
    int ran, skipped, interrupted;
    int untraced; /* of those that ran: their kernels are left to be recorded */
    const struct case_result *failed, *first_skipped; /* the first of each, or NULL */
};

static struct tally count_cases(const struct run *r) {
    struct tally t = {0};
    for (int i = 0; i < r->n_found; i++) {
        const struct case_result *c = r->found[i];
        switch (c->status) {
        case CASE_OK:
            t.ran++;
            t.untraced += lacks_trace(r, c);
            break;
        case CASE_SKIPPED:
            if (t.skipped++ == 0) t.first_skipped = c;
            break;
        case CASE_INTERRUPTED: t.interrupted++; break;
        default:
            if (!t.failed) t.failed = c;
        }
    }
    return t;
}

int run_skipped(const struct run *r) {
    return count_cases(r).skipped;
}

bool run_was_stopped(const struct run *r, enum status launched) {
    const struct tally t = count_cases(r);
    return t.interrupted > 0 || (launched == STATUS_INTERRUPTED && t.untraced > 0);
}

/* What the interrupt has left. */
static enum status say_stopped(const struct run *r, const struct tally *t, struct error *err) {
    const int left = r->n_wanted - t->ran - t->skipped;
    if (left == 0)
        return error_set(err, STATUS_INTERRUPTED,
                         "interrupted: all cases ran, but kernels of %d of %d are left to be "
                         "recorded",
                         t->untraced, t->ran);
    return error_set(err, STATUS_INTERRUPTED, "interrupted: %d of %d cases are left", left,
                     r->n_wanted);
}

enum status run_verdict(struct run *r, enum status launched, struct error *err) {
    const struct tally t = count_cases(r);
    const int left = r->n_wanted - t.ran - t.skipped;
    const bool stopped = run_was_stopped(r, launched);
    r->finished = !stopped && left == 0 && r->n_lost == 0;
    const struct case_result *wrong = first_wrong(r);
    if (wrong) {
        const enum check check = result_failed_check(wrong);
        return error_set(err, STATUS_MISMATCH, "%s: %s check: %s", wrong->id, check_name(check),
                         wrong->check[check].detail);
    }
    if (r->n_lost > 0)
        return error_set(err, STATUS_IO, "%d of %d cases cannot be read back; the first: %.800s",
                         r->n_lost, r->n_wanted, r->first_lost.text);
    if (stopped) return say_stopped(r, &t, err);
    if (t.failed)
        return error_set(err, STATUS_RUN_FAILED,
                         "%d of %d cases did not run to their end; the first: %s: %s: %s", left,
                         r->n_wanted, t.failed->id, case_status_text(t.failed->status),
                         t.failed->reason);
    if (t.ran == 0)
        return error_set(err, STATUS_RUN_FAILED,
                         "nothing ran: %d case%s skipped; the first: %s: %s", t.skipped,
                         t.skipped == 1 ? "" : "s", t.first_skipped->id, t.first_skipped->reason);
    return STATUS_OK;
}

void run_good_news(const struct run *r, char *out, size_t size) {
    int ran = 0, right = 0, spot = 0;
    for (int i = 0; i < r->n_found; i++) {
        struct case_summary summary;
        result_summary(r->found[i], &summary);
        if (r->found[i]->status != CASE_OK) continue;
        ran++;
        right += summary.output == VERDICT_OK;
        spot += summary.output == VERDICT_SPOT_OK;
    }
    snprintf(out, size,
             "ok: %d of %d cases ran: %d with the right answer, %d right at the spots checked, "
             "%d not checked",
             ran, r->n_found, right, spot, ran - right - spot);
}

void run_close(struct run *r) {
    for (int i = 0; i < r->n_found; i++) result_free(r->found[i]);
    free(r->found);
    free(r->results);
    free(r->wanted);
    free(r->pending);
    plan_free(&r->plan);
    const bool may_go_on = r->resume || (r->started && !r->once);
    if (r->dir_open) run_dir_close(&r->dir, r->finished || !may_go_on);
}
