/* The plan: every case of a configuration, what it will cost, and what will be done with it.
 *
 * The cases (ids, order, launches, options) are a pure function of the configuration and the
 * device. What is done with them (coverage) also depends on free memory, measured rates and the
 * time budget: the supervisor decides once and writes the decisions with plan_write; a worker, and
 * a run that is resumed, read them with plan_read, which measures and decides nothing. */
#ifndef HARNESS_PLAN_H
#define HARNESS_PLAN_H

#include "harness/config.h"

enum { NAME_LENGTH = 32 };

enum coverage { COVER_FULL, COVER_SAMPLED, COVER_SKIPPED };

struct case_plan {
    char
        id[96]; /* stable, made of the values: "needle-64k_c8192_graph_tp4_bf16"; a file name too */
    char prompt[NAME_MAX_BYTES]; /* as configured */
    char text_sha256[65];        /* of its text when it was planned; "": it has none */
    int launch;                /* cases with equal numbers share one loaded engine and one worker */
    struct engine_opts engine; /* strings point into the config */
    struct session_opts session; /* prompt_tokens, max_tokens, chunk_tokens, graph, sampling */
    int64_t seed;
    int64_t max_num_batched_tokens; /* chunk size as configured; session.chunk_tokens is that, or
                                       the prompt where it is shorter */

    int chunks; /* of the whole prompt */
    enum coverage coverage;
    int sampled;      /* chunks that run when sampled */
    char reason[400]; /* why sampled or skipped, with the arithmetic; "" when full */

    struct device_rates rates; /* of its launch's kernels: what its predictions divide by */
    struct memory_prediction memory;
    double predicted_prefill_s; /* one full prefill */
    double predicted_total_s;   /* warm-up, repeats and decode as planned */
    double predicted_fixed_s;   /* the part of it that is not prefill: opening, decode, checks */
};

struct plan {
    struct config config; /* owned copy; engine opts point into it */
    struct model_config model;
    enum device_kind device;
    struct device_info device_info;
    struct device_rates rates; /* of the first launch, as is device_info: cases have their own */
    bool rates_measured;       /* false: all read from the cache */
    int launches;
    int n;
    struct case_plan *cases; /* owned */
    char notes[8][300]; /* what the user should know: "1m means 1,048,320 prompt tokens: ..." */
    int n_notes;
    int32_t prompt_tokens[AXIS_MAX];      /* of config.prompt.v[i] */
    char text_sha256[AXIS_MAX][65];       /* of its text, from a file or the web; or "" */
    char variant_names[OPS][NAME_LENGTH]; /* what device_info.variant points to */
    double load_s;                        /* predicted: loading the model, all launches together */
    double total_s;                       /* predicted: everything that runs, loading included */
};

/* A device that is a GPU is opened in a child process alone (plan_apart.h), never in this one.
 *
 * Config errors that need the model or the prompts (length over the limit, tp that does not divide,
 * unreadable or empty file, not UTF-8) are all found here, before anything runs, and reported with
 * file:line where the key stands. Prompts from the web have to be fetched before (fetch.h). */
enum status plan_make(struct plan *out, const struct config *c, struct config_errors *errors);
/* The same with rates measured now, whatever the cache holds; it holds these afterwards. */
enum status plan_make_anew(struct plan *out, const struct config *c, struct config_errors *errors);
/* For a configuration that config_load refused: adds what plan_make would find in the values that
 * are good, without measuring. What depends on a refused value is not judged. */
void plan_check(const struct config *c, struct config_errors *errors);
void plan_free(struct plan *p); /* zeroed struct is legal */

/* The decisions as a small JSON file, written by rename: device, rates, and per case coverage,
 * reason and predictions. */
enum status plan_write(const struct plan *p, const char *path, struct error *err);
/* The same document as text, for --json; malloc'd. */
char *plan_to_json(const struct plan *p);
/* The plan that plan_write saved, for the same configuration: cases from `c`, decisions from the
 * file. Errors: STATUS_IO (unreadable, damaged), STATUS_USAGE (made from another configuration). */
enum status plan_read(struct plan *out, const struct config *c, const char *path,
                      struct error *err);
/* Both as a JSON object, into one that is there and from one; `path` is its name in messages. */
struct jsondoc;
void plan_put(struct jsondoc *object, const struct plan *p);
enum status plan_take(struct plan *out, const struct config *c, const struct jsondoc *object,
                      const char *path, struct error *err);

/* The cases alone, for plan_make and plan_read: needs config, model, device, prompt_tokens and
 * text_sha256.
 * Order, outermost first: dtype, tensor_parallel_size, attention_backend (these three share a
 * launch), prompt, max_num_batched_tokens, enforce_eager; each axis as the configuration lists it.
 */
enum status plan_build_cases(struct plan *p, struct error *err);
/* [model] path with `auto` resolved for a device; points into c or to a literal. */
const char *plan_model_path(const struct config *c, enum device_kind device);

const struct case_plan *plan_find(const struct plan *p, const char *id);

/* Chunk numbers that a sampled case runs: first and last always, the rest spread evenly; ascending.
 * Returns their number, at most k. */
int plan_sampled_chunks(int chunks, int k, int *out);

#endif
