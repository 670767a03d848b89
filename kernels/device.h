/* Inside of a device, for the files of kernels/ alone: what kernels may use, and what they provide.
 */
#ifndef KERNELS_DEVICE_H
#define KERNELS_DEVICE_H

#include "kernels/backend.h"
#include "kernels/cpu_features.h"
#include "kernels/thread_pool.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A kernel: one variant of one op; args points to the op's argument struct. The call was checked
 * when it was built, so a kernel cannot fail on the CPU; on a GPU errors surface at device_sync. */
typedef void op_function(struct device *dev, const void *args);

/* For CPU kernels: fn over [0, items) on the device's threads. */
void device_parallel(struct device *dev, int64_t items, thread_pool_fn *fn, void *ctx);
/* Private scratch of one worker, 64-byte aligned, DEVICE_SCRATCH_BYTES, allocated at open, not
 * zeroed. */
enum { DEVICE_SCRATCH_BYTES = 2 << 20 };
void *device_scratch(struct device *dev, int worker);
int device_threads(const struct device *dev);

/* How a linear variant keeps its weight. */
struct weight {
    struct weight_shape shape;
    const struct weight_layout *layout;
    void *data;    /* layout->bytes(shape), 256-byte aligned, zeroed */
    void *bias;    /* [N] of shape.dtype, or NULL */
    void *library; /* objects of a library, made by pack, freed by release; or NULL */
};
struct weight_layout {
    const char *name;
    bool plain; /* data is the rows as they are: may be packed without, and written to */
    size_t (*bytes)(struct weight_shape shape);
    /* rows: plain [N][K] of shape.dtype; or NULL, of a plain layout. May use the device's
     * threads. */
    enum status (*pack)(struct device *dev, struct weight *w, const void *rows, struct error *err);
    void (*release)(struct weight *w); /* NULL: nothing to free */
};

/* Least GPU that a CUDA variant needs, as ten times its compute capability. Code for sm_90a runs on
 * exactly that. */
enum gpu_isa { ISA_SM80 = 80, ISA_SM90A = 90 };

/* What a kernel is made of that is not ours: a library that is looked for when it is needed. */
struct kernel_library {
    const char *name; /* "cuDNN" */
    /* Why it does not serve on this machine, or NULL. Loads it. Any thread. */
    const char *(*why_missing)(void);
    /* Makes what calls like this one need (a plan): ops.h, "Libraries". Or NULL: nothing. */
    enum status (*prepare)(struct device *dev, const void *args, struct error *err);
    unsigned lacks; /* of enum kernel_lacks (backend.h) */
};

struct group_backend;

/* A row of ops.inc. */
enum variant_dtypes { SERVES_BF16 = 1 << DTYPE_BF16, SERVES_F32 = 1 << DTYPE_F32, SERVES_BOTH = 3 };
struct variant {
    enum op op;
    const char *name;
    enum device_kind device;
    int isa; /* enum cpu_isa or enum gpu_isa */
    enum variant_dtypes dtypes;
    op_function *run;
    const struct kv_layout *kv_layout;         /* attention */
    const struct weight_layout *weight_layout; /* linear */
    const struct kernel_library *library;      /* NULL: our own code */
    const struct group_backend *group;         /* exchange (group.h) */
};
/* All rows that this binary holds, in the order of ops.inc; also for tests, which call ->run with a
 * device. */
const struct variant *variant_table(int *n);
/* Whether this process can run it: instruction set present. *why: a text when not (may be NULL). */
bool variant_usable(const struct variant *v, const char **why);

/* What decides which variants can serve a device, whatever machine this is. */
struct variant_facts {
    enum device_kind kind;
    enum cpu_isa isa; /* of a CPU: the highest to use */
    int capability;   /* of a GPU, ten times it */
    enum dtype dtype;
    int head_dim; /* 0: not known yet */
};
/* Why a variant cannot serve such a device, or NULL. Pure. */
const char *variant_why_unfit(const struct variant *v, const struct variant_facts *f);
/* The kernel that "auto" takes: the first row of ops.inc that fits and is usable, or NULL. Pure but
 * for `usable`. */
const struct variant *variant_first(enum op op, const struct variant_facts *f,
                                    bool (*usable)(const struct variant *v, const char **why));

/* Prototypes of every row of ops.inc: kernels include this header to be checked against them. */
#define VARIANT(op, name, device, isa, dtypes) op_function op##_##name;
#define VARIANT_KV(op, name, device, isa, dtypes, layout)                                          \
    op_function op##_##name;                                                                       \
    extern const struct kv_layout kv_layout_##layout;
#define VARIANT_W(op, name, device, isa, dtypes, layout)                                           \
    op_function op##_##name;                                                                       \
    extern const struct weight_layout weight_layout_##layout;
#define VARIANT_GROUP(op, name, device, isa, dtypes, group)                                        \
    op_function op##_##name;                                                                       \
    extern const struct group_backend group_backend_##group;
#define VARIANT_GROUP_LIB(op, name, device, isa, dtypes, group, library)                           \
    VARIANT_GROUP(op, name, device, isa, dtypes, group)                                            \
    extern const struct kernel_library kernel_library_##library;
#define VARIANT_KV_LIB(op, name, device, isa, dtypes, layout, library)                             \
    VARIANT_KV(op, name, device, isa, dtypes, layout)                                              \
    extern const struct kernel_library kernel_library_##library;
#include "kernels/ops.inc"
#undef VARIANT
#undef VARIANT_KV
#undef VARIANT_W
#undef VARIANT_GROUP
#undef VARIANT_GROUP_LIB
#undef VARIANT_KV_LIB

#ifdef __cplusplus
}
#endif

#endif
