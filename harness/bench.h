/* The program as a function, so that tests can be the program with something broken in it. */
#ifndef HARNESS_BENCH_H
#define HARNESS_BENCH_H

#include "engine/engine.h"

/* What a test may put in the way; the real program passes NULL. */
struct bench_hooks {
    op_interposer *interpose;
    void *interpose_ctx;
    /* called before each chunk of each case in the worker; true: the chunk is not fed to the engine
     */
    bool (*before_chunk)(void *ctx, const char *case_id, int repeat, int chunk);
    /* called before each chunk that runs under a probe (worker_probe.c), or NULL */
    void (*before_probed)(void *ctx, const char *case_id, int repeat, int chunk);
    void *before_chunk_ctx;    /* of both */
    const char *cupti_library; /* in the place of CUPTI, on any device; or NULL */
};

/* The exit codes that there are, for the help, the manual page and the README. */
#define EXIT_CODE_TABLE(X)                                                                         \
    X(0, "all is well; so it is when the time budget skipped a case")                              \
    X(2, "usage or configuration: nothing ran")                                                    \
    X(3, "an output is wrong: the case and the first differing token are named")                   \
    X(4, "a result has nothing to draw, to trace or to export")                                    \
    X(5, "a case failed, crashed or timed out; nothing ran; no build; no gnuplot")                 \
    X(6, "I/O or storage")                                                                         \
    X(130, "interrupted")

/* Runs the command line; returns the exit code. */
int bench_main(int argc, char **argv, const struct bench_hooks *hooks);

/* Subcommands: cmd_*.c. argv[0] is the subcommand's name. */
#define SUBCOMMAND_TABLE(X)                                                                        \
    X(run, "run a configuration and check its answers")                                            \
    X(plan, "show every case with predicted time and memory; runs nothing")                        \
    X(show, "show a result file")                                                                  \
    X(trace, "tell where the time of a case went, op by op")                                       \
    X(overhead, "tell what probes cost: spans, NVTX ranges, CUPTI")                                \
    X(plot, "draw a result file: latency, speed, memory, prediction")                              \
    X(export, "print a result file as another tool prints its own")                                \
    X(kernels, "run ops alone and tell their rates beside this machine's ceilings")                \
    X(fetch, "fetch prompts from the web into the cache, or list it")                              \
    X(list, "list models, kernels, options, configurations")                                       \
    X(doctor, "what is usable on this machine, and why not")                                       \
    X(describe, "print the manual page or a shell's completions")                                  \
    X(test, "build and run the tests")
#define X(name, text) int cmd_##name(int argc, char **argv, const struct bench_hooks *hooks);
SUBCOMMAND_TABLE(X)
#undef X

/* For subcommands: how they end when something is wrong. Each prints "bench COMMAND: text" on
 * stderr and returns the exit code. */
int bench_fail(const char *command, enum status s, const struct error *err);
/* An argument that the command does not know; points to --help. */
int bench_fail_usage(const char *command, const char *what, const char *argument);

#endif
