/* Facts of the host, read from /proc, /sys, git and this process itself.
 * Before it: the plan (device, rates, configuration). After it: record_write.c, cmd_doctor.c. */
#include "harness/machine.h"

#include "harness/data_dir.h"
#include "harness/sha256.h"
#include "kernels/cpu_features.h"
#include "kernels/gpu_list.h"

#include <errno.h>
#include <fcntl.h>
#include <gnu/libc-version.h>
#include <limits.h>
#include <link.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { GIT_TIME_LIMIT_S = 10, CPUS_MOST = 1 << 16 };

static const char unknown[] = "unknown";

static void copy(char *out, size_t size, const char *text) {
    snprintf(out, size, "%s", text);
}

/* ---- small files of the kernel ---- */

/* First line of a file without its end; false: not there, or empty. */
static bool read_line(const char *path, char *out, size_t size) {
    FILE *f = fopen(path, "re");
    out[0] = 0;
    if (!f) return false;
    bool got = fgets(out, (int)size, f) != NULL;
    fclose(f);
    out[strcspn(out, "\n")] = 0;
    return got && out[0];
}

static int64_t read_number(const char *path) {
    char line[64];
    if (!read_line(path, line, sizeof line)) return 0;
    errno = 0;
    char *end;
    long long n = strtoll(line, &end, 10);
    return errno || end == line || n < 0 ? 0 : (int64_t)n;
}

/* What follows "key<blanks>:<blanks>" in a file of such lines. */
static bool read_field(const char *path, const char *key, char *out, size_t size) {
    char line[1024];
    bool found = false;
    FILE *f = fopen(path, "re");
    out[0] = 0;
    while (f && !found && fgets(line, sizeof line, f)) {
        size_t n = strlen(key);
        if (strncmp(line, key, n) != 0) continue;
        const char *p = line + n;
        p += strspn(p, " \t");
        if (*p != ':') continue;
        p += 1 + strspn(p + 1, " \t");
        snprintf(out, size, "%.*s", (int)strcspn(p, "\n"), p);
        found = out[0] != 0;
    }
    if (f) fclose(f);
    return found;
}

/* ---- the host ---- */

int machine_cores(void) {
    for (int cpus = 1024; cpus <= CPUS_MOST; cpus *= 4) {
        cpu_set_t *set = CPU_ALLOC(cpus);
        if (!set) break;
        size_t size = CPU_ALLOC_SIZE(cpus);
        int n = sched_getaffinity(0, size, set) == 0 ? CPU_COUNT_S(size, set) : 0;
        CPU_FREE(set);
        if (n > 0) return n;
    }
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}

/* "0-3,8" names five. */
static int count_list(const char *text) {
    int n = 0;
    while (*text) {
        char *end;
        long from = strtol(text, &end, 10), to = from;
        if (end == text) break;
        if (*end == '-') to = strtol(end + 1, &end, 10);
        if (to >= from && to - from < CPUS_MOST) n += (int)(to - from) + 1;
        text = *end == ',' ? end + 1 : end;
        if (*end && *end != ',') break;
    }
    return n;
}

int machine_numa_nodes(void) {
    char line[256];
    int n = read_line("/sys/devices/system/node/online", line, sizeof line) ? count_list(line) : 0;
    return n > 0 ? n : 1;
}

int64_t machine_memory_bytes(void) {
    long pages = sysconf(_SC_PHYS_PAGES), bytes = sysconf(_SC_PAGE_SIZE);
    return pages > 0 && bytes > 0 ? (int64_t)pages * bytes : 0;
}

int64_t machine_available_bytes(void) {
    char text[64];
    if (!read_field("/proc/meminfo", "MemAvailable", text, sizeof text)) return 0;
    return strtoll(text, NULL, 10) * 1024;
}

static void keep_least(int64_t *least, int64_t limit) {
    /* version 1 says "no limit" by a number that no machine has */
    if (limit > 0 && limit < INT64_MAX / 4096 * 4096 && (*least == 0 || limit < *least))
        *least = limit;
}

