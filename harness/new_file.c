/* Files that are whole or not there. See new_file.h. */
#include "harness/new_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static enum status fail(const struct new_file *f, const char *step, struct error *err) {
    return error_set(err, STATUS_IO, "cannot %s %s: %s", step, f->path, strerror(errno));
}

enum status new_file_begin(struct new_file *f, const char *path, struct error *err) {
    struct stat st;
    f->path = path;
    if (lstat(path, &st) == 0 && !S_ISREG(st.st_mode)) /* it would be renamed away: /dev/stdout */
        return error_set(err, STATUS_IO, "%s is not replaced: it is not a regular file", path);
    if ((size_t)snprintf(f->temporary, sizeof f->temporary, "%s.XXXXXX", path) >=
        sizeof f->temporary)
        return error_set(err, STATUS_IO, "%s: path too long", path);
    const int fd = mkostemp(f->temporary, O_CLOEXEC);
    if (fd < 0) return fail(f, "make", err);
    const mode_t mask = umask(0);
    umask(mask);
    fchmod(fd, 0666 & ~mask);
    close(fd);
    return STATUS_OK;
}

enum status new_file_end(struct new_file *f, struct error *err) {
    const int fd = open(f->temporary, O_RDONLY | O_CLOEXEC);
    bool good = fd >= 0 && fsync(fd) == 0;
    if (fd >= 0) close(fd);
    good = good && rename(f->temporary, f->path) == 0;
    if (good) return STATUS_OK;
    const enum status s = fail(f, "write", err);
    new_file_drop(f);
    return s;
}

void new_file_drop(struct new_file *f) {
    unlink(f->temporary);
}
