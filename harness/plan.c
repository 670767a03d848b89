/* From a configuration to its cases, with what each will cost and what the budget does to it.
 * Everything that can be found wrong before a run is found here. Before it: config.c; after it:
 * launch.c, and cmd_plan.c for people. */
#include "harness/plan.h"

#include "harness/budget.h"
#include "harness/format.h"
#include "harness/launcher.h"
#include "harness/machine.h"
#include "harness/plan_apart.h"
#include "harness/predict.h"
#include "harness/prompt.h"
#include "harness/prompt_cache.h"
#include "harness/rates.h"

#include <fnmatch.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE_BYTES = PATH_MAX_BYTES + 64 };

/* What the steps of plan_make share. */
struct making {
    struct plan *p;
    struct config_errors *errors;
    enum status status;  /* of the findings so far: a usage error outranks an I/O error */
    struct rates *rates; /* [launches], owned */
    int64_t max_model_len;
    bool device_known, model_known; /* what depends on them can be judged */
    bool measure_anew;              /* kept rates are not good enough */
    bool only_findings;             /* there will be no plan: what is not fetched is not missed */
};

#if defined(__GNUC__)
__attribute__((format(printf, 5, 6)))
#endif
static void
finding(struct making *m, enum status status, const char *section, const char *key,
        const char *format, ...) {
    char where[LINE_BYTES], text[1200];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    config_where(&m->p->config, section, key, where, sizeof where);
    config_error(m->errors, config_from(&m->p->config, section, key), "%s: %s", where, text);
    if (m->status == STATUS_OK || status == STATUS_USAGE) m->status = status;
}

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
static void
note(struct plan *p, const char *format, ...) {
    if (p->n_notes == (int)(sizeof p->notes / sizeof p->notes[0])) return;
    va_list ap;
    va_start(ap, format);
    vsnprintf(p->notes[p->n_notes++], sizeof p->notes[0], format, ap);
    va_end(ap);
}

/* ---- device and model */

/* Whether a GPU can be used, or why not. */
static bool cuda_usable(const char **why) {
    struct variant_info v;
    *why = "this program was built without CUDA";
    for (int i = 0; variant_info(i, &v); i++)
        if (!strcmp(v.device, "cuda")) {
            if (v.usable) return true;
            *why = v.why_not;
        }
    return false;
}

/* Whether a value is what was meant, so that a finding about it would be true. */
static bool has(const struct making *m, const char *section, const char *key) {
    return config_has(&m->p->config, section, key);
}

static void choose_device(struct making *m) {
    struct plan *p = m->p;
    const char *why;
    const bool cuda = cuda_usable(&why);
    p->device = cuda && strcmp(p->config.device, "cpu") != 0 ? DEVICE_CUDA : DEVICE_CPU;
    m->device_known = has(m, "engine", "device") && (cuda || strcmp(p->config.device, "cuda") != 0);
    if (!has(m, "engine", "device")) return;
    if (!strcmp(p->config.device, "cuda") && !cuda)
        finding(m, STATUS_UNSUPPORTED, "engine", "device", "found cuda, expected cpu or auto: %s",
                why);
    else if (!strcmp(p->config.device, "auto") && !cuda)
        note(p, "device = auto is the CPU: %s", why);
}

const char *plan_model_path(const struct config *c, enum device_kind device) {
    if (strcmp(c->model_path, "auto") != 0) return c->model_path;
    return device == DEVICE_CUDA ? c->model_gpu : "needle";
}

static void read_model(struct making *m) {
    struct plan *p = m->p;
    struct error err = {""};
    const char *path = plan_model_path(&p->config, p->device);
    const bool automatic = !strcmp(p->config.model_path, "auto");
    if (!has(m, "model", "path") || (automatic && !m->device_known) ||
        (automatic && p->device == DEVICE_CUDA && !has(m, "model", "path_gpu")))
        return;
    const enum status s = engine_model_config(path, &p->model, &err);
    m->model_known = s == STATUS_OK;
    if (s != STATUS_OK)
        finding(m, s, "model", automatic && p->device == DEVICE_CUDA ? "path_gpu" : "path", "%s",
                err.text);
    else if (automatic && p->device == DEVICE_CPU)
        note(p, "model path = auto is needle on the CPU");
}

