/* Reads a text file and judges it. See text_file.h. */
#include "harness/text_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Reads to the end or to one byte more than `most`. */
static enum status read_bytes(int fd, const char *path, size_t most, struct text *out,
                              struct error *err) {
    size_t capacity = 0;
    for (;;) {
        if (out->n == capacity) {
            capacity = capacity ? 2 * capacity : 1 << 16;
            char *grown = realloc(out->data, capacity);
            if (!grown)
                return error_set(err, STATUS_NO_MEMORY, "%s: no memory for %zu bytes", path,
                                 capacity);
            out->data = grown;
        }
        const ssize_t got = read(fd, out->data + out->n, capacity - out->n);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return error_set(err, STATUS_IO, "cannot read %s: %s", path, strerror(errno));
        if (got == 0) return STATUS_OK;
        out->n += (size_t)got;
        if (out->n > most) return STATUS_OK;
    }
}

/* Before it is opened: a pipe would wait for a writer, and a device may do anything. */
static enum status check_regular(const char *path, struct error *err) {
    struct stat st;
    if (stat(path, &st) != 0)
        return error_set(err, STATUS_IO, "cannot open %s: %s", path, strerror(errno));
    if (S_ISREG(st.st_mode)) return STATUS_OK;
    return error_set(err, STATUS_USAGE, "cannot read %s: it is a %s, expected a regular file", path,
                     S_ISDIR(st.st_mode)    ? "directory"
                     : S_ISFIFO(st.st_mode) ? "pipe"
                     : S_ISSOCK(st.st_mode) ? "socket"
                                            : "device");
}

enum status text_read(const char *path, int64_t most, struct text *out, struct error *err) {
    *out = (struct text){0};
    enum status s = check_regular(path, err);
    if (s != STATUS_OK) return s;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return error_set(err, STATUS_IO, "cannot open %s: %s", path, strerror(errno));
    s = read_bytes(fd, path, (size_t)most, out, err);
    close(fd);
    if (s != STATUS_OK) text_free(out);
    return s;
}

/* Length of the character at s, or 0: not UTF-8 (The Unicode Standard, table 3-7: no overlong
 * forms, no surrogates, nothing above U+10FFFF). */
static size_t utf8_character(const unsigned char *s, size_t n) {
    static const struct {
        unsigned char first, last, second_first, second_last;
        size_t length;
    } forms[] = {
        {0x00, 0x7f, 0x00, 0x00, 1}, {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
        {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
    };
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        if (s[0] < forms[i].first || s[0] > forms[i].last) continue;
        if (forms[i].length > n) return 0;
        if (forms[i].length > 1 && (s[1] < forms[i].second_first || s[1] > forms[i].second_last))
            return 0;
        for (size_t k = 2; k < forms[i].length; k++)
            if ((s[k] & 0xc0) != 0x80) return 0;
        return forms[i].length;
    }
    return 0;
}

enum status text_check(const struct text *t, const char *name, struct error *err) {
    const unsigned char *s = (const unsigned char *)t->data;
    if (t->n == 0)
        return error_set(err, STATUS_USAGE, "%s is empty: a prompt needs at least one byte", name);
    for (size_t i = 0; i < t->n;) {
        const size_t length = utf8_character(s + i, t->n - i);
        if (length == 0)
            return error_set(err, STATUS_USAGE, "%s is not UTF-8: byte 0x%02x at offset %zu", name,
                             s[i], i);
        i += length;
    }
    return STATUS_OK;
}

void text_free(struct text *t) {
    free(t->data);
    *t = (struct text){0};
}
