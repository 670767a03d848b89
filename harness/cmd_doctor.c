/* `bench doctor`: what is usable on this machine, what is not and why, and what would help. */
#include "harness/arguments.h"
#include "harness/bench.h"
#include "harness/data_dir.h"
#include "harness/doctor.h"
#include "harness/format.h"
#include "harness/gnuplot.h"
#include "harness/jsondoc.h"
#include "harness/launcher.h"
#include "harness/machine.h"
#include "harness/rates.h"
#include "harness/table.h"
#include "harness/terminal.h"
#include "harness/trace.h"
#include "kernels/counters.h"
#include "kernels/nvtx.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { DOCTOR_SCHEMA_VERSION = 1 };

static const char *level_text(enum doctor_level l) {
    return l == LEVEL_OK ? "ok" : l == LEVEL_WARNING ? "warning" : "problem";
}

void doctor_add(struct doctor_findings *f, const char *name, enum doctor_level level,
                const char *fix, const char *format, ...) {
    if (f->n == DOCTOR_FINDINGS_MOST) return;
    struct doctor_finding *x = &f->f[f->n++];
    va_list ap;
    va_start(ap, format);
    vsnprintf(x->text, sizeof x->text, format, ap);
    va_end(ap);
    snprintf(x->name, sizeof x->name, "%s", name);
    x->level = level;
    snprintf(x->fix, sizeof x->fix, "%s", fix);
}

static bool read_first_line(const char *path, char *out, int size) {
    FILE *f = fopen(path, "re");
    bool got = f && fgets(out, size, f);
    if (f) fclose(f);
    if (!got) out[0] = 0;
    out[strcspn(out, "\n")] = 0;
    return got;
}

/* ---- the host ---- */

static void look_at_processor(struct doctor_findings *f) {
    char model[128], governor[64], line[128];
    machine_cpu_model(model, sizeof model);
    doctor_add(f, "processor", LEVEL_OK, "", "%s, %d cores for this process, %d NUMA node%s", model,
               machine_cores(), machine_numa_nodes(), machine_numa_nodes() == 1 ? "" : "s");
    machine_governor(governor, sizeof governor);
    bool known = strcmp(governor, "unknown") != 0, fast = strcmp(governor, "performance") == 0;
    doctor_add(f, "governor", known && !fast ? LEVEL_WARNING : LEVEL_OK,
               known && !fast ? "sudo cpupower frequency-set -g performance" : "", "%s%s", governor,
               known ? "" : ": not exposed, as in most virtual machines");
    double load = 0;
    if (read_first_line("/proc/loadavg", line, sizeof line)) load = strtod(line, NULL);
    bool busy = load > 0.5 * machine_cores();
    doctor_add(f, "load", busy ? LEVEL_WARNING : LEVEL_OK,
               busy ? "wait for other processes to end: they spread the measured times" : "",
               "%.2f runnable threads over the last minute", load);
}

static void look_at_memory(struct doctor_findings *f) {
    const int64_t comfortable = 2ll << 30, least = 256ll << 20;
    char a[FORMAT_BYTES], b[FORMAT_BYTES], c[FORMAT_BYTES], line[128];
    int64_t limit = machine_cgroup_limit_bytes(), left = machine_available_bytes();
    enum doctor_level level = left && left < least         ? LEVEL_PROBLEM
                              : left && left < comfortable ? LEVEL_WARNING
                                                           : LEVEL_OK;
    doctor_add(f, "memory", level,
               level ? "end other processes, or raise the control group's limit" : "",
               "%s, %s available, control group limit: %s", format_bytes(a, machine_memory_bytes()),
               format_bytes(b, left), limit ? format_bytes(c, limit) : "none");
    if (!read_first_line("/sys/kernel/mm/transparent_hugepage/enabled", line, sizeof line)) return;
    bool never = strstr(line, "[never]") != NULL;
    doctor_add(f, "huge pages", never ? LEVEL_WARNING : LEVEL_OK,
               never ? "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled" : "",
               "transparent: %s", line);
}

/* The nearest folder of `path` that is there already. */
static void existing_folder(const char *path, char *out, size_t size) {
    snprintf(out, size, "%s", path);
    while (access(out, F_OK) != 0) {
        char *slash = strrchr(out, '/');
        if (!slash) {
            snprintf(out, size, ".");
            return;
        }
        *slash = 0;
    }
}

