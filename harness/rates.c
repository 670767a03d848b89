/* Measured rates and their cache. See rates.h. Before it: plan.c; under it: engine_measure. */
#include "harness/rates.h"

#include "harness/cache_dir.h"
#include "harness/isolated.h"
#include "harness/jsondoc.h"
#include "harness/sha256.h"

#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { KEEP_SECONDS = 24 * 3600, KEEP_BUSY_SECONDS = 300, MEASURE_LIMIT_S = 120 };

/* Times that the scheduler took a core away, per second of computing: about 15 on an idle machine,
 * 100 with one competitor on two cores, 330 with several (Linux, slices of 3 ms). */
enum { BUSY_INTERRUPTIONS = 60 };

/* ---- the key: everything that the rates depend on, as text */

/* Lines of the first processor that say what it is, not how it is at the moment. */
static void processor_text(char *out, size_t size) {
    static const char *const wanted[] = {"model name", "cpu family", "stepping", "flags",
                                         "cache size"};
    char line[8192];
    size_t used = 0;
    out[0] = 0;
    FILE *file = fopen("/proc/cpuinfo", "re");
    if (!file) return;
    while (fgets(line, sizeof line, file) && *line != '\n')
        for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
            if (!strncmp(line, wanted[i], strlen(wanted[i])) && used < size)
                used += (size_t)snprintf(out + used, size - used, "%s", line);
    fclose(file);
}

static int cores_in_use(const struct engine_opts *opts) {
    cpu_set_t set;
    if (opts->threads) return opts->threads;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 0;
}

/* Of a CPU device: the processor, and how much of it. */
static void cpu_text(const struct engine_opts *opts, char *out, size_t size) {
    const int used = snprintf(out, size, "cores %d isa %s\n", cores_in_use(opts), opts->isa);
    processor_text(out + used, size - (size_t)used);
}

/* Of a GPU: which one, its driver and its power cap; the host's processor does not matter. */
static void gpu_text(const struct gpu_list *gpus, char *out, size_t size) {
    const int first = gpu_list_first(gpus);
    snprintf(out, size, "gpu %s driver %s power cap %.0f W\n",
             first >= 0 ? gpus->gpu[first].name : "unknown", gpus->driver.version,
             first >= 0 ? gpus->gpu[first].power_limit_w : 0.0);
}

void rates_key(const struct engine_opts *opts, const struct model_config *model,
               const struct gpu_list *gpus, char out[RATES_KEY_BYTES]) {
    char device[RATES_KEY_BYTES - 600];
    struct stat binary = {0};
    stat("/proc/self/exe", &binary);
    if (opts->device == DEVICE_CUDA)
        gpu_text(gpus, device, sizeof device);
    else
        cpu_text(opts, device, sizeof device);
    snprintf(out, RATES_KEY_BYTES,
             "binary %lld bytes of %lld.%09ld\ndevice %s attention %s linear %s\n"
             "dtype %s head_dim %d\n%s",
             (long long)binary.st_size, (long long)binary.st_mtim.tv_sec, binary.st_mtim.tv_nsec,
             device_kind_name(opts->device), opts->attention_backend, opts->linear_backend,
             dtype_name(opts->dtype), (int)model->D, device);
}

/* ---- the cache */

static const struct {
    const char *key;
    size_t offset;
} fields[] = {{"linear_flops", offsetof(struct device_rates, linear_flops)},
              {"attention_flops", offsetof(struct device_rates, attention_flops)},
              {"copy_bytes", offsetof(struct device_rates, copy_bytes)},
              {"roof_flops", offsetof(struct device_rates, roof_flops)},
              {"op_overhead_ns", offsetof(struct device_rates, op_overhead_ns)}};
enum { FIELDS = sizeof fields / sizeof fields[0] };

void rates_put_numbers(struct jsondoc *object, const struct device_rates *r) {
    for (int f = 0; f < FIELDS; f++)
        jsondoc_put_real(object, fields[f].key,
                         *(const double *)((const char *)r + fields[f].offset));
}

