/* Facts of the host and of this program, as the operating system tells them: what stands under a
 * run's numbers so that they can be judged later. What the system does not tell is "unknown". */
#ifndef HARNESS_MACHINE_H
#define HARNESS_MACHINE_H

#include "harness/record.h"

struct machine_facts {
    struct run_facts run;     /* strings point into this struct and into the plan */
    char *argv, *config_text; /* owned */
};

/* Gathers them all: takes a few milliseconds, and up to some seconds where git is slow. argv[0] is
 * the subcommand. The plan must outlive the facts. Nothing here can fail. */
void machine_facts_open(struct machine_facts *out, const struct plan *p, int argc,
                        char *const *argv);
void machine_facts_close(struct machine_facts *m); /* zeroed struct is legal */

/* The GPUs of a list as facts of a run; the one with this PCI bus id is the run's device. */
void machine_gpus(const struct gpu_list *gpus, const char *used_bus_id, struct run_facts *out);

/* Cores that this process may run on, at least 1. */
int machine_cores(void);
/* NUMA nodes with memory or processors, at least 1. */
int machine_numa_nodes(void);
int64_t machine_memory_bytes(void);    /* physical; 0: unknown */
int64_t machine_available_bytes(void); /* now, by the system's estimate; 0: unknown */
/* The least memory limit of the control groups that this process is in; 0: none. */
int64_t machine_cgroup_limit_bytes(void);
void machine_cpu_model(char *out, size_t size);
/* Of the first core; "unknown" where the system does not expose it (virtual machines). */
void machine_governor(char *out, size_t size);
/* SHA-256 of the running program; "unknown" if it cannot be read. out: 65 bytes. */
void machine_binary_sha256(char out[65]);
/* Commit of a source tree and whether tracked files differ from it; "unknown" without git, or where
 * the folder is not itself the top of a work tree (an unpacked archive). */
void machine_git(const char *folder, char *commit, size_t size, bool *dirty);
/* "HDF5 1.10.8; glibc 2.36; libdnnl.so.2.6": those whose version can matter to a measurement. */
void machine_libraries(char *out, size_t size);
/* The arguments as a shell would take them again, malloc'd; NULL: no memory. */
char *machine_command_line(int argc, char *const *argv);

#endif