static void look_at_disk(struct doctor_findings *f) {
    const char *wanted = "results/raw";
    char folder[64], text[FORMAT_BYTES];
    struct statvfs v;
    existing_folder(wanted, folder, sizeof folder);
    if (access(folder, W_OK | X_OK) != 0 || statvfs(folder, &v) != 0) {
        doctor_add(f, "results", LEVEL_WARNING,
                   "work in a folder of your own, or use `bench run -o FILE`",
                   "%s cannot be made here: %s", wanted, strerror(errno));
        return;
    }
    int64_t bytes;
    if (__builtin_mul_overflow((int64_t)v.f_bavail, (int64_t)v.f_frsize, &bytes)) bytes = INT64_MAX;
    bool little = bytes < 1ll << 30;
    doctor_add(f, "results", little ? LEVEL_WARNING : LEVEL_OK,
               little ? "make room, or use `bench run -o FILE` on another disk" : "",
               "%s free for %s", format_bytes(text, bytes), wanted);
}

/* ---- the program ---- */

static void look_at_data(struct doctor_findings *f) {
    char folder[PATH_MAX_BYTES];
    if (bench_data_dir(folder, sizeof folder))
        doctor_add(f, "data", LEVEL_OK, "", "configurations in %s/configs", folder);
    else
        doctor_add(f, "data", LEVEL_WARNING,
                   "keep bin/ and share/ of the installed folder together",
                   "the program stands in no source tree, and neither ../share/chunkbench beside "
                   "it nor %s is there: no configurations come along",
                   BENCH_SOURCE_DIR);
}

static void look_at_gnuplot(struct doctor_findings *f) {
    const bool found = gnuplot_find(NULL) == STATUS_OK;
    doctor_add(f, "gnuplot", found ? LEVEL_OK : LEVEL_WARNING,
               found ? "" : "apt-get install gnuplot-nox",
               found ? "found: `bench plot` can draw" : "not installed: `bench plot` cannot draw");
}

static void look_at_sqlite(struct doctor_findings *f) {
    const bool there = trace_has_sqlite();
    doctor_add(f, "SQLite", there ? LEVEL_OK : LEVEL_WARNING,
               there ? "" : "install libsqlite3-dev and build again",
               there ? "built with it: `bench trace --sqlite` can write"
                     : "built without it: `bench trace --sqlite` cannot write");
}

/* Its headers come with the CUDA toolkit: to lack both is nothing to repair. */
static void look_at_nvtx(struct doctor_findings *f) {
    doctor_add(f, "NVTX", LEVEL_OK, "",
               nvtx_built() ? "built with it: profilers see ranges of cases, chunks, layers and ops"
                            : "built without it: profilers see no ranges ([trace] nvtx)");
}

/* Nothing to repair where a machine shows none; what is forbidden can be allowed. */
static void look_at_counters(struct doctor_findings *f) {
    char why[200];
    const bool there = counters_are_there(why, sizeof why);
    const bool forbidden = !there && strstr(why, "perf_event_paranoid") != NULL;
    doctor_add(f, "counters", LEVEL_OK,
               forbidden ? "sudo sysctl kernel.perf_event_paranoid=2, for [trace] counters" : "",
               "%s",
               there ? "perf_event_open works: [trace] counters can count an op's cycles" : why);
}

/* One word after the other: which of them can be a [engine] launcher. */
static void look_at_launchers(struct doctor_findings *f) {
    static const char *const known[] = {"mpirun", "mpiexec", "srun"};
    char found[80] = "";
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const struct launcher l = {.word = {(char *)known[i]}, .words = 1};
        if (launcher_exists(&l))
            snprintf(found + strlen(found), sizeof found - strlen(found), "%s%s",
                     found[0] ? ", " : "", known[i]);
    }
    if (found[0])
        doctor_add(f, "launchers", LEVEL_OK, "",
                   "%s: [engine] launcher can start a process for each device", found);
    else
        doctor_add(f, "launchers", LEVEL_OK, "",
                   "none found: devices are driven by threads of one process");
}

static void look_at_libraries(struct doctor_findings *f) {
    char text[512];
    struct variant_info v;
    bool onednn = false;
    machine_libraries(text, sizeof text);
    for (int i = 0; variant_info(i, &v); i++) onednn = onednn || strstr(v.name, "onednn");
    doctor_add(f, "libraries", onednn ? LEVEL_OK : LEVEL_WARNING,
               onednn ? "" : "install libdnnl-dev and build again", "%s%s", text,
               onednn ? "" : "; built without oneDNN, linears run on our own kernels");
}

