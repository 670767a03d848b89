/* `bench plan`: every case with what it will cost and what will be done with it; runs nothing.
 * Before it: plan.c. */
#include "harness/arguments.h"
#include "harness/bench.h"
#include "harness/fetch.h"
#include "harness/format.h"
#include "harness/interrupt.h"
#include "harness/plan.h"
#include "harness/table.h"
#include "harness/terminal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct request {
    const char *config;
    struct argument_list sets;
    bool json, verbose, measure, no_color;
};

static int parse(struct request *r, int argc, char **argv) {
    const struct argument arguments[] = {
        {"--set", ARGUMENT_LIST, &r->sets, "SECTION.KEY=VALUE", "override a key; may be repeated"},
        {"--json", ARGUMENT_FLAG, &r->json, NULL, "print the whole plan as one JSON object"},
        {"--verbose", ARGUMENT_FLAG, &r->verbose, NULL, "memory of every case by category"},
        {"--measure", ARGUMENT_FLAG, &r->measure, NULL,
         "measure the kernels now, whatever was kept"},
        {"--no-color", ARGUMENT_FLAG, &r->no_color, NULL, "so does NO_COLOR in the environment"},
    };
    const struct command_line line = {
        .command = "plan",
        .operands = "CONFIG",
        .purpose = "Shows every case: prompt tokens, chunks, predicted memory and time, and what\n"
                   "time_budget does to it: full, sampled, or skipped and why. Runs nothing but a\n"
                   "measurement of this machine's kernels (about a second, kept for a day).\n"
                   "A prompt from the web that is not in the cache is fetched.\n"
                   "Exits with 0, 2 usage or configuration, 5 no measurement, 6 I/O,\n"
                   "130 interrupted.",
        .arguments = arguments,
        .n = sizeof arguments / sizeof arguments[0],
        .least = 1,
        .most = 1,
    };
    struct argument_list operands;
    const int code = arguments_parse(&line, argc, argv, &operands);
    if (code < 0) r->config = operands.v[0];
    return code;
}

/* ---- the table of cases */

static int64_t sum_categories(const int64_t bytes[MEMORY_CATEGORIES]) {
    int64_t sum = 0;
    for (int k = 0; k < MEMORY_CATEGORIES; k++) sum += bytes[k];
    return sum;
}

static int64_t largest_rank(const struct memory_prediction *m) {
    int64_t most = 0;
    for (int r = 0; r < m->ranks; r++) {
        const int64_t bytes = sum_categories(m->rank_bytes[r]);
        if (bytes > most) most = bytes;
    }
    return most;
}

static void add_case(struct table *t, const struct case_plan *c) {
    char b[FORMAT_BYTES];
    const bool skipped = c->coverage == COVER_SKIPPED;
    table_add(t, skipped ? TONE_FAINT : TONE_PLAIN, "%s", c->id);
    table_add(t, TONE_PLAIN, "%s", format_count(b, c->session.prompt_tokens));
    table_add(t, TONE_PLAIN, "%s", format_count(b, c->session.chunk_tokens));
    table_add(t, TONE_PLAIN, "%d", c->chunks);
    table_add(t, TONE_PLAIN, "%s", c->session.graph ? "graph" : "eager");
    table_add(t, TONE_PLAIN, "%d", c->engine.tensor_parallel_size);
    table_add(t, TONE_PLAIN, "%s", format_bytes(b, largest_rank(&c->memory)));
    table_add(t, TONE_PLAIN, "%s", format_bytes(b, sum_categories(c->memory.shared_bytes)));
    table_add(t, TONE_PLAIN, "%s", skipped ? "-" : format_seconds(b, c->predicted_total_s));
    switch (c->coverage) {
    case COVER_FULL: table_add(t, TONE_PLAIN, "full"); break;
    case COVER_SAMPLED:
        table_add(t, TONE_DOUBTFUL, "sampled, %d of %d", c->sampled, c->chunks);
        break;
    case COVER_SKIPPED: table_add(t, TONE_FAINT, "skipped"); break;
    }
}

enum { SCREEN_WIDTH = 100 }; /* where there is no screen */