/* ---- what needs the model to be judged */

/* Opens the device with these kernels, and with one thread: what it refuses is about that key. */
static bool try_device(struct making *m, const struct device_opts *opts, const char *key) {
    struct error err = {""};
    struct device *dev;
    const enum status s = device_open(&dev, opts, &err);
    if (s == STATUS_OK)
        device_close(dev);
    else
        finding(m, s, "engine", key, "%s", err.text);
    return s == STATUS_OK;
}

/* The driver's word is that there is a GPU; now it has to open (in the child, see plan_apart.h). */
static void check_gpu_opens(struct making *m) {
    struct device_opts opts = device_opts_defaults();
    opts.kind = DEVICE_CUDA;
    if (m->device_known && m->p->device == DEVICE_CUDA)
        m->device_known = try_device(m, &opts, "device");
}

static bool check_isa(struct making *m) {
    struct device_opts opts = device_opts_defaults();
    if (!has(m, "engine", "isa")) return false;
    if (m->p->device != DEVICE_CPU || !strcmp(m->p->config.isa, "auto")) return true;
    opts.threads = 1;
    opts.isa = m->p->config.isa;
    return try_device(m, &opts, "isa");
}

/* Whether a kernel that runs here serves every dtype of the configuration, under its isa. */
static void check_kernel_serves(struct making *m, enum op op, const char *name, const char *key) {
    const struct plan *p = m->p;
    struct device_opts opts = device_opts_defaults();
    opts.kind = p->device;
    opts.threads = 1;
    opts.isa = p->config.isa;
    opts.head_dim = m->model_known ? p->model.D : 0;
    *(op == OP_LINEAR ? &opts.linear : &opts.attention) = name;
    for (int i = 0; i < p->config.dtype.n; i++) {
        opts.dtype = strcmp(p->config.dtype.v[i], "float32") != 0 ? DTYPE_BF16 : DTYPE_F32;
        if (!try_device(m, &opts, key)) return;
    }
}

/* Whether there is such a kernel, and it runs here. */
static bool check_kernel_name(struct making *m, enum op op, const char *name, const char *key) {
    char names[400] = "auto";
    struct variant_info v;
    bool here = !strcmp(name, "auto");
    const char *why = NULL;
    for (int i = 0; !here && variant_info(i, &v); i++) {
        if (v.op != op || strcmp(v.device, device_kind_name(m->p->device)) != 0) continue;
        if (!strcmp(v.name, name)) here = v.usable, why = v.why_not;
        if (!v.usable) continue;
        const size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, ", %s", v.name);
    }
    if (here) return true;
    if (why)
        finding(m, STATUS_UNSUPPORTED, "engine", key, "found %s, which cannot run here: %s", name,
                why);
    else
        finding(m, STATUS_USAGE, "engine", key, "found \"%s\", expected one of %s", name, names);
    return false;
}

static void check_kernel(struct making *m, enum op op, const char *name, const char *key,
                         bool isa_usable) {
    if (!check_kernel_name(m, op, name, key) || !strcmp(name, "auto")) return;
    if (isa_usable && has(m, "model", "dtype")) check_kernel_serves(m, op, name, key);
}

/* What a kernel that is made of a library lacks, whether or not it can run here. */
static unsigned attention_lacks(const char *name) {
    struct variant_info v;
    for (int i = 0; variant_info(i, &v); i++)
        if (v.op == OP_ATTENTION && !strcmp(v.name, name)) return v.lacks;
    return 0;
}

static void check_attention_lacks(struct making *m, const char *name) {
    const struct config *c = &m->p->config;
    const unsigned lacks = attention_lacks(name);
    bool graph = false;
    for (int i = 0; has(m, "engine", "enforce_eager") && i < c->enforce_eager.n; i++)
        graph = graph || !c->enforce_eager.v[i];
    if (graph && lacks & LACKS_GRAPHS)
        finding(m, STATUS_USAGE, "engine", "enforce_eager",
                "found false, expected true: attention_backend = %s runs op by op alone, not in a "
                "recorded step",
                name);
    if (has(m, "engine", "dual_chunk_attention") && c->dual_chunk_attention && m->model_known &&
        m->p->model.dual_chunk.chunk > 0 && lacks & LACKS_DUAL_CHUNK)
        finding(m, STATUS_USAGE, "engine", "dual_chunk_attention",
                "found true, expected false: attention_backend = %s is plain causal alone, and %s "
                "has dual chunk attention",
                name, m->p->model.name);
}