/* Every op needs a kernel that this processor can run. */
static void look_at_kernels(struct doctor_findings *f) {
    struct variant_info v;
    int all[OPS] = {0}, usable[OPS] = {0}, n = 0, n_usable = 0;
    for (int i = 0; variant_info(i, &v); i++) {
        if (strcmp(v.device, "cpu") != 0) continue;
        all[v.op]++, n++;
        usable[v.op] += v.usable, n_usable += v.usable;
    }
    char missing[400] = "";
    for (int op = 0; op < OPS; op++) {
        size_t used = strlen(missing);
        if (usable[op] == 0 && used < sizeof missing)
            snprintf(missing + used, sizeof missing - used, " %s", op_name((enum op)op));
    }
    doctor_add(f, "kernels", missing[0] ? LEVEL_PROBLEM : LEVEL_OK, "",
               "%d of %d CPU kernels can run here%s%s", n_usable, n,
               missing[0] ? "; none for:" : "", missing);
}

/* Opens the engine's device and runs its kernels, or finds that this has been done today. */
static void look_at_engine(struct doctor_findings *f) {
    struct engine_opts opts = engine_opts_defaults();
    struct model_config model;
    struct error err = {""};
    struct rates *r = calloc(1, sizeof *r);
    opts.model = "needle";
    enum status s = r ? engine_model_config(opts.model, &model, &err) : STATUS_NO_MEMORY;
    if (s == STATUS_OK) s = rates_get(r, &opts, &model, false, &err);
    if (s != STATUS_OK) {
        doctor_add(f, "engine", LEVEL_PROBLEM, "", "%.500s",
                   err.text[0] ? err.text : status_text(s));
        free(r);
        return;
    }
    char a[FORMAT_BYTES], b[FORMAT_BYTES], c[FORMAT_BYTES];
    doctor_add(f, "engine", LEVEL_OK, "",
               "%s, %d threads: linear %s (%s), attention %s (%s), copy %s%s", r->info.isa,
               r->info.threads, format_rate(a, r->rates.linear_flops, "FLOP/s"),
               r->info.variant[OP_LINEAR] ? r->info.variant[OP_LINEAR] : "?",
               format_rate(b, r->rates.attention_flops, "FLOP/s"),
               r->info.variant[OP_ATTENTION] ? r->info.variant[OP_ATTENTION] : "?",
               format_rate(c, r->rates.copy_bytes, "B/s"), r->measured ? "" : " (measured before)");
    doctor_add(f, "cache", r->note[0] ? LEVEL_WARNING : LEVEL_OK,
               r->note[0] ? "set XDG_CACHE_HOME to a folder that can be written" : "", "%s",
               r->note[0] ? r->note : "measured rates are kept for a day");
    free(r);
}

/* ---- telling ---- */

/* A kernel can run here by the driver's word; a GPU that does not work says otherwise. */
static bool kernel_works(const struct variant_info *v, const struct gpu_trial *trial,
                         const char **why) {
    const bool broken = trial->why_not[0] && strcmp(v->device, "cuda") == 0;
    *why = broken && v->usable ? "the GPU does not work (see GPU engine)" : v->why_not;
    return v->usable && !broken;
}

static void print_kernels(const struct gpu_trial *trial, bool color) {
    struct table_column columns[] = {{"op", "", true, false},
                                     {"kernel", "", true, false},
                                     {"device", "", true, false},
                                     {"needs", "", true, false},
                                     {"usable", "", true, false}};
    struct table *t = table_open(columns, (int)(sizeof columns / sizeof *columns));
    struct variant_info v;
    const char *why;
    for (int i = 0; variant_info(i, &v); i++) {
        const bool works = kernel_works(&v, trial, &why);
        table_add(t, TONE_PLAIN, "%s", op_name(v.op));
        table_add(t, TONE_PLAIN, "%s", v.name);
        table_add(t, TONE_PLAIN, "%s", v.device);
        table_add(t, TONE_PLAIN, "%s", v.needs && v.needs[0] ? v.needs : "-");
        table_add(t, works ? TONE_GOOD : TONE_DOUBTFUL, "%s%s", works ? "yes" : "no: ",
                  works ? ""
                  : why ? why
                        : "not on this machine");
    }
    putchar('\n');
    table_print(stdout, t, "", terminal_width(stdout, 0), color);
    table_close(t);
}

static void print_text(const struct doctor_findings *f, bool usable, const struct gpu_trial *trial,
                       bool color) {
    static const enum tone tones[] = {TONE_GOOD, TONE_DOUBTFUL, TONE_BAD};
    for (int i = 0; i < f->n; i++) {
        const struct doctor_finding *x = &f->f[i];
        printf("%s%-8s%s %-11s %s\n", tone_begin(tones[x->level], color), level_text(x->level),
               tone_end(tones[x->level], color), x->name, x->text);
        if (x->fix[0]) printf("%-20s try: %s\n", "", x->fix);
    }
    print_kernels(trial, color);
    printf("\n%s%s\n",
           usable ? "`bench run` can work here, on "
                  : "`bench run` cannot work here: see the problems above",
           !usable             ? ""
           : trial->works      ? "the GPU and on the CPU"
           : trial->why_not[0] ? "the CPU alone and only with --set engine.device=cpu: device = "
                                 "auto takes the GPU, which does not work"
                               : "the CPU");
}

