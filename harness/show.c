/* The table of a run, as `bench run` ends with it and `bench show` prints it.
 * Before it: record_read.c. Details of one case: show_case.c; JSON: show_json.c. */
#include "harness/show.h"

#include "harness/format.h"

#include <math.h>
#include <string.h>

double show_time_ratio(const struct case_result *r, const struct case_summary *s) {
    if (r->predicted_prefill_s <= 0 || s->ttft_median_ns <= 0) return (double)NAN;
    return (double)s->ttft_median_ns / 1e9 / r->predicted_prefill_s;
}

double show_memory_ratio(const struct case_result *r, const struct case_summary *s) {
    if (r->predicted_memory.total_bytes <= 0 || s->peak_bytes_device <= 0) return (double)NAN;
    return (double)s->peak_bytes_device * result_memories(r) /
           (double)r->predicted_memory.total_bytes;
}

const char *show_check_detail(const struct check_result *c) {
    if (c->verdict != VERDICT_NOT_CHECKED || c->detail[0]) return c->detail;
    return "the file does not say why";
}

enum tone show_verdict_tone(enum verdict v) {
    return v == VERDICT_OK ? TONE_GOOD : v == VERDICT_FAILED ? TONE_BAD : TONE_DOUBTFUL;
}

enum tone show_status_tone(enum case_status s) {
    return s == CASE_OK ? TONE_GOOD : s == CASE_SKIPPED ? TONE_DOUBTFUL : TONE_BAD;
}

bool show_is_known(const char *kernel) {
    return kernel[0] && strcmp(kernel, "auto") != 0;
}

enum column_number {
    COLUMN_CASE,
    COLUMN_PROMPT,
    COLUMN_CHUNK,
    COLUMN_MODE,
    COLUMN_TP,
    COLUMN_COVERAGE,
    COLUMN_TTFT,
    COLUMN_SPREAD,
    COLUMN_PREFILL,
    COLUMN_DECODE,
    COLUMN_PEAK,
    COLUMN_CLOCK,
    COLUMN_POWER,
    COLUMN_RATIOS,
    COLUMN_OUTPUT,
    COLUMN_INVARIANCE,
    COLUMN_COUNT
};

/* Units that suit the largest value of a column, so that its numbers can be compared. */
struct units {
    double ns, bytes;
    const char *time, *memory;
};

static struct units choose_units(const struct record_run *run) {
    int64_t ns = 0, bytes = 0;
    for (int i = 0; i < run->n; i++) {
        struct case_summary s;
        result_summary(&run->cases[i], &s);
        if (s.ttft_median_ns > ns) ns = s.ttft_median_ns;
        if (s.peak_bytes_rank > bytes) bytes = s.peak_bytes_rank;
    }
    struct units u = {1e9, 1 << 20, "s", "MiB"};
    if (ns < 1000000000) u.ns = 1e6, u.time = "ms";
    if (bytes >= 1ll << 34) u.bytes = 1 << 30, u.memory = "GiB";
    return u;
}

static void add_coverage(struct table *t, const struct case_result *r) {
    if (r->coverage == COVER_SKIPPED)
        table_add(t, TONE_FAINT, "none");
    else if (r->coverage == COVER_FULL)
        table_add(t, TONE_PLAIN, "full");
    else
        table_add(t, TONE_DOUBTFUL, "estimated");
}

/* The median and, of several repeats, how far they lie from it on either side. */
static void add_ttft(struct table *t, const struct case_result *r, const struct case_summary *s,
                     const struct units *u) {
    char number[40];
    const double median = (double)s->ttft_median_ns;
    if (r->n_ttft == 0)
        table_add(t, TONE_FAINT, "-");
    else
        table_add(t, TONE_PLAIN, "%s%s", r->ttft_estimated ? "~" : "",
                  table_number(number, median / u->ns));
    if (r->n_ttft < 2 || median <= 0)
        table_add(t, TONE_FAINT, "-");
    else
        table_add(t, TONE_PLAIN, "%.1f",
                  100 * (double)(s->ttft_max_ns - s->ttft_min_ns) / 2 / median);
}

