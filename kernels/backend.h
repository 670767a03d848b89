/* A device: the CPU cores of a host, or one GPU. It owns memory, threads or streams, and the choice
 * of kernels; it runs op calls now, or records and replays them. The engine sees this header and
 * nothing below it. One thread drives a device.
 *
 *   device_open -> arenas (weights, kv, ...) -> device_weight_pack ... -> device_run ... ->
 * device_close
 *
 * The functions below are implemented once, in device.c, over `struct backend` (device_core.h): the
 * CPU backend lives in backend_cpu.c, the CUDA backend in backend_cuda.c, compiled in where the
 * toolkit is found. */
#ifndef KERNELS_BACKEND_H
#define KERNELS_BACKEND_H

#include "kernels/error.h"
#include "kernels/ops.h"

struct device;

/* Sees every call before it runs, also each call of a replayed graph, but not calls that are only
 * being recorded; returns true if it has done the op itself. It may change the call (a copy) and
 * may call device_execute() for the unchanged op. For fault injection in tests; NULL in production.
 */
typedef bool op_interposer(void *ctx, struct device *dev, struct op_call *call);

struct device_opts {
    enum device_kind kind;
    int index;       /* GPU ordinal; 0 on the CPU */
    int threads;     /* CPU worker threads; 0 = the cores that this process may run on */
    const char *isa; /* CPU: highest instruction set to use, "auto" or a name of cpu_features.h */
    const char *attention;    /* name of an attention variant, or "auto" */
    const char *linear;       /* name of a linear variant, or "auto" */
    enum dtype dtype;         /* element type that the variants must serve */
    int head_dim;             /* attention variants may serve only some; 0 = not known yet */
    op_interposer *interpose; /* or NULL */
    void *interpose_ctx;
    struct nvtx *nvtx;         /* borrowed; gets a range for every op. Or NULL */
    struct activity *activity; /* kernels/activity/activity.h: is told what belongs to which op.
                                  Borrowed, or NULL */
};
struct device_opts device_opts_defaults(void);

struct device_info {
    char name[96];        /* "AMD EPYC ...", "NVIDIA H200" */
    char isa[64];         /* best instruction set in use: "avx512_bf16", "sm_90a" */
    char bus_id[32];      /* of a GPU, as the driver writes it: "0000:07:00.0"; "" on the CPU */
    int threads;          /* 0 on a GPU */
    int64_t memory_bytes; /* in all: physical memory, or the cgroup's limit where that is lower */
    int64_t available_bytes;  /* now */
    const char *variant[OPS]; /* chosen kernel of each op */
    char attention_note[200]; /* why "auto" passed over the best attention kernel for this kind of
                                 device: "not sm90: this GPU's ..."; "" where it did not */
};

/* Opens a device and chooses its kernels: the first usable row of ops.inc for each op, unless opts
 * names one. STATUS_UNSUPPORTED with a reason when a named variant cannot run here or does not
 * serve the dtype. */
enum status device_open(struct device **out, const struct device_opts *opts, struct error *err);
void device_close(struct device *dev); /* NULL is legal */
void device_info(struct device *dev, struct device_info *out);

/* ---- several devices
 * ---------------------------------------------------------------------------------- Devices that
 * exchange memory (OP_EXCHANGE): of one process, each driven by a thread of its own, or each of a
 * process of its own (rendezvous.h). Open all, join all, leave all, close all, close the group. */
struct device_group;
struct rendezvous;
struct group_opts {
    enum device_kind kind;
    int members;
    const char *exchange; /* name of a variant of OP_EXCHANGE, or "auto" */
    bool apart;           /* only what also serves members that are processes will do */
    struct rendezvous
        *processes; /* borrowed; where they meet. NULL: they are threads of this one */
};
/* Devices of a kind that this process can use; the host's cores can be any number of devices. */
int device_count(enum device_kind kind);
/* STATUS_UNSUPPORTED with the reasons when no exchange serves such devices here. Processes call it
 * all at once. */
enum status device_group_open(struct device_group **out, const struct group_opts *opts,
                              struct error *err);
const char *device_group_exchange(const struct device_group *g); /* name of the variant */
/* NULL is legal; its devices are closed before. */
void device_group_close(struct device_group *g);
/* Makes dev member number `member`. Called by the threads of all members at once: it waits for
 * them, until device_group_abort() where one fails. */
enum status device_join(struct device *dev, struct device_group *g, int member, struct error *err);
/* Whether this variant of OP_EXCHANGE takes sums (struct exchange_sum) beside parts, so that they
 * are taken by it; NULL and names that are none do not. */
bool exchange_takes_sums(const char *variant);
/* Gives up what joins dev to the others. None is closed before all have left: until then they reach
 * into each other's memory. Does nothing for a device of no group. */
void device_leave(struct device *dev);
/* Ends all exchanges, those that wait and those to come: steps of all members fail from now on. For
 * the member that cannot go on; any thread. */
