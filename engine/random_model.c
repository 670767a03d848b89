/* Models with the shapes of real ones and seeded random weights: a model_source that computes its
 * numbers. Value i of a tensor is a function of (seed, tensor, layer, i) alone, i counted in the
 * unsharded tensor, so every shard and every rectangle holds the same numbers.
 *
 * Weights are almost normal with variance 1 / fan_in, biases 0.1, norm gains 1 + 0.1 of it; an
 * embedding row is looked up, not summed over, so its fan_in is 1 unless it is also the head. */
#include "engine/model.h"
#include "kernels/bf16.h"
#include "kernels/random.h"

#include <assert.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
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

struct rectangle {
    uint64_t seed, stream;
    struct distribution distribution;
    int64_t row, rows, col, cols;
    enum dtype dtype;
    char *out;
    int64_t ld;
};

enum { BLOCK = 256 }; /* values made at a time, a multiple of the four of one draw */

static void make_block(const struct rectangle *r, int64_t first, int64_t n, bf16 out[BLOCK]) {
    const float mean = r->distribution.mean, deviation = r->distribution.deviation;
    float z[BLOCK];
    for (int64_t i = 0; i < n; i += 4)
        random_normal4(r->seed, r->stream, (uint64_t)(first + i) / 4, z + i);
    for (int64_t i = 0; i < n; i++) out[i] = f32_to_bf16(mean + deviation * z[i]);
}

/* Values [first, first + cols) of the tensor, in blocks that begin at multiples of four. */
static void fill_row(const struct rectangle *r, int64_t row) {
    const int64_t first = (r->row + row) * r->distribution.columns + r->col;
    char *out = r->out + (size_t)(row * r->ld) * dtype_bytes(r->dtype);
    bf16 block[BLOCK];
    for (int64_t done = 0; done < r->cols;) {
        const int64_t skip = (first + done) % 4, left = r->cols - done;
        const int64_t n = left < BLOCK - skip ? left : BLOCK - skip;
        make_block(r, first + done - skip, skip + n, block);
        if (r->dtype == DTYPE_BF16)
            memcpy((bf16 *)(void *)out + done, block + skip, (size_t)n * sizeof *block);
        for (int64_t i = 0; r->dtype == DTYPE_F32 && i < n; i++)
            ((float *)(void *)out)[done + i] = bf16_to_f32(block[skip + i]);
        done += n;
    }
}

static void *fill_rows(void *arg) {
    const struct rectangle *r = arg;
    for (int64_t i = 0; i < r->rows; i++) fill_row(r, i);
    return NULL;
}

/* Large rectangles are cut by rows over the cores of this process; a thread that cannot be started
 * leaves its rows to this one. */
static void fill(const struct rectangle *r) {
    enum { MOST = 16, VALUES_PER_THREAD = 1 << 18 };
    cpu_set_t cores;
    pthread_t thread[MOST];
    bool started[MOST] = {false};
    struct rectangle part[MOST];
    int n = sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1;
    if (n > MOST) n = MOST;
    while (n > 1 && (r->rows < n || r->rows * r->cols / n < VALUES_PER_THREAD)) n--;
    for (int i = n - 1; i >= 0; i--) {
        const int64_t begin = r->rows * i / n;
        part[i] = *r;
        part[i].row += begin;
        part[i].rows = r->rows * (i + 1) / n - begin;
        part[i].out += (size_t)(begin * r->ld) * dtype_bytes(r->dtype);
        started[i] = i > 0 && pthread_create(&thread[i], NULL, fill_rows, &part[i]) == 0;
        if (!started[i]) fill_rows(&part[i]);
    }
    for (int i = 0; i < n; i++)
        if (started[i]) pthread_join(thread[i], NULL);
}

static enum status read_rectangle(struct model_source *source, enum tensor tensor, int layer,
                                  int64_t row, int64_t rows, int64_t col, int64_t cols,
                                  enum dtype dtype, void *out, int64_t ld, struct error *err) {
    const struct random_source *s = (const struct random_source *)source;
    (void)err; /* arithmetic cannot fail */
    assert(tensor < TENSORS && row >= 0 && rows >= 0 && col >= 0 && cols >= 0);
    fill(&(struct rectangle){.seed = s->seed,
                             .stream = (uint64_t)layer << 8 | tensor,
                             .distribution = distribution_of(&source->config, tensor),
                             .row = row,
                             .rows = rows,
                             .col = col,
                             .cols = cols,
                             .dtype = dtype,
                             .out = out,
                             .ld = ld});
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
    *s = (struct random_source){{config, read_rectangle, close_source}, seed};
    *out = &s->source;
    return STATUS_OK;
}
