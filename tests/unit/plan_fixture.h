/* A plan of a small configuration with overrides, for tests of the plan. */
#ifndef TESTS_PLAN_FIXTURE_H
#define TESTS_PLAN_FIXTURE_H

#include "harness/plan.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
    char folder[64], ini[128], file[128];
    struct config config;
    struct config_errors errors;
    struct plan plan, other;
};

static inline int set_up(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    if (!f) return -1;
    strcpy(f->folder, "/tmp/test_plan_XXXXXX");
    if (!mkdtemp(f->folder)) return -1;
    snprintf(f->ini, sizeof f->ini, "%s/a.ini", f->folder);
    snprintf(f->file, sizeof f->file, "%s/file", f->folder);
    setenv("XDG_CACHE_HOME", f->folder, 1);
    unsetenv("BENCH_ALLOW_LONG_MAX_MODEL_LEN");
    unsetenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN");
    *state = f;
    return 0;
}

static inline int tear_down(void **state) {
    struct fixture *f = *state;
    char command[200];
    snprintf(command, sizeof command, "rm -rf %s", f->folder);
    const int rc = system(command);
    free(f);
    return rc;
}

static inline void write_file(const char *path, const char *text, size_t n) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, n, file), n);
    fclose(file);
}

/* A small needle configuration, with overrides. */
static const char base[] = "[model]\npath = needle\n"
                           "[engine]\ndevice = cpu\ntensor_parallel_size = 1\nthreads = 1\n"
                           "[prompt]\nsource = needle:2k\n"
                           "[run]\nrepeats = 1\nwarmup = 0\ntime_budget = 0\n";

static inline void load(struct fixture *f, const char *const *sets, int n) {
    write_file(f->ini, base, sizeof base - 1);
    memset(&f->errors, 0, sizeof f->errors);
    if (config_load(&f->config, f->ini, sets, n, &f->errors) != STATUS_OK)
        fail_msg("%s", f->errors.e[0].text);
}

static inline enum status make(struct fixture *f, const char *const *sets, int n) {
    load(f, sets, n);
    plan_free(&f->plan);
    return plan_make(&f->plan, &f->config, &f->errors);
}

static inline void make_ok(struct fixture *f, const char *const *sets, int n) {
    if (make(f, sets, n) != STATUS_OK) fail_msg("%s", f->errors.e[0].text);
}

#define SETS(...)                                                                                  \
    (const char *const[]){__VA_ARGS__}, sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *)

static inline void assert_has(const char *text, const char *part) {
    if (!strstr(text, part)) fail_msg("expected \"%s\" in \"%s\"", part, text);
}

#endif