static void check_kernels(struct making *m) {
    const struct config *c = &m->p->config;
    for (int i = 0; has(m, "engine", "attention_backend") && i < c->attention_backend.n; i++)
        check_attention_lacks(m, c->attention_backend.v[i]);
    if (!m->device_known) return;
    const bool isa_usable = check_isa(m);
    for (int i = 0; has(m, "engine", "attention_backend") && i < c->attention_backend.n; i++)
        check_kernel(m, OP_ATTENTION, c->attention_backend.v[i], "attention_backend", isa_usable);
    if (has(m, "engine", "linear_backend"))
        check_kernel(m, OP_LINEAR, c->linear_backend, "linear_backend", isa_usable);
    if (has(m, "engine", "exchange_backend"))
        check_kernel_name(m, OP_EXCHANGE, c->exchange_backend, "exchange_backend");
}

static void check_devices(struct making *m, int tp) {
    struct engine_opts o = engine_opts_defaults();
    struct error err = {""};
    int n;
    if (!has(m, "engine", "devices")) return;
    o.device = m->p->device;
    o.tensor_parallel_size = tp;
    o.devices = (int)m->p->config.devices;
    const enum status s = engine_devices(&o, &n, &err);
    if (s != STATUS_OK) finding(m, s, "engine", "devices", "%s", err.text);
}

static void check_launcher(struct making *m) {
    struct launcher l;
    struct error err = {""};
    if (!has(m, "engine", "launcher")) return;
    const enum status s = launcher_split(&l, m->p->config.launcher, &err);
    if (s != STATUS_OK) finding(m, s, "engine", "launcher", "%s", err.text);
    if (s == STATUS_OK && l.words > 0 && !launcher_exists(&l))
        finding(m, STATUS_UNSUPPORTED, "engine", "launcher", "there is no program %s here",
                l.word[0]);
}

static void check_parallel(struct making *m) {
    const struct config *c = &m->p->config;
    struct error err = {""};
    if (!m->model_known || !has(m, "engine", "tensor_parallel_size")) return;
    for (int i = 0; i < c->tensor_parallel_size.n; i++) {
        const int tp = (int)c->tensor_parallel_size.v[i];
        const enum status s = engine_check_parallel(&m->p->model, tp, &err);
        if (s != STATUS_OK) finding(m, s, "engine", "tensor_parallel_size", "%s", err.text);
        check_devices(m, tp);
    }
}

static bool switched_on(const char *variable) {
    const char *value = getenv(variable);
    return value && !strcmp(value, "1");
}

static bool long_lengths_allowed(const struct config *c) {
    return c->allow_long_max_model_len || switched_on("BENCH_ALLOW_LONG_MAX_MODEL_LEN") ||
           switched_on("VLLM_ALLOW_LONG_MAX_MODEL_LEN");
}

static const char opt_in[] = "allow_long_max_model_len = true in [model], or "
                             "BENCH_ALLOW_LONG_MAX_MODEL_LEN=1 or VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 "
                             "in the environment";

/* Leaves max_model_len at 0 where it cannot be known. */
static void check_lengths(struct making *m) {
    struct plan *p = m->p;
    if (!m->model_known || !has(m, "model", "max_model_len") ||
        !has(m, "model", "allow_long_max_model_len"))
        return;
    const int64_t most = p->model.max_position_embeddings;
    char found[FORMAT_BYTES], expected[FORMAT_BYTES];
    m->max_model_len = p->config.max_model_len ? p->config.max_model_len : most;
    if (m->max_model_len <= most) return;
    format_count(found, m->max_model_len);
    format_count(expected, most);
    if (!long_lengths_allowed(&p->config))
        finding(m, STATUS_USAGE, "model", "max_model_len",
                "found max_model_len = %s, expected at most %s, the max_position_embeddings of %s; "
                "longer prompts need the opt-in: %s",
                found, expected, p->model.name, opt_in);
    else
        note(p,
             "max_model_len = %s is above the model's max_position_embeddings of %s: allowed "
             "by the opt-in",
             found, expected);
}

