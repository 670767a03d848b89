/* The folder of a run: named, locked, compared with the configuration that wants to continue it,
 * and cleared away. Before it: config.c; after it: launch.c fills it, record.c merges it. */
#include "harness/run_dir.h"

#include "harness/record.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define RAW_RESULTS "results/raw"
#define D2 "[0-9][0-9]"
#define D6 D2 D2 D2
#define D8 D6 D2

/* ---- names ---- */

/* "configs/smoke.ini" -> "smoke" */
static void config_name(const struct config *c, char *out, size_t size) {
    const char *base = strrchr(c->file, '/');
    base = base ? base + 1 : c->file;
    int n = (int)strlen(base);
    if (n > 4 && strcmp(base + n - 4, ".ini") == 0) n -= 4;
    snprintf(out, size, "%.*s", n > 0 ? n : 3, n > 0 ? base : "run");
}

/* "x.h5" <-> "x.partial" */
static bool replace_ending(const char *path, const char *ending, const char *by, char *out) {
    size_t n = strlen(path), e = strlen(ending);
    if (n > e && strcmp(path + n - e, ending) == 0) n -= e;
    return snprintf(out, PATH_MAX_BYTES, "%.*s%s", (int)n, path, by) < PATH_MAX_BYTES;
}

/* Whether a file is NAME-TIME.partial; NAME may itself hold what looks like a pattern, and another
 * configuration may be called NAME-more. */
static bool is_unfinished(const char *file, const char *name) {
    static const char times[] = "-" D8 "-" D6 ".partial";
    const size_t n = strlen(name);
    return strncmp(file, name, n) == 0 && fnmatch(times, file + n, 0) == 0;
}

static enum status newest_unfinished(const char *name, char *out, struct error *err) {
    char newest[256] = "", path[PATH_MAX_BYTES];
    DIR *dir = opendir(RAW_RESULTS);
    for (const struct dirent *e; dir && (e = readdir(dir));)
        if (is_unfinished(e->d_name, name) && strcmp(e->d_name, newest) > 0)
            snprintf(newest, sizeof newest, "%s", e->d_name);
    if (dir) closedir(dir);
    if (!newest[0])
        return error_set(err, STATUS_USAGE,
                         "nothing to resume: there is no " RAW_RESULTS
                         "/%s-TIME.partial; name the result with -o FILE",
                         name);
    snprintf(path, sizeof path, RAW_RESULTS "/%s", newest);
    replace_ending(path, ".partial", ".h5", out);
    return STATUS_OK;
}

static void folder_of(const char *file, char out[PATH_MAX_BYTES]) {
    const char *slash = strrchr(file, '/');
    if (slash)
        snprintf(out, PATH_MAX_BYTES, "%.*s", slash == file ? 1 : (int)(slash - file), file);
    else
        snprintf(out, PATH_MAX_BYTES, ".");
}

/* Results go into folders that are there; only the default one is made. So a name that was mistyped
 * is found before anything runs. */
static enum status check_output(const char *file, struct error *err) {
    char folder[PATH_MAX_BYTES];
    struct stat st;
    if (file[strlen(file) - 1] == '/' || (stat(file, &st) == 0 && S_ISDIR(st.st_mode)))
        return error_set(err, STATUS_USAGE, "%s is a folder: the result needs the name of a file",
                         file);
    folder_of(file, folder);
    if (strcmp(folder, RAW_RESULTS) == 0) return STATUS_OK;
    if (stat(folder, &st) != 0)
        return errno == ENOENT
                   ? error_set(err, STATUS_IO, "folder %s does not exist", folder)
                   : error_set(err, STATUS_IO, "cannot use folder %s: %s", folder, strerror(errno));
    if (!S_ISDIR(st.st_mode)) return error_set(err, STATUS_IO, "%s is not a folder", folder);
    return STATUS_OK;
}

