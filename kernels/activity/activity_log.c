/* See activity_log.h. Before it: activity.c, or a result file; after it: the harness. */
#include "kernels/activity/activity_log.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_ROWS = 1024 };

/* Room for one more row of `size` bytes; arrays have FIRST_ROWS or the next power of two. NULL: no
 * memory; then *rows is as it was. */
static void *room(void **rows, int64_t n, size_t size, struct error *err) {
    const bool full = n == 0 || (n >= FIRST_ROWS && (n & (n - 1)) == 0);
    const int64_t capacity = n < FIRST_ROWS ? FIRST_ROWS : 2 * n;
    if (full) {
        void *larger = realloc(*rows, (size_t)capacity * size);
        if (!larger) {
            error_set(err, STATUS_NO_MEMORY, "no memory for %lld records", (long long)capacity);
            return NULL;
        }
        *rows = larger;
    }
    return (char *)*rows + (size_t)n * size;
}

#define ADD(rows, n, row, err)                                                                     \
    void *at = room((void **)&(rows), n, sizeof *(row), err);                                      \
    if (!at) return STATUS_NO_MEMORY;                                                              \
    memcpy(at, row, sizeof *(row));                                                                \
    (n)++;                                                                                         \
    return STATUS_OK

enum status activity_log_add_kernel(struct activity_log *log, const struct activity_kernel *row,
                                    struct error *err) {
    ADD(log->kernels, log->n_kernels, row, err);
}

enum status activity_log_add_copy(struct activity_log *log, const struct activity_copy *row,
                                  struct error *err) {
    ADD(log->copies, log->n_copies, row, err);
}

enum status activity_log_add_call(struct activity_log *log, const struct activity_call *row,
                                  struct error *err) {
    ADD(log->calls, log->n_calls, row, err);
}

enum status activity_log_add_range(struct activity_log *log, const struct activity_range *row,
                                   struct error *err) {
    ADD(log->ranges, log->n_ranges, row, err);
}

enum status activity_log_add_overhead(struct activity_log *log, const struct activity_overhead *row,
                                      struct error *err) {
    ADD(log->overheads, log->n_overheads, row, err);
}

enum status activity_log_add_node(struct activity_log *log, const struct activity_node *row,
                                  struct error *err) {
    ADD(log->nodes, log->n_nodes, row, err);
}

enum status activity_log_add_memory(struct activity_log *log, const struct activity_memory *row,
                                    struct error *err) {
    ADD(log->memory, log->n_memory, row, err);
}

static enum status add_string(struct activity_log *log, const char *text, struct error *err) {
    char *copy = strdup(text);
    char **at = copy ? room((void **)&log->strings, log->n_strings, sizeof *at, err) : NULL;
    if (!at) {
        free(copy);
        return error_set(err, STATUS_NO_MEMORY, "no memory for the names of records");
    }
    *at = copy;
    log->n_strings++;
    return STATUS_OK;
}

enum status activity_log_string(struct activity_log *log, const char *text, int32_t *out,
                                struct error *err) {
    enum status s = STATUS_OK;
    *out = 0;
    if (log->n_strings == 0) s = add_string(log, "", err);
    if (s != STATUS_OK || !text || !*text) return s;
    for (int32_t i = 1; i < log->n_strings; i++)
        if (strcmp(log->strings[i], text) == 0) {
            *out = i;
            return STATUS_OK;
        }
    s = add_string(log, text, err);
    if (s == STATUS_OK) *out = log->n_strings - 1;
    return s;
}

const char *activity_log_text(const struct activity_log *log, int32_t string) {
    return string > 0 && string < log->n_strings ? log->strings[string] : "";
}

void activity_log_free(struct activity_log *log) {
    for (int32_t i = 0; i < log->n_strings; i++) free(log->strings[i]);
    free(log->strings);
    free(log->kernels);
    free(log->copies);
    free(log->calls);
    free(log->ranges);
    free(log->overheads);
    free(log->nodes);
    free(log->memory);
    *log = (struct activity_log){0};
}

/* ---- names of numbers */

const char *activity_overhead_name(int32_t kind) {
    static const char *const of_cupti[] = {
        "buffer flush",          "instrumentation",   "resources",      "module loading",
        "lazy function loading", "launch queue full", "buffer request", "unified memory"};
    const int32_t i = (kind >> 16) - 1;
    if (kind == 1) return "compilation";
    if (kind & 0xffff || i < 0 || i >= (int32_t)(sizeof of_cupti / sizeof *of_cupti))
        return "other";
    return of_cupti[i];
}

bool activity_overhead_of_recording(int32_t kind) {
    enum { FLUSH = 1 << 16, INSTRUMENTATION = 2 << 16, RESOURCES = 3 << 16, REQUEST = 7 << 16 };
    return kind == FLUSH || kind == INSTRUMENTATION || kind == RESOURCES || kind == REQUEST;
}

int32_t activity_memory_kind(uint8_t of_cupti) {
    return of_cupti > 0 && of_cupti <= ACTIVITY_UNKNOWN_MEMORY ? of_cupti - 1
                                                               : ACTIVITY_UNKNOWN_MEMORY;
}

const char *activity_copy_name(int32_t kind) {
    static const char *const names[] = {"?",    "HtoD", "DtoH", "HtoA", "AtoH", "AtoA",
                                        "AtoD", "DtoA", "DtoD", "HtoH", "PtoP"};
    return kind > 0 && kind < (int32_t)(sizeof names / sizeof *names) ? names[kind] : names[0];
}
