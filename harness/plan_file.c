/* The plan as a JSON document: what `bench plan --json` prints, and what the supervisor leaves for
 * its workers so that they do what was decided instead of deciding again. */
#include "harness/jsondoc.h"
#include "harness/plan.h"
#include "harness/rates.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PLAN_SCHEMA_VERSION = 1 };

static const char *const coverage_names[] = {
    [COVER_FULL] = "full", [COVER_SAMPLED] = "sampled", [COVER_SKIPPED] = "skipped"};
static const char *const category_names[MEMORY_CATEGORIES] = {
#define X(name, text) text,
    MEMORY_CATEGORY_TABLE(X)
#undef X
};

/* ---- out */

static void put_categories(struct jsondoc *object, const int64_t bytes[MEMORY_CATEGORIES]) {
    for (int k = 0; k < MEMORY_CATEGORIES; k++)
        jsondoc_put_int(object, category_names[k], bytes[k]);
}

static void put_memory(struct jsondoc *object, const struct memory_prediction *m) {
    struct jsondoc *ranks = jsondoc_put_array(object, "rank_bytes");
    for (int r = 0; r < m->ranks; r++) put_categories(jsondoc_add_object(ranks), m->rank_bytes[r]);
    put_categories(jsondoc_put_object(object, "shared_bytes"), m->shared_bytes);
    jsondoc_put_int(object, "total_bytes", m->total_bytes);
    jsondoc_put_int(object, "available_bytes", m->available_bytes);
}

static void put_case(struct jsondoc *object, const struct case_plan *c) {
    jsondoc_put_text(object, "id", c->id);
    jsondoc_put_text(object, "prompt", c->prompt);
    jsondoc_put_int(object, "prompt_tokens", c->session.prompt_tokens);
    jsondoc_put_int(object, "chunk_tokens", c->session.chunk_tokens);
    jsondoc_put_int(object, "max_num_batched_tokens", c->max_num_batched_tokens);
    jsondoc_put_int(object, "chunks", c->chunks);
    jsondoc_put_text(object, "mode", c->session.graph ? "graph" : "eager");
    jsondoc_put_int(object, "tensor_parallel_size", c->engine.tensor_parallel_size);
    jsondoc_put_text(object, "dtype", dtype_name(c->engine.dtype));
    jsondoc_put_text(object, "attention_backend", c->engine.attention_backend);
    jsondoc_put_int(object, "launch", c->launch);
    jsondoc_put_text(object, "coverage", coverage_names[c->coverage]);
    jsondoc_put_int(object, "sampled_chunks", c->sampled);
    jsondoc_put_text(object, "reason", c->reason);
    jsondoc_put_real(object, "predicted_prefill_s", c->predicted_prefill_s);
    jsondoc_put_real(object, "predicted_fixed_s", c->predicted_fixed_s);
    jsondoc_put_real(object, "predicted_total_s", c->predicted_total_s);
    rates_put_numbers(jsondoc_put_object(object, "rates"), &c->rates);
    put_memory(jsondoc_put_object(object, "predicted_memory"), &c->memory);
}

void plan_put(struct jsondoc *d, const struct plan *p) {
    char hash[65];
    config_hash(&p->config, hash);
    jsondoc_put_text(d, "schema", "chunkbench plan");
    jsondoc_put_int(d, "schema_version", PLAN_SCHEMA_VERSION);
    jsondoc_put_text(d, "config_sha256", hash);
    jsondoc_put_text(d, "model", plan_model_path(&p->config, p->device));
    jsondoc_put_text(d, "device", device_kind_name(p->device));
    struct jsondoc *rates = jsondoc_put_object(d, "rates");
    rates_put(rates, &p->rates, &p->device_info);
    jsondoc_put_bool(rates, "measured", p->rates_measured);
    struct jsondoc *prompts = jsondoc_put_array(d, "prompts");
    for (int i = 0; i < p->config.prompt.n; i++) {
        struct jsondoc *prompt = jsondoc_add_object(prompts);
        jsondoc_put_text(prompt, "source", p->config.prompt.v[i]);
        jsondoc_put_int(prompt, "tokens", p->prompt_tokens[i]);
        jsondoc_put_text(prompt, "text_sha256", p->text_sha256[i]);
    }
    struct jsondoc *cases = jsondoc_put_array(d, "cases");
    for (int i = 0; i < p->n; i++) put_case(jsondoc_add_object(cases), &p->cases[i]);
    struct jsondoc *notes = jsondoc_put_array(d, "notes");
    for (int i = 0; i < p->n_notes; i++) {
        struct jsondoc *note = jsondoc_add_object(notes);
        jsondoc_put_text(note, "text", p->notes[i]);
    }
    jsondoc_put_real(d, "predicted_load_s", p->load_s);
    jsondoc_put_real(d, "predicted_total_s", p->total_s);
}