void device_group_abort(struct device_group *g);

/* ---- memory
 * --------------------------------------------------------------------------------------- An arena
 * is one allocation with one lifetime, charged to one category. Its pages are resident when
 * arena_open returns (a page fault inside a timed step would be charged to the wrong thing),
 * zeroed, aligned to 2 MiB where the system allows. There is no free of a part. */
struct arena;
enum status arena_open(struct arena **out, struct device *dev, enum memory_category category,
                       size_t bytes,
                       struct error *err); /* STATUS_NO_MEMORY names size and what is left */
void arena_close(struct arena *a);         /* NULL is legal */
/* `bytes` at an alignment of 256, charged to `rank` or SHARED_RANK; NULL only if the arena is too
 * small, which is a programmer error: size arenas with arena_bytes(). */
void *arena_take(struct arena *a, int rank, size_t bytes);
static inline size_t arena_bytes(size_t bytes) {
    return (bytes + 255) / 256 * 256;
}

/* What is accounted for `rank` (or SHARED_RANK) on this device; and resets the marks to the
 * present. */
void device_memory(struct device *dev, int rank, struct memory_use *out);
void device_memory_reset_high_water(struct device *dev);
/* The operating system's or the driver's own figure of what this process holds on the device:
 * resident set on the CPU, its high-water since the last reset; used bytes on a GPU. high_water may
 * be NULL, which is cheaper. */
void device_memory_driver(struct device *dev, int64_t *bytes, int64_t *high_water);
/* Allocations made by the device since it was opened. A step leaves it unchanged. */
int64_t device_allocations(struct device *dev);

/* Copies between host and device memory, ordered with the ops before and after. The source of a
 * write may be reused on return: a GPU backend stages it. Neither is recorded by a capture. */
void device_write(struct device *dev, void *dst, const void *src, size_t bytes);
void device_read(struct device *dev, void *dst, const void *src, size_t bytes); /* waits */
/* n standard normal values of the device's dtype, a function of seed and place alone: the same on
 * every device. */
void device_fill_normal(struct device *dev, void *dst, int64_t n, uint64_t seed);
/* Waits for everything issued; returns the first error of any op since the last call. */
enum status device_sync(struct device *dev, struct error *err);
/* Marks between the things that are issued, for times by the device's own clock. A mark from 0 to
 * DEVICE_MARKS - 1 may be issued again and again; what counts is its last place. _wait returns when
 * the device has come to it, with the first error that is known of an op before it; _ns is the time
 * from one mark to another, both of which were waited for, or after a device_sync. */
enum { DEVICE_MARKS = 512 };
void device_mark(struct device *dev, int mark);
enum status device_mark_wait(struct device *dev, int mark, struct error *err);
int64_t device_mark_ns(struct device *dev, int from, int to);

/* ---- weights of linears
 * --------------------------------------------------------------------------- The linear variant
 * decides how a weight is laid out. Plan first (all bytes known before the first allocation), then
 * pack tensor by tensor from a staging buffer of plain rows. */
struct weight_shape {
    int32_t N, K;
    enum dtype dtype;
    bool bias;
};
size_t device_weight_bytes(struct device *dev, struct weight_shape shape);
/* Packs plain rows [N][K] and bias [N] (or NULL) of shape.dtype into memory taken from `arena` and
 * charged to `rank`. *out stays valid until device_close; the plain rows may be reused on return.
 */
enum status device_weight_pack(struct device *dev, struct arena *arena, int rank,
                               struct weight_shape shape, const void *rows, const void *bias,
                               const struct weight **out, struct error *err);
/* Whether a weight lies as its plain rows. Then it may be packed without rows and bias (zeros), and
 * they be written to where device_weight_place() says: device memory. */
bool device_weights_are_plain(struct device *dev);
void device_weight_place(const struct weight *w, void **rows, void **bias);
struct weight_shape weight_shape(const struct weight *w);
/* What each packed weight is charged beside the arena: MEMORY_OTHER, shared. For predictions. */
size_t device_weight_overhead_bytes(struct device *dev);

/* ---- key/value cache
 * ------------------------------------------------------------------------------ */
/* Layout of the chosen attention variant. */
const struct kv_layout *device_kv_layout(struct device *dev);
/* Fills positions [begin, end) of all heads with standard normal values that depend on (seed,
 * position, head) alone, for sampled coverage. */
void device_kv_fill(struct device *dev, const struct kv_view *view, int32_t begin, int32_t end,
                    uint64_t seed);
/* Reads positions of one head back as f32 [n][D], whatever the layout. Host memory. */
void device_kv_read(struct device *dev, const struct kv_view *view, int head, int32_t begin,
                    int32_t n, float *k, float *v);

/* ---- running
 * -------------------------------------------------------------------------------------- */
