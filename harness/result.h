/* What a case leaves behind, in memory: filled by the worker, written and read by record.c, judged
 * by check.c, shown by show.c. Rows mirror the columns of the result file. Arrays grow with
 * result_add_*; result_free frees. */
#ifndef HARNESS_RESULT_H
#define HARNESS_RESULT_H

#include "harness/plan.h"
#include "kernels/activity/activity_log.h"

#define CASE_STATUS_TABLE(X)                                                                       \
    X(CASE_OK, "ok")                                                                               \
    X(CASE_SKIPPED, "skipped")                                                                     \
    X(CASE_FAILED, "failed")                                                                       \
    X(CASE_CRASHED, "crashed")                                                                     \
    X(CASE_TIMEOUT, "timeout")                                                                     \
    X(CASE_INVALID, "invalid")                                                                     \
    X(CASE_INTERRUPTED, "interrupted")
enum case_status {
#define X(name, text) name,
    CASE_STATUS_TABLE(X)
#undef X
};
const char *case_status_text(enum case_status s);

/* A check either ran and passed, ran and failed, or did not run; never "ok" for what did not run.
 */
enum verdict {
    VERDICT_NOT_CHECKED,
    VERDICT_OK,
    VERDICT_FAILED,
    VERDICT_SPOT_OK /* of an output as a whole alone, see case_summary */
};
const char *verdict_text(enum verdict v); /* "not checked", "ok", "FAILED", "spot ok" */

#define CHECK_TABLE(X)                                                                             \
    X(CHECK_TOKENS, "tokens")         /* generated ids against the known answer */                 \
    X(CHECK_LOGITS, "logits")         /* answer rows' logits against the analytic ones */          \
    X(CHECK_SPOT, "spot")             /* sampled attention rows against float64 */                 \
    X(CHECK_FINITE, "finite")         /* no NaN or infinity in logits */                           \
    X(CHECK_COUNT, "count")           /* every prompt token went through, none twice */            \
    X(CHECK_MEMORY, "memory")         /* no step allocates */                                      \
    X(CHECK_INVARIANCE, "invariance") /* same bits as the other chunk sizes and modes */
enum check {
#define X(name, text) name,
    CHECK_TABLE(X)
#undef X
        CHECKS
};
const char *check_name(enum check c);

struct check_result {
    enum verdict verdict;
    double worst,
        limit; /* largest deviation seen and what is allowed, in the check's own unit; NaN: none */
    char detail[300]; /* why it failed ("answer token 3: expected <g6>, got <g7>") or was not
                         checked: then it is never empty */
};

struct chunk_row {
    int32_t repeat, chunk, start_token, n_tokens;
    int64_t begin_ns, latency_ns, host_ns, flops, bytes;
    int64_t device_latency_ns[MAX_RANKS];
    bool replayed;
};
struct memory_row { /* one per (repeat, chunk, rank); rank -1: shared by the ranks of the device */
    int32_t repeat, chunk, rank;
    struct memory_use use;
    int64_t driver_before, driver_after,
        driver_high_water; /* of the device, the same in all its ranks' rows */
    int64_t unaccounted;   /* driver_after - everything accounted on the device */
};
/* One per (repeat, chunk, device) of a GPU whose driver tells; none on the CPU. A value that it
 * does not tell is -1 or NaN. Means and least are over `samples`: one every 100 ms, and the last.
 */
struct clock_row {
    int32_t repeat, chunk, device;
    int32_t samples;
    int32_t sm_clock_mhz, sm_clock_min_mhz, memory_clock_mhz, temperature_c;
    double sm_clock_mean_mhz, power_w, power_mean_w;
    int64_t throttle_reasons;      /* mask of NVML_REASON_TABLE, at the end of the chunk */
    int64_t throttle_reasons_seen; /* in any sample */
    int64_t energy_mj;             /* over the chunk */
};
struct decode_row {
    int32_t repeat, step, token_id;
    int64_t latency_ns;
    float logprob;
};
struct span_row {
    int32_t repeat, chunk;
    struct span span;
    struct span_counts counts; /* where the result has them */
};
/* What a device has of memory, by number: its place among all devices' buffers. */
struct buffer_row {
    int32_t device;
    struct buffer_info buffer;
};
/* From a span on, `bytes` of a buffer are in use; in order of the spans, which are rows of `spans`.
 * At the first span of a chunk on a device nothing has been said of its buffers. */