static struct jsondoc *document_of(const struct plan *p) {
    struct jsondoc *d = jsondoc_object();
    plan_put(d, p);
    return d;
}

char *plan_to_json(const struct plan *p) {
    struct jsondoc *d = document_of(p);
    char *text = jsondoc_text(d);
    jsondoc_close(d);
    return text;
}

enum status plan_write(const struct plan *p, const char *path, struct error *err) {
    struct jsondoc *d = document_of(p);
    const enum status s = jsondoc_write(d, path, err);
    jsondoc_close(d);
    return s;
}

/* ---- in */

static bool take_categories(const struct jsondoc *object, int64_t bytes[MEMORY_CATEGORIES]) {
    for (int k = 0; k < MEMORY_CATEGORIES; k++)
        if (!jsondoc_get_int(object, category_names[k], &bytes[k])) return false;
    return true;
}

static bool take_memory(const struct jsondoc *object, struct memory_prediction *m) {
    const struct jsondoc *ranks = jsondoc_get(object, "rank_bytes");
    m->ranks = jsondoc_length(ranks);
    if (m->ranks > MAX_RANKS) return false;
    for (int r = 0; r < m->ranks; r++)
        if (!take_categories(jsondoc_at(ranks, r), m->rank_bytes[r])) return false;
    return take_categories(jsondoc_get(object, "shared_bytes"), m->shared_bytes) &&
           jsondoc_get_int(object, "total_bytes", &m->total_bytes) &&
           jsondoc_get_int(object, "available_bytes", &m->available_bytes);
}

static bool take_coverage(const struct jsondoc *object, struct case_plan *c) {
    const char *name = jsondoc_get_text(object, "coverage");
    const char *reason = jsondoc_get_text(object, "reason");
    int64_t sampled;
    if (!name || !reason || !jsondoc_get_int(object, "sampled_chunks", &sampled)) return false;
    int k = 0;
    while (k < 3 && strcmp(name, coverage_names[k]) != 0) k++;
    if (k == 3 || sampled < 0 || sampled > c->chunks) return false;
    c->coverage = (enum coverage)k;
    c->sampled = (int)sampled;
    snprintf(c->reason, sizeof c->reason, "%s", reason);
    return c->coverage != COVER_SAMPLED || sampled > 0;
}

static bool take_case(const struct jsondoc *object, struct case_plan *c) {
    return take_coverage(object, c) &&
           jsondoc_get_real(object, "predicted_prefill_s", &c->predicted_prefill_s) &&
           jsondoc_get_real(object, "predicted_fixed_s", &c->predicted_fixed_s) &&
           jsondoc_get_real(object, "predicted_total_s", &c->predicted_total_s) &&
           rates_take_numbers(jsondoc_get(object, "rates"), &c->rates) &&
           take_memory(jsondoc_get(object, "predicted_memory"), &c->memory);
}

