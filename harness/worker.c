/* The worker process: arguments, the loaded engine, one case after another, and the two voices by
 * which the supervisor hears it: an event for everything that happens, and a heartbeat.
 *
 * The heartbeat thread sends EVENT_HEARTBEAT once a second while there is life: inside a step of
 * the engine, and while a session opens, when engine_progress() has moved (who waits for another
 * device may use processor time), outside (loading, making prompts, checking) when the process has
 * used some. A process that does neither is hung, and
 * the supervisor's watchdog ends it. Nothing is printed on stdout.
 *
 * Where a launcher has started several, this is each of them: process 0 runs the cases, the others
 * follow it and have no more to say than that they are alive, or why they are not. */
#include "harness/worker.h"

#include "harness/guard.h"
#include "harness/interrupt.h"
#include "harness/record.h"
#include "kernels/activity/activity.h"
#include "kernels/nvtx.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>

enum { HEARTBEAT_S = 1, RENDEZVOUS_BYTES = 80 };

struct worker {
    int fd;          /* to the supervisor */
    const char *dir; /* RUN.partial */
    char **ids;      /* cases, in order */
    int n_ids;
    const struct bench_hooks *hooks;
    const volatile int *stop;
    struct config config;
    struct plan plan;      /* owned */
    struct engine *engine; /* owned */
    struct clocks *clocks; /* owned; NULL on the CPU */
    struct nvtx *nvtx;     /* owned; NULL without a profiler */
    enum probe probe;
    struct activity *activity; /* owned; NULL without CUPTI */
    struct time_limit limit;
    int case_index; /* of the case at work, -1: none */
    struct launcher_place place;
    char meet[RENDEZVOUS_BYTES]; /* where its processes meet */

    pthread_t heartbeat;
    pthread_mutex_t lock; /* guards quit */
    pthread_cond_t wake;
    bool quit;
    _Atomic(struct engine *) beating; /* engine whose progress counts; NULL while loading */
    atomic_bool in_step;
};

/* ---- events ---- */

/* A supervisor that does not listen (stopped by Ctrl-Z) must not slow a step down: what tells only
 * of progress is dropped then. */
static void send_event(void *ctx, const struct event *event) {
    struct worker *w = ctx;
    struct event e = *event;
    e.case_index = w->case_index;
    bool may_drop = e.kind == EVENT_CHUNK || e.kind == EVENT_DECODE || e.kind == EVENT_HEARTBEAT;
    send(w->fd, &e, sizeof e, MSG_NOSIGNAL | (may_drop ? MSG_DONTWAIT : 0));
}

static void send_kind(struct worker *w, enum event_kind kind, int64_t value) {
    struct event e = {.kind = kind, .value = value};
    send_event(w, &e);
}

/* The worker's last words. Returns its exit code. */
static int fail(struct worker *w, enum status s, const struct error *err) {
    struct event e = {.kind = EVENT_ERROR, .value = s};
    snprintf(e.text, sizeof e.text, "%.599s", err->text);
    if (w->fd >= 0) send_event(w, &e);
    /* of one that is gone its guard says more */
    if (s != STATUS_LOST) fprintf(stderr, "bench worker: %s\n", err->text);
    return status_exit_code(s);
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---- heartbeat ---- */

static int64_t cpu_time_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* True once a period, false when it is time to end. */
static bool heartbeat_wait(struct worker *w) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += HEARTBEAT_S;
    pthread_mutex_lock(&w->lock);
    int rc = 0;
    while (!w->quit && rc == 0) rc = pthread_cond_timedwait(&w->wake, &w->lock, &until);
    bool quit = w->quit;
    pthread_mutex_unlock(&w->lock);
    return !quit;
}

