/* `bench doctor` about GPUs: the driver's word by gpu_list.c, libraries and the engine each in a
 * child process, so that a driver that crashes costs a line and not the report. */
#include "harness/doctor.h"
#include "harness/format.h"
#include "harness/isolated.h"
#include "harness/library_probe.h"
#include "harness/rates.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LIBRARIES_LIMIT_S = 30, ENGINE_LIMIT_S = 60 };

/* ---- signs */

static bool file_begins_with(const char *path, const char *text) {
    char line[32] = "";
    FILE *f = fopen(path, "re");
    const bool got = f && fgets(line, sizeof line, f);
    if (f) fclose(f);
    return got && strncmp(line, text, strlen(text)) == 0;
}

/* Class 03: display controllers, compute-only ones among them. */
static bool pci_has_nvidia(void) {
    static const char folder[] = "/sys/bus/pci/devices";
    DIR *d = opendir(folder);
    bool found = false;
    for (struct dirent *e; d && !found && (e = readdir(d));) {
        char vendor[400], class[400];
        snprintf(vendor, sizeof vendor, "%s/%s/vendor", folder, e->d_name);
        snprintf(class, sizeof class, "%s/%s/class", folder, e->d_name);
        found = file_begins_with(vendor, "0x10de") && file_begins_with(class, "0x03");
    }
    if (d) closedir(d);
    return found;
}

void doctor_gpu_signs(struct gpu_signs *out) {
    struct variant_info v;
    *out = (struct gpu_signs){.hardware = pci_has_nvidia(),
                              .nodes = access("/dev/nvidiactl", F_OK) == 0};
    for (int i = 0; variant_info(i, &v); i++) out->built = out->built || !strcmp(v.device, "cuda");
}

bool doctor_gpu_taken(const struct gpu_list *gpus, const struct gpu_signs *signs) {
    return signs->built && !gpus->why_sm80[0];
}

/* ---- driver and GPUs */

static const char *fix_of(const struct gpu_list *gpus, const struct gpu_signs *signs) {
    if (!gpus->driver_there && signs->nodes)
        return "make the driver's libraries visible here: in a container, start it with the NVIDIA "
               "container toolkit (--gpus all)";
    if (!gpus->driver_there)
        return "install the NVIDIA driver, or start the container with --gpus all; load it with "
               "nvidia-modprobe where /dev/nvidiactl is missing";
    if (gpus->n == 0) return "give the container or the job a GPU (--gpus all, --gres=gpu:1)";
    if (gpu_list_first(gpus) < 0)
        return "unset CUDA_VISIBLE_DEVICES, or set it to the number of a GPU below";
    if (gpus->why_none[0]) return "install a newer NVIDIA driver, or build with an older toolkit";
    return "";
}

/* Nobody expects a GPU where nothing of one is to be seen. */
static void look_at_use(struct doctor_findings *f, const struct gpu_list *gpus,
                        const struct gpu_signs *signs, const struct gpu_trial *trial) {
    const int first = gpu_list_first(gpus);
    const bool seen = signs->hardware || signs->nodes || gpus->n > 0;
    const char *why = gpus->why_none[0] ? gpus->why_none : gpus->why_sm80;
    const enum doctor_level level = seen ? LEVEL_WARNING : LEVEL_OK;
    if (doctor_gpu_taken(gpus, signs))
        doctor_add(f, "GPU", trial->works ? LEVEL_OK : LEVEL_WARNING,
                   trial->works ? ""
                                : "what helps is said below; until then choose the CPU: --set "
                                  "engine.device=cpu",
                   "built in; device = auto takes the %s%s%s", gpus->gpu[first].name,
                   trial->works ? "" : ", which does not work, so `bench run` refuses: ",
                   trial->works ? "" : trial->why_not);
    else if (signs->built)
        doctor_add(f, "GPU", level, fix_of(gpus, signs), "built in, but none can be used: %s", why);
    else
        doctor_add(f, "GPU", level,
                   seen ? "build where the CUDA toolkit (12.4 or newer) is found" : "",
                   "not built in: this program runs on the CPU alone%s%s", why[0] ? "; " : "", why);
}

