/* The plan: every case of a configuration, what it will cost, and what will be done with it.
 * A pure function of the configuration, the machine's rates and its free memory; the worker makes
 * the same plan from the same effective configuration and finds its cases by id. */
#ifndef HARNESS_PLAN_H
#define HARNESS_PLAN_H

#include "harness/config.h"

enum coverage { COVER_FULL, COVER_SAMPLED, COVER_SKIPPED };

struct case_plan {
    char
        id[96]; /* stable, made of the values: "needle-64k_c8192_graph_tp4_bf16"; a file name too */
    char prompt[NAME_MAX_BYTES]; /* as configured */
    int launch;                /* cases with equal numbers share one loaded engine and one worker */
    struct engine_opts engine; /* strings point into the config */
    struct session_opts session; /* prompt_tokens, max_tokens, chunk_tokens, graph, sampling */
    int64_t seed;

    int chunks; /* of the whole prompt */
    enum coverage coverage;
    int sampled;      /* chunks that run when sampled */
    char reason[400]; /* why sampled or skipped, with the arithmetic; "" when full */

    struct memory_prediction memory;
    double predicted_prefill_s; /* one full prefill */
    double predicted_total_s;   /* warm-up, repeats and decode as planned */
};

struct plan {
    struct config config; /* owned copy; engine opts point into it */
    struct model_config model;
    enum device_kind device;
    struct device_info device_info;
    struct device_rates rates;
    bool rates_measured; /* false: read from the cache */
    int launches;
    int n;
    struct case_plan *cases; /* owned */
    char notes[8][300]; /* what the user should know: "1m means 1,048,320 prompt tokens: ..." */
    int n_notes;
};

/* Config errors that need the model or the prompts (length over the limit, tp that does not divide,
 * unreadable or empty file, not UTF-8) are all found here, before anything runs, and reported with
 * file:line where the key stands. */
enum status plan_make(struct plan *out, const struct config *c, struct config_errors *errors);
void plan_free(struct plan *p); /* zeroed struct is legal */
const struct case_plan *plan_find(const struct plan *p, const char *id);

/* Chunk numbers that a sampled case runs: first and last always, the rest spread evenly; ascending.
 * Returns their number, at most k. */
int plan_sampled_chunks(int chunks, int k, int *out);

#endif
