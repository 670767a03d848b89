/* THE table of configuration keys, and the little that is done with its rows: parse a value, print
 * it, say what is allowed, suggest a key, generate the reference page. config.c feeds it from the
 * file and from --set; a new key is one row here, one field in config.h, one use. */
#include "harness/options.h"

#include "harness/suggest.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define AT(field) offsetof(struct config, field), sizeof(((struct config *)0)->field)
#define TOKENS_MAX (1 << 30)

/* section, key, type, place, least, most, choices, default, help, other names people try */
static const struct option options[] = {
    {"model", "path", OPTION_TEXT, AT(model_path), 1, 0, NULL, "auto",
     "Model: `needle` (embedded, knows the right answer), `random:PRESET` (real shapes, seeded "
     "random weights); `bench list models` shows the names. A folder with a checkpoint is not read "
     "by this version. `auto`: "
     "`path_gpu` where there is a GPU, `needle` elsewhere.",
     "model|model_path|name"},
    {"model", "path_gpu", OPTION_TEXT, AT(model_gpu), 1, 0, NULL, "random:qwen2.5-7b-1m",
     "What `path = auto` means on a machine with a GPU.", NULL},
    {"model", "seed", OPTION_INT, AT(model_seed), 0, 9e15, NULL, "0", "Seed of random weights.",
     NULL},
    {"model", "dtype", AXIS_CHOICE, AT(dtype), 0, 0, "bfloat16|float32", "bfloat16",
     "Element type of weights, cache and activations. `float32` is the reference mode.", NULL},
    {"model", "max_model_len", OPTION_INT, AT(max_model_len), 0, TOKENS_MAX, NULL, "0",
     "Most tokens of prompt and answer together; 0: the model's `max_position_embeddings`.",
     "max_seq_len|context_length"},
    {"model", "allow_long_max_model_len", OPTION_BOOL, AT(allow_long_max_model_len), 0, 0, NULL,
     "false",
     "Allows `max_model_len` above the model's `max_position_embeddings`. The environment "
     "variables "
     "`BENCH_ALLOW_LONG_MAX_MODEL_LEN=1` and `VLLM_ALLOW_LONG_MAX_MODEL_LEN=1` do the same.",
     NULL},

    {"engine", "device", OPTION_CHOICE, AT(device), 0, 0, "auto|cpu|cuda", "auto",
     "Where the engine runs. `auto`: a GPU if there is one, else the CPU, and the plan says which. "
     "A GPU that is there and does not work is an error; `cpu` does without it.",
     NULL},
    {"engine", "tensor_parallel_size", AXIS_INT, AT(tensor_parallel_size), 1, MAX_RANKS, NULL, "1",
     "Ranks that the model is split over.", "tp|tensor_parallel|tp_size"},
    {"engine", "devices", OPTION_INT, AT(devices), 0, MAX_RANKS, NULL, "0",
     "GPUs that the ranks are spread over, equally many on each: a divisor of "
     "`tensor_parallel_size`. 0: as many as there are, at most one a rank. On the CPU, where 0 is "
     "1, each takes its share of the threads.",
     "num_devices|gpus|num_gpus"},
    {"engine", "launcher", OPTION_TEXT, AT(launcher), 0, 0, NULL, "",
     "A command that starts the worker, such as `mpirun -n 2`: as one process for each of "
     "`devices`, all on one host, instead of a thread for each. Each learns its place from "
     "`OMPI_COMM_WORLD_*`, `PMI_*`, `SLURM_*`, or from `BENCH_PROCESS`, `BENCH_PROCESSES` and "
     "`BENCH_LOCAL_PROCESS`. What starts one process (`numactl ...`) is welcome, too.",
     "launch|prefix|mpirun"},
    {"engine", "max_num_batched_tokens", AXIS_INT, AT(max_num_batched_tokens), 1, TOKENS_MAX, NULL,
     "8192", "The chunk size: prompt tokens per prefill step.",
     "chunk_size|chunk|chunk_tokens|max_batched_tokens"},
    {"engine", "enforce_eager", AXIS_BOOL, AT(enforce_eager), 0, 0, NULL, "false",
     "true: every op is issued one by one; false: the step is recorded once and replayed.",
     "eager|graph|mode"},
    {"engine", "enable_chunked_prefill", OPTION_BOOL, AT(enable_chunked_prefill), 0, 0, NULL,
     "true", "false: the whole prompt is one chunk.", "chunked_prefill"},
    {"engine", "attention_backend", AXIS_TEXT, AT(attention_backend), 1, 0, NULL, "auto",
     "Attention kernel, a name of `bench list kernels`; `auto`: the best that runs here.",
     "attention"},
    {"engine", "linear_backend", OPTION_TEXT, AT(linear_backend), 1, 0, NULL, "auto",
     "Kernel of the linears, a name of `bench list kernels`.", "linear"},
    {"engine", "exchange_backend", OPTION_TEXT, AT(exchange_backend), 1, 0, NULL, "auto",
     "What moves parts of sums between devices, a name of `bench list kernels`; `auto`: stores "
     "into each other's memory (`peer`) where GPUs reach it, else NCCL. `copy` leaves it to the "
     "GPUs' copy engines, which take no multiprocessor from the ops beside. Devices of the CPU "
     "have `ref` where they are threads, `shared` where they are processes. The bits are the same, "
     "but for `nccl_sum`: NCCL sums, too, by its rings and trees and in their order.",
     "exchange|comm|all_reduce"},
    {"engine", "exchange_overlap", OPTION_CHOICE, AT(exchange_overlap), 0, 0, "auto|true|false",
     "auto",
     "Whether devices exchange the parts of one block of rows (`block_rows`) while they compute "
     "the "
     "next; `auto`: GPUs do, where a chunk has several blocks. The bits are the same.",
     "overlap"},
    {"engine", "dual_chunk_attention", OPTION_BOOL, AT(dual_chunk_attention), 0, 0, NULL, "true",
     "Dual chunk attention where the model's configuration has it; false: plain attention.", "dca"},
    {"engine", "prune_last_layer", OPTION_BOOL, AT(prune_last_layer), 0, 0, NULL, "true",
     "The last layer computes only keys and values except for the last token: the same answer, bit "
     "for bit, for less work.",
     NULL},
    {"engine", "block_rows", OPTION_INT, AT(block_rows), 1, TOKENS_MAX, NULL, "8192",
     "Rows of the MLP and of o_proj worked on at a time: bounds the activations.", NULL},
    {"engine", "threads", OPTION_INT, AT(threads), 0, 4096, NULL, "0",
     "CPU threads; 0: all cores that this process may run on.", "num_threads|cores"},
    {"engine", "isa", OPTION_CHOICE, AT(isa), 0, 0, "auto|none|avx2|avx512|avx512_bf16|amx_bf16",
     "auto", "Highest CPU instruction set to use.", NULL},

    {"prompt", "source", AXIS_TEXT, AT(prompt), 1, 0, NULL, "needle:8k",
     "What is prefilled: `needle:LENGTH` (text with planted answers; `needle:64k@10%+50%+90%` "
     "plants them at these depths), `random:LENGTH` (seeded random ids), `file:PATH` "
     "(UTF-8 text; a relative path begins where `bench` runs), `url:URL` (a text by http or "
     "https), or one of the published test prompts of Qwen2.5-1M: `qwen:64k`, `qwen:200k`, "
     "`qwen:600k`, `qwen:1m`, named by their tokens of that model. What comes from the web is "
     "fetched once and kept; `bench fetch` lists it. Of a text each byte is a token. A comma "
     "separates prompts, so a path or an address cannot contain one (`%2C` in an address).",
     "prompt|prompts|length|lengths|prompt_tokens|url|prompt_url"},
    {"prompt", "seed", OPTION_INT, AT(prompt_seed), 0, 9e15, NULL, "0",
     "Seed of needle and random prompts.", NULL},
    {"prompt", "timeout_s", OPTION_REAL, AT(prompt_timeout_s), 0.01, 3600, NULL, "5",
     "Fetching a prompt: seconds to connect, and seconds in which next to nothing (200 bytes a "
     "second) comes, before it is tried again.",
     NULL},
    {"prompt", "retries", OPTION_INT, AT(prompt_retries), 0, 100, NULL, "3",
     "Fetching a prompt: tries after the first one that fails; each goes on where the last one "
     "ended.",
     NULL},
    {"prompt", "max_bytes", OPTION_INT, AT(prompt_max_bytes), 1, 1 << 30, NULL, "64m",
     "Fetching a prompt: a longer text is refused.", NULL},

    {"sampling", "temperature", OPTION_REAL, AT(temperature), 0, 100, NULL, "0",
     "0: greedy, the most likely token.", NULL},
    {"sampling", "top_p", OPTION_REAL, AT(top_p), 1e-6, 1, NULL, "1",
     "Keeps the most likely tokens that together reach this probability.", NULL},
    {"sampling", "top_k", OPTION_INT, AT(top_k), -1, 1 << 20, NULL, "-1",
     "Keeps the k most likely tokens; 0 or -1: all.", NULL},
    {"sampling", "repetition_penalty", OPTION_REAL, AT(repetition_penalty), 1e-3, 100, NULL, "1",
     "Above 1: tokens of the prompt and of the answer so far become less likely.", NULL},
    {"sampling", "max_tokens", OPTION_INT, AT(max_tokens), 1, 1 << 20, NULL, "32",
     "Generated tokens at most; an end token of the model stops earlier.", "max_new_tokens"},
    {"sampling", "seed", OPTION_INT, AT(sampling_seed), 0, 9e15, NULL, "0",
     "Seed of the draws: the same text in every mode and chunk size.", NULL},

    {"run", "repeats", OPTION_INT, AT(repeats), 1, 1000, NULL, "3",
     "Measured prefills of each case.", "iterations|num_iters"},
    {"run", "warmup", OPTION_INT, AT(warmup), 0, 100, NULL, "1",
     "Prefills before them that are discarded.", "num_iters_warmup"},
    {"run", "coverage", OPTION_COVERAGE, AT(coverage), SAMPLE_LEAST, 1024, NULL, "auto:5",
     "`full`: every chunk runs. `sample:K`: K chunks spread over the prompt run against a "
     "synthetic "
     "cache, and the time to first token is an estimate with its error, which needs three. "
     "`auto:K`: as much as `time_budget` allows: first every case three chunks, the cheapest "
     "first, "
     "then K, then all; else skipped (`auto` is `auto:5`).",
     NULL},
    {"run", "time_budget", OPTION_SECONDS, AT(time_budget_s), 0, 1e9, NULL, "30m",
     "How long a run may take, from its plan to its last case; 0: no limit. The plan decides by "
     "its predictions, with a tenth in reserve; where these were wrong, cases run fewer repeats "
     "(one that the end cuts counts for nothing), or do not begin, or end after the chunk in "
     "flight.",
     "budget|timeout"},
    {"run", "watchdog", OPTION_SECONDS, AT(watchdog_s), 1, 1e6, NULL, "2m",
     "A worker whose kernels make no progress for so long is killed.", NULL},
    {"run", "output", OPTION_TEXT, AT(output), 0, 0, NULL, "",
     "Result file; empty: `results/raw/NAME-TIME.h5`.", "result|out"},
    {"run", "spans", OPTION_CHOICE, AT(spans), 0, 0, "auto|all|none", "auto",
     "Every op's begin and end, for the table of where the time went. Measured repeats are never "
     "recorded. `auto`: a few chunks of the last warm-up pass, which costs nothing; where there is "
     "none (or it warms up a CUDA graph), the last chunk once more, if that takes at most a "
     "twentieth of the measured time. `all`: every chunk, in a pass of its own.",
     "trace|profile"},

    {"trace", "nvtx", OPTION_CHOICE, AT(nvtx), 0, 0, "off|case|chunk|op", "op",
     "Ranges for profilers that read NVTX, such as Nsight Systems: up to the passes of a case, its "
     "chunks and generated tokens, or its layers and ops. Nothing where no profiler is attached.",
     NULL},
    {"trace", "profile_chunk", OPTION_TEXT, AT(profile_chunk), 1, 0, NULL, "none",
     "Chunk of every case that a profiler is to capture, in the first measured repeat: `none`, "
     "`last`, or a number from 0 (where sampled coverage leaves it out, the next that runs; past "
     "the end of a case its last): "
     "between `cudaProfilerStart` and `cudaProfilerStop` on a GPU, and in an NVTX range `profile`.",
     NULL},
    {"trace", "cupti", OPTION_TEXT, AT(cupti), 1, 0, NULL, "none",
     "Chunks of every case whose GPU kernels CUPTI records, each with the op that it belongs to: "
     "`none`, `last`, `spread` (five over the prompt), `all`, or the number of one from 0 (past "
     "the end of a case its last). They run once more after all cases, in worker processes of "
     "their own (CUPTI leaves costs behind), "
     "against a synthetic cache: the model is loaded again, nothing else. Where CUPTI cannot be "
     "had, the result says why.",
     "kernels|activity"},
    {"trace", "counters", OPTION_BOOL, AT(counters), 0, 0, NULL, "false",
     "Cycles, instructions and cache misses of every op that has a span, summed over the threads "
     "of "
     "a CPU (perf_event_open, user space alone): two system calls a thread and op, in chunks that "
     "nobody measures. Where they cannot be read, the result says why.",
     "perf|pmu|ipc"},

    {"check", "spot", OPTION_INT, AT(spot), 0, 4096, NULL, "16",
     "Attention outputs (layer, rank, head, row) of each case that are recomputed in float64; 0: "
     "none.",
     NULL},
    {"check", "invariance", OPTION_BOOL, AT(invariance), 0, 0, NULL, "true",
     "Cases that differ only in chunk size and mode must give the same bits.", NULL},
    {"check", "truth", OPTION_BOOL, AT(truth), 0, 0, NULL, "true",
     "The answer and its logits against the known ones, where the model knows them (`needle`).",
     NULL},
};
enum { OPTIONS = sizeof options / sizeof options[0] };
_Static_assert((int)OPTIONS <= (int)OPTIONS_MAX,
               "struct config has a place for every option's origin");

