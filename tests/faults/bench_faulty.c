/* The program with something broken in it: bench_main with hooks. What is broken is named by the
 * environment, so that the worker processes inherit it:
 *
 *   BENCH_TEST_FAULT=NAME:CHUNK   see the table below; CHUNK counts from 0; or a fault of fault.h
 *   BENCH_TEST_CASE=GLOB          only in cases whose id matches (default: all)
 *   BENCH_TEST_CUPTI=FILE         a library in the place of CUPTI, which serves any device
 *   BENCH_TEST_PROCESS=NAME:P     of a worker that is several processes, process P does not start
 *                                 (away), has no memory to load (poor) or is stopped when it opens
 *                                 a session, while the others look busy as they wait (stopped)
 *   BENCH_TEST_EARLY=PROBE        the run is interrupted while it starts a worker with that probe
 *                                 (`--probe`): after the fork, before the program is executed
 */
#include "harness/bench.h"
#include "harness/interrupt.h"

#include "fault.h"

#ifdef HAVE_CUDA
#include <cuda_runtime_api.h>
#endif
#include <fnmatch.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* ---- deaths of the worker ---- */

static void die_abort(void) {
    fprintf(stderr, "bench_faulty: aborting on purpose\n");
    abort();
}

static void die_segv(void) {
    signal(SIGSEGV, SIG_DFL); /* a sanitizer's handler would turn it into an exit */
    raise(SIGSEGV);
}

static void die_hang(void) {
    for (;;) pause();
}

static void die_exit(void) {
    fprintf(stderr, "bench_faulty: leaving on purpose\n");
    _exit(7);
}

/* Dies as a process does that a library stops when memory runs out: nothing is left to report it.
 */
static void die_oom(void) {
    fprintf(stderr, "bench_faulty: out of memory on purpose\n");
    raise(SIGKILL);
}

static void die_kill(void) {
    raise(SIGKILL);
}

/* Not a death: a chunk that takes long, for tests that interrupt. */
static void slow(void) {
    for (int i = 0; i < 20; i++) usleep(50000);
}

/* As one does under a profiler that runs kernels again and again. */
static void very_slow(void) {
    for (int i = 0; i < 5; i++) slow();
}

/* Asks the supervisor to stop, by what no shell lets it ignore; goes on when that has told this
 * worker. */
static void interrupt(void) {
    const volatile int *told = interrupt_catch(); /* the worker's own counter */
    kill(getppid(), SIGTERM);
    while (interrupt_count(told) == 0) usleep(1000);
}

/* Not a death either: takes the GPU's memory, as another program may at any time, but for what
 * loading a kernel needs: what is opened next finds none. */
static void hog(void) {
#ifdef HAVE_CUDA
    enum { STEP = 64 << 20 };
    size_t left = 0, all = 0;
    void *taken = NULL;
    if (cudaMemGetInfo(&left, &all) != cudaSuccess || left < 4 * (size_t)STEP) return;
    left -= 3 * (size_t)STEP;
    while (left > STEP && cudaMalloc(&taken, left) != cudaSuccess) left -= STEP;
    cudaGetLastError();
#endif
}

static const struct {
    const char *name;
    void (*act)(void);
    bool feed;   /* whether the chunk is fed after it */
    bool probed; /* only while a probe watches the chunk */
} faults[] = {
    {"abort", die_abort, true, false},     {"segv", die_segv, true, false},
    {"hang", die_hang, true, false},       {"exit", die_exit, true, false},
    {"oom", die_oom, true, false},         {"kill", die_kill, true, false},
    {"slow", slow, true, false},           {"hog", hog, true, false}, /* of a GPU */
    {"drop", NULL, false, false},          {"abort_traced", die_abort, true, true},
    {"slow_traced", slow, true, true},     {"very_slow_traced", very_slow, true, true},
    {"interrupt", interrupt, true, false}, {"interrupt_traced", interrupt, true, true},
};

struct broken {
    int kind; /* row of the table, or -1 */
    int chunk;
    const char *cases;
    struct fault *arithmetic; /* owned, or NULL */
};

static bool before_chunk(void *ctx, const char *case_id, int repeat, int chunk) {
    const struct broken *f = ctx;
    const bool here = fnmatch(f->cases, case_id, 0) == 0;
    (void)repeat;
    if (f->arithmetic) fault_at_chunk(f->arithmetic, chunk, here);
    if (f->kind < 0 || faults[f->kind].probed || chunk != f->chunk || !here) return false;
    if (faults[f->kind].act) faults[f->kind].act();
    return !faults[f->kind].feed;
}