static void look_at_driver(struct doctor_findings *f, const struct gpu_list *gpus) {
    char serves[16], built[16];
    const bool has_cuda = gpu_list_cuda_built() > 0;
    if (!gpus->driver_there) return;
    doctor_add(f, "driver", LEVEL_OK, "", "%s, serves CUDA up to %s%s%s", gpus->driver.version,
               gpu_cuda_version_text(gpus->driver.cuda_version, serves),
               has_cuda ? "; this program was built with CUDA " : "",
               has_cuda ? gpu_cuda_version_text(gpu_list_cuda_built(), built) : "");
}

static void look_at_gpu(struct doctor_findings *f, const struct gpu_list *gpus, int i) {
    const int64_t slow = 0x8 | 0x20 | 0x40 | 0x80; /* heat, or a supply that does not suffice */
    const struct nvml_gpu *g = &gpus->gpu[i];
    char name[16], memory[FORMAT_BYTES], left[FORMAT_BYTES], reasons[200], parts[400];
    const int64_t free_bytes = g->memory_bytes - g->memory_used_bytes;
    const bool full = g->memory_bytes > 0 && free_bytes < g->memory_bytes / 2;
    const bool hot = gpus->reasons[i] > 0 && (gpus->reasons[i] & slow);
    snprintf(name, sizeof name, "GPU %d", i);
    snprintf(parts, sizeof parts, "%s, compute capability %d.%d, %s of memory, %s free", g->name,
             g->capability / 10, g->capability % 10, format_bytes(memory, g->memory_bytes),
             format_bytes(left, free_bytes));
    doctor_add(f, name, full || hot ? LEVEL_WARNING : LEVEL_OK,
               hot    ? "look after its cooling and its power supply: measured times will be long"
               : full ? "end what else runs on it (nvidia-smi lists it)"
                      : "",
               "%s, cap %.0f W, SM clock %d of %d MHz (held back by: %s), %d NVLinks%s, %s%s",
               parts, g->power_limit_w, gpus->sm_clock_mhz[i], g->sm_clock_max_mhz,
               nvml_reasons_text(gpus->reasons[i], reasons, sizeof reasons),
               g->nvlinks > 0 ? g->nvlinks : 0, g->mig == 1 ? ", cut into parts (MIG)" : "",
               g->bus_id, gpus->visible[i] ? "" : ", hidden by CUDA_VISIBLE_DEVICES");
}

void doctor_look_at_gpus(struct doctor_findings *f, const struct gpu_list *gpus,
                         const struct gpu_signs *signs, const struct gpu_trial *trial) {
    look_at_use(f, gpus, signs, trial);
    look_at_driver(f, gpus);
    for (int i = 0; i < gpus->n; i++) look_at_gpu(f, gpus, i);
}

/* ---- libraries */

static const struct library_question questions[] = {
    {"libcuda",
     {"libcuda.so.1"},
     "cuDriverGetVersion",
     VERSION_STORED,
     1000,
     10,
     0,
     "use of a GPU at all",
     "it comes with the driver; a container needs NVIDIA_DRIVER_CAPABILITIES=compute,utility"},
    {"cuBLASLt",
     {"libcublasLt.so.13", "libcublasLt.so.12"},
     "cublasLtGetVersion",
     VERSION_RETURNED,
     10000,
     100,
     0,
     "linears on a GPU",
     "install the toolkit's cuBLAS, or set LD_LIBRARY_PATH"},
    {"cuDNN",
     {"libcudnn.so.9"},
     "cudnnGetVersion",
     VERSION_RETURNED,
     10000,
     100,
     CUDNN_OLDEST,
     "attention_backend = cudnn",
     "install cuDNN 9"},
    {"NCCL",
     {"libnccl.so.2"},
     "ncclGetVersion",
     VERSION_STORED,
     10000,
     100,
     NCCL_OLDEST,
     "ranks on GPUs that do not reach each other's memory",
     "install libnccl2"},
    {"CUPTI",
     {"libcupti.so.13", "libcupti.so.12", "/usr/local/cuda/extras/CUPTI/lib64/libcupti.so.13"},
     "cuptiGetVersion",
     VERSION_STORED,
     10000,
     100,
     0,
     "traces of a GPU",
     "install the toolkit's CUPTI, or set LD_LIBRARY_PATH"},
};
enum { QUESTIONS = sizeof questions / sizeof questions[0] };

