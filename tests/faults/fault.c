/* The faults of fault.h. Each works on what the op reads or has written, through device_read and
 * device_write, so that it does not depend on the kernel that it spoils. */
#include "fault.h"

#include "kernels/bf16.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct fault {
    bool (*spoil)(struct fault *, struct device *, struct op_call *); /* true: it ran the op */
    int n[2];
    int chunk; /* at work */
    bool active;
    void *kept; /* swap_ranks: output of the first of the two ranks; owned */
    struct attention_args kept_args;
    struct op_call table; /* key_phase: the newest OP_ROPE_TABLE */
};

/* ---- rows of matrices in device memory */

struct matrix {
    const void *at;
    int64_t ld;
    int32_t rows, cols;
    enum dtype dtype;
};

static void *grab(size_t bytes) {
    void *p = malloc(bytes);
    if (!p) abort();
    return p;
}

static float *read_matrix(struct device *dev, struct matrix m) {
    const size_t item = dtype_bytes(m.dtype);
    float *out = grab((size_t)m.rows * (size_t)m.cols * sizeof *out);
    char *row = grab((size_t)m.cols * item);
    for (int32_t i = 0; i < m.rows; i++) {
        device_read(dev, row, (const char *)m.at + (size_t)(i * m.ld) * item,
                    (size_t)m.cols * item);
        for (int32_t j = 0; j < m.cols; j++)
            out[i * m.cols + j] = m.dtype == DTYPE_BF16 ? bf16_to_f32(((const bf16 *)row)[j])
                                                        : ((const float *)row)[j];
    }
    free(row);
    return out;
}

static void write_matrix(struct device *dev, struct matrix m, const float *x) {
    const size_t item = dtype_bytes(m.dtype);
    char *row = grab((size_t)m.cols * item);
    for (int32_t i = 0; i < m.rows; i++) {
        for (int32_t j = 0; j < m.cols; j++) {
            const float v = x[i * m.cols + j];
            if (m.dtype == DTYPE_BF16)
                ((bf16 *)row)[j] = f32_to_bf16(v);
            else
                ((float *)row)[j] = v;
        }
        device_write(dev, (char *)m.at + (size_t)(i * m.ld) * item, row, (size_t)m.cols * item);
    }
    free(row);
}

static struct step_params read_step(struct device *dev, const struct step_params *at) {
    struct step_params s;
    device_read(dev, &s, at, sizeof s);
    return s;
}

static struct matrix attention_out(const struct attention_args *a) {
    return (struct matrix){a->out, a->ldo, a->rows, a->H * a->D, a->dtype};
}

/* ---- one function per fault: true if it has run the op */

static bool zero_rank(struct fault *f, struct device *dev, struct op_call *c) {
    if (c->op != OP_LINEAR || (c->role != ROLE_O && c->role != ROLE_DOWN) || c->rank != f->n[0])
        return false;
    const struct weight_shape shape = weight_shape(c->linear.w);
    const struct matrix y = {c->linear.y, c->linear.ldy, c->linear.rows, shape.N, shape.dtype};
    float *zeros = calloc((size_t)y.rows * (size_t)y.cols, sizeof *zeros);
    if (!zeros) abort();
    device_execute(dev, c, NULL);
    write_matrix(dev, y, zeros);
    free(zeros);
    return true;
}

static bool swap_ranks(struct fault *f, struct device *dev, struct op_call *c) {
    if (c->op != OP_ATTENTION || (c->rank != f->n[0] && c->rank != f->n[1])) return false;
    device_execute(dev, c, NULL);
    float *out = read_matrix(dev, attention_out(&c->attention));
    if (!f->kept) {
        f->kept = out;
        f->kept_args = c->attention;
        return true;
    }
    write_matrix(dev, attention_out(&c->attention), f->kept);
    write_matrix(dev, attention_out(&f->kept_args), out);
    free(out);
    free(f->kept);
    f->kept = NULL;
    return true;
}

static bool shift_position(struct fault *f, struct device *dev, struct op_call *c) {
    if (c->op != OP_ROPE_TABLE || f->chunk != f->n[0]) return false;
    const struct step_params right = read_step(dev, c->rope_table.step);
    struct step_params wrong = right;
    wrong.q_start++;
    device_write(dev, (void *)c->rope_table.step, &wrong, sizeof wrong);
    device_execute(dev, c, NULL);
    device_write(dev, (void *)c->rope_table.step, &right, sizeof right);
    return true;
}

static bool wrong_rotation(struct fault *f, struct device *dev, struct op_call *c) {
    enum { MOST = 256 };
    double right[MOST], wrong[MOST];
    (void)f;
    if (c->op != OP_ROPE_TABLE || c->rope_table.D / 2 > MOST) return false;
    const size_t bytes = (size_t)c->rope_table.D / 2 * sizeof *right;
    device_read(dev, right, c->rope_table.inv_freq, bytes);
    for (int i = 0; i < c->rope_table.D / 2; i++) wrong[i] = sqrt(right[i]);
    device_write(dev, (void *)c->rope_table.inv_freq, wrong, bytes);
    device_execute(dev, c, NULL);
    device_write(dev, (void *)c->rope_table.inv_freq, right, bytes);
    return true;
}