const struct option *option_table(int *n) {
    *n = OPTIONS;
    return options;
}

int option_find(const char *section, const char *key) {
    for (int i = 0; i < OPTIONS; i++)
        if (!strcmp(options[i].section, section) && !strcmp(options[i].key, key)) return i;
    return -1;
}

static bool is_axis(const struct option *o) {
    return o->type >= AXIS_INT;
}

static void *place(const struct option *o, struct config *c) {
    return (char *)c + o->offset;
}
static const void *place_const(const struct option *o, const struct config *c) {
    return (const char *)c + o->offset;
}

/* ---- one value from text */

/* Digits with one unit letter; factor_of gives the letter's factor, 0 if it is none. */
static bool parse_scaled(const char *text, int64_t (*factor_of)(int letter), int64_t *out) {
    const bool negative = *text == '-';
    if (negative) text++;
    if (!isdigit((unsigned char)*text)) return false;
    int64_t value = 0, factor = 1;
    for (; isdigit((unsigned char)*text); text++)
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, *text - '0', &value))
            return false;
    if (*text) {
        factor = factor_of(tolower((unsigned char)*text));
        if (!factor || text[1]) return false;
    }
    if (__builtin_mul_overflow(value, factor, &value)) return false;
    *out = negative ? -value : value;
    return true;
}