/* Limits of a group and of those around it. */
static void walk_group(const char *root, const char *group, const char *file, int64_t *least) {
    char path[PATH_MAX];
    if ((size_t)snprintf(path, sizeof path, "%s%s", root, group) >= sizeof path) return;
    for (size_t n = strlen(path); n >= strlen(root);) {
        char name[PATH_MAX + 64];
        snprintf(name, sizeof name, "%.*s/%s", (int)n, path, file);
        keep_least(least, read_number(name));
        while (n > 0 && path[n - 1] != '/') n--;
        if (n == 0) break;
        n--;
    }
}

/* Lines "0::/group" (version 2) and "4:memory:/group" (version 1). */
int64_t machine_cgroup_limit_bytes(void) {
    char line[PATH_MAX];
    int64_t least = 0, memory = machine_memory_bytes();
    FILE *f = fopen("/proc/self/cgroup", "re");
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        char *names = strchr(line, ':'), *group = names ? strchr(names + 1, ':') : NULL;
        if (!group) continue;
        *group++ = 0;
        if (!names[1])
            walk_group("/sys/fs/cgroup", strcmp(group, "/") ? group : "", "memory.max", &least);
        else if (strcmp(names + 1, "memory") == 0)
            walk_group("/sys/fs/cgroup/memory", strcmp(group, "/") ? group : "",
                       "memory.limit_in_bytes", &least);
    }
    if (f) fclose(f);
    return memory > 0 && least >= memory ? 0 : least;
}

void machine_cpu_model(char *out, size_t size) {
    if (!read_field("/proc/cpuinfo", "model name", out, size) &&
        !read_field("/proc/cpuinfo", "Processor", out, size))
        copy(out, size, unknown);
}

void machine_governor(char *out, size_t size) {
    if (!read_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", out, size))
        copy(out, size, unknown);
}

static void kernel_text(char *out, size_t size) {
    struct utsname u;
    if (uname(&u) == 0)
        snprintf(out, size, "%.20s %.80s %.20s", u.sysname, u.release, u.machine);
    else
        copy(out, size, unknown);
}

/* ---- this program ---- */

void machine_binary_sha256(char out[65]) {
    struct stat st;
    copy(out, 65, unknown);
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    if (fstat(fd, &st) == 0 && st.st_size > 0) {
        void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (map != MAP_FAILED) {
            sha256_hex(map, (size_t)st.st_size, out);
            munmap(map, (size_t)st.st_size);
        }
    }
    close(fd);
}

struct library_list {
    char *out;
    size_t size;
};

/* The file's name with links followed carries the version: libdnnl.so.2 -> libdnnl.so.2.6. */
static int add_library(struct dl_phdr_info *info, size_t size, void *ctx) {
    static const char *const wanted[] = {"libdnnl.so", "libgomp.so", "libcudart.so", "libnccl.so",
                                         "libcuda.so"};
    struct library_list *list = ctx;
    char real[PATH_MAX];
    (void)size;
    if (!info->dlpi_name || !info->dlpi_name[0] || !realpath(info->dlpi_name, real)) return 0;
    const char *name = strrchr(real, '/') + 1;
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        size_t used = strlen(list->out);
        if (strncmp(name, wanted[i], strlen(wanted[i])) == 0)
            snprintf(list->out + used, list->size - used, "; %s", name);
    }
    return 0;
}

void machine_libraries(char *out, size_t size) {
    char hdf5[64];
    struct library_list list = {out, size};
    record_library(hdf5, sizeof hdf5);
    snprintf(out, size, "%s; glibc %s", hdf5, gnu_get_libc_version());
    dl_iterate_phdr(add_library, &list);
}

/* The worker loads it; this process has no other use for it. version: 0 for none. */
static void add_version(char *libraries, size_t size, const char *name, int64_t version) {
    const int v = (int)version;
    const size_t used = strlen(libraries);
    if (v > 0)
        snprintf(libraries + used, size - used, "; %s %d.%d.%d", name, v / 10000, v / 100 % 100,
                 v % 100);
}