static void *heartbeat_main(void *ctx) {
    struct worker *w = ctx;
    uint64_t progress = 0;
    int64_t cpu_ms = cpu_time_ms();
    while (heartbeat_wait(w)) {
        const struct engine *e = atomic_load(&w->beating);
        uint64_t progress_now = e ? engine_progress(e) : 0;
        int64_t cpu_now = cpu_time_ms();
        const bool stepping = e && (atomic_load(&w->in_step) || engine_stepping(e));
        /* 10 ms of processor time in a second: more than this thread itself ever uses */
        const bool alive = stepping ? progress_now != progress : cpu_now >= cpu_ms + 10;
        progress = progress_now;
        cpu_ms = cpu_now;
        struct event beat = {.kind = alive ? EVENT_HEARTBEAT : EVENT_STILL, .case_index = -1};
        if (!alive && stepping) engine_at_work(e, beat.text, sizeof beat.text);
        if (alive || stepping) send(w->fd, &beat, sizeof beat, MSG_NOSIGNAL | MSG_DONTWAIT);
    }
    return NULL;
}

static enum status heartbeat_start(struct worker *w, struct error *err) {
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&w->wake, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&w->lock, NULL);
    int rc = pthread_create(&w->heartbeat, NULL, heartbeat_main, w);
    if (rc == 0) return STATUS_OK;
    return error_set(err, STATUS_RUN_FAILED, "cannot start the heartbeat: %s", strerror(rc));
}

static void heartbeat_stop(struct worker *w) {
    pthread_mutex_lock(&w->lock);
    w->quit = true;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->heartbeat, NULL);
}

static void in_step(void *ctx, bool inside) {
    struct worker *w = ctx;
    atomic_store(&w->in_step, inside);
}

/* ---- cases ---- */

/* A case of its own, or what was recorded of one that is there; why not, where that failed, unless
 * the run may go on with it. */
static enum status keep_case(const struct worker *w, struct case_result *r, struct error *err) {
    if (w->probe != PROBE_TRACE) return record_write_case(w->dir, r, err);
    r->kernel_trace.wanted = true;
    if (r->status != CASE_OK) {
        r->kernel_trace.n_chunks = 0;
        snprintf(r->kernel_trace.note, sizeof r->kernel_trace.note, "%.399s", r->reason);
    }
    return r->status == CASE_INTERRUPTED ? STATUS_OK : record_update_trace(w->dir, r, err);
}

/* The fragment is on disk before anybody hears of the end. STATUS_IO when it is not. */
static enum status finish_case(struct worker *w, struct case_result *r, struct error *err) {
    enum status s = keep_case(w, r, err);
    struct event e = {.kind = EVENT_CASE_END, .value = r->status};
    const enum check failed = result_failed_check(r);
    e.wrong = failed != CHECKS;
    if (e.wrong)
        snprintf(e.text, sizeof e.text, "%s check: %s", check_name(failed),
                 r->check[failed].detail);
    else
        snprintf(e.text, sizeof e.text, "%s", r->reason);
    if (s == STATUS_OK) send_event(w, &e);
    w->case_index = -1;
    return s;
}

/* What none of the cases can do without is missing. */
static enum status fail_all(struct worker *w, const char *what, const char *why,
                            struct error *err) {
    enum status s = STATUS_OK;
    for (int i = 0; s == STATUS_OK && i < w->n_ids; i++) {
        struct case_result r;
        result_init(&r, plan_find(&w->plan, w->ids[i]));
        r.status = CASE_FAILED;
        snprintf(r.reason, sizeof r.reason, "%s: %.500s", what, why);
        w->case_index = i;
        send_kind(w, EVENT_CASE_BEGIN, 0);
        s = finish_case(w, &r, err);
        result_free(&r);
    }
    return s;
}

/* What is needed of a case for any result: opening it, its warm-up and a repeat. */
static double least_s(const struct plan *p, const struct case_plan *c) {
    const double warmup = (double)p->config.warmup, repeats = (double)p->config.repeats;
    const double prefills_s = c->predicted_total_s - c->predicted_fixed_s;
    return c->predicted_fixed_s + prefills_s * (warmup + 1) / (warmup + repeats);
}