static int64_t token_factor(int letter) {
    return letter == 'k' ? 1024 : letter == 'm' ? 1024 * 1024 : 0;
}
static int64_t second_factor(int letter) {
    return letter == 's' ? 1 : letter == 'm' ? 60 : letter == 'h' ? 3600 : 0;
}

bool parse_tokens(const char *text, int64_t *out) {
    return *text != '-' && parse_scaled(text, token_factor, out);
}

static bool parse_whole(const struct option *o, const char *text, int64_t *out) {
    int64_t value;
    if (!parse_scaled(text, o->type == OPTION_SECONDS ? second_factor : token_factor, &value))
        return false;
    if ((double)value < o->least || (double)value > o->most) return false;
    *out = value;
    return true;
}

static bool parse_real(const struct option *o, const char *text, double *out) {
    char *end;
    if (!isdigit((unsigned char)*text) && *text != '.' && *text != '-') return false;
    if (strpbrk(text, "xX")) return false; /* strtod reads hexadecimal too */
    errno = 0;
    const double value = strtod(text, &end);
    if (end == text || *end || errno || !isfinite(value)) return false;
    if (value < o->least || value > o->most) return false;
    *out = value;
    return true;
}

static bool parse_bool(const char *text, bool *out) {
    *out = !strcmp(text, "true");
    return *out || !strcmp(text, "false");
}

