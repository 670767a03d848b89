/* `bench plan`: every case with what it will cost and what will be done with it; runs nothing.
 * Before it: plan.c. */
#include "harness/bench.h"
#include "harness/format.h"
#include "harness/plan.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: bench plan CONFIG [--set section.key=value]... [--json] [--verbose]\n"
    "\n"
    "Shows every case of a configuration: its id, prompt tokens, chunks, predicted memory and\n"
    "time, and what the time budget does to it (full, sampled, skipped and why). Runs nothing but\n"
    "a measurement of this machine's kernels (about a second, kept for a day).\n"
    "\n"
    "  --set section.key=value  overrides a key of the file; may be given again\n"
    "  --json                   the whole plan as JSON\n"
    "  --verbose                memory of every case by category\n"
    "\n"
    "time is what the case takes in all: warm-up, repeats, decoding, checks.\n"
    "exit codes: 0 ok, 2 usage or configuration, 5 the machine could not be measured, 6 I/O\n";

struct arguments {
    const char *config;
    const char **sets; /* owned array of borrowed texts */
    int n_sets;
    bool json, verbose;
};

/* ---- a table of text */

enum { COLUMNS = 10 };
struct table {
    char (*cells)[COLUMNS][100]; /* owned; row 0 is the head */
    int rows;
};

static const char *const heads[COLUMNS] = {"case", "tokens",   "chunk",  "chunks", "mode",
                                           "tp",   "rank mem", "shared", "time",   "coverage"};
static const bool left_aligned[COLUMNS] = {true,  false, false, false, true,
                                           false, false, false, false, true};

static int64_t sum_categories(const int64_t bytes[MEMORY_CATEGORIES]) {
    int64_t sum = 0;
    for (int k = 0; k < MEMORY_CATEGORIES; k++) sum += bytes[k];
    return sum;
}

static int64_t largest_rank(const struct memory_prediction *m) {
    int64_t most = 0;
    for (int r = 0; r < m->ranks; r++) {
        const int64_t bytes = sum_categories(m->rank_bytes[r]);
        if (bytes > most) most = bytes;
    }
    return most;
}

static void coverage_text(const struct case_plan *c, char *out, size_t size) {
    switch (c->coverage) {
    case COVER_FULL: snprintf(out, size, "full"); break;
    case COVER_SAMPLED: snprintf(out, size, "sampled %d/%d", c->sampled, c->chunks); break;
    case COVER_SKIPPED: snprintf(out, size, "skipped"); break;
    }
}

static void fill_row(char row[COLUMNS][100], const struct case_plan *c) {
    char b[FORMAT_BYTES];
    snprintf(row[0], 100, "%s", c->id);
    snprintf(row[1], 100, "%s", format_count(b, c->session.prompt_tokens));
    snprintf(row[2], 100, "%s", format_count(b, c->session.chunk_tokens));
    snprintf(row[3], 100, "%d", c->chunks);
    snprintf(row[4], 100, "%s", c->session.graph ? "graph" : "eager");
    snprintf(row[5], 100, "%d", c->engine.tensor_parallel_size);
    snprintf(row[6], 100, "%s", format_bytes(b, largest_rank(&c->memory)));
    snprintf(row[7], 100, "%s", format_bytes(b, sum_categories(c->memory.shared_bytes)));
    if (c->coverage == COVER_SKIPPED)
        snprintf(row[8], 100, "-");
    else
        snprintf(row[8], 100, "%s", format_seconds(b, c->predicted_total_s));
    coverage_text(c, row[9], 100);
}

static bool table_of(const struct plan *p, struct table *t) {
    t->rows = p->n + 1;
    t->cells = calloc((size_t)t->rows, sizeof *t->cells);
    if (!t->cells) return false;
    for (int k = 0; k < COLUMNS; k++) snprintf(t->cells[0][k], 100, "%s", heads[k]);
    for (int i = 0; i < p->n; i++) fill_row(t->cells[i + 1], &p->cases[i]);
    return true;
}

static void print_row(const struct table *t, int row) {
    for (int k = 0; k < COLUMNS; k++) {
        int width = 0;
        for (int i = 0; i < t->rows; i++) {
            const int n = (int)strlen(t->cells[i][k]);
            if (n > width) width = n;
        }
        if (k == COLUMNS - 1) width = 0;
        printf(left_aligned[k] ? "%s%-*s" : "%s%*s", k ? "  " : "", width, t->cells[row][k]);
    }
    putchar('\n');
}

/* ---- what stands around it */

static void print_categories(const char *name, const int64_t bytes[MEMORY_CATEGORIES]) {
    static const char *const names[MEMORY_CATEGORIES] = {
#define X(name, text) text,
        MEMORY_CATEGORY_TABLE(X)
#undef X
    };
    char b[FORMAT_BYTES];
    printf("    %-7s", name);
    for (int k = 0; k < MEMORY_CATEGORIES; k++)
        if (bytes[k]) printf("  %s %s", names[k], format_bytes(b, bytes[k]));
    putchar('\n');
}

