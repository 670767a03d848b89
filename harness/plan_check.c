/* What is wrong with a configuration, found before anything runs. See plan_making.h. */
#include "harness/format.h"
#include "harness/launcher.h"
#include "harness/plan_making.h"
#include "harness/prompt.h"
#include "harness/prompt_cache.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE_BYTES = PATH_MAX_BYTES + 64 };

void plan_finding(struct making *m, enum status status, const char *section, const char *key,
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

void plan_note(struct plan *p, const char *format, ...) {
    if (p->n_notes == (int)(sizeof p->notes / sizeof p->notes[0])) return;
    va_list ap;
    va_start(ap, format);
    vsnprintf(p->notes[p->n_notes++], sizeof p->notes[0], format, ap);
    va_end(ap);
}

/* ---- device and model */

bool plan_cuda_usable(const char **why) {
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
    const bool cuda = plan_cuda_usable(&why);
    p->device = cuda && strcmp(p->config.device, "cpu") != 0 ? DEVICE_CUDA : DEVICE_CPU;
    m->device_known = has(m, "engine", "device") && (cuda || strcmp(p->config.device, "cuda") != 0);
    if (!has(m, "engine", "device")) return;
    if (!strcmp(p->config.device, "cuda") && !cuda)
        plan_finding(m, STATUS_UNSUPPORTED, "engine", "device",
                     "found cuda, expected cpu or auto: %s", why);
    else if (!strcmp(p->config.device, "auto") && !cuda)
        plan_note(p, "device = auto is the CPU: %s", why);
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
        plan_finding(m, s, "model", automatic && p->device == DEVICE_CUDA ? "path_gpu" : "path",
                     "%s", err.text);
    else if (automatic && p->device == DEVICE_CPU)
        plan_note(p, "model path = auto is needle on the CPU");
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
        plan_finding(m, s, "engine", key, "%s", err.text);
    return s == STATUS_OK;
}

/* The driver's word is that there is a GPU; now it has to open (in the child, see plan_apart.h).
 * Else nothing runs: figures of the CPU are not what was meant. */
static void check_gpu_opens(struct making *m) {
    struct device_opts opts = device_opts_defaults();
    struct error err = {""};
    struct device *dev;
    opts.kind = DEVICE_CUDA;
    if (!m->device_known || m->p->device != DEVICE_CUDA) return;
    const enum status s = device_open(&dev, &opts, &err);
    const bool automatic = strcmp(m->p->config.device, "auto") == 0;
    m->device_known = s == STATUS_OK;
    if (s == STATUS_OK)
        device_close(dev);
    else
        plan_finding(m, s, "engine", "device", "%s%s%s",
                     automatic ? "auto takes the GPU, which does not open: " : "", err.text,
                     automatic ? "; for the CPU: --set engine.device=cpu" : "");
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
    const char *why = NULL, *device = device_kind_name(m->p->device), *other = NULL;
    for (int i = 0; !here && variant_info(i, &v); i++) {
        if (v.op == op && strcmp(v.device, device) != 0 && !strcmp(v.name, name)) other = v.device;
        if (v.op != op || strcmp(v.device, device) != 0) continue;
        if (!strcmp(v.name, name)) here = v.usable, why = v.why_not;
        if (!v.usable) continue;
        const size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, ", %s", v.name);
    }
    if (here) return true;
    if (why)
        plan_finding(m, STATUS_UNSUPPORTED, "engine", key, "found %s, which cannot run here: %s",
                     name, why);
    else if (other)
        plan_finding(m, STATUS_USAGE, "engine", key,
                     "found %s, a kernel for %s, while the device is %s: expected one of %s", name,
                     other, device, names);
    else
        plan_finding(m, STATUS_USAGE, "engine", key, "found \"%s\", expected one of %s", name,
                     names);
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
        plan_finding(
            m, STATUS_USAGE, "engine", "enforce_eager",
            "found false, expected true: attention_backend = %s runs op by op alone, not in a "
            "recorded step",
            name);
    if (has(m, "engine", "dual_chunk_attention") && c->dual_chunk_attention && m->model_known &&
        m->p->model.dual_chunk.chunk > 0 && lacks & LACKS_DUAL_CHUNK)
        plan_finding(
            m, STATUS_USAGE, "engine", "dual_chunk_attention",
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
    if (s != STATUS_OK) plan_finding(m, s, "engine", "devices", "%s", err.text);
}

static void check_launcher(struct making *m) {
    struct launcher l;
    struct error err = {""};
    if (!has(m, "engine", "launcher")) return;
    const enum status s = launcher_split(&l, m->p->config.launcher, &err);
    if (s != STATUS_OK) plan_finding(m, s, "engine", "launcher", "%s", err.text);
    if (s == STATUS_OK && l.words > 0 && !launcher_exists(&l))
        plan_finding(m, STATUS_UNSUPPORTED, "engine", "launcher", "there is no program %s here",
                     l.word[0]);
}

static void check_parallel(struct making *m) {
    const struct config *c = &m->p->config;
    struct error err = {""};
    if (!m->model_known || !has(m, "engine", "tensor_parallel_size")) return;
    for (int i = 0; i < c->tensor_parallel_size.n; i++) {
        const int tp = (int)c->tensor_parallel_size.v[i];
        const enum status s = engine_check_parallel(&m->p->model, tp, &err);
        if (s != STATUS_OK) plan_finding(m, s, "engine", "tensor_parallel_size", "%s", err.text);
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
        plan_finding(
            m, STATUS_USAGE, "model", "max_model_len",
            "found max_model_len = %s, expected at most %s, the max_position_embeddings of %s; "
            "longer prompts need the opt-in: %s",
            found, expected, p->model.name, opt_in);
    else
        plan_note(p,
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
            plan_finding(m, s, "prompt", "source", "%s%s%s", err.text,
                         too_long
                             ? "; above the model's max_position_embeddings max_model_len needs "
                               "the opt-in: "
                             : "",
                         too_long ? opt_in : "");
        else if (clamped)
            plan_note(p, "%s means %s prompt tokens: max_model_len %s keeps room for %s new ones",
                      source, format_count(a, p->prompt_tokens[i]),
                      format_count(b, m->max_model_len), format_count(d, c->max_tokens));
    }
}

/* ---- all of them */

void plan_find_errors(struct making *m) {
    choose_device(m);
    check_gpu_opens(m);
    read_model(m);
    check_parallel(m);
    check_kernels(m);
    check_launcher(m);
    check_lengths(m);
    check_prompts(m);
}
