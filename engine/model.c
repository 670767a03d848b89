/* Which source a model's name means, and whether its configuration is one that the engine can run.
 * Before it: engine_opts.model; after it: random_model.c, needle_model.c. A reader of checkpoints
 * on disk is one more row of `kinds`. */
#include "engine/model.h"

#include <string.h>
#include <sys/stat.h>

static bool needle_named(const char *shape, struct model_config *out) {
    return needle_model_config(shape, out);
}
static enum status needle_open(struct model_source **out, const char *shape, uint64_t seed,
                               struct error *err) {
    (void)seed; /* nothing in it is random */
    return needle_model_open(out, shape, err);
}

static const struct kind {
    const char *name; /* what stands before the colon */
    bool (*config)(const char *rest, struct model_config *out);
    enum status (*open)(struct model_source **out, const char *rest, uint64_t seed,
                        struct error *err);
} kinds[] = {
    {"needle", needle_named, needle_open},
    {"random", random_model_config, random_model_open},
};

static const char accepted[] =
    "needle, needle:4x4x64, needle:28x4x128, random:PRESET (qwen2.5-7b-1m, qwen2.5-14b-1m, "
    "qwen2.5-0.5b, nano, half-b) or random:LxCxHxKxDxFxV[/tied][/dual:CHUNK:LOCAL:ORIGINAL]";

/* The kind that a name begins with, and what follows the colon ("" for none). */
static const struct kind *find_kind(const char *model, const char **rest) {
    const size_t n = strcspn(model, ":");
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strlen(kinds[i].name) != n || strncmp(kinds[i].name, model, n) != 0) continue;
        *rest = model + n + (model[n] == ':');
        return &kinds[i];
    }
    return NULL;
}

static enum status unknown(const char *model, struct error *err) {
    struct stat about;
    if (stat(model, &about) == 0)
        return error_set(err, STATUS_UNSUPPORTED,
                         "model \"%s\": checkpoints on disk are not read by this version; accepted "
                         "are %s",
                         model, accepted);
    return error_set(err, STATUS_USAGE, "model \"%s\" is not known; accepted are %s", model,
                     accepted);
}

/* What the engine takes for granted from here on. */
static enum status check_config(const struct model_config *m, struct error *err) {
    const int32_t sizes[] = {m->layers, m->C, m->H, m->K, m->D, m->F, m->V};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i] < 1 || sizes[i] > 1 << 24)
            return error_set(err, STATUS_UNSUPPORTED,
                             "model %s: a size of %d, expected 1 to 16777216", m->name, sizes[i]);
    if (m->H % m->K != 0)
        return error_set(err, STATUS_UNSUPPORTED,
                         "model %s: %d query heads are no multiple of %d key/value heads", m->name,
                         m->H, m->K);
    if (m->D % 16 != 0 || m->D > HEAD_DIM_MAX)
        return error_set(err, STATUS_UNSUPPORTED,
                         "model %s: head dim %d, expected a multiple of 16 up to %d, which the "
                         "attention kernels serve",
                         m->name, m->D, HEAD_DIM_MAX);
    if (m->dual_chunk.chunk < 0 || m->dual_chunk.chunk % KV_TILE != 0 || m->dual_chunk.local < 0)
        return error_set(err, STATUS_UNSUPPORTED,
                         "model %s: dual chunk attention of %d positions, expected a multiple of "
                         "%d, and a local size of 0 or more, found %d",
                         m->name, m->dual_chunk.chunk, KV_TILE, m->dual_chunk.local);
    return STATUS_OK;
}

enum status engine_model_config(const char *model, struct model_config *out, struct error *err) {
    const char *rest;
    const struct kind *kind = find_kind(model, &rest);
    if (!kind || !kind->config(rest, out)) return unknown(model, err);
    return check_config(out, err);
}

enum status model_source_open(struct model_source **out, const char *model, uint64_t seed,
                              struct error *err) {
    const char *rest;
    struct model_config config;
    *out = NULL;
    enum status s = engine_model_config(model, &config, err);
    return s == STATUS_OK ? find_kind(model, &rest)->open(out, rest, seed, err) : s;
}

void model_source_close(struct model_source *s) {
    if (s) s->close(s);
}

bool engine_builtin_model(int i, const char **name, const char **description) {
    static const struct {
        const char *name, *description;
    } models[] = {
        {"needle", "knows the right answer: 3 layers, 8/4 heads of 64, built by formula"},
        {"needle:4x4x64", "the same with 4 query heads: half the attention, for slow machines"},
        {"needle:28x4x128", "the same with the heads of the 7B model, for its kernels"},
        {"random:qwen2.5-7b-1m", "shapes of Qwen2.5-7B-Instruct-1M, random weights (7.6 B)"},
        {"random:qwen2.5-14b-1m", "shapes of Qwen2.5-14B-Instruct-1M, random weights (14.8 B)"},
        {"random:qwen2.5-0.5b", "shapes of Qwen2.5-0.5B-Instruct, random weights (0.5 B)"},
        {"random:half-b", "24 layers, C 1024, 16/4 heads of 64, random weights (0.4 B)"},
        {"random:nano", "4 layers, C 512, 8/4 heads of 64, random weights (14 M)"},
        {"random:LxCxHxKxDxFxV", "any shape; /tied and /dual:CHUNK:LOCAL:ORIGINAL may follow"},
    };
    if (i < 0 || (size_t)i >= sizeof models / sizeof *models) return false;
    *name = models[i].name;
    *description = models[i].description;
    return true;
}