enum status run_dir_file(const struct config *c, const char *output, enum run_mode mode, char *out,
                         struct error *err) {
    char name[256], stamp[32];
    struct tm tm;
    time_t now = time(NULL);
    if (output && output[0]) {
        if (snprintf(out, PATH_MAX_BYTES, "%s", output) < PATH_MAX_BYTES - 16)
            return check_output(out, err);
        return error_set(err, STATUS_USAGE, "the name of the result file is too long");
    }
    config_name(c, name, sizeof name);
    if (mode == RUN_RESUME) return newest_unfinished(name, out, err);
    localtime_r(&now, &tm);
    strftime(stamp, sizeof stamp, "%Y%m%d-%H%M%S", &tm);
    snprintf(out, PATH_MAX_BYTES, RAW_RESULTS "/%s-%s.h5", name, stamp);
    return STATUS_OK;
}

/* ---- small things on disk ---- */

static bool exists(const char *path) {
    struct stat st;
    return lstat(path, &st) == 0;
}

static enum status make_folder(const char *path, struct error *err) {
    struct stat st;
    if (mkdir(path, 0777) != 0 && errno != EEXIST)
        return error_set(err, STATUS_IO, "cannot create folder %s: %s", path, strerror(errno));
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) return STATUS_OK;
    return error_set(err, STATUS_IO, "%s is not a folder", path);
}

/* RUN.partial, and the default folder that it may stand in. */
static enum status make_folders(const struct run_dir *d, struct error *err) {
    char parent[PATH_MAX_BYTES];
    enum status s = STATUS_OK;
    folder_of(d->file, parent);
    if (strcmp(parent, RAW_RESULTS) == 0) {
        s = make_folder("results", err);
        if (s == STATUS_OK) s = make_folder(RAW_RESULTS, err);
    }
    return s == STATUS_OK ? make_folder(d->path, err) : s;
}

static enum status write_text(const char *path, const char *text, struct error *err) {
    char temporary[PATH_MAX_BYTES + 32];
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    size_t left = strlen(text);
    bool good = fd >= 0;
    while (good && left > 0) {
        ssize_t n = write(fd, text, left);
        good = n > 0;
        if (good) text += n, left -= (size_t)n;
    }
    good = good && fsync(fd) == 0;
    int problem = errno;
    if (fd >= 0 && close(fd) != 0 && good) {
        good = false;
        problem = errno;
    }
    if (good && rename(temporary, path) == 0) return STATUS_OK;
    if (good) problem = errno;
    unlink(temporary);
    return error_set(err, STATUS_IO, "cannot write %s: %s", path, strerror(problem));
}

/* What a run leaves in its folder; nothing else is removed. */
static void empty_folder(const char *path, bool and_lock) {
    static const char *const ours[] = {"config.ini", "plan.json", "case-*.h5", "worker-*.log",
                                       "*.tmp"};
    DIR *dir = opendir(path);
    if (!dir) return;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        bool mine = and_lock && strcmp(entry->d_name, "lock") == 0;
        for (size_t i = 0; i < sizeof ours / sizeof ours[0]; i++)
            mine = mine || fnmatch(ours[i], entry->d_name, FNM_PERIOD) == 0;
        if (mine) unlinkat(dirfd(dir), entry->d_name, 0);
    }
    closedir(dir);
}

/* ---- the lock ---- */

/* A run that was killed may have a child that lives a moment longer, and the lock with it: where
 * the process that took the lock is gone, it pays to wait. */
static bool lock_when_free(int fd) {
    enum { STEP_MS = 50, MOST_MS = 3000 };
    for (int waited_ms = 0; flock(fd, LOCK_EX | LOCK_NB) != 0; waited_ms += STEP_MS) {
        char pid[32] = "";
        if (errno != EWOULDBLOCK) return false;
        if (pread(fd, pid, sizeof pid - 1, 0) < 0) pid[0] = 0;
        const bool gone = atoi(pid) > 0 && kill(atoi(pid), 0) != 0 && errno == ESRCH;
        errno = EWOULDBLOCK;
        if (!gone || waited_ms >= MOST_MS) return false;
        nanosleep(&(struct timespec){.tv_nsec = STEP_MS * 1000000}, NULL);
    }
    return true;
}