static bool is_choice(const char *choices, const char *text) {
    const size_t n = strlen(text);
    if (!n) return false;
    for (const char *c = choices; c; c = strchr(c, '|') ? strchr(c, '|') + 1 : NULL)
        if (!strncmp(c, text, n) && (c[n] == '|' || !c[n])) return true;
    return false;
}

/* Text that a file can say again: no control characters, nothing that would read as a comment or as
 * a continued line. */
static bool is_plain_text(const char *text) {
    const size_t n = strlen(text);
    if (n && (isspace((unsigned char)text[0]) || isspace((unsigned char)text[n - 1]))) return false;
    if (n && text[n - 1] == '\\') return false;
    for (size_t i = 0; i < n; i++) {
        const unsigned char c = (unsigned char)text[i];
        if (c < 0x20 || c == 0x7f) return false;
        if ((c == ';' || c == '#') && (i == 0 || text[i - 1] == ' ')) return false;
    }
    return true;
}

static bool parse_text(const struct option *o, const char *text, size_t size, char *out) {
    const size_t n = strlen(text);
    if (n >= size || (!n && o->least > 0) || !is_plain_text(text)) return false;
    memset(out, 0, size);
    memcpy(out, text, n);
    return true;
}

/* "full", "auto", "auto:K", "sample:K" */
static bool parse_coverage(const struct option *o, const char *text, struct config *c) {
    static const struct {
        const char *name;
        enum coverage_kind kind;
        int64_t k; /* without a number */
        bool number_allowed;
    } forms[] = {{"full", COVERAGE_FULL, 0, false},
                 {"auto", COVERAGE_AUTO, 5, true},
                 {"sample", COVERAGE_SAMPLE, -1, true}};
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        const size_t n = strlen(forms[i].name);
        if (strncmp(text, forms[i].name, n) != 0) continue;
        int64_t k = forms[i].k;
        if (text[n]) {
            if (text[n] != ':' || !forms[i].number_allowed) return false;
            if (!parse_tokens(text + n + 1, &k)) return false;
            if ((double)k < o->least || (double)k > o->most) return false;
        }
        if (k < 0) return false;
        c->coverage = forms[i].kind;
        c->sample_chunks = k;
        return true;
    }
    return false;
}