static void probe_all(void *ctx, struct jsondoc *answer) {
    (void)ctx;
    struct jsondoc *found = jsondoc_put_array(answer, "libraries");
    for (int i = 0; i < QUESTIONS; i++) {
        char text[400];
        struct jsondoc *one = jsondoc_add_object(found);
        jsondoc_put_bool(one, "there", library_probe(&questions[i], text, sizeof text));
        jsondoc_put_text(one, "text", text);
    }
}

/* A library that is missing matters where a GPU could be used with it. */
void doctor_look_at_gpu_libraries(struct doctor_findings *f, const struct gpu_list *gpus,
                                  const struct gpu_signs *signs) {
    struct jsondoc *answer;
    struct error err = {""};
    if (!signs->built && gpus->n == 0) return;
    if (isolated_run(&answer, "trying CUDA's libraries", LIBRARIES_LIMIT_S, probe_all, NULL,
                     &err) != STATUS_OK) {
        doctor_add(f, "CUDA", LEVEL_WARNING, "", "%.500s", err.text);
        return;
    }
    const bool needed = doctor_gpu_taken(gpus, signs);
    for (int i = 0; i < QUESTIONS; i++) {
        const struct jsondoc *one = jsondoc_at(jsondoc_get(answer, "libraries"), i);
        const char *text = jsondoc_get_text(one, "text");
        bool there = false;
        jsondoc_get_bool(one, "there", &there);
        doctor_add(f, questions[i].name, there || !needed ? LEVEL_OK : LEVEL_WARNING,
                   there || !needed ? "" : questions[i].fix, "%s%s%s%.300s",
                   there ? "" : "not usable, so no ", there ? "" : questions[i].used_for,
                   there ? "" : ": ", text ? text : "");
    }
    jsondoc_close(answer);
}

/* ---- the engine */

/* Rates that were kept say nothing of today: the GPU has to open, too. */
static enum status open_gpu(struct error *err) {
    struct device_opts opts = device_opts_defaults();
    struct device *dev;
    opts.kind = DEVICE_CUDA;
    const enum status s = device_open(&dev, &opts, err);
    if (s == STATUS_OK) device_close(dev);
    return s;
}

static void measure(void *ctx, struct jsondoc *answer) {
    struct engine_opts opts = engine_opts_defaults();
    struct model_config model;
    struct error err = {""};
    struct rates *r = ctx;
    opts.model = "needle:28x4x128"; /* heads of 128, as the large models have */
    opts.device = DEVICE_CUDA;
    enum status s = open_gpu(&err);
    if (s == STATUS_OK) s = engine_model_config(opts.model, &model, &err);
    if (s == STATUS_OK) s = rates_get(r, &opts, &model, false, &err);
    jsondoc_put_text(answer, "error",
                     s == STATUS_OK ? ""
                     : err.text[0]  ? err.text
                                    : status_text(s));
    jsondoc_put_bool(answer, "measured", r->measured);
    if (s == STATUS_OK) rates_put(answer, &r->rates, &r->info);
}