/* "needle:2m" -> 2,097,152; 0: no length is named. */
static int64_t named_length(const char *source) {
    char text[NAME_MAX_BYTES];
    const char *colon = strchr(source, ':');
    int64_t n;
    if (!colon || prompt_is_remote(source)) return 0;
    snprintf(text, sizeof text, "%.*s", (int)strcspn(colon + 1, "@"), colon + 1);
    return parse_tokens(text, &n) ? n : 0;
}

/* A good source of a text that nobody has fetched yet. */
static bool is_absent(const char *source) {
    struct cached_prompt p;
    return prompt_is_remote(source) && prompt_cache_look(source, &p, NULL, NULL) == STATUS_OK &&
           p.state != CACHED_WHOLE && p.state != CACHED_BY_HAND;
}

/* Prompts are judged without the model, and without a limit, where these are not known. */
static void check_prompts(struct making *m) {
    static const struct model_config any_model = {.name = "any model", .V = INT32_MAX};
    struct plan *p = m->p;
    const struct config *c = &p->config;
    char a[FORMAT_BYTES], b[FORMAT_BYTES], d[FORMAT_BYTES];
    const struct model_config *model = m->model_known ? &p->model : &any_model;
    const bool room_known = m->max_model_len && has(m, "sampling", "max_tokens");
    const int64_t length = room_known ? m->max_model_len : INT32_MAX;
    const int64_t new_tokens = room_known ? c->max_tokens : 1;
    if (!has(m, "prompt", "source")) return;
    for (int i = 0; i < c->prompt.n; i++) {
        struct error err = {""};
        bool clamped = false;
        const char *source = c->prompt.v[i];
        if (m->only_findings && is_absent(source)) continue;
        enum status s =
            prompt_length(source, model, length, new_tokens, &p->prompt_tokens[i], &clamped, &err);
        if (s == STATUS_OK) s = prompt_text_sha256(source, p->text_sha256[i], &err);
        const bool too_long = room_known &&
                              named_length(source) > p->model.max_position_embeddings &&
                              !long_lengths_allowed(c);
        if (s != STATUS_OK)
            finding(m, s, "prompt", "source", "%s%s%s", err.text,
                    too_long ? "; above the model's max_position_embeddings max_model_len needs "
                               "the opt-in: "
                             : "",
                    too_long ? opt_in : "");
        else if (clamped)
            note(p, "%s means %s prompt tokens: max_model_len %s keeps room for %s new ones",
                 source, format_count(a, p->prompt_tokens[i]), format_count(b, m->max_model_len),
                 format_count(d, c->max_tokens));
    }
}

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

/* ---- what they cost */

static const struct case_plan *first_of_launch(const struct plan *p, int launch) {
    for (int i = 0; i < p->n; i++)
        if (p->cases[i].launch == launch) return &p->cases[i];
    return NULL;
}

/* Launches that differ in tp alone run the same kernels: they share one measurement. */
static int launch_with_same_kernels(const struct plan *p, int launch) {
    const struct engine_opts *mine = &first_of_launch(p, launch)->engine;
    for (int i = 0; i < launch; i++) {
        const struct engine_opts *other = &first_of_launch(p, i)->engine;
        if (mine->dtype == other->dtype &&
            !strcmp(mine->attention_backend, other->attention_backend))
            return i;
    }
    return launch;
}

static void measure_rates(struct making *m) {
    struct plan *p = m->p;
    for (int i = 0; i < p->launches; i++) {
        struct error err = {""};
        const int same = launch_with_same_kernels(p, i);
        if (same != i) {
            m->rates[i] = m->rates[same];
            continue;
        }
        const struct engine_opts *engine = &first_of_launch(p, i)->engine;
        const enum status s = rates_get(&m->rates[i], engine, &p->model, m->measure_anew, &err);
        if (s != STATUS_OK)
            finding(m, s, "engine", "attention_backend", "%s, %s: %s", dtype_name(engine->dtype),
                    engine->attention_backend, err.text);
        else if (*m->rates[i].note)
            note(p, "%s", m->rates[i].note);
    }
    if (m->status != STATUS_OK) return;
    p->rates = m->rates[0].rates;
    for (int i = 0; i < p->n; i++) p->cases[i].rates = m->rates[p->cases[i].launch].rates;
    for (int i = 0; i < p->launches; i++)
        p->rates_measured = p->rates_measured || m->rates[i].measured;
    for (int i = 0; i < p->launches; i++)
        if (m->rates[i].busy) {
            note(p, "other programs held the cores while the rates were measured: they are too "
                    "low, and predicted times too long; `bench plan --measure` measures anew");
            break;
        }
    p->device_info = m->rates[0].info;
    memcpy(p->variant_names, m->rates[0].names, sizeof p->variant_names);
    for (int op = 0; op < OPS; op++)
        if (p->device_info.variant[op]) p->device_info.variant[op] = p->variant_names[op];
}