static bool uses_cudnn(const struct plan *p) {
    for (int i = 0; i < p->config.attention_backend.n; i++)
        if (!strcmp(p->config.attention_backend.v[i], "cudnn")) return true;
    return false;
}

static bool uses_nccl(const struct plan *p) {
    int n;
    for (int i = 0; i < p->n; i++)
        if (engine_devices(&p->cases[i].engine, &n, NULL) == STATUS_OK && n > 1) return true;
    return false;
}

static bool is_plain(const char *text) {
    return *text && text[strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                      "0123456789_-+=:,./@%")] == 0;
}

char *machine_command_line(int argc, char *const *argv) {
    size_t size = sizeof "bench";
    for (int i = 0; i < argc; i++) size += 3 + 4 * strlen(argv[i]);
    char *out = malloc(size), *p = out;
    if (!out) return NULL;
    p = stpcpy(p, "bench");
    for (int i = 0; i < argc; i++) {
        bool plain = is_plain(argv[i]);
        *p++ = ' ';
        if (!plain) *p++ = '\'';
        for (const char *c = argv[i]; *c; c++) {
            if (!plain && *c == '\'')
                p = stpcpy(p, "'\\''");
            else
                *p++ = *c;
        }
        if (!plain) *p++ = '\'';
    }
    *p = 0;
    return out;
}

/* ---- git ---- */

