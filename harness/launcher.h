/* Launchers: commands such as `mpirun -n 2` that start a worker as several processes ([engine]
 * launcher). What their text is made of, and what their environment tells a process. Pure but for
 * the environment. Before it: launch.c (words), worker.c (place). */
#ifndef HARNESS_LAUNCHER_H
#define HARNESS_LAUNCHER_H

#include "engine/engine.h"

enum { LAUNCHER_BYTES = 4096, LAUNCHER_WORDS = 64 };

struct launcher {
    char storage[LAUNCHER_BYTES];
    char *word[LAUNCHER_WORDS]; /* into storage */
    int words;
};
/* Cuts at blanks; what stands between quotes, "..." or '...', is not cut. STATUS_USAGE: a quote
 * without its end, or too long. */
enum status launcher_split(struct launcher *out, const char *text, struct error *err);
/* Whether its first word is a program that can be found. */
bool launcher_exists(const struct launcher *l);

/* A process among those that a launcher has started. */
struct launcher_place {
    int process, processes; /* 0 of 1 where nothing says otherwise */
    int local;              /* among those of this host */
};
/* By the first of these whose variables are there: ours (BENCH_PROCESS, BENCH_PROCESSES,
 * BENCH_LOCAL_PROCESS), Open MPI's, those of MPICH and its kin, Slurm's. STATUS_USAGE: they make no
 * sense. */
enum status launcher_place(struct launcher_place *out, struct error *err);

#endif