static void add_rates(struct table *t, const struct case_result *r, const struct case_summary *s) {
    char text[FORMAT_BYTES];
    table_add(t, TONE_PLAIN, "%s%s", r->ttft_estimated && isfinite(s->prefill_tok_s) ? "~" : "",
              format_tok_s(text, s->prefill_tok_s));
    table_add(t, TONE_PLAIN, "%s", format_tok_s(text, s->decode_tok_s));
}

static const char *ratio_text(double ratio, char out[24]) {
    if (isfinite(ratio))
        snprintf(out, 24, "%.2f", ratio);
    else
        snprintf(out, 24, "-");
    return out;
}

static void add_ratios(struct table *t, const struct case_result *r, const struct case_summary *s) {
    char time[24], memory[24];
    const double of_time = show_time_ratio(r, s), of_memory = show_memory_ratio(r, s);
    if (isfinite(of_time) || isfinite(of_memory))
        table_add(t, TONE_PLAIN, "%s/%s", ratio_text(of_time, time), ratio_text(of_memory, memory));
    else
        table_add(t, TONE_FAINT, "-");
}

/* Of a case that did not run to its end, what became of it; a check that failed comes first. */
static void add_verdicts(struct table *t, const struct case_result *r,
                         const struct case_summary *s) {
    const bool ran = r->status == CASE_OK;
    if (ran || s->output == VERDICT_FAILED)
        table_add(t, show_verdict_tone(s->output), "%s", verdict_text(s->output));
    else
        table_add(t, show_status_tone(r->status), "%s", case_status_text(r->status));
    if (ran || s->invariance == VERDICT_FAILED)
        table_add(t, show_verdict_tone(s->invariance), "%s", verdict_text(s->invariance));
    else
        table_add(t, TONE_FAINT, "-");
}

static void add_case(struct table *t, const struct case_result *r, const struct units *u) {
    char text[FORMAT_BYTES];
    struct case_summary s;
    result_summary(r, &s);
    table_add(t, TONE_PLAIN, "%s", r->id);
    table_add(t, TONE_PLAIN, "%s", format_count(text, r->prompt_tokens));
    table_add(t, TONE_PLAIN, "%s%s", format_count(text, r->max_num_batched_tokens),
              r->max_num_batched_tokens > r->prompt_tokens ? " (all)" : "");
    table_add(t, TONE_PLAIN, "%s", r->graph ? "graph" : "eager");
    if (r->devices > 1)
        table_add(t, TONE_PLAIN, "%d on %d devices", r->tp, r->devices);
    else
        table_add(t, TONE_PLAIN, "%d", r->tp);
    add_coverage(t, r);
    add_ttft(t, r, &s, u);
    add_rates(t, r, &s);
    table_add_number(t, s.peak_bytes_rank > 0 ? (double)s.peak_bytes_rank / u->bytes : (double)NAN);
    table_add_number(t, s.sm_clock_mean_mhz);
    table_add_number(t, s.power_w);
    add_ratios(t, r, &s);
    add_verdicts(t, r, &s);
}

/* Columns that would say the same in each row, said once instead. */
static void print_common(FILE *out, const struct table *t, struct table_column *columns) {
    static const struct {
        enum column_number column;
        const char *before, *after;
    } common[] = {{COLUMN_PROMPT, "", " prompt tokens"},
                  {COLUMN_CHUNK, "chunks of ", " tokens"},
                  {COLUMN_MODE, "", " mode"},
                  {COLUMN_TP, "TP ", ""},
                  {COLUMN_COVERAGE, "coverage ", ""}};
    int said = 0;
    for (size_t i = 0; i < sizeof common / sizeof *common; i++) {
        if (!table_same(t, common[i].column)) continue;
        columns[common[i].column].hidden = true;
        fprintf(out, "%s%s%s%s", said++ ? ", " : "all cases: ", common[i].before,
                table_cell(t, 0, common[i].column), common[i].after);
    }
    if (said) fputs("\n", out);
}