/* Chosen chunks of a case once more. */
static enum status probe_case(struct worker *w, const struct case_plan *c,
                              const struct case_env *env, struct case_result *r,
                              struct error *why) {
    send_kind(w, EVENT_CASE_BEGIN, 0);
    return worker_probe_case(w->engine, &w->plan, c, env, r, why);
}

/* One case, if there is time for it: STATUS_TIMEOUT and a result that says so, if not. */
static enum status run_case(struct worker *w, const struct case_plan *c, const struct case_env *env,
                            struct case_result *r, struct error *why) {
    const int64_t begin_ns = now_ns();
    if (w->probe != PROBE_OFF) return probe_case(w, c, env, r, why);
    if (!time_has_room(&w->limit, begin_ns, least_s(&w->plan, c), why->text, sizeof why->text)) {
        result_init(r, c);
        r->status = CASE_SKIPPED;
        snprintf(r->reason, sizeof r->reason, "%.599s", why->text);
        return STATUS_TIMEOUT;
    }
    send_kind(w, EVENT_CASE_BEGIN, 0);
    const enum status s = worker_run_case(w->engine, &w->plan, c, env, r, why);
    if (s == STATUS_OK)
        time_case_ran(&w->limit, c->predicted_total_s, (double)(now_ns() - begin_ns) / 1e9);
    return s;
}

static enum status run_cases(struct worker *w, struct error *err) {
    struct case_env env = {.stop = w->stop,
                           .send = send_event,
                           .in_step = in_step,
                           .ctx = w,
                           .limit = &w->limit,
                           .clocks = w->clocks,
                           .hooks = w->hooks,
                           .nvtx = w->nvtx,
                           .probe = w->probe,
                           .activity = w->activity};
    enum status s = STATUS_OK;
    for (int i = 0; s == STATUS_OK && i < w->n_ids; i++) {
        if (interrupt_count(w->stop))
            return error_set(err, STATUS_INTERRUPTED, "stopped before %s", w->ids[i]);
        struct case_result r;
        struct error why;
        w->case_index = i;
        nvtx_begin(w->nvtx, NVTX_ONE_CASE, w->ids[i], i);
        const enum status of_case = run_case(w, plan_find(&w->plan, w->ids[i]), &env, &r, &why);
        /* what became of a process that is gone is the supervisor's to find out and to record */
        s = of_case == STATUS_LOST ? error_set(err, of_case, "%s", why.text)
                                   : finish_case(w, &r, err);
        nvtx_end(w->nvtx, NVTX_ONE_CASE);
        result_free(&r);
        if (s == STATUS_OK && of_case == STATUS_INTERRUPTED) {
            *err = why;
            s = of_case;
        }
        /* a lost device takes the worker along; another one does the rest */
        if (s == STATUS_OK && of_case != STATUS_OK && of_case != STATUS_TIMEOUT &&
            engine_check(w->engine, &why) != STATUS_OK)
            s = error_set(err, STATUS_RUN_FAILED, "the device is lost: %.400s", why.text);
    }
    return s;
}

/* Those who come late are waited for only as long as the watchdog waits for this one. */
static struct engine_processes company_of(const struct worker *w) {
    enum { PATIENCE_S = 60 };
    const int64_t half = w->config.watchdog_s / 2, least = half < 1 ? 1 : half;
    return (struct engine_processes){.name = w->meet,
                                     .process = w->place.process,
                                     .processes = w->place.processes,
                                     .local = w->place.local,
                                     .patience_s = (int)(least < PATIENCE_S ? least : PATIENCE_S)};
}