void rates_put(struct jsondoc *object, const struct device_rates *r, const struct device_info *i) {
    rates_put_numbers(object, r);
    struct jsondoc *device = jsondoc_put_object(object, "device");
    jsondoc_put_text(device, "name", i->name);
    jsondoc_put_text(device, "isa", i->isa);
    jsondoc_put_text(device, "bus_id", i->bus_id);
    jsondoc_put_int(device, "threads", i->threads);
    jsondoc_put_int(device, "memory_bytes", i->memory_bytes);
    jsondoc_put_int(device, "available_bytes", i->available_bytes);
    struct jsondoc *kernels = jsondoc_put_object(device, "kernels");
    for (int op = 0; op < OPS; op++)
        if (i->variant[op]) jsondoc_put_text(kernels, op_name((enum op)op), i->variant[op]);
}

static bool take_text(const struct jsondoc *object, const char *key, char *out, size_t size) {
    const char *text = jsondoc_get_text(object, key);
    if (!text || strlen(text) >= size) return false;
    strcpy(out, text);
    return true;
}

bool rates_take_numbers(const struct jsondoc *object, struct device_rates *r) {
    for (int f = 0; f < FIELDS; f++) {
        double value;
        if (!jsondoc_get_real(object, fields[f].key, &value) || !isfinite(value) || value <= 0)
            return false;
        *(double *)((char *)r + fields[f].offset) = value;
    }
    return true;
}

bool rates_take(const struct jsondoc *object, struct device_rates *r, struct device_info *i,
                char names[OPS][NAME_LENGTH]) {
    memset(i, 0, sizeof *i);
    if (!rates_take_numbers(object, r)) return false;
    const struct jsondoc *device = jsondoc_get(object, "device");
    int64_t threads;
    if (!take_text(device, "name", i->name, sizeof i->name) ||
        !take_text(device, "isa", i->isa, sizeof i->isa) ||
        !take_text(device, "bus_id", i->bus_id, sizeof i->bus_id) ||
        !jsondoc_get_int(device, "threads", &threads) || threads < 0 || threads > 1 << 20 ||
        !jsondoc_get_int(device, "memory_bytes", &i->memory_bytes) ||
        !jsondoc_get_int(device, "available_bytes", &i->available_bytes))
        return false;
    i->threads = (int)threads;
    const struct jsondoc *kernels = jsondoc_get(device, "kernels");
    for (int op = 0; op < OPS; op++)
        if (take_text(kernels, op_name((enum op)op), names[op], NAME_LENGTH))
            i->variant[op] = names[op];
    return true;
}

static bool read_cache(const char *path, const char *key, struct rates *out) {
    struct jsondoc *d;
    int64_t measured_at;
    const int64_t now = (int64_t)time(NULL);
    if (jsondoc_read(&d, path, NULL) != STATUS_OK) return false;
    const char *was = jsondoc_get_text(d, "key");
    const bool ok = was && !strcmp(was, key) && jsondoc_get_int(d, "measured_at", &measured_at) &&
                    jsondoc_get_bool(d, "busy", &out->busy) && measured_at <= now &&
                    measured_at > now - (out->busy ? KEEP_BUSY_SECONDS : KEEP_SECONDS) &&
                    rates_take(d, &out->rates, &out->info, out->names);
    jsondoc_close(d);
    return ok;
}

static void write_cache(const char *path, const char *key, struct rates *r) {
    struct error err = {""};
    struct jsondoc *d = jsondoc_object();
    jsondoc_put_text(d, "schema", "chunkbench rates");
    jsondoc_put_text(d, "key", key);
    jsondoc_put_int(d, "measured_at", (int64_t)time(NULL));
    jsondoc_put_bool(d, "busy", r->busy);
    rates_put(d, &r->rates, &r->info);
    if (jsondoc_write(d, path, &err) != STATUS_OK)
        snprintf(r->note, sizeof r->note, "the measured rates are not kept: %.250s", err.text);
    jsondoc_close(d);
}

