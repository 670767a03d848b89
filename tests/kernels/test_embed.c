/* embed: rows of the table, zeros for what another rank holds, shards that add up to the whole. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernel_test.h"

enum { V = 300, C = 37 };
static const int32_t row_counts[] = {1, 31, 32, 33, 65, 257};

static void ids_pick_rows_and_others_are_zero(void **state) {
    (void)state;
    for (enum dtype dtype = DTYPE_BF16; dtype <= DTYPE_F32; dtype++) {
        struct device *dev = test_device(2, dtype);
        const int32_t begin = 100, end = 200;
        void *table = make_normal((size_t)(end - begin) * C, dtype, 1);
        int32_t ids[257];
        for (int t = 0; t < 257; t++) ids[t] = t * 7 % V;
        ids[0] = begin - 1, ids[1] = begin, ids[2] = end - 1, ids[3] = end;
        for (int i = 0; test_variant(OP_EMBED, dtype, i); i++) {
            const struct variant *v = test_variant(OP_EMBED, dtype, i);
            for (size_t r = 0; r < COUNT(row_counts); r++) {
                const size_t n = (size_t)row_counts[r] * C;
                void *out = make_guarded(n, dtype);
                v->run(dev,
                       &(struct embed_args){table, ids, out, begin, end, row_counts[r], C, dtype});
                for (size_t j = 0; j < n; j++) {
                    const int32_t id = ids[j / C];
                    const size_t from = (size_t)(id - begin) * C + j % C;
                    float want = id >= begin && id < end ? element_load(table, from, dtype) : 0;
                    if (element_load(out, j, dtype) != want)
                        fail_msg("%s: %d rows, element %zu", v->name, row_counts[r], j);
                }
                free_guarded(out, n, dtype);
            }
        }
        free(table);
        device_close(dev);
    }
}

static int bench(void) {
    enum { WIDE = 3584, ROWS = 8192, WORDS = 50000 };
    void *table = make_normal((size_t)WORDS * WIDE, DTYPE_BF16, 1);
    void *out = make_normal((size_t)ROWS * WIDE, DTYPE_BF16, 2);
    int32_t *ids = make(ROWS, DTYPE_F32);
    for (int t = 0; t < ROWS; t++) ids[t] = (int32_t)((int64_t)t * 7919 % WORDS);
    struct embed_args a = {table, ids, out, 0, WORDS, ROWS, WIDE, DTYPE_BF16};
    bench_bytes(OP_EMBED, DTYPE_BF16, &a, 4.0 * ROWS * WIDE, "8192 x 3584");
    free(table);
    free(out);
    free(ids);
    return 0;
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) return bench();
    const struct CMUnitTest tests[] = {cmocka_unit_test(ids_pick_rows_and_others_are_zero)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
