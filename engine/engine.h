/* The inference engine as its callers see it: a loaded model on its devices (engine), and one
 * sequence on it (session). Tensor parallel, chunked prefill, Qwen2 architecture.
 *
 *   engine_open -> session_open -> session_prefill (chunk by chunk) -> session_generate ... ->
 * close
 *
 * Opening allocates and loads; a step allocates nothing. An engine serves one session at a time,
 * driven by one thread. Failure of any rank ends the step for all ranks with one error; the session
 * is then only good for closing. */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include "kernels/backend.h"

struct engine;
struct session;

/* What config.json says (Hugging Face names in comments where ours differ). */
struct model_config {
    char name[96];
    int32_t layers, C, H, K, D, F,
        V; /* num_hidden_layers, hidden_size, num_attention_heads,
              num_key_value_heads, head_dim, intermediate_size, vocab_size */
    float rms_norm_eps;
    double rope_theta;
    int32_t max_position_embeddings;
    bool tie_word_embeddings;
    struct attention_pattern
        dual_chunk;                  /* chunk = chunk_size - local_size; 0: the model has none */
    int32_t dual_chunk_original_max; /* original_max_position_embeddings, for the factor f */
    int32_t eos[4];
    int32_t eos_count;
};

/* Whether devices exchange the parts of a block's sums while the next block is computed. AUTO: GPUs
 * do, where a chunk has several blocks. */
enum overlap { OVERLAP_AUTO, OVERLAP_ON, OVERLAP_OFF };

/* Processes that hold one device each, all of one host, of which this is one. */
struct engine_processes {
    const char *name;       /* that all have been told and no other run uses: rendezvous.h */
    int process, processes; /* 0 or 1: there is only this one, and devices are its threads */
    int local;              /* its number among those of the host: which of the GPUs is its own */
    int patience_s;         /* how long to wait for one that does not come */
};

struct engine_opts {
    const char
        *model; /* "needle", "needle:4x4x64", "needle:28x4x128", "random:PRESET" or a folder */
    int tensor_parallel_size;
    enum dtype dtype;
    enum device_kind device;
    int devices; /* that the ranks are spread over, equally many on each; 0: as engine_devices() */
    struct engine_processes processes;
    bool apart;  /* a plan for devices that are processes' */
    int threads; /* of all devices together; 0: all cores of this process */
    const char *isa, *attention_backend,
        *linear_backend,   /* "auto" or a name of `bench list kernels` */
        *exchange_backend; /* the same, between devices */
    enum overlap exchange_overlap;
    uint64_t seed;         /* of random weights */
    bool prune_last_layer; /* last layer: only K and V except for the last token; same answer, same
                              bits */
    bool dual_chunk_attention;
    int32_t block_rows; /* rows of the MLP and of o_proj worked on at a time: bounds activations */
    const volatile int *stop; /* borrowed, or NULL: not zero ends the loading before its next weight
                                 with STATUS_INTERRUPTED */
    op_interposer *interpose; /* tests only */
    void *interpose_ctx;
    struct nvtx *nvtx; /* kernels/nvtx.h: gets a range for every op and layer. Borrowed, or NULL */
    struct activity *activity; /* kernels/activity/activity.h: is told what belongs to which op.
                                  Borrowed, or NULL */
};
struct engine_opts engine_opts_defaults(void);

struct engine_info {
    struct model_config model;
    int ranks;
    int devices;
    struct device_info device[MAX_RANKS];
    int rank_device[MAX_RANKS];
    int memories; /* of the GPUs, each its own; or the host's, one for all */
    int kv_heads_per_rank, kv_replicas;
    int64_t parameters;
    int64_t load_ns;
};

/* Reads a model's configuration without loading it. STATUS_USAGE for a name that is not known (the
 * text lists what is), STATUS_UNSUPPORTED for an architecture that is not Qwen2. */
enum status engine_model_config(const char *model, struct model_config *out, struct error *err);
/* Numbers that the model has in all. */
int64_t engine_model_parameters(const struct model_config *m);
/* Whether tp divides what it must (heads, kv heads or replicas, F, V): STATUS_USAGE with the
 * arithmetic. */
enum status engine_check_parallel(const struct model_config *m, int tp, struct error *err);