/* "GPU NVIDIA H200 at 00000000:07:00.0, driver 580.159.04 (CUDA 13.0), cap 700 W, ..." */
static void print_gpu(FILE *out, const struct gpu_row *row) {
    char cuda[16];
    const struct nvml_gpu *g = &row->gpu;
    fputs("GPU ", out);
    show_text(out, g->name, SIZE_MAX);
    fputs(" at ", out);
    show_text(out, g->bus_id, SIZE_MAX);
    fputs(", driver ", out);
    show_text(out, row->driver, SIZE_MAX);
    fprintf(out, " (CUDA %s)", gpu_cuda_version_text(row->cuda_version, cuda));
    if (isfinite(g->power_limit_w)) fprintf(out, ", cap %.0f W", g->power_limit_w);
    if (g->sm_clock_max_mhz > 0) fprintf(out, ", SM at most %d MHz", g->sm_clock_max_mhz);
    if (g->nvlinks > 0) fprintf(out, ", %d NVLinks", g->nvlinks);
    fputc('\n', out);
}

/* Cases of one dtype and attention kernel share their ceilings. Whether case i is the first with
 * its own. */
static bool brings_rates(const struct record_run *run, int i) {
    const struct device_rates *mine = record_rates(run, &run->cases[i]);
    for (int k = 0; k < i; k++)
        if (memcmp(mine, record_rates(run, &run->cases[k]), sizeof *mine) == 0) return false;
    return true;
}

static bool has_several_rates(const struct record_run *run) {
    for (int i = 1; i < run->n; i++)
        if (brings_rates(run, i)) return true;
    return false;
}

static void print_rates(FILE *out, const struct device_rates *rates) {
    char linear[FORMAT_BYTES], attention[FORMAT_BYTES];
    fprintf(out, "linear %s, attention %s", format_rate(linear, rates->linear_flops, "FLOP/s"),
            format_rate(attention, rates->attention_flops, "FLOP/s"));
}

static void print_kernels_of_rates(FILE *out, const struct case_result *r) {
    fprintf(out, "%s, attention ", r->dtype);
    show_text(out, r->attention, SIZE_MAX);
    fputs(": ", out);
}

/* Behind the machine, or each on a line of its own. */
static void print_all_rates(FILE *out, const struct record_run *run) {
    if (!has_several_rates(run)) {
        fputs("; ", out);
        print_rates(out, run->n > 0 ? record_rates(run, &run->cases[0]) : &run->facts.rates);
    }
    fputc('\n', out);
    for (int i = 0; has_several_rates(run) && i < run->n; i++) {
        if (!brings_rates(run, i)) continue;
        print_kernels_of_rates(out, &run->cases[i]);
        print_rates(out, record_rates(run, &run->cases[i]));
        fputc('\n', out);
    }
}

static void print_head(FILE *out, const struct record_run *run, const char *path, bool color) {
    const struct run_facts *f = &run->facts;
    char memory[FORMAT_BYTES];
    fprintf(out, "%s\n", path);
    if (!run->complete)
        fprintf(out, "%sINCOMPLETE: the run did not get to its end%s\n",
                tone_begin(TONE_BAD, color), tone_end(TONE_BAD, color));
    show_text(out, f->cpu_model, SIZE_MAX);
    fprintf(out, ", %d cores, ", f->cores);
    show_text(out, f->isa, SIZE_MAX);
    fprintf(out, ", %s of memory", format_bytes(memory, f->memory_bytes));
    print_all_rates(out, run);
    for (int i = 0; i < f->n_gpus; i++)
        if (f->gpus[i].used) print_gpu(out, &f->gpus[i]);
    fputc('\n', out);
}

/* "NAME: what it is", of the columns that are there. */
static void explain_columns(FILE *out, const struct table_column *columns) {
    static const struct {
        enum column_number column;
        const char *text;
    } notes[] = {{COLUMN_TTFT, "TTFT: median of the repeats"},
                 {COLUMN_SPREAD, "spread: half of their range"},
                 {COLUMN_PEAK, "peak: accounted, own and shared, of the largest rank"},
                 {COLUMN_POWER, "power: energy of the chunks over their latencies"},
                 {COLUMN_RATIOS, "of plan: measured over predicted"}};
    enum { MOST = 98 };
    size_t column = 0;
    for (size_t i = 0; i < sizeof notes / sizeof *notes; i++) {
        if (columns[notes[i].column].hidden) continue;
        const size_t n = strlen(notes[i].text);
        if (column > 0) fputs(column + n + 2 > MOST ? ";\n" : "; ", out);
        column = column + n + 2 > MOST ? n : column + n + 2;
        fputs(notes[i].text, out);
    }
    fputc('\n', out);
}