/* ---- axes: "a, b, c", and "a..b*2", "a..b+n" among them */

static const char *found_quoted(char *found, const char *text) {
    snprintf(found, 300, *text ? "\"%.280s\"" : "nothing", text);
    return found;
}

static bool axis_add_int(struct int_axis *a, int64_t v, char *found) {
    for (int i = 0; i < a->n; i++)
        if (a->v[i] == v) return snprintf(found, 300, "%" PRId64 " twice", v), false;
    if (a->n == AXIS_MAX) return snprintf(found, 300, "more than %d values", AXIS_MAX), false;
    a->v[a->n++] = v;
    return true;
}

static bool axis_add_text(struct text_axis *a, const char *v, char *found) {
    for (int i = 0; i < a->n; i++)
        if (!strcmp(a->v[i], v)) return snprintf(found, 300, "\"%.250s\" twice", v), false;
    if (a->n == AXIS_MAX) return snprintf(found, 300, "more than %d values", AXIS_MAX), false;
    memcpy(a->v[a->n++], v, strlen(v) + 1);
    return true;
}

/* item is "FIRST..LAST*F" or "FIRST..LAST+N" */
static bool axis_add_range(const struct option *o, const char *item, struct int_axis *a,
                           char *found) {
    char text[NAME_MAX_BYTES];
    snprintf(text, sizeof text, "%s", item);
    char *last_text = strstr(text, "..");
    *last_text = 0;
    last_text += 2;
    char *step_text = last_text + strcspn(last_text, "*+");
    const char how = *step_text;
    *step_text = 0;
    int64_t first, last, step;
    if (!how || !parse_whole(o, text, &first) || !parse_whole(o, last_text, &last) ||
        !parse_tokens(step_text + 1, &step) || first > last || step < (how == '*' ? 2 : 1) ||
        (how == '*' && first < 1))
        return found_quoted(found, item), false;
    for (int64_t v = first; v <= last;) {
        if (!axis_add_int(a, v, found)) return false;
        if (how == '*' ? __builtin_mul_overflow(v, step, &v) : __builtin_add_overflow(v, step, &v))
            break;
    }
    return true;
}

