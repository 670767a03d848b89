/* What is said of a real GPU: planning leaves nothing of itself on it, NVML finds CUDA's device,
 * and a chunk has clocks, power and energy that agree. The first test must be the first: it forks,
 * which a process that has opened a GPU cannot. */
#include "gpu_test.h"
#include "harness/clocks.h"
#include "kernels/gpu_list.h"
#include "kernels/op_runs.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static const char text[] = "[model]\npath = needle:28x4x128\n"
                           "[engine]\ndevice = cuda\nmax_num_batched_tokens = 4096, 8192\n"
                           "[prompt]\nsource = needle:64k\n[run]\nrepeats = 1\nwarmup = 0\n";

struct fixture {
    struct config config;
    struct config_errors errors;
    struct plan plan;
};

static int set_up(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    char path[] = "/tmp/test_facts_cuda-XXXXXX";
    const int fd = f ? mkstemp(path) : -1;
    FILE *file = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (!file || fputs(text, file) < 0 || fclose(file) != 0) return -1;
    *state = f;
    const enum status s = config_load(&f->config, path, NULL, 0, &f->errors);
    remove(path);
    return s == STATUS_OK ? 0 : -1;
}

static int tear_down(void **state) {
    struct fixture *f = *state;
    plan_free(&f->plan);
    free(f);
    return 0;
}

static int64_t used_bytes(void) {
    struct nvml *n;
    struct nvml_gpu g;
    const struct gpu_list *gpus = gpu_list_machine();
    assert_int_equal(nvml_open(&n, NULL, NULL), STATUS_OK);
    assert_true(nvml_gpu(n, nvml_find(n, gpus->gpu[gpu_list_first(gpus)].uuid), &g));
    nvml_close(n);
    return g.memory_used_bytes;
}

static void planning_leaves_nothing_on_the_gpu(void **state) {
    struct fixture *f = *state;
    const int64_t before = used_bytes();
    const double begin = gpu_test_seconds();
    if (plan_make(&f->plan, &f->config, &f->errors) != STATUS_OK)
        fail_msg("%s", f->errors.e[0].text);
    const double took = gpu_test_seconds() - begin;
    assert_true(used_bytes() - before < 64 << 20); /* a context is several times that */
    assert_int_equal(f->plan.device, DEVICE_CUDA);
    assert_int_equal(f->plan.n, 2);
    struct nvml *n;
    assert_int_equal(nvml_open(&n, NULL, NULL), STATUS_OK);
    assert_true(nvml_find(n, f->plan.device_info.bus_id) >= 0);
    nvml_close(n);
    printf("planned in %.1f s on %s at %s: linear %.3g, attention %.3g FLOP/s, copy %.3g B/s\n",
           took, f->plan.device_info.name, f->plan.device_info.bus_id, f->plan.rates.linear_flops,
           f->plan.rates.attention_flops, f->plan.rates.copy_bytes);
}

/* Prefills again and again for some seconds; returns for how many. */
static double keep_busy(struct engine *e, const struct session_opts *opts, double seconds) {
    enum { CHUNK = 8192 };
    static int32_t tokens[CHUNK];
    struct session *s;
    struct error err = {""};
    const double begin = gpu_test_seconds();
    engine_random_tokens(1, 256, CHUNK, tokens);
    if (session_open(&s, e, opts, &err) != STATUS_OK) fail_msg("%s", err.text);
    while (gpu_test_seconds() - begin < seconds) {
        struct chunk_result r;
        if (session_reset(s, &err) != STATUS_OK ||
            session_prefill(s, tokens, opts->prompt_tokens, &r, &err) != STATUS_OK)
            fail_msg("%s", err.text);
    }
    session_close(s);
    return gpu_test_seconds() - begin;
}

