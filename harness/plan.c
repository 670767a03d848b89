/* From a configuration to its cases, with what each will cost and what the budget does to it.
 * Everything that can be found wrong before a run is found here. Before it: config.c; after it:
 * launch.c, and cmd_plan.c for people. */
#include "harness/plan.h"

#include "harness/plan_apart.h"
#include "harness/plan_making.h"
#include "harness/prompt.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE_BYTES = PATH_MAX_BYTES + 64 };

/* ---- cases */

/* Letters that are safe in file names and HDF5 paths; what had to be changed beyond recognition, or
 * was too long, gets a hash of the source, so that different prompts never share an id. */
static void prompt_slug(const char *source, char *out, size_t size) {
    static const char safe[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@._+-";
    enum { SLUG_BYTES = 40 };
    const bool file = !strncmp(source, "file:", 5), url = !strncmp(source, "url:", 4);
    const char *slash = file || url ? strrchr(source, '/') : NULL;
    char text[NAME_MAX_BYTES + 8];
    snprintf(text, sizeof text, "%s%s",
             !slash ? ""
             : file ? "file-"
                    : "url-",
             slash ? slash + 1 : source);
    bool changed = file || url || strlen(text) > SLUG_BYTES;
    text[strlen(text) > SLUG_BYTES ? SLUG_BYTES : strlen(text)] = 0;
    for (char *t = text; *t; t++) {
        if (strchr(safe, *t)) continue;
        if (*t == ':')
            *t = '-';
        else if (*t == '%')
            *t = 'p';
        else
            *t = '_', changed = true;
    }
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (const char *s = source; *s; s++) hash = (hash ^ (unsigned char)*s) * 16777619u;
    if (changed)
        snprintf(out, size, "%.40s-%06x", text, hash >> 8);
    else
        snprintf(out, size, "%.40s", text);
}

static void name_case(struct case_plan *c, int64_t chunk, const char *attention) {
    char slug[64];
    prompt_slug(c->prompt, slug, sizeof slug);
    const bool automatic = !strcmp(attention, "auto");
    snprintf(c->id, sizeof c->id, "%s_c%" PRId64 "_%s_tp%d_%s%s%.16s", slug, chunk,
             c->session.graph ? "graph" : "eager", c->engine.tensor_parallel_size,
             c->engine.dtype == DTYPE_BF16 ? "bf16" : "f32", automatic ? "" : "_",
             automatic ? "" : attention);
}

static enum overlap overlap_of(const char *text) {
    return strcmp(text, "true") == 0    ? OVERLAP_ON
           : strcmp(text, "false") == 0 ? OVERLAP_OFF
                                        : OVERLAP_AUTO;
}

static struct engine_opts launch_opts_of(const struct plan *p, int dtype, int tp, int attention) {
    const struct config *c = &p->config;
    struct engine_opts o = engine_opts_defaults();
    o.model = plan_model_path(c, p->device);
    o.tensor_parallel_size = (int)c->tensor_parallel_size.v[tp];
    o.dtype = strcmp(c->dtype.v[dtype], "float32") != 0 ? DTYPE_BF16 : DTYPE_F32;
    o.device = p->device;
    o.devices = (int)c->devices;
    o.apart = c->launcher[0] != 0;
    o.threads = (int)c->threads;
    o.isa = c->isa;
    o.attention_backend = c->attention_backend.v[attention];
    o.linear_backend = c->linear_backend;
    o.exchange_backend = c->exchange_backend;
    o.exchange_overlap = overlap_of(c->exchange_overlap);
    o.seed = (uint64_t)c->model_seed;
    o.prune_last_layer = c->prune_last_layer;
    o.dual_chunk_attention = c->dual_chunk_attention && p->model.dual_chunk.chunk > 0;
    o.block_rows = (int32_t)c->block_rows;
    return o;
}

static struct session_opts session_of(const struct config *c, int32_t tokens, int64_t chunk,
                                      bool graph) {
    struct session_opts s = session_opts_defaults();
    s.prompt_tokens = tokens;
    s.max_tokens = (int32_t)c->max_tokens;
    s.chunk_tokens = (int32_t)(chunk < tokens ? chunk : tokens);
    s.graph = graph;
    s.taps = c->spot > 0;
    s.sampling = (struct sampling_opts){.temperature = (float)c->temperature,
                                        .top_p = (float)c->top_p,
                                        .repetition_penalty = (float)c->repetition_penalty,
                                        .top_k = (int32_t)c->top_k,
                                        .seed = (uint64_t)c->sampling_seed};
    return s;
}

/* The cases of one launch: prompt, chunk size, mode. */
static void build_launch(struct plan *p, const struct engine_opts *engine, int launch) {
    const struct config *c = &p->config;
    const int chunk_sizes = c->enable_chunked_prefill ? c->max_num_batched_tokens.n : 1;
    for (int i = 0; i < c->prompt.n; i++)
        for (int j = 0; j < chunk_sizes; j++)
            for (int k = 0; k < c->enforce_eager.n; k++) {
                struct case_plan *one = &p->cases[p->n++];
                const int32_t tokens = p->prompt_tokens[i];
                const int64_t chunk =
                    c->enable_chunked_prefill ? c->max_num_batched_tokens.v[j] : tokens;
                one->launch = launch;
                one->engine = *engine;
                one->session = session_of(c, tokens, chunk, !c->enforce_eager.v[k]);
                one->seed = c->prompt_seed;
                one->max_num_batched_tokens = chunk;
                one->chunks = (int)((tokens - 1) / one->session.chunk_tokens + 1);
                memcpy(one->prompt, c->prompt.v[i], sizeof one->prompt);
                memcpy(one->text_sha256, p->text_sha256[i], sizeof one->text_sha256);
                name_case(one, chunk, engine->attention_backend);
            }
}

static enum status check_ids(const struct plan *p, struct error *err) {
    for (int i = 0; i < p->n; i++)
        for (int j = 0; j < i; j++)
            if (!strcmp(p->cases[i].id, p->cases[j].id))
                return error_set(err, STATUS_USAGE,
                                 "prompts \"%.100s\" and \"%.100s\" would share the case id %s",
                                 p->cases[j].prompt, p->cases[i].prompt, p->cases[i].id);
    return STATUS_OK;
}

enum status plan_build_cases(struct plan *p, struct error *err) {
    enum { CASES_MAX = 4096 };
    const struct config *c = &p->config;
    const int chunk_sizes = c->enable_chunked_prefill ? c->max_num_batched_tokens.n : 1;
    const int64_t n = (int64_t)c->dtype.n * c->tensor_parallel_size.n * c->attention_backend.n *
                      c->prompt.n * chunk_sizes * c->enforce_eager.n;
    if (n > CASES_MAX)
        return error_set(err, STATUS_USAGE, "found %" PRId64 " cases, expected at most %d", n,
                         (int)CASES_MAX);
    p->cases = calloc((size_t)n, sizeof *p->cases);
    if (!p->cases) return error_set(err, STATUS_NO_MEMORY, "no memory for %" PRId64 " cases", n);
    for (int i = 0; i < c->dtype.n; i++)
        for (int j = 0; j < c->tensor_parallel_size.n; j++)
            for (int k = 0; k < c->attention_backend.n; k++) {
                const struct engine_opts engine = launch_opts_of(p, i, j, k);
                build_launch(p, &engine, p->launches++);
            }
    return check_ids(p, err);
}

/* ---- all of it */

static void add_notes(struct making *m) {
    struct plan *p = m->p;
    int clamped = 0;
    const int sizes = p->config.enable_chunked_prefill ? p->config.max_num_batched_tokens.n : 0;
    for (int i = 0; i < p->config.prompt.n; i++)
        for (int j = 0; j < sizes; j++)
            clamped += p->config.max_num_batched_tokens.v[j] > p->prompt_tokens[i];
    const bool truth = p->config.truth && !needle_is_model(&p->model);
    for (int i = 0; truth && i < p->config.prompt.n; i++)
        if (!strncmp(p->config.prompt.v[i], "needle:", 7)) {
            plan_note(p, "needle prompts are plain token ids to %s: their answer is not checked",
                      p->model.name);
            break;
        }
    if (clamped)
        plan_note(p, "%d chunk size%s larger than the prompt: there the whole prompt is one chunk",
                  clamped, clamped == 1 ? " is" : "s are");
}

static void make(struct making *m) {
    struct error err = {""};
    plan_find_errors(m);
    if (m->status != STATUS_OK) return;
    const enum status s = plan_build_cases(m->p, &err);
    if (s != STATUS_OK) {
        plan_finding(m, s, "prompt", "source", "%s", err.text);
        return;
    }
    plan_predict(m);
    if (m->status == STATUS_OK) plan_decide(m);
    if (m->status == STATUS_OK) add_notes(m);
}

static enum status make_here(struct plan *out, const struct config *c, bool measure_anew,
                             struct config_errors *errors) {
    memset(out, 0, sizeof *out);
    out->config = *c;
    struct making m = {.p = out, .errors = errors, .measure_anew = measure_anew};
    make(&m);
    free(m.rates);
    if (m.status != STATUS_OK) plan_free(out);
    return m.status;
}

/* There is no plan of a configuration that was refused: only what else is to be said about it. */
static enum status check_here(struct plan *out, const struct config *c, bool measure_anew,
                              struct config_errors *errors) {
    memset(out, 0, sizeof *out);
    out->config = *c;
    struct making m = {
        .p = out, .errors = errors, .measure_anew = measure_anew, .only_findings = true};
    plan_find_errors(&m);
    plan_free(out);
    return STATUS_USAGE;
}

/* Whether the device would be a GPU, which is not opened in this process. */
static bool opens_gpu(const struct config *c) {
    const char *why;
    return strcmp(c->device, "cpu") != 0 && plan_cuda_usable(&why);
}

static enum status make_with(struct plan *out, const struct config *c, bool measure_anew,
                             struct config_errors *errors, plan_maker *maker) {
    if (opens_gpu(c)) return plan_apart(out, c, measure_anew, errors, maker, PLAN_APART_LIMIT_S);
    return maker(out, c, measure_anew, errors);
}

enum status plan_make(struct plan *out, const struct config *c, struct config_errors *errors) {
    return make_with(out, c, false, errors, make_here);
}

enum status plan_make_anew(struct plan *out, const struct config *c, struct config_errors *errors) {
    return make_with(out, c, true, errors, make_here);
}

void plan_check(const struct config *c, struct config_errors *errors) {
    struct plan *p = calloc(1, sizeof *p);
    if (p) make_with(p, c, false, errors, check_here);
    free(p);
}

void plan_free(struct plan *p) {
    free(p->cases);
    memset(p, 0, sizeof *p);
}

const struct case_plan *plan_find(const struct plan *p, const char *id) {
    for (int i = 0; i < p->n; i++)
        if (!strcmp(p->cases[i].id, id)) return &p->cases[i];
    return NULL;
}

int plan_sampled_chunks(int chunks, int k, int *out) {
    if (k >= chunks) k = chunks;
    for (int i = 0; i < k; i++)
        out[i] = k == 1 ? chunks - 1 : (int)(((int64_t)i * (chunks - 1) + (k - 1) / 2) / (k - 1));
    return k;
}