static void print_memory(const struct memory_prediction *m) {
    char name[16], b[FORMAT_BYTES];
    for (int r = 0; r < m->ranks; r++) {
        snprintf(name, sizeof name, "rank %d", r);
        print_categories(name, m->rank_bytes[r]);
    }
    print_categories("shared", m->shared_bytes);
    printf("    %-7s  %s of %s available\n", "all", format_bytes(b, m->total_bytes),
           format_bytes((char[FORMAT_BYTES]){0}, m->available_bytes));
}

static void print_machine(const struct plan *p) {
    char a[FORMAT_BYTES], b[FORMAT_BYTES], c[FORMAT_BYTES];
    printf("%s on %s (%s", plan_model_path(&p->config, p->device), p->device_info.name,
           p->device_info.isa);
    if (p->device_info.threads)
        printf(", %d thread%s", p->device_info.threads, p->device_info.threads == 1 ? "" : "s");
    printf(")\nrates %s: linear %s, attention %s, copy %s\n\n",
           p->rates_measured ? "measured now" : "measured before",
           format_rate(a, p->rates.linear_flops, "FLOP/s"),
           format_rate(b, p->rates.attention_flops, "FLOP/s"),
           format_rate(c, p->rates.copy_bytes, "B/s"));
}

static void print_totals(const struct plan *p) {
    int count[3] = {0};
    char a[FORMAT_BYTES], b[FORMAT_BYTES], c[FORMAT_BYTES];
    for (int i = 0; i < p->n; i++) count[p->cases[i].coverage]++;
    printf("\n%d case%s in %d launch%s: %d full, %d sampled, %d skipped. Predicted time %s, of it "
           "%s loading; budget %s.\n",
           p->n, p->n == 1 ? "" : "s", p->launches, p->launches == 1 ? "" : "es", count[COVER_FULL],
           count[COVER_SAMPLED], count[COVER_SKIPPED], format_seconds(a, p->total_s),
           format_seconds(b, p->load_s),
           p->config.time_budget_s ? format_seconds(c, (double)p->config.time_budget_s) : "none");
}

static enum status print_plan(const struct plan *p, bool verbose, struct error *err) {
    struct table t;
    if (!table_of(p, &t)) return error_set(err, STATUS_NO_MEMORY, "no memory for the table");
    print_machine(p);
    print_row(&t, 0);
    for (int i = 0; i < p->n; i++) {
        print_row(&t, i + 1);
        if (*p->cases[i].reason) printf("    %s\n", p->cases[i].reason);
        if (verbose) print_memory(&p->cases[i].memory);
    }
    print_totals(p);
    for (int i = 0; i < p->n_notes; i++) printf("note: %s\n", p->notes[i]);
    free(t.cells);
    return STATUS_OK;
}

/* ---- the command */

static enum status make_plan(const struct arguments *a, struct plan *p) {
    struct config *c = calloc(1, sizeof *c);
    struct config_errors *errors = calloc(1, sizeof *errors);
    enum status s = STATUS_NO_MEMORY;
    if (c && errors) {
        s = config_load(c, a->config, a->sets, a->n_sets, errors);
        if (s == STATUS_OK) s = plan_make(p, c, errors);
        config_errors_print(errors);
    }
    free(c);
    free(errors);
    return s;
}

static enum status show_plan(const struct arguments *a, const struct plan *p, struct error *err) {
    if (!a->json) return print_plan(p, a->verbose, err);
    char *text = plan_to_json(p);
    if (!text) return error_set(err, STATUS_NO_MEMORY, "no memory for the plan as JSON");
    puts(text);
    free(text);
    return STATUS_OK;
}

/* Fills a; returns an exit code, or -1 to go on. */
static int parse_arguments(int argc, char **argv, struct arguments *a) {
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            fputs(help, stdout);
            return 0;
        }
        if (!strcmp(argv[i], "--json"))
            a->json = true;
        else if (!strcmp(argv[i], "--verbose"))
            a->verbose = true;
        else if (!strcmp(argv[i], "--set")) {
            if (++i == argc) return bench_fail_usage("plan", "no section.key=value after", "--set");
            a->sets[a->n_sets++] = argv[i];
        } else if (!strncmp(argv[i], "--set=", 6))
            a->sets[a->n_sets++] = argv[i] + 6;
        else if (*argv[i] == '-')
            return bench_fail_usage("plan", "unknown option", argv[i]);
        else if (a->config)
            return bench_fail_usage("plan", "a second configuration", argv[i]);
        else
            a->config = argv[i];
    }
    return a->config ? -1 : bench_fail_usage("plan", "no configuration given after", "bench plan");
}

int cmd_plan(int argc, char **argv, const struct bench_hooks *hooks) {
    (void)hooks;
    struct arguments a = {.sets = calloc((size_t)argc + 1, sizeof *a.sets)};
    struct plan *p = calloc(1, sizeof *p);
    struct error err = {""};
    int code = -1;
    if (!a.sets || !p) code = bench_fail("plan", STATUS_NO_MEMORY, &err);
    if (code < 0) code = parse_arguments(argc, argv, &a);
    if (code < 0) {
        enum status s = make_plan(&a, p); /* has said what is wrong */
        code = status_exit_code(s);
        if (s == STATUS_OK) {
            s = show_plan(&a, p, &err);
            if (s != STATUS_OK) code = bench_fail("plan", s, &err);
        }
    }
    if (p) plan_free(p);
    free(p);
    free(a.sets);
    return code;
}
