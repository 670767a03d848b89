/* From kernels as they were recorded to sums that add up. See kernel_view.h. Before it:
 * record_trace.c. */
#include "harness/kernel_view.h"

#include "harness/stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int compare(int64_t a, int64_t b) {
    return (a > b) - (a < b);
}

int kernel_device(const struct activity_kernel *k) {
    if (k->head.place.op != PLACE_UNKNOWN) return k->head.place.device;
    return k->device < MAX_RANKS ? (int)k->device : MAX_RANKS - 1;
}

static int by_time(const void *a, const void *b) {
    const struct activity_kernel *x = *(const struct activity_kernel *const *)a,
                                 *y = *(const struct activity_kernel *const *)b;
    int order = compare(x->head.chunk, y->head.chunk);
    if (!order) order = compare(kernel_device(x), kernel_device(y));
    if (!order) order = compare(x->head.begin_ns, y->head.begin_ns);
    if (!order) order = compare(x->head.end_ns, y->head.end_ns);
    return order ? order : compare(x - y, 0);
}

static double length_ns(const struct activity_kernel *k) {
    return (double)(k->head.end_ns - k->head.begin_ns);
}

static const struct chunk_row *row_of(const struct case_result *r, int32_t chunk) {
    for (int64_t i = 0; i < r->kernel_trace.n_chunks; i++)
        if (r->kernel_trace.chunks[i].chunk == chunk) return &r->kernel_trace.chunks[i];
    return NULL;
}

/* ---- parts ---- */

static int64_t within(int64_t ns, int64_t begin, int64_t end) {
    return ns < begin ? begin : ns > end ? end : ns;
}

double kernel_part_ns(const struct kernel_part *p, const struct activity_kernel *k) {
    const int64_t begin = p->row->begin_ns, end = begin + p->row->latency_ns;
    return (double)(within(k->head.end_ns, begin, end) - within(k->head.begin_ns, begin, end));
}

static void measure_part(const struct kernel_view *v, struct kernel_part *p) {
    const int64_t begin = p->row->begin_ns, end = begin + p->row->latency_ns;
    int64_t latest = begin;
    for (int64_t i = 0; i < p->n; i++) {
        const struct activity_head *h = &v->kernels[p->first + i]->head;
        const int64_t from = within(h->begin_ns, begin, end), to = within(h->end_ns, begin, end);
        p->kernels_ns += kernel_part_ns(p, v->kernels[p->first + i]);
        if (from < latest) {
            p->at_once_ns += (double)((to < latest ? to : latest) - from);
        } else if (i == 0) {
            p->before_ns = (double)(from - begin);
        } else {
            const double gap = (double)(from - latest);
            p->between_ns += gap;
            if (gap > p->longest_gap_ns) p->longest_gap_ns = gap;
        }
        if (to > latest) latest = to;
    }
    p->after_ns = (double)(end - latest);
}

static void add_part(struct kernel_view *v, int64_t first, int64_t end) {
    struct kernel_part *p = &v->parts[v->n_parts];
    const struct activity_kernel *k = v->kernels[first];
    *p = (struct kernel_part){.row = row_of(v->r, k->head.chunk),
                              .device = kernel_device(k),
                              .first = first,
                              .n = end - first};
    measure_part(v, p);
    v->n_chunks += v->n_parts == 0 || p[-1].row != p->row;
    v->n_parts++;
    v->latency_ns += (double)p->row->latency_ns;
    v->kernels_ns += p->kernels_ns, v->at_once_ns += p->at_once_ns;
    v->before_ns += p->before_ns, v->between_ns += p->between_ns, v->after_ns += p->after_ns;
}

static bool same_part(const struct activity_kernel *a, const struct activity_kernel *b) {
    return a->head.chunk == b->head.chunk && kernel_device(a) == kernel_device(b);
}

/* ---- sums ---- */

static bool same_op(const struct activity_kernel *a, const struct activity_kernel *b) {
    const struct op_place *p = &a->head.place, *q = &b->head.place;
    return p->op == q->op && p->role == q->role && p->variant == q->variant;
}

static bool same_name(const struct activity_kernel *a, const struct activity_kernel *b) {
    return a->mangled == b->mangled && a->head.place.op == b->head.place.op &&
           a->head.place.role == b->head.place.role;
}

static void add_to(struct kernel_sum *sums, int *n, const struct activity_kernel *k,
                   bool (*same)(const struct activity_kernel *, const struct activity_kernel *)) {
    int i = 0;
    while (i < *n && !same(sums[i].one, k)) i++;
    struct kernel_sum *sum = &sums[i];
    if (i == *n) {
        *sum = (struct kernel_sum){.one = k, .same_grid = true};
        ++*n;
    }
    sum->same_grid = sum->same_grid && memcmp(sum->one->grid, k->grid, sizeof k->grid) == 0;
    if (length_ns(k) > length_ns(sum->one)) sum->one = k;
    sum->calls++;
    sum->ns += length_ns(k);
}

static int longest_first(const void *a, const void *b) {
    const double x = ((const struct kernel_sum *)a)->ns, y = ((const struct kernel_sum *)b)->ns;
    return (x < y) - (x > y);
}

