/* What is known about the end of a worker: its wait status, the kernel's count of OOM kills, its
 * last words. Before it: launch.c, which saw the process go; after it: the reason in a fragment. */
#include "harness/death.h"

#include "harness/format.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* Of what the machine has: from here on a SIGKILL that nobody owns is probably the kernel's. */
static const double near_limit = 0.85;

static void reason_of_kill(const struct death *d, char *out, size_t size) {
    char held[FORMAT_BYTES], limit[FORMAT_BYTES], memory[2 * FORMAT_BYTES + 16] = "";
    format_bytes(held, d->resident_bytes);
    format_bytes(limit, d->memory_bytes);
    const bool known = d->resident_bytes >= 0;
    if (known) snprintf(memory, sizeof memory, "it held %s of %s", held, limit);
    if (d->oom_kills > 0)
        snprintf(out, size,
                 "killed by SIGKILL: out of memory (the kernel counts %lld new OOM kill%s%s%s)",
                 (long long)d->oom_kills, d->oom_kills == 1 ? "" : "s", known ? "; " : "", memory);
    else if (d->memory_bytes > 0 &&
             (double)d->resident_bytes >= near_limit * (double)d->memory_bytes)
        snprintf(out, size, "killed by SIGKILL, probably out of memory: %s", memory);
    else
        snprintf(out, size, "killed by SIGKILL, not by bench%s%s%s", known ? " (" : "", memory,
                 known ? ")" : "");
}

static void reason_of_silence(const struct death *d, char *out, size_t size) {
    const bool known = d->states[0] != 0;
    snprintf(out, size, "no progress for %lld s%s%s%s: killed", (long long)d->silent_s,
             known ? " (" : "", d->states, known ? ")" : "");
}

enum case_status death_reason(const struct death *d, char *out, size_t size) {
    char how[400];
    enum case_status status = CASE_CRASHED;
    if (d->stopped) {
        snprintf(how, sizeof how, "stopped at once by a second interrupt");
        status = CASE_INTERRUPTED;
    } else if (d->silent_s > 0) {
        reason_of_silence(d, how, sizeof how);
        status = CASE_TIMEOUT;
    } else if (WIFSIGNALED(d->wait_status) && WTERMSIG(d->wait_status) == SIGKILL) {
        reason_of_kill(d, how, sizeof how);
    } else if (WIFSIGNALED(d->wait_status)) {
        const char *name = sigabbrev_np(WTERMSIG(d->wait_status));
        snprintf(how, sizeof how, "killed by SIG%s (%s)", name ? name : "?",
                 strsignal(WTERMSIG(d->wait_status)));
    } else {
        snprintf(how, sizeof how, "%sexited with code %d", d->who[0] ? "" : "the worker ",
                 WEXITSTATUS(d->wait_status));
    }
    const char *more = status == CASE_CRASHED ? d->words : status == CASE_TIMEOUT ? d->at : "";
    const bool named = d->who[0] && status == CASE_CRASHED;
    snprintf(out, size, "%s%s%s, %s%s%s", named ? d->who : "", named ? ": " : "", how, d->where,
             more[0] ? ": " : "", more);
    return status;
}

/* The number behind `key ` in a file of "key number" lines; -1: not there. */
static int64_t read_count(const char *path, const char *key) {
    FILE *f = fopen(path, "re");
    if (!f) return -1;
    char name[64];
    long long value, found = -1;
    while (found < 0 && fscanf(f, "%63s %lld", name, &value) == 2)
        if (strcmp(name, key) == 0) found = value;
    fclose(f);
    return found;
}

int64_t death_oom_kills(void) {
    FILE *f = fopen("/proc/self/cgroup", "re");
    int64_t found = -1;
    char line[4096], path[4200];
    while (f && found < 0 && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        const char *v1 = strstr(line, ":memory:");
        if (strncmp(line, "0::/", 4) == 0) {
            snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.events", line + 3);
            found = read_count(path, "oom_kill");
        } else if (v1) {
            snprintf(path, sizeof path, "/sys/fs/cgroup/memory%s/memory.oom_control", v1 + 8);
            found = read_count(path, "oom_kill");
        }
    }
    if (f) fclose(f);
    return found >= 0 ? found : read_count("/proc/vmstat", "oom_kill");
}

char death_process_state(pid_t pid) {
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "re");
    if (!f) return 0;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = 0;
    const char *name_end = strrchr(text, ')'); /* the name may hold anything, parentheses too */
    return name_end && name_end[1] == ' ' ? name_end[2] : 0;
}

int64_t death_resident_bytes(pid_t pid) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
    FILE *f = fopen(path, "re");
    if (!f) return 0;
    long long pages = 0;
    if (fscanf(f, "%*d %lld", &pages) != 1) pages = 0;
    fclose(f);
    return (int64_t)pages * sysconf(_SC_PAGESIZE);
}