static bool axis_add(const struct option *o, const char *item, struct int_axis *numbers,
                     struct text_axis *texts, char *found) {
    bool flag;
    int64_t whole;
    char text[NAME_MAX_BYTES];
    found_quoted(found, item);
    switch (o->type) {
    case AXIS_INT:
        if (strstr(item, "..")) return axis_add_range(o, item, numbers, found);
        return parse_whole(o, item, &whole) && axis_add_int(numbers, whole, found);
    case AXIS_BOOL:
        if (!parse_bool(item, &flag)) return false;
        if (axis_add_int(numbers, flag, found)) return true;
        return snprintf(found, 300, "%s twice", item), false;
    case AXIS_CHOICE: return is_choice(o->choices, item) && axis_add_text(texts, item, found);
    default: return parse_text(o, item, sizeof text, text) && axis_add_text(texts, text, found);
    }
}

static bool parse_axis(const struct option *o, const char *list, struct config *c, char *found) {
    struct int_axis numbers = {0};
    struct text_axis *texts = calloc(1, sizeof *texts);
    bool ok = texts != NULL;
    if (!ok) snprintf(found, 300, "no memory");
    for (const char *item = list; ok && item;) {
        const char *comma = strchr(item, ',');
        const char *end = comma ? comma : item + strlen(item);
        while (item < end && isspace((unsigned char)*item)) item++;
        while (end > item && isspace((unsigned char)end[-1])) end--;
        char text[NAME_MAX_BYTES];
        const size_t n = (size_t)(end - item);
        if (n == 0) {
            snprintf(found, 300, *list ? "an empty place in the list \"%.200s\"" : "nothing", list);
            ok = false;
        } else if (n >= sizeof text) {
            snprintf(found, 300, "a value of %zu bytes", n);
            ok = false;
        } else {
            memcpy(text, item, n);
            text[n] = 0;
            ok = axis_add(o, text, &numbers, texts, found);
        }
        item = comma ? comma + 1 : NULL;
    }
    if (ok) {
        const bool number = o->type == AXIS_INT || o->type == AXIS_BOOL;
        memcpy(place(o, c), number ? (const void *)&numbers : (const void *)texts, o->size);
    }
    free(texts);
    return ok;
}

bool option_parse(const struct option *o, const char *text, struct config *c, char *found) {
    void *at = place(o, c);
    found_quoted(found, text);
    switch (o->type) {
    case OPTION_INT:
    case OPTION_SECONDS: return parse_whole(o, text, at);
    case OPTION_BOOL: {
        bool value;
        if (!parse_bool(text, &value)) return false;
        *(bool *)at = value;
        return true;
    }
    case OPTION_REAL: return parse_real(o, text, at);
    case OPTION_CHOICE: return is_choice(o->choices, text) && parse_text(o, text, o->size, at);
    case OPTION_TEXT:
        if (strlen(text) >= o->size) snprintf(found, 300, "a text of %zu bytes", strlen(text));
        return parse_text(o, text, o->size, at);
    case OPTION_COVERAGE: return parse_coverage(o, text, c);
    default: return parse_axis(o, text, c, found);
    }
}

/* ---- what is allowed, and what is there */

/* "auto|cpu|cuda" as "auto, cpu or cuda" */
static void join_choices(const char *choices, char *out, size_t size) {
    size_t used = 0;
    for (const char *c = choices; c;) {
        const char *bar = strchr(c, '|');
        const int n = bar ? (int)(bar - c) : (int)strlen(c);
        const char *separator = c == choices ? "" : bar ? ", " : " or ";
        const int added = snprintf(out + used, size - used, "%s%.*s", separator, n, c);
        used += added > 0 && (size_t)added < size - used ? (size_t)added : 0;
        c = bar ? bar + 1 : NULL;
    }
}

static void print_limit(double limit, char out[40]) {
    snprintf(out, 40, fabs(limit) < 1e15 && limit == floor(limit) ? "%.0f" : "%g", limit);
}