static void print_json(const struct doctor_findings *f, bool usable,
                       const struct gpu_trial *trial) {
    struct jsondoc *d = jsondoc_object();
    struct variant_info v;
    jsondoc_put_text(d, "schema", "chunkbench-doctor");
    jsondoc_put_int(d, "schema_version", DOCTOR_SCHEMA_VERSION);
    jsondoc_put_bool(d, "usable", usable);
    jsondoc_put_bool(d, "gpu_usable", trial->works);
    /* null: refused */
    jsondoc_put_text(d, "device_auto", trial->works ? "cuda" : trial->why_not[0] ? NULL : "cpu");
    doctor_put_gpus(d, gpu_list_machine());
    struct jsondoc *findings = jsondoc_put_array(d, "findings");
    for (int i = 0; i < f->n; i++) {
        struct jsondoc *x = jsondoc_add_object(findings);
        jsondoc_put_text(x, "name", f->f[i].name);
        jsondoc_put_text(x, "level", level_text(f->f[i].level));
        jsondoc_put_text(x, "text", f->f[i].text);
        jsondoc_put_text(x, "fix", f->f[i].fix[0] ? f->f[i].fix : NULL);
    }
    struct jsondoc *kernels = jsondoc_put_array(d, "kernels");
    for (int i = 0; variant_info(i, &v); i++) {
        struct jsondoc *x = jsondoc_add_object(kernels);
        const char *why;
        const bool works = kernel_works(&v, trial, &why);
        jsondoc_put_text(x, "op", op_name(v.op));
        jsondoc_put_text(x, "name", v.name);
        jsondoc_put_text(x, "device", v.device);
        jsondoc_put_text(x, "needs", v.needs);
        jsondoc_put_bool(x, "usable", works);
        jsondoc_put_text(x, "why_not", works ? NULL : why);
    }
    char *text = jsondoc_text(d);
    if (text) puts(text);
    free(text);
    jsondoc_close(d);
}

int cmd_doctor(int argc, char **argv, const struct bench_hooks *hooks) {
    (void)hooks;
    bool json = false, no_color = false, usable = true;
    const struct argument arguments[] = {
        {"--json", ARGUMENT_FLAG, &json, NULL, "print one JSON object on stdout"},
        {"--no-color", ARGUMENT_FLAG, &no_color, NULL, "so does NO_COLOR in the environment"},
    };
    const struct command_line line = {
        .command = "doctor",
        .operands = "",
        .purpose = "Says what is usable on this machine, what is not and why, and what would\n"
                   "help. Exits with 0 when `bench run` can work on the CPU, else with 5.",
        .arguments = arguments,
        .n = sizeof arguments / sizeof arguments[0],
    };
    struct argument_list operands;
    int code = arguments_parse(&line, argc, argv, &operands);
    if (code >= 0) return code;
    struct doctor_findings *f = calloc(1, sizeof *f);
    struct error err = {""};
    const struct gpu_list *gpus = gpu_list_machine();
    struct gpu_signs signs;
    doctor_gpu_signs(&signs);
    struct gpu_trial *trial = f ? doctor_try_gpu(gpus, &signs) : NULL;
    if (!trial) {
        free(f);
        return bench_fail("doctor", STATUS_NO_MEMORY, &err);
    }
    look_at_processor(f);
    look_at_memory(f);
    look_at_disk(f);
    look_at_data(f);
    look_at_libraries(f);
    look_at_launchers(f);
    look_at_gnuplot(f);
    look_at_sqlite(f);
    look_at_nvtx(f);
    look_at_counters(f);
    doctor_look_at_gpus(f, gpus, &signs, trial);
    doctor_look_at_gpu_libraries(f, gpus, &signs);
    look_at_kernels(f);
    look_at_engine(f);
    doctor_look_at_gpu_engine(f, trial);
    for (int i = 0; i < f->n; i++) usable = usable && f->f[i].level != LEVEL_PROBLEM;
    if (json)
        print_json(f, usable, trial);
    else
        print_text(f, usable, trial, terminal_colored(stdout, no_color));
    free(trial);
    free(f);
    return usable ? 0 : status_exit_code(STATUS_RUN_FAILED);
}