struct buffer_use_row {
    int64_t span;
    int32_t buffer;
    int64_t bytes;
};
struct top_logprob {
    int32_t id;
    float logprob;
};

struct affine_fit { /* latency_ns = base_ns + slope_ns_per_token * start_token */
    double base_ns, slope_ns_per_token, rms_relative; /* rms of residual / latency */
    int n;
};

/* What CUPTI recorded of chunks that ran once more, in a process of their own: no sample of
 * anything. */
struct kernel_trace {
    bool wanted;            /* somebody asked for it */
    char note[400];         /* why there is none, or what it lacks; "" */
    uint32_t cupti_version; /* 130001; 0: none */
    struct activity_log log;
    struct chunk_row *chunks; /* that it is of; owned */
    int64_t n_chunks;
};

enum { FOREIGN_KERNELS = 32 };

struct case_result {
    char id[96];
    enum case_status status;
    char reason[600];
    int exit_signal;   /* of a crashed worker, or 0 */
    char *stderr_tail; /* malloc'd or NULL */

    /* the plan, as it was carried out */
    char prompt[NAME_MAX_BYTES], prompt_sha256[65];
    char prompt_url[NAME_MAX_BYTES], prompt_file_sha256[65]; /* of one from the web; or "" */
    int32_t prompt_tokens, chunk_tokens;                     /* the largest chunk that ran */
    int64_t max_num_batched_tokens; /* the chunk size as configured: it may exceed the prompt */
    bool graph;
    int tp, repeats, devices; /* devices that share the ranks */
    int memories;             /* that the figures are of; 0 in older files: see below */
    char device[96], dtype[16], attention[32], linear[32];
    char exchange[32];        /* kernel between devices; "" on one */
    bool exchange_overlap;    /* it ran beside other ops */
    char attention_note[200]; /* why not the best attention kernel for such a device, or "" */
    bool prune_last_layer, dual_chunk;
    enum coverage coverage;
    struct memory_prediction predicted_memory;
    double predicted_prefill_s;
    struct device_rates rates; /* measured with its kernels, before it ran; older files: 0 */

    struct chunk_row *chunks;
    int64_t n_chunks;
    struct memory_row *memory;
    int64_t n_memory;
    struct clock_row *clocks;
    int64_t n_clocks;
    struct decode_row *decode;
    int64_t n_decode;
    struct span_row *spans;
    int64_t n_spans, dropped_spans;
    bool counted;            /* spans have counts */
    char counters_note[200]; /* why they have none although they were wanted, or "" */
    /* Kernels of the spans that this program does not have, from a file: the i-th is number 255 - i
     * of its op. */
    char foreign_kernel[FOREIGN_KERNELS][32];
    int n_foreign;
    struct buffer_row *buffers;
    int64_t n_buffers;
    struct buffer_use_row *buffer_uses; /* of up to five traced chunks */
    int64_t n_buffer_uses;
    struct chunk_row *traced; /* the chunks that the spans are of: no sample of anything */
    int64_t n_traced;
    struct kernel_trace kernel_trace;

    int64_t *ttft_ns; /* [repeats], raw; sampled: estimates */
    int n_ttft;
    bool ttft_estimated;
    struct affine_fit fit;
    double ttft_error; /* estimated: relative standard error of the estimate */
    int64_t load_ns, session_ns;
    struct graph_info graph_info;
    int64_t step_allocations; /* made inside steps: 0 or a bug */