static void run_git(const char *folder, const char *const *arguments, int out_fd) {
    const char *argv[16] = {"git", "--no-optional-locks", "-C", folder};
    for (int i = 0; i < 11 && arguments[i]; i++) argv[4 + i] = arguments[i];
    int null = open("/dev/null", O_RDWR);
    dup2(null, STDIN_FILENO);
    dup2(null, STDERR_FILENO);
    dup2(out_fd, STDOUT_FILENO);
    signal(SIGALRM, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    alarm(GIT_TIME_LIMIT_S);
    execvp("git", (char *const *)argv);
    _exit(127);
}

/* First bytes of what git prints, without the last newline; false: no git, or it failed. */
static bool git(const char *folder, const char *const *arguments, char *out, size_t size) {
    int fds[2], how = 0;
    size_t used = 0;
    char rest[4096];
    out[0] = 0;
    if (pipe2(fds, O_CLOEXEC) != 0) return false;
    pid_t pid = fork();
    if (pid == 0) run_git(folder, arguments, fds[1]);
    close(fds[1]);
    while (pid > 0) {
        bool room = used + 1 < size;
        ssize_t n = read(fds[0], room ? out + used : rest, room ? size - 1 - used : sizeof rest);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        if (room) used += (size_t)n;
    }
    close(fds[0]);
    if (pid < 0) return false;
    while (waitpid(pid, &how, 0) < 0 && errno == EINTR) continue;
    out[used] = 0;
    if (used > 0 && out[used - 1] == '\n') out[used - 1] = 0;
    return WIFEXITED(how) && WEXITSTATUS(how) == 0;
}

void machine_git(const char *folder, char *commit, size_t size, bool *dirty) {
    static const char *const top[] = {"rev-parse", "--show-toplevel", NULL};
    static const char *const head[] = {"rev-parse", "HEAD", NULL};
    static const char *const changes[] = {"status", "--porcelain", "--untracked-files=no", NULL};
    char text[PATH_MAX], here[PATH_MAX], there[PATH_MAX];
    *dirty = false;
    copy(commit, size, unknown);
    if (!git(folder, top, text, sizeof text) || !realpath(folder, here) || !realpath(text, there) ||
        strcmp(here, there) != 0 || !git(folder, head, text, sizeof text))
        return;
    copy(commit, size, text);
    *dirty = git(folder, changes, text, sizeof text) && text[0];
}

/* Of the data that this program uses. An installed program has no repository: a file beside its
 * configurations names the commit, as "HASH" or "HASH-dirty". */
static void revision(char *commit, size_t size, bool *dirty) {
    char folder[PATH_MAX], path[PATH_MAX + 16], line[128] = "";
    *dirty = false;
    copy(commit, size, unknown);
    if (!bench_data_dir(folder, sizeof folder)) return;
    snprintf(path, sizeof path, "%s/revision", folder);
    if (!read_line(path, line, sizeof line)) {
        machine_git(folder, commit, size, dirty);
        return;
    }
    *dirty = strchr(line, '-') != NULL;
    line[strcspn(line, "-")] = 0;
    copy(commit, size, line);
}

/* ---- all of them ---- */

static int64_t now_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* One moment on both clocks: the pair whose reading took least time, of a few. */
static void clock_pair(int64_t *realtime_ns, int64_t *monotonic_ns) {
    int64_t best = INT64_MAX;
    for (int i = 0; i < 16; i++) {
        int64_t before = now_ns(CLOCK_MONOTONIC), wall = now_ns(CLOCK_REALTIME);
        int64_t took = now_ns(CLOCK_MONOTONIC) - before;
        if (took >= best) continue;
        best = took;
        *realtime_ns = wall;
        *monotonic_ns = before + took / 2;
    }
}

void machine_gpus(const struct gpu_list *gpus, const char *used_bus_id, struct run_facts *out) {
    out->n_gpus = gpus->n;
    for (int i = 0; i < gpus->n; i++) {
        struct gpu_row *row = &out->gpus[i];
        *row = (struct gpu_row){.gpu = gpus->gpu[i],
                                .cuda_version = gpus->driver.cuda_version,
                                .visible = gpus->visible[i],
                                .used = nvml_same_bus_id(gpus->gpu[i].bus_id, used_bus_id)};
        copy(row->driver, sizeof row->driver, gpus->driver.version);
    }
}

void machine_facts_open(struct machine_facts *out, const struct plan *p, int argc,
                        char *const *argv) {
    struct run_facts *f = &out->run;
    memset(out, 0, sizeof *out);
    out->argv = machine_command_line(argc, argv);
    out->config_text = config_to_text(&p->config);
    f->argv = out->argv ? out->argv : "";
    f->config_text = out->config_text ? out->config_text : "";
    config_hash(&p->config, f->config_sha256);
    struct tm tm;
    time_t seconds = time(NULL);
    gmtime_r(&seconds, &tm);
    strftime(f->created_utc, sizeof f->created_utc, "%Y-%m-%dT%H:%M:%SZ", &tm);
    copy(f->tool_version, sizeof f->tool_version, BENCH_VERSION);
    revision(f->git_commit, sizeof f->git_commit, &f->git_dirty);
    machine_binary_sha256(f->binary_sha256);
    if (gethostname(f->hostname, sizeof f->hostname - 1) != 0)
        copy(f->hostname, sizeof f->hostname, unknown);
    machine_cpu_model(f->cpu_model, sizeof f->cpu_model);
    copy(f->isa, sizeof f->isa,
         p->device == DEVICE_CPU ? p->device_info.isa : cpu_isa_name(cpu_isa_best()));
    kernel_text(f->kernel, sizeof f->kernel);
    machine_governor(f->governor, sizeof f->governor);
    f->cores = machine_cores();
    f->numa_nodes = machine_numa_nodes();
    f->memory_bytes = machine_memory_bytes();
    clock_pair(&f->realtime_ns, &f->monotonic_ns);
    f->device = p->device_info;
    f->rates = p->rates;
    machine_gpus(gpu_list_machine(), p->device_info.bus_id, f);
    machine_libraries(f->libraries, sizeof f->libraries);
    if (p->device == DEVICE_CUDA)
        add_version(f->libraries, sizeof f->libraries, "cuBLASLt", cuda_blas_version());
    if (p->device == DEVICE_CUDA && uses_cudnn(p))
        add_version(f->libraries, sizeof f->libraries, "cuDNN", cuda_dnn_version());
    if (p->device == DEVICE_CUDA && uses_nccl(p))
        add_version(f->libraries, sizeof f->libraries, "NCCL", cuda_nccl_version());
}

void machine_facts_close(struct machine_facts *m) {
    free(m->argv);
    free(m->config_text);
    memset(m, 0, sizeof *m);
}