static void before_probed(void *ctx, const char *case_id, int repeat, int chunk) {
    const struct broken *f = ctx;
    if (f->kind < 0 || !faults[f->kind].probed || chunk != f->chunk ||
        fnmatch(f->cases, case_id, 0) != 0)
        return;
    /* in the warm-up an interrupt would end what is to be recorded after it */
    if (repeat >= 0 || faults[f->kind].act != interrupt) faults[f->kind].act();
}

/* false: the variable names no fault. */
static bool read_fault(struct broken *f) {
    const char *text = getenv("BENCH_TEST_FAULT"), *cases = getenv("BENCH_TEST_CASE");
    *f = (struct broken){.kind = -1, .cases = cases ? cases : "*"};
    if (!text) return true;
    const char *colon = strchr(text, ':');
    size_t n = colon ? (size_t)(colon - text) : strlen(text);
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++)
        if (strlen(faults[i].name) == n && strncmp(faults[i].name, text, n) == 0) f->kind = (int)i;
    f->chunk = colon ? atoi(colon + 1) : 0;
    if (f->kind < 0) f->arithmetic = fault_open(text);
    return f->kind >= 0 || f->arithmetic;
}

/* ---- processes ---- */

/* Whether BENCH_TEST_PROCESS names this trouble; *own: and this process. */
static bool trouble(const char *name, bool *own) {
    const char *text = getenv("BENCH_TEST_PROCESS"), *process = getenv("BENCH_PROCESS");
    const size_t n = strlen(name);
    if (!process) process = getenv("OMPI_COMM_WORLD_RANK");
    if (!text || !process || strncmp(text, name, n) != 0 || text[n] != ':') return false;
    *own = strcmp(text + n + 1, process) == 0;
    return true;
}

/* What is wrong with this process from the beginning. */
static void begin_badly(int argc, char **argv) {
    const struct rlimit little = {120 << 20, 120 << 20};
    bool own;
    if (argc < 2 || strcmp(argv[1], "worker") != 0) return;
    if (trouble("away", &own) && own) _exit(3);
    if (trouble("poor", &own) && own) setrlimit(RLIMIT_AS, &little);
}

static void *look_busy(void *unused) {
    for (volatile uint64_t n = 0;; n++) (void)unused;
    return NULL;
}

/* The linker puts it in the place of session_open(). */
enum status __wrap_session_open(struct session **out, struct engine *e,
                                const struct session_opts *opts, struct error *err);
enum status __real_session_open(struct session **out, struct engine *e,
                                const struct session_opts *opts, struct error *err);

enum status __wrap_session_open(struct session **out, struct engine *e,
                                const struct session_opts *opts, struct error *err) {
    pthread_t thread;
    bool own;
    if (trouble("stopped", &own)) {
        if (own)
            raise(SIGSTOP);
        else if (pthread_create(&thread, NULL, look_busy, NULL) == 0)
            pthread_detach(thread);
    }
    return __real_session_open(out, e, opts, err);
}

/* The linker puts it in the place of execvp(). */
int __wrap_execvp(const char *file, char *const argv[]);
int __real_execvp(const char *file, char *const argv[]);

int __wrap_execvp(const char *file, char *const argv[]) {
    const char *probe = getenv("BENCH_TEST_EARLY");
    for (int i = 0; probe && argv[i] && argv[i + 1]; i++) {
        if (strcmp(argv[i], "--probe") != 0 || strcmp(argv[i + 1], probe) != 0) continue;
        kill(getppid(), SIGTERM);
        usleep(500000); /* what is told to stop now must not forget it */
    }
    return __real_execvp(file, argv);
}

int main(int argc, char **argv) {
    struct broken fault;
    struct rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    begin_badly(argc, argv);
    if (!read_fault(&fault)) {
        fprintf(stderr, "bench_faulty: unknown BENCH_TEST_FAULT=%s\n", getenv("BENCH_TEST_FAULT"));
        return 2;
    }
    const struct bench_hooks hooks = {.interpose = fault.arithmetic ? fault_interpose : NULL,
                                      .interpose_ctx = fault.arithmetic,
                                      .before_chunk = before_chunk,
                                      .before_probed = before_probed,
                                      .before_chunk_ctx = &fault,
                                      .cupti_library = getenv("BENCH_TEST_CUPTI")};
    const int code = bench_main(argc, argv, &hooks);
    fault_close(fault.arithmetic);
    return code;
}