static void take_trial(struct gpu_trial *t, const struct jsondoc *answer) {
    const char *error = jsondoc_get_text(answer, "error");
    t->works = rates_take(answer, &t->rates.rates, &t->rates.info, t->rates.names);
    jsondoc_get_bool(answer, "measured", &t->rates.measured);
    if (!t->works)
        snprintf(t->why_not, sizeof t->why_not, "%.400s",
                 error && error[0] ? error : "the GPU's kernels gave no rates");
}

struct gpu_trial *doctor_try_gpu(const struct gpu_list *gpus, const struct gpu_signs *signs) {
    struct jsondoc *answer;
    struct error err = {""};
    struct gpu_trial *t = calloc(1, sizeof *t);
    if (!t || !doctor_gpu_taken(gpus, signs)) return t;
    if (isolated_run(&answer, "opening the GPU", ENGINE_LIMIT_S, measure, &t->rates, &err) ==
        STATUS_OK)
        take_trial(t, answer);
    else
        snprintf(t->why_not, sizeof t->why_not, "%.400s", err.text);
    jsondoc_close(answer);
    return t;
}

void doctor_look_at_gpu_engine(struct doctor_findings *f, const struct gpu_trial *trial) {
    char a[FORMAT_BYTES], b[FORMAT_BYTES], c[FORMAT_BYTES];
    const struct rates *r = &trial->rates;
    if (trial->why_not[0])
        doctor_add(f, "GPU engine", LEVEL_WARNING, "use device = cpu until the driver works", "%s",
                   trial->why_not);
    if (!trial->works) return;
    const char *linear = r->info.variant[OP_LINEAR], *attention = r->info.variant[OP_ATTENTION];
    doctor_add(f, "GPU engine", LEVEL_OK, "",
               "%s, %s: linear %s (%s), attention %s (%s), copy %s%s", r->info.name, r->info.isa,
               format_rate(a, r->rates.linear_flops, "FLOP/s"), linear ? linear : "?",
               format_rate(b, r->rates.attention_flops, "FLOP/s"), attention ? attention : "?",
               format_rate(c, r->rates.copy_bytes, "B/s"), r->measured ? "" : " (measured before)");
}

/* ---- JSON */

static void put_known(struct jsondoc *d, const char *key, int64_t value) {
    if (value >= 0)
        jsondoc_put_int(d, key, value);
    else
        jsondoc_put_real(d, key, (double)NAN);
}

void doctor_put_gpus(struct jsondoc *d, const struct gpu_list *gpus) {
    jsondoc_put_text(d, "driver", gpus->driver_there ? gpus->driver.version : NULL);
    put_known(d, "driver_cuda_version", gpus->driver.cuda_version);
    put_known(d, "built_cuda_version", gpu_list_cuda_built() ? gpu_list_cuda_built() : -1);
    struct jsondoc *list = jsondoc_put_array(d, "gpus");
    for (int i = 0; i < gpus->n; i++) {
        const struct nvml_gpu *g = &gpus->gpu[i];
        char reasons[200];
        struct jsondoc *x = jsondoc_add_object(list);
        jsondoc_put_text(x, "name", g->name);
        jsondoc_put_text(x, "uuid", g->uuid);
        jsondoc_put_text(x, "pci_bus_id", g->bus_id);
        jsondoc_put_bool(x, "visible", gpus->visible[i]);
        put_known(x, "capability", g->capability);
        put_known(x, "memory_bytes", g->memory_bytes);
        put_known(x, "memory_used_bytes", g->memory_used_bytes);
        jsondoc_put_real(x, "power_limit_w", g->power_limit_w);
        put_known(x, "sm_clock_mhz", gpus->sm_clock_mhz[i]);
        put_known(x, "sm_clock_max_mhz", g->sm_clock_max_mhz);
        jsondoc_put_text(x, "throttle_reasons",
                         nvml_reasons_text(gpus->reasons[i], reasons, sizeof reasons));
        put_known(x, "nvlinks", g->nvlinks);
    }
}
