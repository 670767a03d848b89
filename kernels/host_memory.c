/* Memory of the host and of this process, from /proc and /sys/fs/cgroup. Owns nothing; asked by the
 * CPU backend before every arena. */
#include "kernels/host_memory.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATH_BYTES = 4096 };

/* Value of the line that begins with `key` (units left alone), or -1. */
static int64_t value_of(const char *path, const char *key) {
    FILE *f = fopen(path, "r");
    if (!f) return -1;
    char line[512];
    int64_t value = -1;
    size_t n = strlen(key);
    while (value < 0 && fgets(line, sizeof line, f)) {
        if (strncmp(line, key, n) != 0) continue;
        if (sscanf(line + n, "%" SCNd64, &value) != 1) value = -1;
    }
    fclose(f);
    return value;
}

/* ---- control groups */

struct group_files {
    const char *mount, *limit, *usage, *inactive, *active;
};
static const struct group_files version_1 = {"/sys/fs/cgroup/memory", "memory.limit_in_bytes",
                                             "memory.usage_in_bytes", "total_inactive_file ",
                                             "total_active_file "};
static const struct group_files version_2 = {"/sys/fs/cgroup", "memory.max", "memory.current",
                                             "inactive_file ", "active_file "};

static int64_t read_in_group(const char *folder, const char *file, const char *key) {
    char path[PATH_BYTES + 64];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    return value_of(path, key);
}

/* Without a limit the file says "max", or a number beyond all memory: both change nothing. */
static void apply_group(struct host_memory *m, const struct group_files *g, const char *folder) {
    int64_t limit = read_in_group(folder, g->limit, "");
    if (limit < 0 || limit >= m->total_bytes) return;
    m->total_bytes = limit;
    int64_t usage = read_in_group(folder, g->usage, "");
    int64_t inactive = read_in_group(folder, "memory.stat", g->inactive);
    int64_t active = read_in_group(folder, "memory.stat", g->active);
    int64_t left =
        limit - (usage > 0 ? usage : 0) + (inactive > 0 ? inactive : 0) + (active > 0 ? active : 0);
    if (left < 0) left = 0;
    if (left < m->available_bytes) m->available_bytes = left, m->group_decides = true;
}

/* The group and all above it. In a container the path may be the host's, and only the mount's root
 * exists: that is tried in any case. */
static void apply_groups(struct host_memory *m, const struct group_files *g, const char *root,
                         const char *path) {
    char folder[PATH_BYTES];
    size_t mount = (size_t)snprintf(folder, sizeof folder, "%s%s", root, g->mount);
    if (mount >= sizeof folder) return;
    snprintf(folder + mount, sizeof folder - mount, "%s", path);
    for (;;) {
        apply_group(m, g, folder);
        char *slash = strrchr(folder + mount, '/');
        if (!slash) return;
        *slash = 0;
    }
}

static bool has_controller(const char *list, const char *name) {
    size_t n = strlen(name);
    for (const char *at = list; (at = strstr(at, name)); at += n)
        if ((at == list || at[-1] == ',') && (at[n] == 0 || at[n] == ',')) return true;
    return false;
}

/* Lines of /proc/self/cgroup: "4:memory:/path" (v1), "0::/path" (v2). */
static void apply_all_groups(struct host_memory *m, const char *root) {
    char path[PATH_BYTES], line[PATH_BYTES];
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *f = fopen(path, "r");
    if (!f) return;
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group) continue;
        *controllers++ = 0, *group++ = 0;
        if (strcmp(line, "0") == 0 && *controllers == 0)
            apply_groups(m, &version_2, root, group);
        else if (has_controller(controllers, "memory"))
            apply_groups(m, &version_1, root, group);
    }
    fclose(f);
}

struct host_memory host_memory_read(const char *root) {
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    int64_t total = value_of(path, "MemTotal:"), available = value_of(path, "MemAvailable:");
    struct host_memory m = {total * 1024, available * 1024, false};
    int64_t page = sysconf(_SC_PAGESIZE);
    if (total < 0) m.total_bytes = sysconf(_SC_PHYS_PAGES) * page;
    if (available < 0) m.available_bytes = sysconf(_SC_AVPHYS_PAGES) * page;
    apply_all_groups(&m, root);
    return m;
}

/* ---- this process */

struct host_self host_self_open(void) {
    return (struct host_self){open("/proc/self/statm", O_RDONLY | O_CLOEXEC),
                              open("/proc/self/status", O_RDONLY | O_CLOEXEC),
                              open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC)};
}

void host_self_close(struct host_self *self) {
    int *const files[] = {&self->statm, &self->status, &self->clear_refs};
    for (int i = 0; i < 3; i++) {
        if (*files[i] >= 0) close(*files[i]);
        *files[i] = -1;
    }
}

/* What the file says now, as a text; empty if it says nothing. */
static void read_again(int fd, char *out, size_t size) {
    const ssize_t n = fd >= 0 ? pread(fd, out, size - 1, 0) : -1;
    out[n > 0 ? n : 0] = 0;
}

int64_t host_resident_bytes(const struct host_self *self) {
    char text[128];
    int64_t size, resident;
    read_again(self->statm, text, sizeof text);
    if (sscanf(text, "%" SCNd64 " %" SCNd64, &size, &resident) != 2) return 0;
    return resident * sysconf(_SC_PAGESIZE);
}

static int64_t kib_behind(const char *text, const char *key) {
    const char *line = strstr(text, key);
    return line ? strtoll(line + strlen(key), NULL, 10) * 1024 : 0;
}

int64_t host_resident_peak_bytes(const struct host_self *self, int64_t *resident) {
    char text[4096];
    read_again(self->status, text, sizeof text);
    if (resident) *resident = kib_behind(text, "\nVmRSS:");
    return kib_behind(text, "\nVmHWM:");
}

bool host_resident_peak_reset(const struct host_self *self) {
    return self->clear_refs >= 0 && pwrite(self->clear_refs, "5", 1, 0) == 1;
}