    int32_t *output; /* generated ids of the first measured repeat */
    int n_output;
    char *output_text; /* utf-8, malloc'd */
    int32_t *expected;
    int n_expected;
    struct top_logprob top[20]; /* at the first generated position */
    int n_top;
    uint64_t logits_hash; /* xxh64 of the f32 logits at the first generated position */
    struct check_result check[CHECKS];
};

/* Of a case's failed checks the one that explains the others; CHECKS: none failed. */
enum check result_failed_check(const struct case_result *r);

/* From the plan. The status is CASE_SKIPPED for a skipped case, else CASE_FAILED with a reason:
 * whoever runs the case to its end says CASE_OK and clears the reason. All checks: not checked, for
 * that reason. */
void result_init(struct case_result *r, const struct case_plan *c);
void result_free(struct case_result *r);
enum status result_add_chunk(struct case_result *r, const struct chunk_row *row, struct error *err);
enum status result_add_memory(struct case_result *r, const struct memory_row *row,
                              struct error *err);
enum status result_add_clocks(struct case_result *r, const struct clock_row *row,
                              struct error *err);
enum status result_add_decode(struct case_result *r, const struct decode_row *row,
                              struct error *err);
enum status result_add_traced(struct case_result *r, const struct chunk_row *row,
                              struct error *err);
/* Takes back what the newest rows of the four above tell of this repeat, which did not end. */
void result_drop_repeat(struct case_result *r, int repeat);
/* As result_add_traced(), of kernel_trace. */
enum status result_add_kernel_chunk(struct case_result *r, const struct chunk_row *row,
                                    struct error *err);
enum status result_add_spans(struct case_result *r, const struct span_row *rows, int64_t n,
                             struct error *err);
enum status result_add_buffers(struct case_result *r, const struct buffer_row *rows, int64_t n,
                               struct error *err);
enum status result_add_buffer_uses(struct case_result *r, const struct buffer_use_row *rows,
                                   int64_t n, struct error *err);

/* Rows that an array of n rows has room for: who fills one otherwise than by adding allocates so.
 */
int64_t result_capacity(int64_t n);

/* Facts derived from the rows, computed in one place for table, JSON and HDF5 alike. */
struct case_summary {
    int64_t ttft_median_ns, ttft_min_ns, ttft_max_ns;
    double prefill_tok_s, decode_tok_s; /* NaN: unknown */
    int64_t peak_bytes_rank;            /* highest rank: its own + what is shared / ranks */
    int64_t peak_bytes_device;          /* accounted high-water of a memory, see below */
    int64_t peak_driver_bytes, unaccounted_bytes;
    /* Of a GPU, over all measured chunks; NaN or -1: not known. */
    double energy_j;           /* of the chunks of a repeat, mean over repeats */
    double energy_j_per_token; /* sampled coverage: of the chunks that ran */
    double power_w; /* that energy over the latencies of a second or more, all GPUs together */
    double sm_clock_mean_mhz, power_mean_w; /* of samples, which lag behind what the chunks do */
    int32_t sm_clock_min_mhz;
    int64_t throttle_reasons; /* seen in any chunk */
    /* tokens, logits, spot, finite, count together: failed if any failed; ok if the known answer
     * was compared in full; spot ok if only attention was, at sampled rows: that does not see what
     * the layers around it do; else not checked, as is whatever was not computed in full. */
    enum verdict output;
    enum verdict invariance;
};
/* Memories that a case's figures are of, all equally full: each GPU has its own, the CPU's devices
 * share the host's, those of several processes each its own. */
int result_memories(const struct case_result *r);
/* Name of the kernel of a span. */
const char *result_kernel_name(const struct case_result *r, int op, int variant);
/* Whether a chunk of it ran alone (bench run --once), which `reason` tells. */
bool result_is_once(const struct case_result *r);
void result_summary(const struct case_result *r, struct case_summary *out);

#endif