/* Devices that the ranks are spread over: one for each of several processes; else opts->devices, or
 * where that is 0 on GPUs as many as
 * there are and tp is a multiple of, on the CPU one. Makes no CUDA context. STATUS_USAGE: no
 * divisor of tp; STATUS_UNSUPPORTED: more than there are. */
enum status engine_devices(const struct engine_opts *opts, int *n, struct error *err);

/* Loads the model. Errors: STATUS_USAGE (options), STATUS_UNSUPPORTED, STATUS_NO_MEMORY, STATUS_IO,
 * STATUS_INTERRUPTED (opts->stop). Of several processes each opens its own, with the same options;
 * STATUS_TIMEOUT: one did not come. */
enum status engine_open(struct engine **out, const struct engine_opts *opts, struct error *err);
/* Of several processes all but number 0 call this, once, and nothing else but engine_close()
 * afterwards: does what calls in process 0 need of this one, until that closes its engine
 * (STATUS_OK) or the team ends. In process 0 any call may return STATUS_LOST: another process is
 * gone. */
enum status engine_follow(struct engine *e, struct error *err);
void engine_close(struct engine *e); /* NULL is legal; its session must be closed before */
const struct engine_info *engine_info(const struct engine *e);

/* Whether its devices still work: STATUS_OK, or the error after which the engine is only good for
 * closing (a GPU that met a bad address serves this process no more). Waits for what was issued. */
enum status engine_check(struct engine *e, struct error *err);

/* ---- a session
 * ------------------------------------------------------------------------------------- */
struct sampling_opts {
    float temperature, top_p,
        repetition_penalty; /* defaults of QWEN2: 0.7 0.8 1.05; greedy: temperature 0 */
    int32_t top_k;
    uint64_t seed;
};

struct session_opts {
    int32_t prompt_tokens; /* S, known up front */
    int32_t
        max_tokens; /* generated at most; KV capacity is prompt_tokens + max_tokens, rounded up */
    int32_t chunk_tokens; /* largest chunk; clamped to prompt_tokens */
    bool graph; /* record the step once, replay it for every equal chunk and every decode step */
    struct sampling_opts sampling;
    bool taps; /* copy out rows for the spot check */
    const int32_t
        *logits_at; /* prompt positions whose logits are wanted; switches pruning off. Borrowed. */
    int32_t logits_at_count;
};
struct session_opts session_opts_defaults(void);

/* Memory, per rank and shared, that engine_open + session_open will account for: the arithmetic of
 * the allocation itself. */
struct memory_prediction {
    int ranks;
    int64_t rank_bytes[MAX_RANKS][MEMORY_CATEGORIES];
    int64_t shared_bytes[MEMORY_CATEGORIES];
    int64_t total_bytes;
    int64_t available_bytes; /* on the device, now */
};
/* Predicts for the sessions of one engine. Opens its device, to ask for layouts, and loads nothing:
 * on a GPU that takes a second and half a GiB, so one planner serves all cases of a launch. Errors
 * of opening: engine_open's, but for loading. `opts` is borrowed until the close. */
struct engine_planner;
enum status engine_planner_open(struct engine_planner **out, const struct engine_opts *opts,
                                struct error *err);
enum status engine_planner_predict(struct engine_planner *p, const struct session_opts *so,
                                   struct memory_prediction *out, struct error *err);
void engine_planner_close(struct engine_planner *p); /* NULL is legal */

/* What one chunk [start, start + n) of a prompt executes: on one of the GPUs, or on all devices of
 * the CPU together, since those share its cores. */
struct chunk_cost {
    int64_t linear_flops, attention_flops, other_flops;
    int64_t bytes;          /* of everything but linears, attention and exchanges */
    int64_t exchange_bytes; /* sent and received */
    int64_t ops;
};
struct chunk_cost engine_chunk_cost(const struct model_config *m, const struct engine_opts *eo,
                                    int64_t start, int64_t n, bool last);
/* Measures the device's rates with the kernels that eo would choose (about a second). */
enum status engine_measure(const struct engine_opts *eo, struct device_rates *out,
                           struct device_info *info, struct error *err);

/* Allocates KV, activations and workspace, captures graphs when asked. STATUS_NO_MEMORY says how
 * much. */
