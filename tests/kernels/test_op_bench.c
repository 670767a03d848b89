/* Shapes of micro-benchmarks as text, the ops behind them, and the normal values they run on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernel_test.h"
#include "kernels/device_core.h"
#include "kernels/op_runs.h"

static void a_shape_is_its_text(void **state) {
    (void)state;
    struct op_shape s, again;
    char text[96];
    assert_true(op_shape_parse(OP_ATTENTION, "K=4,H=28,T=32768,D=128,N=204800", &s));
    assert_true(s.rows == 32768 && s.keys == 204800 && s.heads == 28 && s.kv_heads == 4 &&
                s.head_dim == 128);
    op_shape_text(&s, text, sizeof text);
    assert_string_equal(text, "T=32768,N=204800,H=28,K=4,D=128");
    assert_true(op_shape_parse(OP_ATTENTION, text, &again));
    assert_memory_equal(&s, &again, sizeof s);
}

static void what_is_no_shape_is_refused(void **state) {
    (void)state;
    static const char *const bad[] = {"",         "T=1",         "M=1,N=2,K=0", "M=1,N=2,K=3,",
                                      "M=1,N=2,", "M=1,N=2,Q=3", "M=1 N=2,K=3", "M=-1,N=2,K=3"};
    struct op_shape s;
    for (size_t i = 0; i < COUNT(bad); i++) assert_false(op_shape_parse(OP_LINEAR, bad[i], &s));
    assert_true(op_shape_parse(OP_LINEAR, "M=1,N=2,K=3", &s));
    assert_false(op_shape_parse(OP_ATTENTION, "T=20,N=10,H=8,K=4,D=64", &s)); /* rows beyond keys */
    assert_false(op_shape_parse(OP_ATTENTION, "T=10,N=10,H=8,K=3,D=64", &s));
    assert_false(op_shape_parse(OP_SAMPLE, "T=1", &s));
}

static void every_usual_shape_is_one(void **state) {
    (void)state;
    for (int op = 0; op < OPS; op++)
        for (int kind = DEVICE_CPU; kind <= DEVICE_CUDA; kind++) {
            struct op_shape s, again;
            char text[96];
            for (int i = 0; op_shape_default((enum op)op, (enum device_kind)kind, i, &s); i++) {
                op_shape_text(&s, text, sizeof text);
                assert_true(op_shape_parse((enum op)op, text, &again));
                assert_memory_equal(&s, &again, sizeof s);
            }
        }
}

static const char *const little[OPS] = {
    [OP_EMBED] = "T=5,V=64,C=32",  [OP_ADD_RMSNORM] = "T=5,C=64",
    [OP_LINEAR] = "M=5,N=32,K=64", [OP_ROPE_CACHE] = "T=5,H=4,K=2,D=32",
    [OP_SWIGLU] = "T=5,F=32",      [OP_ATTENTION] = "T=5,N=300,H=4,K=2,D=32",
    [OP_LOGITS] = "T=1,V=64,C=32", [OP_ALL_REDUCE] = "T=5,C=32,R=4",
};

static void every_op_runs_and_costs_by_its_rows(void **state) {
    (void)state;
    for (int dtype = 0; dtype < 2; dtype++) {
        struct device *dev = test_device(2, (enum dtype)dtype);
        for (int op = 0; op < OPS; op++) {
            struct op_shape s;
            struct op_bench *b;
            struct error err = {""};
            if (!little[op]) continue;
            assert_true(op_shape_parse((enum op)op, little[op], &s));
            if (op_bench_open(&b, dev, &s, &err) != STATUS_OK) fail_msg("%s", err.text);
            const struct cost whole = op_bench_cost(b);
            assert_true(whole.bytes > 0);
            assert_int_equal(op_bench_issue(b, &err), STATUS_OK);
            if (s.rows > 1) {
                op_bench_set_rows(b, 1);
                assert_true(op_bench_cost(b).bytes < whole.bytes);
                assert_int_equal(op_bench_issue(b, &err), STATUS_OK);
            }
            assert_int_equal(device_sync(dev, &err), STATUS_OK);
            op_bench_close(b);
        }
        device_close(dev);
    }
}

static void an_op_without_a_benchmark_says_so(void **state) {
    (void)state;
    struct device *dev = test_device(1, DTYPE_BF16);
    struct op_bench *b;
    struct error err = {""};
    const struct op_shape s = {.op = OP_SAMPLE};
    assert_int_equal(op_bench_open(&b, dev, &s, &err), STATUS_USAGE);
    assert_string_equal(err.text, "op sample has no benchmark");
    assert_null(b);
    device_close(dev);
}

static void runs_follow_one_another_and_their_times_add_up(void **state) {
    (void)state;
    enum { RUNS = 3 * DEVICE_MARKS };
    struct device *dev = test_device(2, DTYPE_F32);
    struct op_bench *b;
    struct op_shape s;
    struct error err = {""};
    assert_true(op_shape_parse(OP_LINEAR, "M=64,N=128,K=128", &s));
    if (op_bench_open(&b, dev, &s, &err) != STATUS_OK) fail_msg("%s", err.text);
    double sum = 0;
    const int64_t begin_ns = monotonic_ns();
    struct op_runs r = op_runs_begin(b);
    for (int i = 0; i < RUNS; i++) {
        double seconds = -1;
        assert_int_equal(op_runs_next(&r, &seconds, &err), STATUS_OK);
        assert_true(seconds >= 0 && r.passed == i + 1 && r.issued == r.passed);
        sum += seconds;
    }
    const double elapsed = (double)(monotonic_ns() - begin_ns) * 1e-9;
    assert_int_equal(op_runs_end(&r, &err), STATUS_OK);
    assert_true(sum > elapsed / 2 && sum <= elapsed);
    op_bench_close(b);
    device_close(dev);
}

static void normal_values_are_a_function_of_their_place(void **state) {
    (void)state;
    enum { N = 200001 };
    struct device *dev = test_device(3, DTYPE_BF16);
    bf16 *a = make(N, DTYPE_BF16), *b = make(N, DTYPE_BF16);
    double sum = 0, squares = 0;
    device_fill_normal(dev, a, N, 5);
    element_fill_normal(b, 0, N, DTYPE_BF16, 5);
    assert_memory_equal(a, b, N * sizeof *a);
    for (size_t i = 0; i < N; i++) {
        const double x = (double)bf16_to_f32(a[i]);
        sum += x, squares += x * x;
    }
    assert_true(fabs(sum / N) < 0.01 && fabs(squares / N - 1) < 0.02);
    free(a);
    free(b);
    device_close(dev);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_shape_is_its_text),
        cmocka_unit_test(what_is_no_shape_is_refused),
        cmocka_unit_test(every_usual_shape_is_one),
        cmocka_unit_test(every_op_runs_and_costs_by_its_rows),
        cmocka_unit_test(an_op_without_a_benchmark_says_so),
        cmocka_unit_test(runs_follow_one_another_and_their_times_add_up),
        cmocka_unit_test(normal_values_are_a_function_of_their_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