/* "weights 1.20 GiB + kv 3.00 GiB + ... = 5.10 GiB" */
static void memory_arithmetic(const struct memory_prediction *m, char *out, size_t size) {
    static const char *const names[MEMORY_CATEGORIES] = {
#define X(name, text) text,
        MEMORY_CATEGORY_TABLE(X)
#undef X
    };
    char b[FORMAT_BYTES];
    size_t used = 0;
    out[0] = 0;
    for (int k = 0; k < MEMORY_CATEGORIES; k++) {
        int64_t bytes = m->shared_bytes[k];
        for (int r = 0; r < m->ranks; r++) bytes += m->rank_bytes[r][k];
        if (!bytes || used >= size) continue;
        used += (size_t)snprintf(out + used, size - used, "%s%s %s", used ? " + " : "", names[k],
                                 format_bytes(b, bytes));
    }
    if (used < size) snprintf(out + used, size - used, " = %s", format_bytes(b, m->total_bytes));
}

static int64_t session_bytes(const struct memory_prediction *m) {
    int64_t bytes = m->total_bytes - m->shared_bytes[MEMORY_WEIGHTS];
    for (int r = 0; r < m->ranks; r++) bytes -= m->rank_bytes[r][MEMORY_WEIGHTS];
    return bytes;
}

/* Of all chunks of a case; the spans of "auto" need none of their own. */
static int passes(const struct config *c) {
    return (int)(c->warmup + c->repeats) + (strcmp(c->spans, "all") == 0);
}

/* Of case i, k chunks of a sampled pass. */
static struct case_time time_of(const struct making *m, int i, int k) {
    const struct plan *p = m->p;
    const struct config *c = &p->config;
    const struct case_plan *one = &m->p->cases[i];
    const int threads = m->rates[one->launch].info.threads;
    const struct case_work work = {
        .model = &p->model,
        .engine = &one->engine,
        .session = &one->session,
        .rates = &one->rates,
        .session_bytes = session_bytes(&one->memory),
        .threads = threads > 0 ? threads : 1,
        .passes = passes(c),
        .spot = c->spot,
        .k = k,
    };
    struct case_time time;
    predict_case(&work, &time);
    return time;
}

/* Cases of a launch stand together: each launch opens its device once. */
static void predict_cases(struct making *m) {
    struct plan *p = m->p;
    struct engine_planner *planner = NULL;
    enum status s = STATUS_OK;
    for (int i = 0; s == STATUS_OK && i < p->n; i++) {
        struct case_plan *one = &p->cases[i];
        struct error err = {""};
        if (i == 0 || one->launch != p->cases[i - 1].launch) {
            engine_planner_close(planner);
            s = engine_planner_open(&planner, &one->engine, &err);
        }
        if (s == STATUS_OK) s = engine_planner_predict(planner, &one->session, &one->memory, &err);
        if (s == STATUS_OK)
            one->predicted_prefill_s = time_of(m, i, 1).full_prefill_s;
        else
            finding(m, s, "engine", "tensor_parallel_size", "%s: %s", one->id, err.text);
    }
    engine_planner_close(planner);
}

/* ---- what is done with them */

static bool fits_in_memory(const struct case_plan *c) {
    return c->memory.total_bytes <= c->memory.available_bytes;
}

static int prompt_number(const struct plan *p, const struct case_plan *c) {
    for (int i = 0; i < p->config.prompt.n; i++)
        if (!strcmp(p->config.prompt.v[i], c->prompt)) return i;
    return 0;
}

/* Measured rates drift, and fall with the length of the context: a tenth stays in reserve. */
static double usable_budget(const struct plan *p) {
    return 0.9 * (double)p->config.time_budget_s;
}