static enum status load_and_run(struct worker *w, struct error *err) {
    struct engine_opts opts = plan_find(&w->plan, w->ids[0])->engine;
    opts.stop = w->stop;
    opts.nvtx = w->nvtx;
    opts.activity = w->activity;
    opts.processes = company_of(w);
    opts.apart = w->place.processes > 1;
    if (w->hooks) {
        opts.interpose = w->hooks->interpose;
        opts.interpose_ctx = w->hooks->interpose_ctx;
    }
    send_kind(w, EVENT_LOADING, 0);
    struct error why;
    nvtx_begin(w->nvtx, NVTX_LOAD, NULL, 0);
    enum status s = engine_open(&w->engine, &opts, &why);
    nvtx_end(w->nvtx, NVTX_LOAD);
    if (s == STATUS_INTERRUPTED || s == STATUS_LOST) return error_set(err, s, "%s", why.text);
    if (s != STATUS_OK && w->place.process == 0)
        return fail_all(w, "the model was not loaded", why.text, err);
    if (s != STATUS_OK) return error_set(err, s, "%s", why.text);
    send_kind(w, EVENT_LOADED, 0);
    atomic_store(&w->beating, w->engine);
    if (w->place.process > 0) return engine_follow(w->engine, err);
    const struct engine_info *info = engine_info(w->engine);
    w->clocks = clocks_open(info->device, info->devices, NULL);
    s = run_cases(w, err);
    return s;
}

/* ---- the process ---- */

/* Before CUDA is first used. STATUS_UNSUPPORTED: there is nothing to record with. */
static enum status open_activity(struct worker *w, struct error *err) {
    struct activity_opts opts = activity_opts_defaults();
    const bool wanted = w->probe == PROBE_CUPTI || w->probe == PROBE_TRACE;
    if (w->hooks) opts.library = w->hooks->cupti_library;
    if (!wanted) return STATUS_OK;
    if (w->plan.device == DEVICE_CPU && !opts.library)
        return error_set(err, STATUS_UNSUPPORTED, "CUPTI records GPUs, this ran on the CPU");
    return activity_open(&w->activity, &opts, err);
}

static bool read_number(const char *text, int64_t least, int64_t most, int64_t *out) {
    char *end;
    errno = 0;
    const long long value = strtoll(text, &end, 10);
    *out = value;
    return errno == 0 && end != text && *end == 0 && value >= least && value <= most;
}

static bool read_probe(const char *text, enum probe *out) {
    for (int p = 0; p < PROBES; p++) {
        if (strcmp(text, probe_name((enum probe)p)) != 0) continue;
        *out = (enum probe)p;
        return true;
    }
    return false;
}