void option_expected(const struct option *o, char *out) {
    char least[40], most[40], choices[200] = "";
    print_limit(o->least, least);
    print_limit(o->most, most);
    if (o->choices) join_choices(o->choices, choices, sizeof choices);
    const char *axis = is_axis(o) ? ", or a list of different values" : "";
    switch (o->type) {
    case OPTION_INT:
        snprintf(out, 300, "a whole number from %s to %s (64k, 1m)", least, most);
        break;
    case OPTION_SECONDS:
        snprintf(out, 300, "a time from %s to %s seconds (90, 90s, 30m, 2h)", least, most);
        break;
    case OPTION_BOOL: snprintf(out, 300, "true or false"); break;
    case OPTION_REAL: snprintf(out, 300, "a number from %s to %s", least, most); break;
    case OPTION_CHOICE: snprintf(out, 300, "%s", choices); break;
    case OPTION_TEXT:
        snprintf(out, 300, "%s%zu bytes at most, without \" ;\", \" #\" or a \\ at the end",
                 o->least > 0 ? "a text, " : "nothing or a text, ", o->size - 1);
        break;
    case OPTION_COVERAGE:
        snprintf(out, 300, "full, auto, auto:K or sample:K with K from %s to %s", least, most);
        break;
    case AXIS_INT:
        snprintf(out, 300,
                 "a whole number from %s to %s (64k, 1m)%s (1, 2, 4 or 1..8*2 or 1k..8k+1k)", least,
                 most, axis);
        break;
    case AXIS_BOOL: snprintf(out, 300, "true or false, or both (true, false)"); break;
    case AXIS_CHOICE: snprintf(out, 300, "%s%s", choices, axis); break;
    case AXIS_TEXT: snprintf(out, 300, "a text%s (a, b, c)", axis); break;
    }
}

/* Fewest digits that read back as the same number. */
static void print_real(double value, FILE *out) {
    char text[40];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    fputs(text, out);
}

static void print_axis(const struct option *o, const void *at, FILE *out) {
    if (o->type == AXIS_INT || o->type == AXIS_BOOL) {
        const struct int_axis *a = at;
        for (int i = 0; i < a->n; i++)
            if (o->type == AXIS_BOOL)
                fprintf(out, "%s%s", i ? ", " : "", a->v[i] ? "true" : "false");
            else
                fprintf(out, "%s%" PRId64, i ? ", " : "", a->v[i]);
    } else {
        const struct text_axis *a = at;
        for (int i = 0; i < a->n; i++) fprintf(out, "%s%s", i ? ", " : "", a->v[i]);
    }
}

void option_print(const struct option *o, const struct config *c, FILE *out) {
    const void *at = place_const(o, c);
    switch (o->type) {
    case OPTION_INT:
    case OPTION_SECONDS: fprintf(out, "%" PRId64, *(const int64_t *)at); break;
    case OPTION_BOOL: fputs(*(const bool *)at ? "true" : "false", out); break;
    case OPTION_REAL: print_real(*(const double *)at, out); break;
    case OPTION_CHOICE:
    case OPTION_TEXT: fputs(at, out); break;
    case OPTION_COVERAGE:
        if (c->coverage == COVERAGE_FULL)
            fputs("full", out);
        else
            fprintf(out, "%s:%" PRId64, c->coverage == COVERAGE_AUTO ? "auto" : "sample",
                    c->sample_chunks);
        break;
    default: print_axis(o, at, out);
    }
}

/* ---- suggestions */

static bool section_exists(const char *section) {
    for (int i = 0; i < OPTIONS; i++)
        if (!strcmp(options[i].section, section)) return true;
    return false;
}

/* Row whose key people call `key`, best in the same section, or -1. */
static int find_also(const char *section, const char *key) {
    int found = -1;
    for (int i = 0; i < OPTIONS; i++) {
        if (!options[i].also || !is_choice(options[i].also, key)) continue;
        if (!strcmp(options[i].section, section)) return i;
        if (found < 0) found = i;
    }
    return found;
}

static int find_nearest(const char *section, const char *key) {
    const char *names[OPTIONS];
    int rows[OPTIONS], n = 0;
    for (int i = 0; i < OPTIONS; i++) /* the section's own keys first: they win ties */
        if (!strcmp(options[i].section, section)) names[n] = options[i].key, rows[n++] = i;
    for (int i = 0; i < OPTIONS; i++)
        if (strcmp(options[i].section, section) != 0) names[n] = options[i].key, rows[n++] = i;
    const int best = suggest_nearest(key, names, n);
    return best < 0 ? -1 : rows[best];
}

static void list_sections(char *out, size_t size) {
    size_t used = 0;
    for (int i = 0; i < OPTIONS && used < size; i++)
        if (!i || strcmp(options[i].section, options[i - 1].section) != 0) {
            const int added =
                snprintf(out + used, size - used, "%s[%s]", i ? ", " : "", options[i].section);
            used += added > 0 ? (size_t)added : 0;
        }
}