/* info.variant[] of a device that is closed: the names belong to the program, but not to us. */
static void own_names(struct rates *r) {
    for (int op = 0; op < OPS; op++)
        if (r->info.variant[op]) {
            snprintf(r->names[op], NAME_LENGTH, "%s", r->info.variant[op]);
            r->info.variant[op] = r->names[op];
        }
}

static double cpu_seconds(const struct rusage *u) {
    return (double)(u->ru_utime.tv_sec + u->ru_stime.tv_sec) +
           (double)(u->ru_utime.tv_usec + u->ru_stime.tv_usec) * 1e-6;
}

static enum status measure_here(struct rates *out, const struct engine_opts *opts,
                                struct error *err) {
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    const enum status status = engine_measure(opts, &out->rates, &out->info, err);
    getrusage(RUSAGE_SELF, &after);
    out->busy = opts->device == DEVICE_CPU &&
                (double)(after.ru_nivcsw - before.ru_nivcsw) >
                    BUSY_INTERRUPTIONS * (cpu_seconds(&after) - cpu_seconds(&before)) + 10;
    return status;
}

/* ---- on the CPU in a child: a gigabyte of operands is not for the supervisor to carry */

struct order {
    const struct engine_opts *opts;
    struct rates *out;
};

static void measure_there(void *ctx, struct jsondoc *answer) {
    const struct order *order = ctx;
    struct error err = {""};
    const enum status s = measure_here(order->out, order->opts, &err);
    jsondoc_put_int(answer, "status", s);
    jsondoc_put_text(answer, "error", err.text);
    jsondoc_put_bool(answer, "busy", order->out->busy);
    if (s == STATUS_OK) rates_put(answer, &order->out->rates, &order->out->info);
}

static enum status measure_apart(struct rates *out, const struct engine_opts *opts,
                                 struct error *err) {
    static const char what[] = "measuring this machine's kernels";
    struct order order = {opts, out};
    struct jsondoc *answer;
    int64_t s = STATUS_RUN_FAILED;
    enum status ran = isolated_run(&answer, what, MEASURE_LIMIT_S, measure_there, &order, err);
    if (ran != STATUS_OK) return ran;
    const char *why = NULL;
    if (jsondoc_get_int(answer, "status", &s)) why = jsondoc_get_text(answer, "error");
    if (s != STATUS_OK)
        ran = error_set(err, (enum status)s, "%s", why && *why ? why : what);
    else if (!jsondoc_get_bool(answer, "busy", &out->busy) ||
             !rates_take(answer, &out->rates, &out->info, out->names))
        ran = error_set(err, STATUS_RUN_FAILED, "%s gave an answer without rates", what);
    jsondoc_close(answer);
    return ran;
}

/* Whoever plans for a GPU is such a child already. */
static enum status measure(struct rates *out, const struct engine_opts *opts, struct error *err) {
    if (opts->device == DEVICE_CPU) return measure_apart(out, opts, err);
    const enum status status = measure_here(out, opts, err);
    if (status == STATUS_OK) own_names(out);
    return status;
}

enum status rates_get(struct rates *out, const struct engine_opts *opts,
                      const struct model_config *model, bool anew, struct error *err) {
    char key[RATES_KEY_BYTES], hash[65], folder[4096], path[4200];
    memset(out, 0, sizeof *out);
    rates_key(opts, model, gpu_list_machine(), key);
    sha256_hex(key, strlen(key), hash);
    const bool keep = cache_dir(NULL, folder, sizeof folder);
    snprintf(path, sizeof path, "%s/rates-%.16s.json", keep ? folder : "", hash);
    if (keep && !anew && read_cache(path, key, out)) return STATUS_OK;

    memset(out, 0, sizeof *out);
    const enum status status = measure(out, opts, err);
    if (status != STATUS_OK) return status;
    out->measured = true;
    if (keep)
        write_cache(path, key, out);
    else
        snprintf(out->note, sizeof out->note,
                 "the measured rates are not kept: neither "
                 "XDG_CACHE_HOME nor HOME is a folder that can be written");
    return STATUS_OK;
}
