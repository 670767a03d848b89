/* What `bench doctor` finds: one line each, with what would help. cmd_doctor.c looks at the host
 * and the program and tells; doctor_gpu.c looks at GPUs and the libraries that they need. */
#ifndef HARNESS_DOCTOR_H
#define HARNESS_DOCTOR_H

#include "harness/jsondoc.h"
#include "harness/rates.h"
#include "kernels/gpu_list.h"

enum { DOCTOR_FINDINGS_MOST = 64 };

/* A problem keeps `bench run` from working on the CPU; a warning does not. */
enum doctor_level { LEVEL_OK, LEVEL_WARNING, LEVEL_PROBLEM };
struct doctor_finding {
    char name[16];
    enum doctor_level level;
    char text[600], fix[200];
};
struct doctor_findings {
    int n;
    struct doctor_finding f[DOCTOR_FINDINGS_MOST];
};
/* fix: "" for none. */
#if defined(__GNUC__)
__attribute__((format(printf, 5, 6)))
#endif
void doctor_add(struct doctor_findings *f, const char *name, enum doctor_level level,
                const char *fix, const char *format, ...);

/* What can be seen of GPUs without their driver. */
struct gpu_signs {
    bool built;    /* this program holds CUDA kernels */
    bool hardware; /* an NVIDIA display or compute device is on the PCI bus */
    bool nodes;    /* the driver's /dev/nvidiactl is there */
};
void doctor_gpu_signs(struct gpu_signs *out);
/* Whether device = auto takes a GPU. The driver's word decides, not whether that GPU works: where
 * it does not, `bench run` refuses, for nobody wants the figures of the CPU by mistake. */
bool doctor_gpu_taken(const struct gpu_list *gpus, const struct gpu_signs *signs);

/* That GPU, opened in a child process as a plan does it, and the rates of its kernels. */
struct gpu_trial {
    bool works;
    char why_not[500]; /* "" also where none is taken */
    struct rates rates;
};
/* NULL: no memory. free() it. */
struct gpu_trial *doctor_try_gpu(const struct gpu_list *gpus, const struct gpu_signs *signs);

/* Driver and GPUs: what they are, whether they can be used, and if not, why and what helps. */
void doctor_look_at_gpus(struct doctor_findings *f, const struct gpu_list *gpus,
                         const struct gpu_signs *signs, const struct gpu_trial *trial);
/* The libraries that a GPU needs, tried in a child process. Nothing without GPU and CUDA. */
void doctor_look_at_gpu_libraries(struct doctor_findings *f, const struct gpu_list *gpus,
                                  const struct gpu_signs *signs);
/* What came of the trial; nothing where no GPU is taken. */
void doctor_look_at_gpu_engine(struct doctor_findings *f, const struct gpu_trial *trial);
/* The same facts for --json. */
void doctor_put_gpus(struct jsondoc *object, const struct gpu_list *gpus);

#endif