static void a_chunk_has_clocks_and_an_energy_that_is_its_power_times_its_time(void **state) {
    (void)state;
    struct engine_opts eo = engine_opts_defaults();
    struct session_opts so = session_opts_defaults();
    struct engine *e;
    struct error err = {""};
    struct clock_row row;
    char reasons[200];
    eo.model = "needle:28x4x128";
    eo.device = DEVICE_CUDA;
    so.prompt_tokens = so.chunk_tokens = 8192;
    if (engine_open(&e, &eo, &err) != STATUS_OK) fail_msg("%s", err.text);
    struct clocks *c = clocks_open(engine_info(e)->device, 1, NULL);
    assert_non_null(c);
    clocks_begin(c);
    const double seconds = keep_busy(e, &so, 2);
    clocks_end(c);
    assert_true(clocks_row(c, 0, &row));
    clocks_close(c);
    engine_close(e);
    const double watts = (double)row.energy_mj / 1e3 / seconds;
    printf(
        "%d samples in %.2f s: SM %.0f MHz (%d least), memory %d MHz, %.0f W, %d C, %.1f J = %.0f "
        "W, held back by: %s\n",
        row.samples, seconds, row.sm_clock_mean_mhz, row.sm_clock_min_mhz, row.memory_clock_mhz,
        row.power_mean_w, row.temperature_c, (double)row.energy_mj / 1e3, watts,
        nvml_reasons_text(row.throttle_reasons_seen, reasons, sizeof reasons));
    assert_in_range(row.samples, 10, (int)(10 * seconds) + 2);
    assert_true(row.sm_clock_min_mhz > 0 && row.sm_clock_mean_mhz >= row.sm_clock_min_mhz);
    assert_true(row.memory_clock_mhz > 0 && row.temperature_c > 0);
    /* NVML's power lags behind: about the same is enough */
    assert_true(watts > 0.4 * row.power_mean_w && watts < 2.5 * row.power_mean_w);
}

/* What a benchmark reads between runs must not let the card rest: a run whose predecessor had ended
 * long before would last as long as the host was away. */
static void runs_leave_no_gap_while_the_host_is_away(void **state) {
    (void)state;
    enum { RUNS = 200, WARMUP = 20 };
    struct gpu_test t;
    struct op_bench *b;
    struct op_shape shape;
    struct error err = {""};
    double times[RUNS], longest = 0, sum = 0;
    gpu_test_open(&t, DTYPE_BF16, 128, "auto", 1 << 20);
    assert_true(op_shape_parse(OP_LINEAR, "M=8192,N=8192,K=8192", &shape));
    if (op_bench_open(&b, t.gpu, &shape, &err) != STATUS_OK) fail_msg("%s", err.text);
    struct op_runs r = op_runs_begin(b);
    for (int i = 0; i < WARMUP + RUNS; i++) {
        double seconds;
        if (op_runs_next(&r, &seconds, &err) != STATUS_OK) fail_msg("%s", err.text);
        assert_true(r.issued > r.passed);
        if (i % 10 == 9) nanosleep(&(struct timespec){.tv_nsec = 6000000}, NULL);
        if (i < WARMUP) continue;
        times[i - WARMUP] = seconds;
        longest = fmax(longest, seconds), sum += seconds;
    }
    assert_int_equal(op_runs_end(&r, &err), STATUS_OK);
    int gaps = 0; /* were the host waited for, after one run in ten; a busy host makes one or two */
    for (int i = 0; i < RUNS; i++) gaps += times[i] > 2 * sum / RUNS;
    printf("%d runs: %g ms on average, the longest %g, %d of twice the average\n", RUNS,
           sum / RUNS * 1e3, longest * 1e3, gaps);
    assert_true(gaps <= 3);
    op_bench_close(b);
    gpu_test_close(&t);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(planning_leaves_nothing_on_the_gpu, set_up, tear_down),
        cmocka_unit_test(runs_leave_no_gap_while_the_host_is_away),
        cmocka_unit_test(a_chunk_has_clocks_and_an_energy_that_is_its_power_times_its_time),
    };
    if (gpu_list_machine()->why_sm80[0]) {
        printf("skipped: %s\n", gpu_list_machine()->why_sm80);
        return 77;
    }
    if (wants_small(argc, argv))
        cmocka_set_test_filter("planning*");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