/* Runs a call, or records it between capture_begin and capture_end. */
enum status device_run(struct device *dev, const struct op_call *call, struct error *err);
/* Runs a call now, past the interposer: for interposers. */
enum status device_execute(struct device *dev, const struct op_call *call, struct error *err);
/* Has a kernel that is made of a library make what such a call needs before it can run at full
 * speed; does nothing for others. May allocate: not for a step. STATUS_UNSUPPORTED: it does not
 * serve the call. */
enum status device_prepare(struct device *dev, const struct op_call *call, struct error *err);
/* What kernels that are made of libraries may lack. */
enum kernel_lacks {
    LACKS_GRAPHS = 1,     /* it was not shown to run in a recorded step */
    LACKS_DUAL_CHUNK = 2, /* it is plain causal alone */
    LACKS_SAME_BITS = 4   /* nobody promises a row the same bits in every chunk size */
};
/* What the chosen attention kernel lacks; *name: its name (may be NULL). */
unsigned device_attention_lacks(const struct device *dev, const char **name);
/* Whether a kernel's first run costs more than the next: its code is loaded then. A session runs
 * each once before anything is timed. */
bool device_loads_lazily(const struct device *dev);

struct device_graph;
struct device_graph_info {
    int64_t nodes, bytes, capture_ns, instantiate_ns, upload_ns;
};
enum status device_capture_begin(struct device *dev, struct error *err);
/* On error nothing is recorded and *out is NULL; the device is out of capture either way. */
enum status device_capture_end(struct device *dev, struct device_graph **out, struct error *err);
enum status device_graph_launch(struct device *dev, struct device_graph *g, struct error *err);
void device_graph_info(const struct device_graph *g, struct device_graph_info *out);
/* What a recorded step of n calls is charged: MEMORY_GRAPH, shared. For predictions. */
int64_t device_graph_bytes(struct device *dev, int64_t calls);
void device_graph_close(struct device *dev, struct device_graph *g); /* NULL is legal */

/* ---- observation
 * ---------------------------------------------------------------------------------- */
/* Keeps the first `capacity` spans after a reset, in a buffer allocated here (not in a step); 0
 * turns them off again. */
enum status device_spans_enable(struct device *dev, int64_t capacity, struct error *err);
/* Spans since the last reset, in the order of issue, calls aside among the others; valid until the
 * next run. *dropped: those that found no room. */
const struct span *device_spans(struct device *dev, int64_t *n, int64_t *dropped);
void device_spans_reset(struct device *dev);
/* Reads hardware counters around every op from now on, until spans are turned off: those of
 * `source` (counters.h), or of the kernel where that is NULL. After device_spans_enable, by the
 * thread that drives the device. STATUS_UNSUPPORTED: why there are none to read. */
struct counter_source;
enum status device_spans_count(struct device *dev, const struct counter_source *source,
                               struct error *err);
/* Of each of device_spans(), in their order; NULL where nothing is counted. */
const struct span_counts *device_span_counts(struct device *dev);
/* Tells a profiler that waits for it to capture from here to here (cudaProfilerStart, -Stop); does
 * nothing on the CPU. */
void device_profile(struct device *dev, bool on);
/* A counter that moves while kernels make progress, at least once a second on any machine that is
 * alive, also inside a long op; and with each arena, preparation and recorded call before them. Any
 * thread may read it: the heartbeat does. */
uint64_t device_progress(const struct device *dev);
/* The call that the device's thread is in, for people: "attention, layer 3, rank 1". A GPU may be
 * far behind it. Any thread. */
void device_at_work(const struct device *dev, char *out, size_t size);

/* ---- what there is, and how fast it is
 * ------------------------------------------------------------- */
struct variant_info {
    enum op op;
    const char *name;    /* "avx512_bf16" */
    const char *device;  /* "cpu", "cuda" */
    const char *needs;   /* instruction set or library; "" for none */
    bool usable;         /* on this machine, by this process */
    const char *why_not; /* when it is not */
    unsigned lacks;      /* of enum kernel_lacks */
};
/* Row i of ops.inc, or false past the end. */
bool variant_info(int i, struct variant_info *out);
/* Name of the n-th variant of an op, as struct span counts them; "unknown" past the end. */
const char *variant_name(enum op op, int n);

/* Rates that this device reaches with the chosen kernels, measured by running them on
 * representative shapes for about a second in all: what predictions divide by. Roofs beside them
 * (plain FMA loop, plain copy). */
struct device_rates {
    double linear_flops;    /* FLOP/s, M 256 blocks, K = N = 1024 */
    double attention_flops; /* FLOP/s, causal work counted as executed, at 8k keys */
    double copy_bytes;      /* B/s, read + write */
    double roof_flops;      /* FLOP/s of the best multiply-add instruction, operands in registers */
    double op_overhead_ns;  /* one tiny op, issue to end */
};
enum status device_measure(struct device *dev, struct device_rates *out, struct error *err);
/* copy_bytes and roof_flops alone; the others are 0. */
enum status device_ceilings(struct device *dev, struct device_rates *out, struct error *err);

#endif