static enum status take_head(struct plan *p, const struct jsondoc *d, const char *path,
                             struct error *err) {
    char hash[65];
    int64_t version;
    const char *was = jsondoc_get_text(d, "config_sha256");
    const char *device = jsondoc_get_text(d, "device");
    if (!jsondoc_get_int(d, "schema_version", &version) || version != PLAN_SCHEMA_VERSION || !was ||
        !device)
        return error_set(err, STATUS_IO, "%s: not a plan of schema version %d", path,
                         PLAN_SCHEMA_VERSION);
    config_hash(&p->config, hash);
    if (strcmp(was, hash) != 0)
        return error_set(err, STATUS_USAGE, "%s was made from another configuration", path);
    p->device = strcmp(device, "cuda") != 0 ? DEVICE_CPU : DEVICE_CUDA;
    const struct jsondoc *rates = jsondoc_get(d, "rates");
    if (!rates_take(rates, &p->rates, &p->device_info, p->variant_names) ||
        !jsondoc_get_bool(rates, "measured", &p->rates_measured) ||
        !jsondoc_get_real(d, "predicted_load_s", &p->load_s) ||
        !jsondoc_get_real(d, "predicted_total_s", &p->total_s))
        return error_set(err, STATUS_IO, "%s: rates or predictions are missing", path);
    return engine_model_config(plan_model_path(&p->config, p->device), &p->model, err);
}

static enum status take_prompts(struct plan *p, const struct jsondoc *d, const char *path,
                                struct error *err) {
    const struct jsondoc *prompts = jsondoc_get(d, "prompts");
    if (jsondoc_length(prompts) != p->config.prompt.n)
        return error_set(err, STATUS_IO, "%s: found %d prompts, expected %d", path,
                         jsondoc_length(prompts), p->config.prompt.n);
    for (int i = 0; i < p->config.prompt.n; i++) {
        const struct jsondoc *prompt = jsondoc_at(prompts, i);
        const char *sha256 = jsondoc_get_text(prompt, "text_sha256");
        int64_t tokens;
        if (!jsondoc_get_int(prompt, "tokens", &tokens) || tokens < 1 || tokens > INT32_MAX)
            return error_set(err, STATUS_IO, "%s: prompt %d has no length", path, i);
        if (!sha256 || strlen(sha256) >= sizeof p->text_sha256[i])
            return error_set(err, STATUS_IO, "%s: prompt %d has no checksum", path, i);
        p->prompt_tokens[i] = (int32_t)tokens;
        strcpy(p->text_sha256[i], sha256);
    }
    return STATUS_OK;
}

static enum status take_cases(struct plan *p, const struct jsondoc *d, const char *path,
                              struct error *err) {
    const struct jsondoc *cases = jsondoc_get(d, "cases");
    if (jsondoc_length(cases) != p->n)
        return error_set(err, STATUS_IO, "%s: found %d cases, expected %d", path,
                         jsondoc_length(cases), p->n);
    for (int i = 0; i < p->n; i++) {
        const struct jsondoc *one = jsondoc_at(cases, i);
        const char *id = jsondoc_get_text(one, "id");
        if (!id || strcmp(id, p->cases[i].id) != 0 || !take_case(one, &p->cases[i]))
            return error_set(err, STATUS_IO, "%s: case %d is not %s, or not whole", path, i,
                             p->cases[i].id);
    }
    return STATUS_OK;
}

static void take_notes(struct plan *p, const struct jsondoc *d) {
    const struct jsondoc *notes = jsondoc_get(d, "notes");
    const int most = (int)(sizeof p->notes / sizeof p->notes[0]);
    for (int i = 0; i < jsondoc_length(notes) && i < most; i++) {
        const char *text = jsondoc_get_text(jsondoc_at(notes, i), "text");
        snprintf(p->notes[p->n_notes++], sizeof p->notes[0], "%s", text ? text : "");
    }
}

enum status plan_take(struct plan *out, const struct config *c, const struct jsondoc *d,
                      const char *path, struct error *err) {
    memset(out, 0, sizeof *out);
    out->config = *c;
    enum status s = take_head(out, d, path, err);
    if (s == STATUS_OK) s = take_prompts(out, d, path, err);
    if (s == STATUS_OK) s = plan_build_cases(out, err);
    if (s == STATUS_OK) s = take_cases(out, d, path, err);
    if (s == STATUS_OK)
        take_notes(out, d);
    else
        plan_free(out);
    return s;
}

enum status plan_read(struct plan *out, const struct config *c, const char *path,
                      struct error *err) {
    struct jsondoc *d;
    memset(out, 0, sizeof *out);
    enum status s = jsondoc_read(&d, path, err);
    if (s != STATUS_OK) return s;
    s = plan_take(out, c, d, path, err);
    jsondoc_close(d);
    return s;
}