int option_suggest(const char *section, const char *key, char *out) {
    if (!section_exists(section)) {
        char all[200];
        list_sections(all, sizeof all);
        const char *names[OPTIONS];
        for (int i = 0; i < OPTIONS; i++) names[i] = options[i].section;
        const int near = suggest_nearest(section, names, OPTIONS);
        if (near >= 0)
            snprintf(out, 400, "[%s] (there are %s)", names[near], all);
        else
            snprintf(out, 400, "one of %s", all);
        return near < 0 ? -1 : option_find(names[near], key);
    }
    for (int i = 0; i < OPTIONS; i++)
        if (!strcmp(options[i].key, key)) {
            snprintf(out, 400, "a key of [%s]: %s belongs in [%s]", section, key,
                     options[i].section);
            return i;
        }
    int row = find_also(section, key);
    if (row < 0) row = find_nearest(section, key);
    if (row < 0)
        snprintf(out, 400, "a key of [%s]: `bench list options` shows them", section);
    else if (strcmp(options[row].section, section) != 0)
        snprintf(out, 400, "%s, which belongs in [%s]", options[row].key, options[row].section);
    else
        snprintf(out, 400, "%s", options[row].key);
    return row;
}

/* ---- for people */

static const char *type_name(enum option_type t) {
    switch (t) {
    case OPTION_INT:
    case AXIS_INT: return "whole number";
    case OPTION_SECONDS: return "time";
    case OPTION_BOOL:
    case AXIS_BOOL: return "true or false";
    case OPTION_REAL: return "number";
    case OPTION_CHOICE:
    case AXIS_CHOICE: return "choice";
    case OPTION_TEXT:
    case AXIS_TEXT: return "text";
    case OPTION_COVERAGE: return "coverage";
    }
    return "";
}

static void range_text(const struct option *o, char *out, size_t size) {
    char least[40], most[40];
    print_limit(o->least, least);
    print_limit(o->most, most);
    *out = 0;
    if (o->choices)
        join_choices(o->choices, out, size);
    else if (o->type == OPTION_COVERAGE)
        snprintf(out, size, "full, auto:K, sample:K; K %s to %s", least, most);
    else if (o->type == OPTION_INT || o->type == OPTION_SECONDS || o->type == OPTION_REAL ||
             o->type == AXIS_INT)
        snprintf(out, size, "%s to %s", least, most);
}

bool config_option(int i, struct option_info *out) {
    if (i < 0 || i >= OPTIONS) return false;
    const struct option *o = &options[i];
    *out = (struct option_info){
        .section = o->section,
        .key = o->key,
        .type = type_name(o->type),
        .fallback = o->fallback,
        .help = o->help,
        .choices = o->type == OPTION_BOOL || o->type == AXIS_BOOL ? "true|false" : o->choices,
        .axis = is_axis(o)};
    range_text(o, out->range, sizeof out->range);
    return true;
}

char *config_reference_page(void) {
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (!out) return NULL;
    fputs("# Options\n\n"
          "Every key of a configuration file. This page is generated: `bench list options "
          "--markdown`.\n\n"
          "- `--set section.key=value` overrides a key on the command line.\n"
          "- `k` is 1,024 and `m` is 1,048,576 in numbers; times take `s`, `m`, `h`.\n"
          "- A key marked *axis* takes a list (`8192, 32768`) or a range (`1..8*2` is 1, 2, 4, 8; "
          "`1k..4k+1k` is 1024, 2048, 3072, 4096); every combination of all axes is a case.\n"
          "- `;` and `#` begin a comment at the start of a line or after a space. A line holds 198 "
          "bytes at most; a value goes on in the next line if that line is indented, and without "
          "a space between if the line before ends with `\\`.\n",
          out);
    struct option_info o;
    const char *section = "";
    for (int i = 0; config_option(i, &o); i++) {
        if (strcmp(section, o.section) != 0)
            fprintf(out, "\n## [%s]\n\n| key | values | default | |\n|---|---|---|---|\n",
                    o.section);
        section = o.section;
        fprintf(out, "| `%s` | %s%s%s%s | %s%s%s | %s |\n", o.key, o.type, *o.range ? ": " : "",
                o.range, o.axis ? "; *axis*" : "", *o.fallback ? "`" : "", o.fallback,
                *o.fallback ? "`" : "", o.help);
    }
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}