static enum status take_fd(struct worker *w, const char *text, struct error *err) {
    int64_t fd = -1;
    int type = 0;
    socklen_t size = sizeof type;
    if (!read_number(text, 0, 1 << 20, &fd) ||
        getsockopt((int)fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_SEQPACKET)
        return error_set(err, STATUS_USAGE, "--fd %s is not the socket of a supervisor", text);
    w->fd = (int)fd;
    w->place.processes = 1;
    return STATUS_OK;
}

static bool comes_by_itself(int argc, char **argv) {
    return argc > 2 && strcmp(argv[1], "--at") == 0;
}

static enum status read_arguments(struct worker *w, int argc, char **argv, struct error *err) {
    const bool comes = comes_by_itself(argc, argv);
    if (argc < 11 || (!comes && strcmp(argv[1], "--fd") != 0) || strcmp(argv[3], "--dir") != 0 ||
        strcmp(argv[5], "--time") != 0 || !read_number(argv[6], 0, INT64_MAX, &w->limit.begin_ns) ||
        !read_number(argv[7], 0, INT64_MAX, &w->limit.end_ns) || strcmp(argv[8], "--probe") != 0 ||
        !read_probe(argv[9], &w->probe))
        return error_set(err, STATUS_USAGE,
                         "this command is started by `bench run`: worker --fd N --dir DIR "
                         "--time BEGIN END --probe NAME ID...");
    w->dir = argv[4];
    w->ids = argv + 10;
    w->n_ids = argc - 10;
    if (!comes) return take_fd(w, argv[2], err);
    snprintf(w->meet, sizeof w->meet, "%.70s-meet", argv[2]);
    return STATUS_OK;
}

static enum status read_plan(struct worker *w, struct error *err) {
    char path[PATH_MAX_BYTES];
    snprintf(path, sizeof path, "%s/config.ini", w->dir);
    struct config_errors errors = {0};
    enum status s = config_load(&w->config, path, NULL, 0, &errors);
    if (s != STATUS_OK)
        return error_set(err, s, "%s", errors.n > 0 ? errors.e[0].text : "config.ini");
    snprintf(path, sizeof path, "%s/plan.json", w->dir);
    s = plan_read(&w->plan, &w->config, path, err);
    for (int i = 0; s == STATUS_OK && i < w->n_ids; i++)
        if (!plan_find(&w->plan, w->ids[i]))
            s = error_set(err, STATUS_USAGE, "%s: no case %s", path, w->ids[i]);
    return s;
}

/* Ranges of the whole process, where a profiler is attached. */
static void open_nvtx(struct worker *w) {
    static const char *const levels[] = {
        [NVTX_OFF] = "off", [NVTX_CASE] = "case", [NVTX_CHUNK] = "chunk", [NVTX_OP] = "op"};
    int level = NVTX_OP;
    if (w->probe == PROBE_NONE || w->probe == PROBE_SPANS) return;
    /* CUPTI is the tool where there is no other; what it records of ranges comes with the rest */
    if (w->activity) setenv("NVTX_INJECTION64_PATH", activity_library(w->activity), 0);
    while (level > NVTX_OFF && strcmp(levels[level], w->config.nvtx) != 0) level--;
    w->nvtx = nvtx_open((enum nvtx_level)level);
    nvtx_begin(w->nvtx, NVTX_RUN, NULL, w->n_ids);
}

static enum status run(struct worker *w, struct error *err) {
    struct error why;
    if (w->place.process == 0 && open_activity(w, &why) != STATUS_OK)
        return fail_all(w, "no kernels were recorded", why.text, err);
    open_nvtx(w);
    return load_and_run(w, err);
}

/* A process that a launcher has started: from here on the worker, or (false) its guard, done. */
static bool come(struct worker *w, const char *name, int *code) {
    struct error err;
    if (launcher_place(&w->place, &err) == STATUS_OK)
        return guard_stand(name, &w->place, &w->fd, code);
    fprintf(stderr, "bench worker: %s\n", err.text);
    *code = status_exit_code(STATUS_USAGE);
    return false;
}

int worker_main(int argc, char **argv, const struct bench_hooks *hooks) {
    struct worker *w = calloc(1, sizeof *w); /* a config is too large for the stack */
    int code;
    if (!w) return status_exit_code(STATUS_NO_MEMORY);
    w->fd = w->case_index = -1;
    w->hooks = hooks;
    if (comes_by_itself(argc, argv) && !come(w, argv[2], &code)) {
        free(w);
        return code;
    }
    prctl(PR_SET_NAME, "bench worker"); /* in ps and top; else the "exe" of /proc/self/exe */
    w->stop = interrupt_catch();
    struct error err = {{0}};
    bool beating = false;
    enum status s = read_arguments(w, argc, argv, &err);
    if (s == STATUS_OK) s = heartbeat_start(w, &err);
    beating = s == STATUS_OK;
    if (s == STATUS_OK) s = read_plan(w, &err);
    if (s == STATUS_OK) s = run(w, &err);
    code = s == STATUS_OK ? 0 : fail(w, s, &err);
    if (beating) heartbeat_stop(w);
    clocks_close(w->clocks);
    engine_close(w->engine);
    nvtx_close(w->nvtx);
    activity_close(w->activity);
    plan_free(&w->plan);
    free(w);
    return code;
}