/* Writes keys and values alone. */
static void cache_keys(struct device *dev, struct op_call keys) {
    for (int i = 0; i < Q_COPIES; i++) keys.rope_cache.q[i] = NULL;
    device_execute(dev, &keys, NULL);
}

static bool key_rotation(struct fault *f, struct device *dev, struct op_call *c) {
    (void)f;
    if (c->op != OP_ROPE_CACHE) return false;
    struct op_call keys = *c;
    keys.rope_cache.cos = c->rope_cache.sin;
    keys.rope_cache.sin = c->rope_cache.cos;
    device_execute(dev, c, NULL);
    cache_keys(dev, keys);
    return true;
}

static bool key_phase(struct fault *f, struct device *dev, struct op_call *c) {
    if (c->op == OP_ROPE_TABLE) f->table = *c;
    if (c->op != OP_ROPE_CACHE || f->table.rope_table.pattern.chunk == 0) return false;
    struct op_call plain = f->table;
    plain.rope_table.pattern = (struct attention_pattern){0, 0};
    plain.rope_table.copies = 1;
    device_execute(dev, c, NULL);
    device_execute(dev, &plain, NULL);
    cache_keys(dev, *c);
    device_execute(dev, &f->table, NULL);
    return true;
}

/* Plain causal attention of one row and head over the last `window` keys. */
static void windowed_row(const struct attention_args *a, const float *q, const float *k,
                         const float *v, int32_t p, int window, float *out) {
    const int32_t first = p + 1 > window ? p + 1 - window : 0;
    double sum = 0, top = -INFINITY, *score = grab((size_t)(p + 1 - first) * sizeof *score);
    for (int32_t j = first; j <= p; j++) {
        double s = 0;
        for (int d = 0; d < a->D; d++) s += (double)q[d] * (double)k[j * a->D + d];
        score[j - first] = s * (double)a->scale;
        top = fmax(top, score[j - first]);
    }
    for (int d = 0; d < a->D; d++) out[d] = 0;
    for (int32_t j = first; j <= p; j++) sum += score[j - first] = exp(score[j - first] - top);
    for (int32_t j = first; j <= p; j++)
        for (int d = 0; d < a->D; d++) out[d] += (float)(score[j - first] / sum) * v[j * a->D + d];
    free(score);
}

static bool narrow_window(struct fault *f, struct device *dev, struct op_call *c) {
    if (c->op != OP_ATTENTION) return false;
    const struct attention_args *a = &c->attention;
    const struct step_params step = read_step(dev, a->step);
    if (a->pattern.chunk != 0 && step.kv_len > a->pattern.chunk) return false;
    const struct matrix q_at = {a->q[0], a->ldq, a->rows, a->H * a->D, a->dtype};
    float *q = read_matrix(dev, q_at), *out = grab((size_t)a->rows * a->H * a->D * sizeof *out);
    float *k = grab((size_t)step.kv_len * a->D * sizeof *k);
    float *v = grab((size_t)step.kv_len * a->D * sizeof *v);
    for (int h = 0; h < a->H; h++) {
        device_kv_read(dev, &a->kv, h / (a->H / a->kv.heads), 0, step.kv_len, k, v);
        for (int32_t t = 0; t < a->rows; t++) {
            const int32_t p = step.q_start + t;
            float *row = out + (t * a->H + h) * a->D;
            if (p < step.kv_len)
                windowed_row(a, q + (t * a->H + h) * a->D, k, v, p, f->n[0], row);
            else
                memset(row, 0, (size_t)a->D * sizeof *row);
        }
    }
    write_matrix(dev, attention_out(a), out);
    free(q), free(k), free(v), free(out);
    return true;
}

/* The head in slot s of H is given kv head s / (H / K); head h moves to a slot of kv head h mod K.
 */
static void move_heads(const struct attention_args *a, float *x, bool back) {
    const int K = a->kv.heads, G = a->H / K;
    const size_t row = (size_t)a->H * (size_t)a->D, head = (size_t)a->D;
    float *copy = grab(row * sizeof *copy);
    for (int32_t t = 0; t < a->rows; t++) {
        memcpy(copy, x + (size_t)t * row, row * sizeof *copy);
        for (int h = 0; h < a->H; h++) {
            const int slot = h % K * G + h / K;
            memcpy(x + (size_t)t * row + (size_t)(back ? h : slot) * head,
                   copy + (size_t)(back ? slot : h) * head, head * sizeof *copy);
        }
    }
    free(copy);
}

static bool wrong_gqa_map(struct fault *f, struct device *dev, struct op_call *c) {
    (void)f;
    if (c->op != OP_ATTENTION) return false;
    const struct attention_args *a = &c->attention;
    for (int i = 0; i < Q_COPIES; i++) {
        if (!a->q[i]) continue;
        const struct matrix m = {a->q[i], a->ldq, a->rows, a->H * a->D, a->dtype};
        float *q = read_matrix(dev, m);
        move_heads(a, q, false);
        write_matrix(dev, m, q);
        free(q);
    }
    device_execute(dev, c, NULL);
    float *out = read_matrix(dev, attention_out(a));
    move_heads(a, out, true);
    write_matrix(dev, attention_out(a), out);
    free(out);
    return true;
}

