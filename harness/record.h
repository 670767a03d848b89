/* The result file (HDF5, through h5file.h), schema 1: a fragment per case, put to disk under a
 * temporary name, fsynced, renamed; merged at the end into RUN.h5 the same way. What stands in it:
 * record_schema.h. */
#ifndef HARNESS_RECORD_H
#define HARNESS_RECORD_H

#include "harness/result.h"
#include "kernels/gpu_list.h"

enum { RECORD_SCHEMA_VERSION = 1 };

/* A GPU of the machine. */
struct gpu_row {
    struct nvml_gpu gpu; /* memory_used_bytes: when this program first asked */
    char driver[80];
    int32_t cuda_version; /* that the driver serves: 1000 * major + 10 * minor */
    bool visible;         /* to the programs of this run */
    bool used;            /* the run's device */
};

/* Facts of the run that stand once in the file: /run. Strings are borrowed. */
struct run_facts {
    const char *argv;        /* the command line */
    const char *config_text; /* effective configuration */
    char config_sha256[65];
    char created_utc[32];
    char tool_version[64], git_commit[64];
    bool git_dirty;
    char binary_sha256[65];
    char hostname[128], cpu_model[128], isa[64], kernel[128], governor[64];
    int cores, numa_nodes;
    int64_t memory_bytes;
    int64_t realtime_ns, monotonic_ns; /* one pair, read together */
    struct device_info device;         /* with the kernels of the first launch, */
    struct device_rates rates;         /* and their rates */
    int n_gpus;
    struct gpu_row gpus[GPU_LIST_MOST];
    char libraries[512]; /* "HDF5 1.10.8; oneDNN 2.6.3; ..." */
};

/* Writes DIR/case-ID.h5. STATUS_IO names the file, the failing step and errno. */
enum status record_write_case(const char *dir, const struct case_result *r, struct error *err);

/* Merges DIR/case-*.h5 into path, in the order of ids, with /run and the /cases table; then removes
 * nothing: the caller removes dir once the merge has returned STATUS_OK. An unreadable or
 * missing fragment is left out and counted in *damaged. */
enum status record_merge(const char *dir, const char *path, const struct run_facts *facts,
                         const char *const *ids, int n_ids, bool complete, int *damaged,
                         struct error *err);

/* Reads one case's fragment (group NULL) or one group of a merged file. Everything that check and
 * show need; spans only when asked. A damaged, truncated or hostile file gives an error, never a
 * crash. */
enum status record_read_case(const char *path, const char *id, bool with_spans,
                             struct case_result *out, struct error *err);

/* The run as a reader sees it. */
struct record_run {
    struct run_facts facts; /* strings owned by text */
    char *text;
    bool complete;
    int n;
    struct case_result *cases; /* owned */
};
enum status record_read_run(const char *path, struct record_run *out, struct error *err);
void record_run_free(struct record_run *r);

/* The ceilings of a case: its own; those of its run where the file is older than that. */
const struct device_rates *record_rates(const struct record_run *run, const struct case_result *r);

/* "HDF5 1.10.8": the library that runs, for run_facts.libraries. */
void record_library(char *out, size_t size);

/* Writes checks that are only known once all cases have run (invariance) back into a fragment. */
enum status record_update_checks(const char *dir, const struct case_result *r, struct error *err);
/* Puts r->kernel_trace into the fragment of r->id, which is there; all else is as it was. */
enum status record_update_trace(const char *dir, const struct case_result *r, struct error *err);

#endif