static enum status take_lock(struct run_dir *d, struct error *err) {
    char path[PATH_MAX_BYTES + 8], pid[32] = "";
    snprintf(path, sizeof path, "%s/lock", d->path);
    d->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (d->lock < 0) return error_set(err, STATUS_IO, "cannot open %s: %s", path, strerror(errno));
    struct stat st;
    bool locked = lock_when_free(d->lock);
    if (!locked && errno != EWOULDBLOCK)
        return error_set(err, STATUS_IO, "cannot lock %s: %s", path, strerror(errno));
    if (!locked || fstat(d->lock, &st) != 0 || st.st_nlink == 0) { /* 0: it ends just now */
        if (pread(d->lock, pid, sizeof pid - 1, 0) < 0) pid[0] = 0;
        return error_set(err, STATUS_USAGE, "another run is writing %s (process %s)", d->file,
                         pid[0] ? pid : "unknown");
    }
    int n = snprintf(pid, sizeof pid, "%d", (int)getpid());
    if (ftruncate(d->lock, 0) != 0 || pwrite(d->lock, pid, (size_t)n, 0) != n)
        return error_set(err, STATUS_IO, "cannot write %s: %s", path, strerror(errno));
    return STATUS_OK;
}

/* ---- the configuration ---- */

/* The next "[section]" or "key = value" line of an INI text, split in place. */
static bool next_value(char **text, char **section, char **key, char **value) {
    for (char *line; (line = strsep(text, "\n")) != NULL;) {
        char *end = strchr(line, ']'), *equals = strchr(line, '=');
        if (line[0] == '[' && end) {
            *end = 0;
            *section = line + 1;
        } else if (line[0] && line[0] != '#' && line[0] != ';' && equals) {
            *key = line;
            *value = equals + 1 + strspn(equals + 1, " ");
            while (equals > line && equals[-1] == ' ') equals--;
            *equals = 0;
            return true;
        }
    }
    return false;
}

/* Value of a key, copied to out; false: not there. */
static bool value_of(const char *text, const char *section, const char *key, char *out,
                     size_t size) {
    char *copy = strdup(text), *rest = copy, *s = "", *k, *v;
    bool found = false;
    while (copy && !found && next_value(&rest, &s, &k, &v))
        if (strcmp(s, section) == 0 && strcmp(k, key) == 0) {
            snprintf(out, size, "%s", v);
            found = true;
        }
    free(copy);
    return found;
}

int run_dir_differences(const char *was, const char *is, char *out, size_t size) {
    char *copy = strdup(is), *rest = copy, *section = "", *key, *value, old[PATH_MAX_BYTES];
    size_t at = 0;
    int n = 0;
    if (size > 0) out[0] = 0;
    while (copy && next_value(&rest, &section, &key, &value)) {
        bool output = strcmp(section, "run") == 0 && strcmp(key, "output") == 0;
        bool there = value_of(was, section, key, old, sizeof old);
        if (output || (there && strcmp(old, value) == 0)) continue;
        int more = snprintf(out + at, size - at, "%s[%s] %s: was %.100s, is %.100s", n ? "; " : "",
                            section, key, there ? old : "not there", value);
        at = at + (size_t)more < size ? at + (size_t)more : size - 1;
        n++;
    }
    free(copy);
    return n;
}

static enum status compare_config(const struct run_dir *d, const struct config *c,
                                  const char *config_path, struct error *err) {
    struct config_errors errors = {0};
    struct config *was = calloc(1, sizeof *was);
    char hash[65], hash_was[65], differences[700] = "";
    if (!was) return error_set(err, STATUS_NO_MEMORY, "no memory for a configuration");
    enum status s = config_load(was, config_path, NULL, 0, &errors);
    if (s != STATUS_OK) {
        error_set(err, s, "%s: %s", config_path,
                  errors.n > 0 ? errors.e[0].text : "cannot be read");
    } else {
        config_hash(c, hash);
        config_hash(was, hash_was);
        char *text = config_to_text(c), *text_was = config_to_text(was);
        if (text && text_was) run_dir_differences(text_was, text, differences, sizeof differences);
        if (strcmp(hash, hash_was) != 0)
            s = error_set(err, STATUS_USAGE,
                          "cannot resume %s with another configuration: %s. Undo that, or start "
                          "over with --force",
                          d->file, differences);
        free(text);
        free(text_was);
    }
    free(was);
    return s;
}

