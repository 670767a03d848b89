/* The configuration of a run: the INI file, overridden by --set, as plain data.
 *
 * options.c holds the one table of keys (section, key, type, place in struct config, range,
 * default, help, axis or not). It drives parsing, validation, defaults, help, suggestions and the
 * reference page. Names are vLLM's where vLLM has the thing. */
#ifndef HARNESS_CONFIG_H
#define HARNESS_CONFIG_H

#include "engine/engine.h"

enum { AXIS_MAX = 64, NAME_MAX_BYTES = 256, PATH_MAX_BYTES = 4096 };

/* A key marked "axis" takes a comma list or a..b*2 (a..b+n too); every combination becomes a case.
 */
struct int_axis {
    int n;
    int64_t v[AXIS_MAX];
};
struct text_axis {
    int n;
    char v[AXIS_MAX][NAME_MAX_BYTES];
};

/* Where each option got its value, by its number in the option table: a line of the file, nowhere,
 * or the i-th --set as FROM_SET - i. */
enum { OPTIONS_MAX = 64, FROM_DEFAULT = 0, FROM_SET = -1 };

enum coverage_kind { COVERAGE_AUTO, COVERAGE_FULL, COVERAGE_SAMPLE };
enum { SAMPLE_LEAST = 3 }; /* chunks: a line through them leaves one to tell its error by */

struct config {
    char file[PATH_MAX_BYTES]; /* where it came from, for messages */
    int32_t from[OPTIONS_MAX]; /* see config_where */
    bool refused[OPTIONS_MAX]; /* a finding stands where its value should: what is in its place is
                                  not what was meant; see config_has */

    /* [model] */
    char model_path[PATH_MAX_BYTES]; /* path: needle, random:PRESET, folder; "auto": by device, see
                                        model_gpu */
    char model_gpu[PATH_MAX_BYTES]; /* path_gpu: what "auto" means where there is a GPU; else needle
                                     */
    int64_t model_seed;             /* seed */
    struct text_axis dtype;         /* dtype: bfloat16, float32 */
    int64_t max_model_len;          /* 0: the model's max_position_embeddings */
    bool allow_long_max_model_len;  /* or BENCH_ALLOW_LONG_MAX_MODEL_LEN=1,
                                       VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 */

    /* [engine] */
    char device[16]; /* auto, cpu, cuda */
    struct int_axis tensor_parallel_size;
    int64_t devices;                        /* 0: as engine_devices() */
    char launcher[PATH_MAX_BYTES];          /* "": none */
    struct int_axis max_num_batched_tokens; /* the chunk size */
    struct int_axis enforce_eager;          /* true, false */
    bool enable_chunked_prefill;            /* false: one chunk as long as the prompt */
    struct text_axis attention_backend;
    char linear_backend[32];
    char exchange_backend[32];
    char exchange_overlap[8]; /* auto, true, false */
    bool dual_chunk_attention;
    bool prune_last_layer;
    int64_t block_rows;
    int64_t threads; /* 0: all */
    char isa[32];

    /* [prompt] */
    struct text_axis prompt; /* source: see prompt.h */
    int64_t prompt_seed;
    double prompt_timeout_s; /* timeout_s, retries, max_bytes: of fetching (download.h) */
    int64_t prompt_retries, prompt_max_bytes;

    /* [sampling] */
    double temperature, top_p, repetition_penalty;
    int64_t top_k, max_tokens, sampling_seed;

    /* [run] */
    int64_t repeats, warmup;     /* measured repeats; discarded ones before them */
    enum coverage_kind coverage; /* auto: what time_budget allows */
    int64_t sample_chunks;       /* K of sample:K; of auto:K the most; 0 with full */
    int64_t time_budget_s;       /* 0: none */
    int64_t watchdog_s;          /* no progress for so long: the worker is killed */
    char output[PATH_MAX_BYTES]; /* result file; "": results/raw/NAME-TIME.h5 */
    char spans[8];               /* "auto", "all", "none": which chunks record op spans */
    const char *only;            /* no key: the command's ids that time goes to first, a pattern;
                                    borrowed; NULL: all alike */

    /* [trace] */
    char nvtx[8];           /* "off", "case", "chunk", "op" */
    char profile_chunk[16]; /* "none", "last" or a number */
    char cupti[16];         /* "none", "last", "spread", "all" or a number */
    bool counters;          /* hardware counters beside spans */

    /* [check] */
    int64_t spot; /* sampled (layer, rank, head, row) per case; 0: off */
    bool invariance;
    bool truth; /* needle answer and analytic logits, where the model knows them */
};

/* Collected messages: all of them, not only the first, by line of the file; then those about
 * defaults, then those about overrides. Where they are too many, the first of this order are kept.
 */
struct config_errors {
    int n;
    struct error e[64];
    int32_t from[64]; /* what each is about, as in struct config */
    int more;         /* beyond the array */
};
/* Adds one message in its place, behind those about the same; `errors` may be NULL. */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
void config_error(struct config_errors *errors, int32_t from, const char *format, ...);
/* All messages on stderr, one a line, and how many were left out. */
void config_errors_print(const struct config_errors *errors);

/* Defaults, then the file, then the overrides "section.key=value" in order. Every finding is one
 * message "file:line: what was found, what was expected" (overrides: "--set section.key=value:
 * ..."). STATUS_USAGE if there is any, STATUS_IO if the file can't be read. With STATUS_USAGE *out
 * holds what is good: plan_check judges that further. */
enum status config_load(struct config *out, const char *path, const char *const *sets, int n_sets,
                        struct config_errors *errors);
void config_defaults(struct config *out);
/* The same from a text, as config_to_text made it; `name` stands for the file in messages. */
enum status config_load_text(struct config *out, const char *text, const char *name,
                             struct config_errors *errors);

/* Whether the value of a key is what was meant: none of the findings is about it. */
bool config_has(const struct config *c, const char *section, const char *key);
/* A finding has been made about its value: nothing else is to be found in it. */
void config_refuse(struct config *c, const char *section, const char *key);
/* Where a value stands: a line, FROM_DEFAULT, or FROM_SET - i. */
int32_t config_from(const struct config *c, const char *section, const char *key);
/* The same for messages: "sweep.ini:12", "--set engine.threads=2", or "sweep.ini: default of
 * [engine] threads" for a value that nobody wrote. Returns out. */
char *config_where(const struct config *c, const char *section, const char *key, char *out,
                   size_t size);

/* The effective configuration as an INI text that config_load reads back to the same struct;
 * malloc'd. */
char *config_to_text(const struct config *c);
/* Hex sha256... of that text, without [run] output: what --resume compares. out: 65 bytes. */
void config_hash(const struct config *c, char out[65]);

/* Walks the option table: for --help, `bench list options` and the reference page. */
struct option_info {
    const char *section, *key, *type, *fallback, *help;
    const char *choices; /* words that it takes, "auto|cpu|cuda"; NULL: not a choice */
    char range[120];
    bool axis;
};
bool config_option(int i, struct option_info *out);
/* The reference page (docs/OPTIONS.md), malloc'd Markdown. */
char *config_reference_page(void);

/* 64k -> 65,536; 1m -> 1,048,576; k = 1024, m = 1024^2; plain digits too. false: not a number. */
bool parse_tokens(const char *text, int64_t *out);

#endif
