/* Models with the shapes of real ones and seeded random weights: a model_source that computes its
 * numbers. Value i of a tensor is a function of (seed, tensor, layer, i) alone, i counted in the
 * unsharded tensor, so every shard and every rectangle holds the same numbers.
 *
 * Weights are almost normal with variance 1 / fan_in, biases 0.1, norm gains 1 + 0.1 of it; an
 * embedding row is looked up, not summed over, so its fan_in is 1 unless it is also the head. */
#include "engine/model.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- configurations */

static const struct model_config presets[] = {
    {.name = "qwen2.5-7b-1m",
     .layers = 28,
     .C = 3584,
     .H = 28,
     .K = 4,
     .D = 128,
     .F = 18944,
     .V = 152064,
     .rms_norm_eps = 1e-5f,
     .rope_theta = 1e7,
     .max_position_embeddings = 1010000,
     .dual_chunk = {262144 - 8192, 8192},
     .dual_chunk_original_max = 262144,
     .eos = {151645, 151643},
     .eos_count = 2},
    {.name = "qwen2.5-14b-1m",
     .layers = 48,
     .C = 5120,
     .H = 40,
     .K = 8,
     .D = 128,
     .F = 13824,
     .V = 152064,
     .rms_norm_eps = 1e-5f,
     .rope_theta = 1e7,
     .max_position_embeddings = 1010000,
     .dual_chunk = {262144 - 8192, 8192},
     .dual_chunk_original_max = 262144,
     .eos = {151645, 151643},
     .eos_count = 2},
    {.name = "qwen2.5-0.5b",
     .layers = 24,
     .C = 896,
     .H = 14,
     .K = 2,
     .D = 64,
     .F = 4864,
     .V = 151936,
     .rms_norm_eps = 1e-6f,
     .rope_theta = 1e6,
     .max_position_embeddings = 32768,
     .tie_word_embeddings = true,
     .eos = {151645, 151643},
     .eos_count = 2},
    {.name = "nano",
     .layers = 4,
     .C = 512,
     .H = 8,
     .K = 4,
     .D = 64,
     .F = 1408,
     .V = 2048,
     .rms_norm_eps = 1e-5f,
     .rope_theta = 1e7,
     .max_position_embeddings = 1010000,
     .dual_chunk = {262144 - 8192, 8192},
     .dual_chunk_original_max = 262144},
    {.name = "half-b",
     .layers = 24,
     .C = 1024,
     .H = 16,
     .K = 4,
     .D = 64,
     .F = 4864,
     .V = 8192,
     .rms_norm_eps = 1e-5f,
     .rope_theta = 1e7,
     .max_position_embeddings = 1010000,
     .dual_chunk = {262144 - 8192, 8192},
     .dual_chunk_original_max = 262144},
};

/* "/tied" and "/dual:CHUNK:LOCAL:ORIGINAL", in this order, each once or not at all. */
static bool parse_suffixes(const char *text, struct model_config *m) {
    int used = 0;
    if (strncmp(text, "/tied", 5) == 0) {
        m->tie_word_embeddings = true;
        text += 5;
    }
    if (sscanf(text, "/dual:%7d:%7d:%7d%n", &m->dual_chunk.chunk, &m->dual_chunk.local,
               &m->dual_chunk_original_max, &used) == 3 &&
        m->dual_chunk.chunk > 0 && m->dual_chunk_original_max > 0)
        text += used;
    return *text == 0;
}

/* "LxCxHxKxDxFxV", then suffixes. */
static bool parse_shape(const char *text, struct model_config *out) {
    struct model_config m = {
        .rms_norm_eps = 1e-5f, .rope_theta = 1e7, .max_position_embeddings = 1010000};
    int used = 0;
    if (sscanf(text, "%7dx%7dx%7dx%7dx%7dx%7dx%7d%n", &m.layers, &m.C, &m.H, &m.K, &m.D, &m.F, &m.V,
               &used) != 7 ||
        strlen(text) >= sizeof m.name || !parse_suffixes(text + used, &m))
        return false;
    snprintf(m.name, sizeof m.name, "%s", text);
    *out = m;
    return true;
}

bool random_model_config(const char *preset, struct model_config *out) {
    if (!preset) return false;
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++)
        if (strcmp(presets[i].name, preset) == 0) {
            *out = presets[i];
            return true;
        }
    return parse_shape(preset, out);
}

/* ---- numbers */

struct random_source {
    struct model_source source; /* first: the two share their address */
    uint64_t seed;
};

/* value = round(mean + deviation * z); columns of the unsharded tensor count its values */
struct distribution {
    float mean, deviation;
    int64_t columns;
};

static struct distribution distribution_of(const struct model_config *m, enum tensor tensor) {
    const int64_t C = m->C, q = (int64_t)m->H * m->D, kv = (int64_t)m->K * m->D;
    const float per_C = (float)(1 / sqrt((double)C));
    switch (tensor) {
    case TENSOR_EMBED: return (struct distribution){0, m->tie_word_embeddings ? per_C : 1, C};
    case TENSOR_INPUT_NORM:
    case TENSOR_POST_NORM:
    case TENSOR_FINAL_NORM: return (struct distribution){1, 0.1f, C};
    case TENSOR_Q_BIAS: return (struct distribution){0, 0.1f, q};
    case TENSOR_K_BIAS:
    case TENSOR_V_BIAS: return (struct distribution){0, 0.1f, kv};
    case TENSOR_O: return (struct distribution){0, (float)(1 / sqrt((double)q)), q};
    case TENSOR_DOWN: return (struct distribution){0, (float)(1 / sqrt((double)m->F)), m->F};
    case TENSOR_Q:
    case TENSOR_K:
    case TENSOR_V:
    case TENSOR_GATE:
    case TENSOR_UP:
    case TENSOR_HEAD:
    case TENSORS: break;
    }
    return (struct distribution){0, per_C, C};
}

static void matrix_of(struct model_source *source, enum tensor tensor, int layer,
                      struct random_matrix *out) {
    const struct random_source *s = (const struct random_source *)source;
    const struct distribution d = distribution_of(&source->config, tensor);
    assert(tensor < TENSORS);
    *out = (struct random_matrix){.seed = s->seed,
                                  .stream = (uint64_t)layer << 8 | tensor,
                                  .mean = d.mean,
                                  .deviation = d.deviation,
                                  .columns = d.columns};
}

static enum status read_rectangle(struct model_source *source, enum tensor tensor, int layer,
                                  int64_t row, int64_t rows, int64_t col, int64_t cols,
                                  enum dtype dtype, void *out, int64_t ld, struct error *err) {
    struct random_matrix m;
    (void)err; /* arithmetic cannot fail */
    matrix_of(source, tensor, layer, &m);
    random_matrix_write(&m, &(struct matrix_part){row, rows, col, cols}, dtype, out, ld);
    return STATUS_OK;
}

static void close_source(struct model_source *source) {
    free(source);
}

enum status random_model_open(struct model_source **out, const char *preset, uint64_t seed,
                              struct error *err) {
    struct model_config config;
    *out = NULL;
    if (!random_model_config(preset, &config))
        return error_set(err, STATUS_USAGE, "no random model of preset \"%s\"", preset);
    struct random_source *s = malloc(sizeof *s);
    if (!s) return error_set(err, STATUS_NO_MEMORY, "no memory for a random model");
    *s = (struct random_source){{config, read_rectangle, close_source, matrix_of}, seed};
    *out = &s->source;
    return STATUS_OK;
}