enum status session_open(struct session **out, struct engine *e, const struct session_opts *opts,
                         struct error *err);
void session_close(struct session *s); /* NULL is legal */
/* Back to position 0 for another repeat: clears positions, seen tokens and the draw counter; keeps
 * memory and graphs. */
enum status session_reset(struct session *s, struct error *err);

struct chunk_result {
    int32_t start_token, n_tokens;
    int64_t begin_ns;                     /* CLOCK_MONOTONIC, before the first op is issued */
    int64_t latency_ns;                   /* to the end of the slowest device's work */
    int64_t host_ns;                      /* issuing alone (on the CPU the same as latency) */
    int64_t device_latency_ns[MAX_RANKS]; /* per device */
    int64_t flops, bytes;
    bool
        replayed; /* from the recorded step; false: op by op (eager mode, or a ragged last chunk) */
};
/* Prefills the next n tokens, n <= chunk_tokens; the chunk that reaches prompt_tokens also computes
 * the logits of the last token. tokens are host memory. A token outside [0, V): STATUS_USAGE. */
enum status session_prefill(struct session *s, const int32_t *tokens, int32_t n,
                            struct chunk_result *out, struct error *err);
/* For sampled coverage: fills the cache up to `position` with synthetic standard normal keys and
 * values and goes there. Not an answer any more: generation is refused afterwards. Only forwards.
 */
enum status session_skip_to(struct session *s, int32_t position, uint64_t seed, struct error *err);
/* Back to a position that the session has passed; the cache before it stays as it is. What is
 * generated after it is nobody's answer: tokens seen since then count as seen. */
enum status session_rewind(struct session *s, int32_t position, struct error *err);
int32_t session_position(const struct session *s);

struct token_result {
    int32_t id;
    float logprob;      /* log softmax of the unchanged logits */
    int64_t latency_ns; /* of the decode step; the first token: of sampling alone */
    bool stop;          /* an eos of the model */
};
/* Samples the next token; from the second call on, first runs the decode step for the one before.
 */
enum status session_generate(struct session *s, struct token_result *out, struct error *err);

/* Logits [V] that the next or last generated token comes from, f32, gathered over ranks. Host
 * memory. */
enum status session_logits(struct session *s, float *out, struct error *err);
/* Logits at opts.logits_at[i], once its chunk has been prefilled. */
enum status session_logits_at(struct session *s, int32_t i, float *out, struct error *err);

/* Of all devices together; chunk_nodes: of the graphs of a chunk, without those of a decode step. */
struct graph_info {
    int graphs;
    int64_t nodes, chunk_nodes, bytes, capture_ns, instantiate_ns, upload_ns;
};
/* Whether the exchanges of whole chunks run beside other ops. */
bool session_overlaps(const struct session *s);
void session_graph_info(const struct session *s, struct graph_info *out); /* zeros in eager mode */

/* ---- the spot check's view: what the engine really did with chosen rows
 * ----------------------------- */
/* Rows (absolute positions, at most TAP_ROWS) to copy out of the next chunk; those outside it are
 * ignored. In the last layer of a pruned model only the last row of the prompt has a query and an
 * output; all rows have keys and values. */
enum status session_tap(struct session *s, const int32_t *positions, int n, struct error *err);
/* After the chunk: unrotated query and attention output of position, f32 [D]. head is the global
 * query head. STATUS_USAGE if that row was not tapped. */
enum status session_tap_read(struct session *s, int layer, int head, int32_t position, float *query,
                             float *output, struct error *err);
/* After the chunk: key before rotation and value of position, as the given rank computed them for a
 * global kv head, f32 [D]. STATUS_USAGE if that row was not tapped. */
enum status session_tap_read_kv(struct session *s, int layer, int rank, int kv_head,
                                int32_t position, float *key, float *value, struct error *err);
/* Cached keys and values of one global kv head as the given rank holds them, f32 [n][D], host
 * memory; either may be NULL. */
enum status session_kv_read(struct session *s, int layer, int rank, int kv_head, int32_t begin,
                            int32_t n, float *k, float *v, struct error *err);

/* ---- observation
 * ------------------------------------------------------------------------------------ */