/* What a reader of the numbers above must know. */
static void print_notes(FILE *out, const struct record_run *run,
                        const struct table_column *columns) {
    int estimated = 0, spot = 0;
    double worst = 0;
    for (int i = 0; i < run->n; i++) {
        const struct case_result *r = &run->cases[i];
        struct case_summary s;
        result_summary(r, &s);
        spot += s.output == VERDICT_SPOT_OK;
        if (!r->ttft_estimated || r->n_ttft == 0) continue;
        estimated++;
        if (r->ttft_error > worst) worst = r->ttft_error;
    }
    if (estimated)
        fprintf(out,
                "~ estimated from measured chunks at some depths (standard error up to %.2g %%)\n",
                100 * worst);
    if (spot)
        fputs("spot ok: attention recomputed at sampled rows; the answer itself is not known, or\n"
              "was not compared in full\n",
              out);
    explain_columns(out, columns);
}

/* ---- why something was not checked ---- */

struct unchecked {
    const char *what, *reason;
};

/* Of a case that ran; a reason of NULL says that it was checked. */
static struct unchecked output_unchecked(const struct case_result *r) {
    struct case_summary s;
    result_summary(r, &s);
    bool is = r->status == CASE_OK && s.output == VERDICT_NOT_CHECKED;
    return (struct unchecked){"output", is ? show_check_detail(&r->check[CHECK_TOKENS]) : NULL};
}

static struct unchecked invariance_unchecked(const struct case_result *r) {
    const struct check_result *c = &r->check[CHECK_INVARIANCE];
    bool is = r->status == CASE_OK && c->verdict == VERDICT_NOT_CHECKED;
    return (struct unchecked){"invariance", is ? show_check_detail(c) : NULL};
}

/* "invariance not checked (3 cases): REASON", a line for each reason. */
static void print_unchecked(FILE *out, const struct record_run *run,
                            struct unchecked (*of)(const struct case_result *)) {
    for (int i = 0; i < run->n; i++) {
        const struct unchecked u = of(&run->cases[i]);
        int same = 0, before = 0;
        if (!u.reason) continue;
        for (int k = 0; k < run->n; k++) {
            const char *reason = of(&run->cases[k]).reason;
            if (!reason || strcmp(reason, u.reason) != 0) continue;
            same++;
            before += k < i;
        }
        if (before > 0) continue; /* said already */
        fprintf(out, "%s not checked (%d case%s): ", u.what, same, same == 1 ? "" : "s");
        show_text(out, u.reason, SIZE_MAX);
        fputc('\n', out);
    }
}

static void print_reason(FILE *out, const char *id, const char *what, const char *reason,
                         enum tone tone, bool color) {
    fputs(tone_begin(tone, color), out);
    show_text(out, id, SIZE_MAX);
    fprintf(out, ": %s%s: ", what, tone_end(tone, color));
    show_text(out, reason, SIZE_MAX);
    fputc('\n', out);
}

/* Why a case is not simply ok. */
static void print_reasons(FILE *out, const struct record_run *run, bool color) {
    for (int i = 0; i < run->n; i++) {
        const struct case_result *r = &run->cases[i];
        char what[64];
        if (r->status != CASE_OK)
            print_reason(out, r->id, case_status_text(r->status), r->reason,
                         show_status_tone(r->status), color);
        for (int c = 0; c < CHECKS; c++) {
            if (r->check[c].verdict != VERDICT_FAILED) continue;
            snprintf(what, sizeof what, "%s check FAILED", check_name((enum check)c));
            print_reason(out, r->id, what, r->check[c].detail, TONE_BAD, color);
        }
    }
}

static const char *const column_names[COLUMN_COUNT] = {
    [COLUMN_DECODE] = "decode",  [COLUMN_CLOCK] = "SM clock", [COLUMN_POWER] = "power",
    [COLUMN_RATIOS] = "of plan", [COLUMN_PEAK] = "peak",      [COLUMN_SPREAD] = "spread",
};

/* Leaves out what there is no room for, the least needed first, and says which columns these were.
 * The first five are said elsewhere: by the id; coverage by "~" and the output. */