/* Better than what is there, which it replaces where it costs no more. */
static void add_form(const struct making *m, int i, struct budget_case *b, int chunks) {
    const struct case_plan *one = &m->p->cases[i];
    const struct case_time t = time_of(m, i, chunks);
    const bool full = chunks == one->chunks;
    const double cost = full ? t.full_fixed_s + passes(&m->p->config) * t.full_prefill_s
                             : t.sampled_fixed_s + passes(&m->p->config) * t.sampled_prefill_s;
    while (b->n > 0 && b->form[b->n - 1].cost_s >= cost) b->n--;
    b->form[b->n++] = (struct budget_form){full ? COVER_FULL : COVER_SAMPLED, chunks, cost};
}

/* Where the budget decides, a sample may be as small as its error allows. */
static struct budget_case offer_of(const struct making *m, int i) {
    const struct config *c = &m->p->config;
    const struct case_plan *one = &m->p->cases[i];
    const int k = (int)c->sample_chunks;
    struct budget_case b = {.group = prompt_number(m->p, one)};
    if (!fits_in_memory(one)) return b;
    if (c->coverage == COVERAGE_AUTO && SAMPLE_LEAST < k && SAMPLE_LEAST < one->chunks)
        add_form(m, i, &b, SAMPLE_LEAST);
    if (c->coverage != COVERAGE_FULL && k < one->chunks) add_form(m, i, &b, k);
    if (c->coverage != COVERAGE_SAMPLE || k >= one->chunks) add_form(m, i, &b, one->chunks);
    return b;
}

/* " in 3 passes", or nothing for one. */
static void passes_text(const struct config *c, char *out, size_t size) {
    out[0] = 0;
    if (passes(c) > 1) snprintf(out, size, " in %d passes", passes(c));
}

static void explain_skipped(const struct making *m, int i, const struct budget_case *b) {
    struct case_plan *c = &m->p->cases[i];
    char memory[300], times[32], t1[FORMAT_BYTES], t2[FORMAT_BYTES], t3[FORMAT_BYTES];
    if (!fits_in_memory(c)) {
        memory_arithmetic(&c->memory, memory, sizeof memory);
        snprintf(c->reason, sizeof c->reason, "memory: %s, but %s are available", memory,
                 format_bytes(t1, c->memory.available_bytes));
        return;
    }
    passes_text(&m->p->config, times, sizeof times);
    snprintf(c->reason, sizeof c->reason, "time: %d of %d chunks take %s%s, but %s of %s are left",
             b->form[0].chunks, c->chunks, format_seconds(t1, b->form[0].cost_s), times,
             format_seconds(t2, b->left_s), format_seconds(t3, usable_budget(m->p)));
}

static void explain_sampled(const struct making *m, int i, const struct budget_case *b) {
    struct case_plan *c = &m->p->cases[i];
    char times[32], t1[FORMAT_BYTES], t2[FORMAT_BYTES], t3[FORMAT_BYTES];
    const struct budget_form *has = &b->form[b->chosen], *next = has + 1;
    if (b->chosen + 1 == b->n) {
        snprintf(c->reason, sizeof c->reason, "coverage = sample:%d", has->chunks);
        return;
    }
    char chunks[40];
    const bool all = next->chunks == c->chunks;
    snprintf(chunks, sizeof chunks, all ? "all %d" : "%d of %d", next->chunks, c->chunks);
    passes_text(&m->p->config, times, sizeof times);
    snprintf(c->reason, sizeof c->reason,
             "time: %s chunks take %s more than these %d%s, but %s of %s are left", chunks,
             format_seconds(t1, next->cost_s - has->cost_s), has->chunks, times,
             format_seconds(t2, b->left_s), format_seconds(t3, usable_budget(m->p)));
}

static void take_decision(struct making *m, int i, const struct budget_case *b) {
    struct case_plan *c = &m->p->cases[i];
    c->coverage = b->chosen < 0 ? COVER_SKIPPED : b->form[b->chosen].coverage;
    if (c->coverage == COVER_SKIPPED) {
        explain_skipped(m, i, b);
        return;
    }
    const struct budget_form *form = &b->form[b->chosen];
    const struct case_time t = time_of(m, i, form->chunks);
    c->predicted_fixed_s = c->coverage == COVER_FULL ? t.full_fixed_s : t.sampled_fixed_s;
    c->predicted_total_s = form->cost_s;
    if (c->coverage == COVER_SAMPLED) {
        c->sampled = form->chunks;
        explain_sampled(m, i, b);
    }
    m->p->total_s += c->predicted_total_s;
}