static bool lost_keys(struct fault *f, struct device *dev, struct op_call *c) {
    if (c->op != OP_ROPE_CACHE || f->chunk != f->n[0]) return false;
    const struct rope_cache_args *a = &c->rope_cache;
    const struct step_params step = read_step(dev, a->step);
    void *zeros = calloc((size_t)a->D, dtype_bytes(a->dtype));
    if (!zeros) abort();
    device_execute(dev, c, NULL);
    device_sync(dev, NULL);
    for (int h = 0; h < a->kv.heads; h++)
        a->kv.layout->write(&a->kv, h, step.q_start, step.n_tokens, zeros, 0, zeros, 0);
    free(zeros);
    return true;
}

static bool nan_logits(struct fault *f, struct device *dev, struct op_call *c) {
    const float nan = NAN;
    (void)f;
    if (c->op != OP_LOGITS) return false;
    device_execute(dev, c, NULL);
    device_write(dev, c->logits.out, &nan, sizeof nan);
    return true;
}

static bool drift(struct fault *f, struct device *dev, struct op_call *c) {
    if (c->op != OP_ATTENTION || c->rank > 0) return false;
    if (read_step(dev, c->attention.step).n_tokens != f->n[0]) return false;
    device_execute(dev, c, NULL);
    float *out = read_matrix(dev, attention_out(&c->attention));
    const int64_t n = (int64_t)c->attention.rows * c->attention.H * c->attention.D;
    const float step = c->attention.dtype == DTYPE_BF16 ? 0x1p-8f : 0x1p-23f;
    for (int64_t i = 0; i < n; i++) out[i] *= 1 + step;
    write_matrix(dev, attention_out(&c->attention), out);
    free(out);
    return true;
}

/* On the CPU the process dies of it; on a GPU the device is lost, and with it whatever it held. */
static bool bad_address(struct fault *f, struct device *dev, struct op_call *c) {
    (void)dev;
    if (c->op != OP_ATTENTION || f->chunk != f->n[0]) return false;
    signal(SIGSEGV, SIG_DFL); /* a sanitizer's handler would turn it into an exit */
    c->attention.out = (void *)(uintptr_t)4096; /* the kernel sees it: the call is a copy */
    return false;
}

/* In a process that follows nobody tells of chunks: the step itself does. */
static bool is_later_step(const struct fault *f, struct device *dev, const struct op_call *c) {
    if (c->op != OP_ATTENTION || c->rank != f->n[0]) return false;
    const struct step_params step = read_step(dev, c->attention.step);
    return step.n_tokens == f->n[1] && step.q_start > 0;
}

static bool kill_rank(struct fault *f, struct device *dev, struct op_call *c) {
    if (is_later_step(f, dev, c)) raise(SIGKILL);
    return false;
}

static bool stick_rank(struct fault *f, struct device *dev, struct op_call *c) {
    while (is_later_step(f, dev, c)) pause();
    return false;
}

static bool no_work(struct fault *f, struct device *dev, struct op_call *c) {
    (void)f, (void)dev, (void)c;
    return true;
}

/* ---- the table */

static const struct {
    const char *name;
    int numbers; /* that it takes */
    bool (*spoil)(struct fault *, struct device *, struct op_call *);
} faults[] = {
    {"zero_rank", 1, zero_rank},
    {"swap_ranks", 2, swap_ranks},
    {"shift_position", 1, shift_position},
    {"wrong_rotation", 0, wrong_rotation},
    {"key_rotation", 0, key_rotation},
    {"key_phase", 0, key_phase},
    {"window", 1, narrow_window},
    {"gqa_map", 0, wrong_gqa_map},
    {"lost_keys", 1, lost_keys},
    {"nan_logits", 0, nan_logits},
    {"drift", 1, drift},
    {"bad_address", 1, bad_address},
    {"kill_rank", 2, kill_rank},
    {"stick_rank", 2, stick_rank},
    {"no_work", 0, no_work},
};

struct fault *fault_open(const char *text) {
    const size_t name = strcspn(text, ":");
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        int n[2] = {0, 0};
        if (strlen(faults[i].name) != name || strncmp(faults[i].name, text, name) != 0) continue;
        const int read = text[name] ? sscanf(text + name + 1, "%d,%d", &n[0], &n[1]) : 0;
        struct fault *f = read == faults[i].numbers ? calloc(1, sizeof *f) : NULL;
        if (f)
            *f = (struct fault){
                .spoil = faults[i].spoil, .n = {n[0], n[1]}, .chunk = -1, .active = true};
        return f;
    }
    return NULL;
}

void fault_close(struct fault *f) {
    if (f) free(f->kept);
    free(f);
}

bool fault_interpose(void *ctx, struct device *dev, struct op_call *call) {
    struct fault *f = ctx;
    return f->active && f->spoil(f, dev, call);
}

void fault_at_chunk(struct fault *f, int chunk, bool active) {
    f->chunk = chunk;
    f->active = active;
}