/* ---- opening and closing ---- */

/* What a finished run will replace must be a result itself. */
static enum status check_replaced(const char *file, struct error *err) {
    struct record_run run;
    struct error why = {"it is not a regular file"};
    struct stat st;
    bool regular = stat(file, &st) == 0 && S_ISREG(st.st_mode);
    if (!regular || record_read_run(file, &run, &why) != STATUS_OK)
        return error_set(err, STATUS_USAGE, "%s is not a result of bench, not replaced (%.400s)",
                         file, why.text);
    record_run_free(&run);
    return STATUS_OK;
}

static enum status refuse(const struct run_dir *d, bool partial, enum run_mode mode,
                          struct error *err) {
    bool file = exists(d->file);
    if (mode == RUN_RESUME && !partial)
        return error_set(err, STATUS_USAGE,
                         file ? "%s is finished: there is nothing to resume"
                              : "nothing to resume: there is no unfinished %s",
                         d->file);
    if (mode != RUN_NEW) return file ? check_replaced(d->file, err) : STATUS_OK;
    if (partial)
        return error_set(err, STATUS_USAGE,
                         "%s is an unfinished run: --resume continues it, --force starts it over",
                         d->path);
    if (file)
        return error_set(err, STATUS_USAGE,
                         "%s exists; choose another name with -o, or replace it with --force",
                         d->file);
    return STATUS_OK;
}

static enum status fill(struct run_dir *d, const struct config *c, enum run_mode mode,
                        struct error *err) {
    char config_path[PATH_MAX_BYTES + 16];
    snprintf(config_path, sizeof config_path, "%s/config.ini", d->path);
    if (mode == RUN_RESUME && exists(config_path)) {
        d->has_plan = exists(d->plan);
        return compare_config(d, c, config_path, err);
    }
    empty_folder(d->path, false);
    char *text = config_to_text(c);
    enum status s = text ? write_text(config_path, text, err)
                         : error_set(err, STATUS_NO_MEMORY, "no memory for a configuration");
    free(text);
    return s;
}

enum status run_dir_open(struct run_dir *d, const char *file, const struct config *c,
                         enum run_mode mode, struct error *err) {
    *d = (struct run_dir){.lock = -1};
    snprintf(d->file, sizeof d->file, "%s", file);
    if (!replace_ending(file, ".h5", ".partial", d->path) ||
        (size_t)snprintf(d->plan, sizeof d->plan, "%.4000s/plan.json", d->path) >= sizeof d->plan)
        return error_set(err, STATUS_USAGE, "the name of the result file is too long");
    bool made = !exists(d->path);
    enum status s = made ? STATUS_OK : take_lock(d, err); /* who runs comes before what is there */
    if (s == STATUS_OK) s = refuse(d, !made, mode, err);
    if (s == STATUS_OK && made) s = make_folders(d, err);
    if (s == STATUS_OK && made) s = take_lock(d, err);
    if (s != STATUS_OK) {
        if (d->lock >= 0) close(d->lock);
        return s;
    }
    s = fill(d, c, mode, err);
    if (s != STATUS_OK) run_dir_close(d, made); /* leaves no folder behind that was not there */
    return s;
}

/* Out of the way in one step first: killed half-way through the emptying, a run must not look as if
 * it could be resumed. What a killed one left so is removed, too. */
static void remove_folder(const struct run_dir *d) {
    char gone[PATH_MAX_BYTES];
    if (!replace_ending(d->path, ".partial", ".finished", gone)) return;
    empty_folder(gone, true);
    rmdir(gone);
    const bool moved = rename(d->path, gone) == 0;
    empty_folder(moved ? gone : d->path, true);
    if (rmdir(moved ? gone : d->path) != 0 && moved)
        rename(gone, d->path); /* somebody else's files are in it: they stay where they were put */
}

void run_dir_close(struct run_dir *d, bool finished) {
    if (finished) remove_folder(d);
    if (d->lock >= 0) close(d->lock);
    d->lock = -1;
}