static bool launch_runs(const struct plan *p, int launch) {
    for (int i = 0; i < p->n; i++)
        if (p->cases[i].launch == launch && p->cases[i].coverage != COVER_SKIPPED) return true;
    return false;
}

static bool is_wanted(const struct plan *p, int i) {
    return !p->config.only || fnmatch(p->config.only, p->cases[i].id, 0) == 0;
}

static bool launch_is_wanted(const struct plan *p, int launch) {
    for (int i = 0; i < p->n; i++)
        if (p->cases[i].launch == launch && is_wanted(p, i)) return true;
    return false;
}

/* For the cases that were asked for, or for the others; returns what is left of the budget. */
static double decide(struct making *m, struct budget_case *offers, bool wanted, double budget) {
    struct plan *p = m->p;
    for (int i = 0; i < p->n; i++) {
        offers[i] = (struct budget_case){.group = prompt_number(p, &p->cases[i])};
        if (is_wanted(p, i) == wanted) offers[i] = offer_of(m, i);
    }
    const double left = budget - budget_decide(offers, p->n, budget);
    for (int i = 0; i < p->n; i++)
        if (is_wanted(p, i) == wanted) take_decision(m, i, &offers[i]);
    return left;
}

/* Loading is paid first, for every launch that may run: the budget of the cases is what it leaves.
 */
static void decide_coverage(struct making *m) {
    struct plan *p = m->p;
    struct budget_case *offers = calloc((size_t)p->n, sizeof *offers);
    const int threads = p->device_info.threads > 0 ? p->device_info.threads : machine_cores();
    const double load = predict_load_s(&p->model, p->device, threads);
    int asked_for = 0;
    for (int i = 0; i < p->launches; i++) asked_for += launch_is_wanted(p, i);
    const double budget = p->config.time_budget_s ? usable_budget(p) - asked_for * load : INFINITY;
    if (!offers) {
        finding(m, STATUS_NO_MEMORY, "run", "time_budget", "no memory for the plan");
        return;
    }
    const double left = decide(m, offers, true, budget);
    decide(m, offers, false, left - (p->launches - asked_for) * load);
    for (int i = 0; i < p->launches; i++)
        if (launch_runs(p, i)) p->load_s += load;
    p->total_s += p->load_s;
    free(offers);
}

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
            note(p, "needle prompts are plain token ids to %s: their answer is not checked",
                 p->model.name);
            break;
        }
    if (clamped)
        note(p, "%d chunk size%s larger than the prompt: there the whole prompt is one chunk",
             clamped, clamped == 1 ? " is" : "s are");
}

/* ---- all of it */

/* Everything that can be found without measuring; each check where it knows what it needs. */
static void check(struct making *m) {
    choose_device(m);
    check_gpu_opens(m);
    read_model(m);
    check_parallel(m);
    check_kernels(m);
    check_launcher(m);
    check_lengths(m);
    check_prompts(m);
}

static void make(struct making *m) {
    struct error err = {""};
    check(m);
    if (m->status != STATUS_OK) return;
    const enum status s = plan_build_cases(m->p, &err);
    if (s != STATUS_OK) {
        finding(m, s, "prompt", "source", "%s", err.text);
        return;
    }
    m->rates = calloc((size_t)m->p->launches, sizeof *m->rates);
    if (!m->rates) {
        finding(m, STATUS_NO_MEMORY, "prompt", "source", "no memory for %d cases", m->p->n);
        return;
    }
    measure_rates(m);
    if (m->status == STATUS_OK) predict_cases(m);
    if (m->status == STATUS_OK) decide_coverage(m);
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
    check(&m);
    plan_free(out);
    return STATUS_USAGE;
}

/* Whether the device would be a GPU, which is not opened in this process. */
static bool opens_gpu(const struct config *c) {
    const char *why;
    return strcmp(c->device, "cpu") != 0 && cuda_usable(&why);
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