static void fit(FILE *out, const struct table *t, struct table_column *columns, int width) {
    static const int least[] = {COLUMN_PROMPT,   COLUMN_CHUNK,  COLUMN_MODE,  COLUMN_TP,
                                COLUMN_COVERAGE, COLUMN_DECODE, COLUMN_CLOCK, COLUMN_RATIOS,
                                COLUMN_PEAK,     COLUMN_POWER,  COLUMN_SPREAD};
    enum { SAID_ELSEWHERE = 5, LEAST = sizeof least / sizeof *least };
    bool were_hidden[COLUMN_COUNT];
    for (int i = 0; i < COLUMN_COUNT; i++) were_hidden[i] = columns[i].hidden;
    if (width <= 0) return;
    const int n = table_fit(t, columns, least, LEAST, width);
    int said = 0;
    for (int i = SAID_ELSEWHERE; i < n; i++)
        if (!were_hidden[least[i]])
            fprintf(out, "%s%s", said++ ? ", " : "no room for: ", column_names[least[i]]);
    if (said) fputs(" (a wider screen, --case ID and --csv have them)\n", out);
}

static void hide_empty(struct table_column *columns, const struct table *t, int column) {
    for (int i = 0; i < table_rows(t); i++)
        if (strcmp(table_cell(t, i, column), "-") != 0) return;
    columns[column].hidden = true;
}

void show_table(FILE *out, const struct record_run *run, const char *path,
                const struct show_style *style) {
    struct units u = choose_units(run);
    struct table_column columns[COLUMN_COUNT] = {
        [COLUMN_CASE] = {"case", "", true, false},
        [COLUMN_PROMPT] = {"prompt", "tokens", false, false},
        [COLUMN_CHUNK] = {"chunk", "tokens", false, false},
        [COLUMN_MODE] = {"mode", "", true, false},
        [COLUMN_TP] = {"TP", "", false, false},
        [COLUMN_COVERAGE] = {"coverage", "", true, false},
        [COLUMN_TTFT] = {"TTFT", u.time, false, false},
        [COLUMN_SPREAD] = {"spread", "+- %", false, false},
        [COLUMN_PREFILL] = {"prefill", "tok/s", false, false},
        [COLUMN_DECODE] = {"decode", "tok/s", false, false},
        [COLUMN_PEAK] = {"peak/rank", u.memory, false, false},
        [COLUMN_CLOCK] = {"SM clock", "MHz", false, false},
        [COLUMN_POWER] = {"power", "W", false, false},
        [COLUMN_RATIOS] = {"of plan", "time/mem", false, false},
        [COLUMN_OUTPUT] = {"output", "", true, false},
        [COLUMN_INVARIANCE] = {"invariance", "", true, false},
    };
    print_head(out, run, path, style->color);
    if (run->n == 0) {
        fputs("no cases\n", out);
        return;
    }
    struct table *t = table_open(columns, COLUMN_COUNT);
    for (int i = 0; i < run->n; i++) add_case(t, &run->cases[i], &u);
    if (t) {
        print_common(out, t, columns);
        hide_empty(columns, t, COLUMN_SPREAD);
        hide_empty(columns, t, COLUMN_DECODE);
        hide_empty(columns, t, COLUMN_CLOCK);
        hide_empty(columns, t, COLUMN_POWER);
        fit(out, t, columns, style->width);
    }
    table_print(out, t, "", 0, style->color);
    table_close(t);
    print_notes(out, run, columns);
    print_unchecked(out, run, output_unchecked);
    print_unchecked(out, run, invariance_unchecked);
    print_reasons(out, run, style->color);
    fputs("chunks, memory, checks of a case, and where its time went: bench show FILE --case ID\n",
          out);
}

static void print_fact(FILE *out, const char *name, const char *text) {
    fprintf(out, "%-11s", name);
    show_text(out, text, SIZE_MAX);
    fputc('\n', out);
}

/* kernels: the case whose they are, or NULL: those of all cases. */
static void print_ceilings(FILE *out, const struct device_rates *m,
                           const struct case_result *kernels) {
    char a[FORMAT_BYTES], b[FORMAT_BYTES], c[FORMAT_BYTES];
    fprintf(out, "%-11s", "ceilings");
    if (kernels) print_kernels_of_rates(out, kernels);
    print_rates(out, m);
    fprintf(out, ", registers %s, copy %s, an op at least %s\n",
            format_rate(a, m->roof_flops, "FLOP/s"), format_rate(b, m->copy_bytes, "B/s"),
            format_seconds(c, m->op_overhead_ns / 1e9));
}

