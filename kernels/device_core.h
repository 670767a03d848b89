/* The inside of struct device, for device.c, the backends beside it and the files that they are cut
 * into. Kernels include device.h and see none of this.
 *
 * What is the same on every kind of device (choice of kernels, recorded calls, accounting, spans)
 * lives in device.c; what differs is a `struct backend`: the CPU's in backend_cpu.c, the GPU's in
 * backend_cuda.c. */
#ifndef KERNELS_DEVICE_CORE_H
#define KERNELS_DEVICE_CORE_H

#include "kernels/activity/op_place.h"
#include "kernels/device.h"
#include "kernels/group.h"
#include "kernels/random_matrix.h"

#include <stdatomic.h>

/* Bytes of every (rank or shared, category). Charged as arenas open and are cut. */
struct ledger {
    struct memory_use use[MAX_RANKS + 1];  /* [rank + 1]; [0] is shared */
    int64_t idle_bytes[MEMORY_CATEGORIES]; /* of arenas, not taken yet: reported as shared */
};
void ledger_charge(struct ledger *l, int rank, enum memory_category c, int64_t bytes);

/* Spans since the last reset: a buffer that is filled once; what comes later is counted. */
struct span_buffer {
    struct span *spans;
    int64_t capacity, n, dropped;
    struct span_counts *counts; /* [capacity], of each span; NULL: not counted */
};

/* A list of calls as the step ran them; a backend may keep something faster beside it. */
struct device_graph {
    struct op_call *calls;
    int64_t n, capacity;
    void *native; /* the backend's; NULL: calls are replayed one by one */
    struct device_graph_info info;
};

struct weight_node {
    struct weight weight;
    struct weight_node *next;
};

struct device {
    const struct backend *backend;
    struct device_group *group; /* borrowed; NULL: joined none */
    int member;                 /* its place in the group */
    void *state;                /* the backend's own */
    enum cpu_isa isa;           /* of a CPU */
    int capability;             /* of a GPU, ten times it */
    enum dtype dtype;
    int head_dim;
    op_interposer *interpose;
    void *interpose_ctx;
    struct nvtx *nvtx;         /* borrowed, or NULL */
    struct activity *activity; /* borrowed, or NULL */
    const struct variant *chosen[OPS];
    uint8_t chosen_index[OPS];
    char attention_note[200]; /* see device_info */
    struct ledger ledger;
    int64_t allocations;
    int open_arenas;
    struct weight_node *weights;
    struct span_buffer spans;
    struct device_graph *recording; /* NULL: calls run */
    int64_t capture_begin_ns;
    _Atomic uint64_t calls_done;
    _Atomic uint64_t at_work; /* call_word() of the call that is being issued; 0: none is */
};

/* One kind of device. Every function but those marked is there. */
struct backend {
    enum device_kind kind;
    bool loads_lazily; /* a kernel's first run costs more than the next */
    /* Fills dev->state; dev->isa is known. */
    enum status (*open)(struct device *dev, const struct device_opts *opts, struct error *err);
    void (*close)(struct device *dev); /* also after a failed open */
    void (*info)(struct device *dev, struct device_info *out);

    /* Zeroed, resident, aligned to at least 256. */
    enum status (*memory_open)(struct device *dev, size_t bytes, void **base, struct error *err);
    void (*memory_close)(struct device *dev, void *base, size_t bytes);
    void (*memory_driver)(struct device *dev, int64_t *bytes, int64_t *high_water);
    void (*memory_reset_high_water)(struct device *dev);
    void (*write)(struct device *dev, void *dst, const void *src, size_t bytes);
    void (*read)(struct device *dev, void *dst, const void *src, size_t bytes);
    void (*fill_normal)(struct device *dev, void *dst, int64_t n, uint64_t seed);
    void (*random_matrix)(struct device *dev, const struct random_matrix *m,
                          const struct matrix_part *part, enum dtype dtype, void *out, int64_t ld);
    enum status (*sync)(struct device *dev, struct error *err);

    void (*mark)(struct device *dev, int mark);
    enum status (*mark_wait)(struct device *dev, int mark, struct error *err);
    int64_t (*mark_ns)(struct device *dev, int from, int to);

    /* Issues a call with the chosen variant; adds its span where spans are kept, at the latest when
     * the device is next synchronised. */
    enum status (*execute)(struct device *dev, const struct op_call *call, struct error *err);
    /* What spans need beside their buffer, and the moment from which they are kept. Or NULL, both.
     */
    enum status (*spans_open)(struct device *dev, int64_t capacity, struct error *err);
    void (*spans_begin)(struct device *dev);
    /* Opens counters that execute() reads around an op; NULL source: closes them. Or NULL. */
    enum status (*spans_count)(struct device *dev, const struct counter_source *source,
                               struct error *err);
    /* Makes graph->native of graph->calls, or leaves it NULL; fills info.nodes, instantiate_ns and
     * upload_ns, adds to info.bytes and capture_ns. Or NULL, all three. */
    enum status (*graph_open)(struct device *dev, struct device_graph *g, struct error *err);
    enum status (*graph_launch)(struct device *dev, struct device_graph *g, struct error *err);
    void (*graph_close)(struct device *dev, struct device_graph *g);

    void (*kv_fill)(struct device *dev, const struct kv_view *view, int32_t begin, int32_t end,
                    uint64_t seed);
    void (*kv_read)(struct device *dev, const struct kv_view *view, int head, int32_t begin,
                    int32_t n, float *k, float *v);
    void (*profile)(struct device *dev, bool on); /* or NULL */
    uint64_t (*progress)(const struct device *dev);
    int (*count)(void); /* devices of this kind that the process can use */
    /* For device_measure. Both run about `seconds`. */
    enum status (*measure_copy)(struct device *dev, double seconds, double *bytes_per_s,
                                struct error *err);
    double (*measure_roof)(struct device *dev, double seconds);
};
/* NULL: not in this program. */
const struct backend *backend_of(enum device_kind kind);
extern const struct backend backend_cpu;
#ifdef HAVE_CUDA
extern const struct backend backend_cuda;
#endif

/* Place of a variant among the variants of its op. */
int variant_index(const struct variant *v);
/* Fills dev->chosen as the options ask, but for OP_EXCHANGE; STATUS_UNSUPPORTED. */
enum status variants_choose(struct device *dev, const struct device_opts *opts, struct error *err);
void variants_take(struct device *dev, const struct variant *v);
/* The first variant of OP_EXCHANGE of that name, or any for "auto", that serves such devices of
 * this machine; NULL: STATUS_UNSUPPORTED. */
const struct variant *variants_for_group(const struct group_opts *opts, struct error *err);

/* step: host copy of what the call's step pointer holds. */
void span_add(struct device *dev, const struct op_call *call, const struct step_params *step,
              int64_t begin_ns, int64_t end_ns);
int64_t monotonic_ns(void);
/* Where a call stands in the model, for records of what it starts. */
struct op_place device_place(const struct device *dev, const struct op_call *call);

/* Frees a weight before the device closes. */
void device_weight_drop(struct device *dev, const struct weight *w);

#endif
