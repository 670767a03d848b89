/* One op on one shape, with normal operands on the device: what micro-benchmarks and device_measure
 * run. Operands do not change from run to run; caches and clocks are the caller's business. */
#ifndef KERNELS_OP_BENCH_H
#define KERNELS_OP_BENCH_H

#include "kernels/backend.h"
#include "kernels/cost.h"

/* Zero where an op has no such size. Attention's rows are the last of `keys` positions. */
struct op_shape {
    enum op op;
    int32_t rows;                            /* T */
    int32_t N, K;                            /* linear [N][K]; logits: vocabulary, C */
    int32_t keys, heads, kv_heads, head_dim; /* attention, rope_cache */
    int32_t C; /* embed, add_rmsnorm, all_reduce: columns; swiglu: F; exchange: columns of a part
                  of a sum over devices, which is no benchmark of one device's */
    int32_t ranks; /* all_reduce */
};

/* "T=32768,N=204800,H=28,K=4,D=128" and the like, by the op's own letters; false: not a shape of
 * that op. */
bool op_shape_parse(enum op op, const char *text, struct op_shape *out);
/* The inverse. out: at least 80 bytes. */
void op_shape_text(const struct op_shape *s, char *out, size_t size);
/* The i-th shape of an op that is worth looking at on such a device, or false past the end: the
 * 7B model's on a GPU, what takes a core about a second on a CPU. */
bool op_shape_default(enum op op, enum device_kind device, int i, struct op_shape *out);

struct op_bench;
/* STATUS_NO_MEMORY; STATUS_USAGE for an op that has no benchmark. */
enum status op_bench_open(struct op_bench **out, struct device *dev, const struct op_shape *shape,
                          struct error *err);
void op_bench_close(struct op_bench *b); /* NULL is legal */
/* Fewer rows than it was opened with, from the next run on. */
void op_bench_set_rows(struct op_bench *b, int32_t rows);
/* Has a kernel that is made of a library make what this many rows need; opening did so. */
enum status op_bench_prepare(struct op_bench *b, struct error *err);
struct cost op_bench_cost(const struct op_bench *b);
struct device *op_bench_device(const struct op_bench *b);
/* Issues it once; does not wait. */
enum status op_bench_issue(struct op_bench *b, struct error *err);

#endif