static const char *mode_text(int32_t mode) {
    return mode < 0 ? "unknown" : mode ? "on" : "off";
}

static void gpu_text(const struct gpu_row *row, char *out, size_t size) {
    const struct nvml_gpu *g = &row->gpu;
    char memory[FORMAT_BYTES], used[FORMAT_BYTES];
    snprintf(out, size,
             "%s, %s, %s, %s of memory, %s in use, clocks up to %d and %d MHz, cap %.0f W, PCIe "
             "%d x%d, %d NVLinks, persistence %s, MIG %s, ECC %s%s",
             g->name, g->uuid, g->bus_id, format_bytes(memory, g->memory_bytes),
             format_bytes(used, g->memory_used_bytes), g->sm_clock_max_mhz, g->memory_clock_max_mhz,
             g->power_limit_w, g->pcie_generation, g->pcie_width, g->nvlinks,
             mode_text(g->persistence), mode_text(g->mig), mode_text(g->ecc),
             row->visible ? "" : ", hidden by CUDA_VISIBLE_DEVICES");
}

void show_facts(FILE *out, const struct record_run *run) {
    const struct run_facts *f = &run->facts;
    char text[1024], a[FORMAT_BYTES], b[FORMAT_BYTES];
    fputc('\n', out);
    print_fact(out, "command", f->argv);
    snprintf(text, sizeof text, "%s by bench %s", f->created_utc, f->tool_version);
    print_fact(out, "made", text);
    snprintf(text, sizeof text, "%s%s", f->git_commit, f->git_dirty ? ", with changes" : "");
    print_fact(out, "commit", text);
    print_fact(out, "binary", f->binary_sha256);
    print_fact(out, "libraries", f->libraries);
    snprintf(text, sizeof text, "%s, %s, governor %s, %d NUMA nodes", f->hostname, f->kernel,
             f->governor, f->numa_nodes);
    print_fact(out, "host", text);
    snprintf(text, sizeof text, "%s, %s, %d threads, %s of memory, %s free when planned",
             f->device.name, f->device.isa, f->device.threads,
             format_bytes(a, f->device.memory_bytes), format_bytes(b, f->device.available_bytes));
    print_fact(out, "device", text);
    for (int i = 0; i < f->n_gpus; i++) {
        gpu_text(&f->gpus[i], text, sizeof text);
        print_fact(out, f->gpus[i].used ? "GPU, used" : "GPU", text);
    }
    const bool several = has_several_rates(run);
    if (run->n == 0) print_ceilings(out, &f->rates, NULL);
    for (int i = 0; i < run->n; i++)
        if (brings_rates(run, i))
            print_ceilings(out, record_rates(run, &run->cases[i]), several ? &run->cases[i] : NULL);
    text[0] = 0;
    for (int i = 0; i < OPS; i++) {
        size_t used = strlen(text);
        if (f->device.variant[i] && f->device.variant[i][0])
            snprintf(text + used, sizeof text - used, "%s:%s ", op_name((enum op)i),
                     f->device.variant[i]);
    }
    print_fact(out, "kernels", text);
    print_fact(out, "config", f->config_sha256);
    fputc('\n', out);
    show_text(out, f->config_text, SIZE_MAX);
    fputc('\n', out);
}

/* Length of the printable UTF-8 sequence at p, or 0: control characters, the C1 set, broken bytes.
 */
static size_t printable(const unsigned char *p) {
    if (p[0] == '\n' || p[0] == '\t' || (p[0] >= 0x20 && p[0] < 0x7f)) return 1;
    size_t n = p[0] >= 0xf0 && p[0] < 0xf5 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] >= 0xf5 || (p[0] == 0xc2 && p[1] < 0xa0)) return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    return n;
}

void show_text(FILE *out, const char *text, size_t most) {
    const unsigned char *p = (const unsigned char *)text;
    while (*p && most > 0) {
        size_t n = printable(p);
        if (n)
            fwrite(p, 1, n, out);
        else
            fprintf(out, "\\x%02x", *p);
        p += n ? n : 1;
        most--;
    }
    if (*p) fputs("...", out);
}