static enum status print_cases(const struct plan *p, bool color, struct error *err) {
    struct table_column columns[] = {
        {"case", "", true, false},
        {"prompt", "tokens", false, false},
        {"chunk", "tokens", false, false},
        {"chunks", "", false, false},
        {"mode", "", true, false},
        {"tp", "", false, false},
        {"memory", "per rank", false, false},
        {"memory", "shared", false, false},
        {"time", "in all", false, false},
        {"coverage", "", true, false},
    };
    static const int said_by_name[] = {5, 4, 2, 1}; /* the ids say the same */
    struct table *t = table_open(columns, sizeof columns / sizeof columns[0]);
    if (!t) return error_set(err, STATUS_NO_MEMORY, "no memory for the table");
    for (int i = 0; i < p->n; i++) add_case(t, &p->cases[i]);
    table_fit(t, columns, said_by_name, sizeof said_by_name / sizeof said_by_name[0],
              terminal_width(stdout, SCREEN_WIDTH));
    table_print(stdout, t, "", 0, color);
    table_close(t);
    return STATUS_OK;
}

/* ---- what stands around it */

/* Of any case. */
static int most_devices(const struct plan *p) {
    int n, most = 1;
    for (int i = 0; i < p->n; i++)
        if (engine_devices(&p->cases[i].engine, &n, NULL) == STATUS_OK && n > most) most = n;
    return most;
}

static void print_machine(const struct plan *p) {
    printf("%s on %s (%s", plan_model_path(&p->config, p->device), p->device_info.name,
           p->device_info.isa);
    if (p->device_info.threads)
        printf(", %d thread%s", p->device_info.threads, p->device_info.threads == 1 ? "" : "s");
    printf(")");
    if (most_devices(p) > 1) printf(", ranks on up to %d devices", most_devices(p));
    printf("\n");
}

static bool same_kernels(const struct case_plan *a, const struct case_plan *b) {
    return a->engine.dtype == b->engine.dtype &&
           !strcmp(a->engine.attention_backend, b->engine.attention_backend);
}

/* A line for every pair of dtype and attention kernel; where there is one, it needs no name. */
static void print_rates(const struct plan *p) {
    char name[80] = "", a[FORMAT_BYTES], b[FORMAT_BYTES], c[FORMAT_BYTES];
    bool several = false;
    for (int i = 1; i < p->n; i++) several = several || !same_kernels(&p->cases[i], &p->cases[0]);
    for (int i = 0; i < p->n; i++) {
        const struct case_plan *one = &p->cases[i];
        int earlier = 0;
        while (!same_kernels(one, &p->cases[earlier])) earlier++;
        if (earlier < i) continue;
        if (several)
            snprintf(name, sizeof name, " of %s, attention %s,", dtype_name(one->engine.dtype),
                     one->engine.attention_backend);
        printf("rates%s %s: linear %s, attention %s, copy %s\n", name,
               p->rates_measured ? "measured now" : "measured before",
               format_rate(a, one->rates.linear_flops, "FLOP/s"),
               format_rate(b, one->rates.attention_flops, "FLOP/s"),
               format_rate(c, one->rates.copy_bytes, "B/s"));
    }
    putchar('\n');
}

static void print_reasons(const struct plan *p) {
    bool any = false;
    for (int i = 0; i < p->n; i++) {
        const struct case_plan *c = &p->cases[i];
        if (!*c->reason) continue;
        printf("%s%s %s: %s\n", any ? "" : "\n",
               c->coverage == COVER_SKIPPED ? "skipped" : "sampled", c->id, c->reason);
        any = true;
    }
}

static void print_categories(const char *name, const int64_t bytes[MEMORY_CATEGORIES]) {
    static const char *const names[MEMORY_CATEGORIES] = {
#define X(name, text) text,
        MEMORY_CATEGORY_TABLE(X)
#undef X
    };
    char b[FORMAT_BYTES];
    printf("  %-7s", name);
    for (int k = 0; k < MEMORY_CATEGORIES; k++)
        if (bytes[k]) printf("  %s %s", names[k], format_bytes(b, bytes[k]));
    putchar('\n');
}

