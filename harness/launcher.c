/* See launcher.h. */
#include "harness/launcher.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- words */

/* Copies a word without its quotes; returns what comes after it, or NULL: a quote does not end. */
static const char *take_word(const char *at, char **to) {
    while (*at && *at != ' ' && *at != '\t') {
        const char quote = *at == '"' || *at == '\'' ? *at++ : 0;
        while (quote && *at && *at != quote) *(*to)++ = *at++;
        if (quote && !*at) return NULL;
        if (quote)
            at++;
        else
            *(*to)++ = *at++;
    }
    *(*to)++ = 0;
    return at;
}

enum status launcher_split(struct launcher *out, const char *text, struct error *err) {
    char *to = out->storage;
    out->words = 0;
    if (strlen(text) >= sizeof out->storage)
        return error_set(err, STATUS_USAGE, "launcher: expected at most %d bytes",
                         LAUNCHER_BYTES - 1);
    for (const char *at = text;;) {
        at += strspn(at, " \t");
        if (!*at) return STATUS_OK;
        if (out->words == LAUNCHER_WORDS)
            return error_set(err, STATUS_USAGE, "launcher: expected at most %d words",
                             LAUNCHER_WORDS);
        out->word[out->words++] = to;
        at = take_word(at, &to);
        if (!at)
            return error_set(err, STATUS_USAGE, "launcher: a quote without its end: %.300s", text);
    }
}

bool launcher_exists(const struct launcher *l) {
    char path[4096];
    const char *name = l->word[0];
    if (strchr(name, '/')) return access(name, X_OK) == 0;
    for (const char *at = getenv("PATH"); at && *at;) {
        const size_t n = strcspn(at, ":");
        snprintf(path, sizeof path, "%.*s/%s", (int)n, n ? at : ".", name);
        if (access(path, X_OK) == 0) return true;
        at += n + (at[n] == ':');
    }
    return false;
}

/* ---- environment */

static const struct {
    const char *process, *processes, *local;
} sources[] = {
    {"BENCH_PROCESS", "BENCH_PROCESSES", "BENCH_LOCAL_PROCESS"},
    {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"},
    {"PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"},
    {"SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"},
};

/* A number in [0, most], or -1. */
static int number_of(const char *text, int most) {
    char *end;
    errno = 0;
    const long value = strtol(text, &end, 10);
    return errno == 0 && end != text && !*end && value >= 0 && value <= most ? (int)value : -1;
}

enum status launcher_place(struct launcher_place *out, struct error *err) {
    enum { MOST = 1 << 20 };
    *out = (struct launcher_place){0, 1, 0};
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        const char *process = getenv(sources[i].process), *n = getenv(sources[i].processes);
        const char *local = getenv(sources[i].local);
        if (!process || !n) continue;
        out->process = number_of(process, MOST);
        out->processes = number_of(n, MOST);
        out->local = local ? number_of(local, MOST) : out->process;
        if (out->process >= 0 && out->process < out->processes && out->local >= 0) return STATUS_OK;
        return error_set(err, STATUS_USAGE, "%s = %s, %s = %s, %s = %s: expected a place",
                         sources[i].process, process, sources[i].processes, n, sources[i].local,
                         local ? local : "");
    }
    return STATUS_OK;
}