static void sum_kernels(struct kernel_view *v) {
    for (int64_t i = 0; i < v->n; i++) {
        const struct activity_kernel *k = v->kernels[i];
        add_to(v->names, &v->n_names, k, same_name);
        add_to(v->ops, &v->n_ops, k, same_op);
        if (k->head.place.op != PLACE_UNKNOWN) continue;
        v->nobodys++;
        v->nobodys_ns += length_ns(k);
    }
    qsort(v->names, (size_t)v->n_names, sizeof *v->names, longest_first);
    qsort(v->ops, (size_t)v->n_ops, sizeof *v->ops, longest_first);
}

/* ---- opening ---- */

const char *kernel_view_why(const struct case_result *r) {
    static const char so[] = "no kernels were recorded: ";
    const char *note = r->kernel_trace.note;
    return note + (strncmp(note, so, strlen(so)) == 0 ? strlen(so) : 0);
}

static enum status no_kernels(const struct case_result *r, int chunk, struct error *err) {
    const struct kernel_trace *t = &r->kernel_trace;
    char list[TRACE_TEXT];
    if (t->log.n_kernels > 0 && t->n_chunks > 0)
        return error_set(
            err, STATUS_USAGE,
            "the kernels of chunk %d of %s were not recorded; recorded: %s; `--set "
            "trace.cupti=all` "
            "records those of every one",
            chunk + 1, r->id,
            trace_chunk_list(list, &t->chunks[0].chunk, sizeof *t->chunks, t->n_chunks));
    if (!t->wanted && result_is_once(r))
        return error_set(err, STATUS_INVALID, "%s has no kernels: %s", r->id, r->reason);
    return error_set(err, STATUS_INVALID, "%s has no kernels: %s", r->id,
                     t->note[0]   ? kernel_view_why(r)
                     : !t->wanted ? "none were recorded; `--set trace.cupti=last` records those of "
                                    "its last chunk on a GPU, and `--resume` those that an "
                                    "interrupted run left"
                                  : "none ran in the chunks that were recorded");
}

enum status kernel_view_open(struct kernel_view *v, const struct case_result *r, int chunk,
                             struct error *err) {
    const struct activity_log *log = &r->kernel_trace.log;
    *v = (struct kernel_view){.r = r, .log = log};
    const size_t most = (size_t)log->n_kernels + 1;
    v->kernels = calloc(most, sizeof *v->kernels);
    v->parts = calloc(most, sizeof *v->parts);
    v->names = calloc(most, sizeof *v->names);
    v->ops = calloc(most, sizeof *v->ops);
    enum status s = STATUS_OK;
    if (!v->kernels || !v->parts || !v->names || !v->ops)
        s = error_set(err, STATUS_NO_MEMORY, "no memory for the kernels");
    for (int64_t i = 0; s == STATUS_OK && i < log->n_kernels; i++) {
        const struct activity_kernel *k = &log->kernels[i];
        if ((chunk < 0 || k->head.chunk == chunk) && row_of(r, k->head.chunk))
            v->kernels[v->n++] = k;
    }
    if (s == STATUS_OK && v->n == 0) s = no_kernels(r, chunk, err);
    if (s != STATUS_OK) {
        kernel_view_close(v);
        return s;
    }
    qsort(v->kernels, (size_t)v->n, sizeof *v->kernels, by_time);
    for (int64_t first = 0, i = 1; i <= v->n; i++) {
        if (i < v->n && same_part(v->kernels[i], v->kernels[first])) continue;
        add_part(v, first, i);
        first = i;
    }
    sum_kernels(v);
    return STATUS_OK;
}

void kernel_view_close(struct kernel_view *v) {
    free(v->kernels);
    free(v->parts);
    free(v->names);
    free(v->ops);
    memset(v, 0, sizeof *v);
}

void trace_add_kernels(struct trace *t, const struct kernel_view *kernels) {
    const int64_t begin_ns = kernels->parts[0].row->begin_ns;
    if (t->n_chunks == 0 || begin_ns < t->origin_ns) t->origin_ns = begin_ns;
    t->r = kernels->r;
    t->kernels = kernels;
}

bool kernel_view_has(const struct kernel_view *v, const struct activity_head *head) {
    for (int i = 0; i < v->n_parts; i++)
        if (v->parts[i].row->chunk == head->chunk) return true;
    return false;
}

char *kernel_op_text(char out[TRACE_TEXT], const struct op_place *p) {
    if (p->op != PLACE_UNKNOWN) return trace_op_text(out, p->op, p->role);
    snprintf(out, TRACE_TEXT, "(nobody's)");
    return out;
}

double kernel_view_cost(const struct kernel_view *v) {
    double traced = 0, measured = 0;
    for (int i = 0; i < v->n_parts; i++) {
        if (i > 0 && v->parts[i - 1].row == v->parts[i].row) continue;
        traced += (double)v->parts[i].row->latency_ns;
        measured += trace_measured_ns(v->r, v->parts[i].row->chunk);
    }
    return measured > 0 ? traced / measured : (double)NAN;
}