static void print_memory(const struct case_plan *c) {
    const struct memory_prediction *m = &c->memory;
    char name[24], a[FORMAT_BYTES], b[FORMAT_BYTES];
    printf("\nmemory of %s: %s of %s available\n", c->id, format_bytes(a, m->total_bytes),
           format_bytes(b, m->available_bytes));
    for (int r = 0; r < m->ranks; r++) {
        snprintf(name, sizeof name, "rank %d", r);
        print_categories(name, m->rank_bytes[r]);
    }
    print_categories("shared", m->shared_bytes);
}

static void print_totals(const struct plan *p) {
    int count[3] = {0};
    char a[FORMAT_BYTES], b[FORMAT_BYTES], c[FORMAT_BYTES];
    for (int i = 0; i < p->n; i++) count[p->cases[i].coverage]++;
    printf("\n%d case%s in %d launch%s: %d full, %d sampled, %d skipped. Predicted time %s, of it "
           "%s loading; budget %s%s.\n",
           p->n, p->n == 1 ? "" : "s", p->launches, p->launches == 1 ? "" : "es", count[COVER_FULL],
           count[COVER_SAMPLED], count[COVER_SKIPPED], format_seconds(a, p->total_s),
           format_seconds(b, p->load_s),
           p->config.time_budget_s ? format_seconds(c, (double)p->config.time_budget_s) : "none",
           p->config.time_budget_s ? ", a tenth of it in reserve" : "");
}

static enum status print_plan(const struct request *r, const struct plan *p, struct error *err) {
    print_machine(p);
    print_rates(p);
    const enum status s = print_cases(p, terminal_colored(stdout, r->no_color), err);
    if (s != STATUS_OK) return s;
    print_reasons(p);
    for (int i = 0; r->verbose && i < p->n; i++) print_memory(&p->cases[i]);
    print_totals(p);
    for (int i = 0; i < p->n_notes; i++) printf("note: %s\n", p->notes[i]);
    return STATUS_OK;
}

/* ---- the command */

/* Ctrl-C ends `bench plan` as it ends any program, but for a prompt that is being fetched: that is
 * let go of in good order. */
static enum status fetch_prompts(struct config *c, struct config_errors *errors) {
    const struct fetch_screen screen = {"plan", stderr, terminal_obeys(stderr)};
    const volatile int *interrupts = interrupt_catch();
    const enum status s = fetch_prompts_of(c, &screen, interrupts, errors);
    interrupt_release();
    if (s != STATUS_OK || interrupt_count(interrupts) == 0) return s;
    config_error(errors, config_from(c, "prompt", "source"), "interrupted");
    return STATUS_INTERRUPTED;
}

static enum status make_plan(const struct request *r, struct plan *p) {
    struct config *c = calloc(1, sizeof *c);
    struct config_errors *errors = calloc(1, sizeof *errors);
    enum status s = STATUS_NO_MEMORY;
    if (c && errors) {
        s = config_load(c, r->config, r->sets.v, r->sets.n, errors);
        const bool loaded = s == STATUS_OK;
        if (loaded) s = fetch_prompts(c, errors);
        if (s == STATUS_OK)
            s = (r->measure ? plan_make_anew : plan_make)(p, c, errors);
        else if (loaded || s == STATUS_USAGE)
            plan_check(c, errors);
        config_errors_print(errors);
    }
    free(c);
    free(errors);
    return s;
}

static enum status show_plan(const struct request *r, const struct plan *p, struct error *err) {
    if (!r->json) return print_plan(r, p, err);
    char *text = plan_to_json(p);
    if (!text) return error_set(err, STATUS_NO_MEMORY, "no memory for the plan as JSON");
    puts(text);
    free(text);
    return STATUS_OK;
}

int cmd_plan(int argc, char **argv, const struct bench_hooks *hooks) {
    (void)hooks;
    struct request r = {0};
    struct error err = {""};
    const int code = parse(&r, argc, argv);
    if (code >= 0) return code;
    struct plan *p = calloc(1, sizeof *p);
    if (!p) return bench_fail("plan", STATUS_NO_MEMORY, &err);
    enum status s = make_plan(&r, p); /* what is wrong has been said */
    const bool made = s == STATUS_OK;
    if (made) s = show_plan(&r, p, &err);
    plan_free(p);
    free(p);
    return made && s != STATUS_OK ? bench_fail("plan", s, &err) : status_exit_code(s);
}