/* rank, or SHARED_RANK: all devices together */
void engine_memory(struct engine *e, int rank, struct memory_use *out);
/* What is accounted for a memory (0 .. info.memories - 1), ranks' and shared. */
int64_t engine_memory_accounted(struct engine *e, int memory);
void engine_memory_driver(struct engine *e, int memory, int64_t *bytes,
                          int64_t *high_water); /* or NULL, which is cheaper */
void engine_memory_reset_high_water(struct engine *e);
int64_t engine_allocations(struct engine *e);
/* Keeps the first `capacity` spans after a reset; 0: none, as in a new session, which then runs as
 * if there had never been any. A recorded step is walked op by op meanwhile. Between steps. */
enum status session_spans_enable(struct session *s, int64_t capacity, struct error *err);
const struct span *session_spans(struct session *s, int device, int64_t *n, int64_t *dropped);
void session_spans_reset(struct session *s);
/* Reads the processor's counters around every op until spans are turned off; after
 * session_spans_enable. STATUS_UNSUPPORTED: why there are none to read. */
enum status session_spans_count(struct session *s, struct error *err);
/* Of each of session_spans(), in their order; NULL where nothing is counted. */
const struct span_counts *session_span_counts(struct session *s, int device);

/* A piece of memory of a device with a name of its own; those of one name, category and rank are
 * one. What is accounted for beside the named buffers of a session (weights, graphs, scratch of
 * threads) has the name of its category. */
struct buffer_info {
    char name[16];
    enum memory_category category;
    int rank;      /* or SHARED_RANK: the ranks of the device use it one after another */
    int64_t bytes; /* reserved */
};
/* From op number `op` of the chunk on, `bytes` of it are in use, until its next row. */
struct buffer_use {
    int32_t op, buffer;
    int64_t bytes;
};
/* What of a device's memory the ops of the newest chunk had in use: while an op runs, what it reads
 * and writes, and what an earlier op (or an earlier step) has written and a later one (or a later
 * step) reads. Found from the calls of the chunk, each with the memory that it was given: in use is
 * what could not be overwritten without changing what comes out. All of the rest of `buffers` is
 * reserved and idle. */
struct memory_timeline {
    struct buffer_info *buffers; /* owned */
    int n_buffers;
    struct buffer_use *uses; /* owned; in order of their ops */
    int64_t n_uses, n_ops;
};
/* After a chunk whose spans, and no others, are there: the ops of the timeline are theirs.
 * STATUS_INVALID: the ops that ran are others, or some were dropped; STATUS_USAGE: there has been
 * no chunk; STATUS_NO_MEMORY. */
enum status session_memory_timeline(struct session *s, int device, struct memory_timeline *out,
                                    struct error *err);
void memory_timeline_free(struct memory_timeline *t); /* a zeroed struct is legal */

/* A profiler that waits for it captures between on and off; nothing on the CPU. */
void engine_profile(struct engine *e, bool on);
/* Moves while kernels make progress, or what comes before them when a session opens; any thread may
 * read it. */
uint64_t engine_progress(const struct engine *e);
/* What this process's devices are at, for people: "device 0: exchange, layer 3; device 1: ...". Any
 * thread. */
void engine_at_work(const struct engine *e, char *out, size_t size);
/* Whether a process that follows is in a step, or opens a session. Any thread. */
bool engine_stepping(const struct engine *e);

/* ---- catalogues for `bench list`
 * -------------------------------------------------------------------- */
/* Model i that needs no download (name for `model.path`, one line of description), or false past
 * the end. */
bool engine_builtin_model(int i, const char **name, const char **description);

/* Token ids of text for a model without a tokenizer of its own: one id a byte. out holds n bytes'
 * ids. */
void engine_bytes_to_tokens(const char *text, size_t n, int32_t *out);
/* n ids uniform in [0, V): a function of seed and place alone. */
void engine_random_tokens(uint64_t seed, int32_t V, int32_t n, int32_t *out);
/* Text of a token for people, into out (at most size bytes with its NUL): bytes as they are,
 * special tokens of the needle model as <name>, ids without text as <id>. Returns the length that
 * the text has. */
size_t engine_token_text(const struct model_config *m, int32_t id, char *out, size_t size);

#endif
