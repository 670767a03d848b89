/* JSON documents over jansson: the only file that includes it. A `struct jsondoc *` is a json_t *
 * by another name, so that callers need no header of the library. */
#include "harness/jsondoc.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static json_t *json_of(const struct jsondoc *d) {
    return (json_t *)(uintptr_t)d;
}
static struct jsondoc *doc_of(json_t *j) {
    return (struct jsondoc *)j;
}

struct jsondoc *jsondoc_object(void) {
    return doc_of(json_object());
}

struct jsondoc *jsondoc_array(void) {
    return doc_of(json_array());
}

void jsondoc_close(struct jsondoc *d) {
    json_decref(json_of(d));
}

/* ---- building: text first */

/* Length of the well-formed UTF-8 sequence at s, or 0. */
static int utf8_length(const unsigned char *s) {
    const unsigned char c = s[0];
    if (c < 0x80) return 1;
    const int n = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
    if (c < 0xc2 || c > 0xf4) return 0;
    for (int i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    if ((c == 0xe0 && s[1] < 0xa0) || (c == 0xed && s[1] > 0x9f)) return 0;
    if ((c == 0xf0 && s[1] < 0x90) || (c == 0xf4 && s[1] > 0x8f)) return 0;
    return n;
}

static json_t *text_value(const char *text) {
    if (!text) return json_null();
    json_t *value = json_string(text);
    if (value) return value;
    char *repaired = malloc(3 * strlen(text) + 1);
    if (!repaired) return NULL;
    char *to = repaired;
    for (const unsigned char *s = (const unsigned char *)text; *s;) {
        const int n = utf8_length(s);
        memcpy(to, n ? (const char *)s : "\xef\xbf\xbd", n ? (size_t)n : 3);
        to += n ? n : 3;
        s += n ? n : 1;
    }
    *to = 0;
    value = json_string(repaired);
    free(repaired);
    return value;
}

static json_t *real_value(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

void jsondoc_put_text(struct jsondoc *object, const char *key, const char *text) {
    json_object_set_new(json_of(object), key, text_value(text));
}
void jsondoc_put_int(struct jsondoc *object, const char *key, int64_t value) {
    json_object_set_new(json_of(object), key, json_integer(value));
}
void jsondoc_put_real(struct jsondoc *object, const char *key, double value) {
    json_object_set_new(json_of(object), key, real_value(value));
}
void jsondoc_put_bool(struct jsondoc *object, const char *key, bool value) {
    json_object_set_new(json_of(object), key, json_boolean(value));
}

/* A child that could not be attached (no memory) is NULL; jansson ignores calls on NULL. */
struct jsondoc *jsondoc_put_object(struct jsondoc *object, const char *key) {
    json_t *child = json_object();
    return json_object_set_new(json_of(object), key, child) == 0 ? doc_of(child) : NULL;
}
struct jsondoc *jsondoc_put_array(struct jsondoc *object, const char *key) {
    json_t *child = json_array();
    return json_object_set_new(json_of(object), key, child) == 0 ? doc_of(child) : NULL;
}
struct jsondoc *jsondoc_add_object(struct jsondoc *array) {
    json_t *child = json_object();
    return json_array_append_new(json_of(array), child) == 0 ? doc_of(child) : NULL;
}
void jsondoc_add_text(struct jsondoc *array, const char *text) {
    json_array_append_new(json_of(array), text_value(text));
}
void jsondoc_add_int(struct jsondoc *array, int64_t value) {
    json_array_append_new(json_of(array), json_integer(value));
}
void jsondoc_add_real(struct jsondoc *array, double value) {
    json_array_append_new(json_of(array), real_value(value));
}

/* ---- out */

char *jsondoc_text(const struct jsondoc *d) {
    return json_dumps(json_of(d), JSON_INDENT(2));
}

static enum status write_all(int fd, const char *text, size_t n) {
    while (n) {
        const ssize_t done = write(fd, text, n);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return STATUS_IO;
        text += done;
        n -= (size_t)done;
    }
    return STATUS_OK;
}

enum status jsondoc_write(const struct jsondoc *d, const char *path, struct error *err) {
    char temporary[4200];
    if ((size_t)snprintf(temporary, sizeof temporary, "%s.%ld.tmp", path, (long)getpid()) >=
        sizeof temporary)
        return error_set(err, STATUS_IO, "cannot write %.200s...: the path is too long", path);
    char *text = jsondoc_text(d);
    if (!text) return error_set(err, STATUS_NO_MEMORY, "cannot write %s: out of memory", path);
    enum status status = STATUS_OK;
    const int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) {
        status = error_set(err, STATUS_IO, "cannot create %s: %s", temporary, strerror(errno));
        free(text);
        return status;
    }
    if (write_all(fd, text, strlen(text)) != STATUS_OK || fsync(fd) != 0)
        status = error_set(err, STATUS_IO, "cannot write %s: %s", temporary, strerror(errno));
    if (close(fd) != 0 && status == STATUS_OK)
        status = error_set(err, STATUS_IO, "cannot write %s: %s", temporary, strerror(errno));
    if (status == STATUS_OK && rename(temporary, path) != 0)
        status = error_set(err, STATUS_IO, "cannot rename %s to %s: %s", temporary, path,
                           strerror(errno));
    if (status != STATUS_OK) unlink(temporary);
    free(text);
    return status;
}

/* ---- in */

enum status jsondoc_read(struct jsondoc **out, const char *path, struct error *err) {
    *out = NULL;
    FILE *file = fopen(path, "rbe");
    if (!file) return error_set(err, STATUS_IO, "cannot open %s: %s", path, strerror(errno));
    json_error_t where;
    json_t *root = json_loadf(file, JSON_REJECT_DUPLICATES, &where);
    fclose(file);
    if (!root)
        return error_set(err, STATUS_IO, "%s:%d: not the JSON that was expected: %s", path,
                         where.line, where.text);
    if (!json_is_object(root)) {
        json_decref(root);
        return error_set(err, STATUS_IO, "%s:1: found an array, expected a JSON object", path);
    }
    *out = doc_of(root);
    return STATUS_OK;
}

bool jsondoc_get_int(const struct jsondoc *object, const char *key, int64_t *out) {
    const json_t *value = json_object_get(json_of(object), key);
    if (!json_is_integer(value)) return false;
    *out = json_integer_value(value);
    return true;
}
bool jsondoc_get_real(const struct jsondoc *object, const char *key, double *out) {
    const json_t *value = json_object_get(json_of(object), key);
    if (!json_is_number(value)) return false;
    *out = json_number_value(value);
    return true;
}
bool jsondoc_get_bool(const struct jsondoc *object, const char *key, bool *out) {
    const json_t *value = json_object_get(json_of(object), key);
    if (!json_is_boolean(value)) return false;
    *out = json_is_true(value);
    return true;
}
const char *jsondoc_get_text(const struct jsondoc *object, const char *key) {
    return json_string_value(json_object_get(json_of(object), key));
}
const struct jsondoc *jsondoc_get(const struct jsondoc *object, const char *key) {
    json_t *value = json_object_get(json_of(object), key);
    return json_is_object(value) || json_is_array(value) ? doc_of(value) : NULL;
}
int jsondoc_length(const struct jsondoc *array) {
    return (int)json_array_size(json_of(array));
}
const struct jsondoc *jsondoc_at(const struct jsondoc *array, int i) {
    json_t *value = json_array_get(json_of(array), (size_t)i);
    return json_is_object(value) || json_is_array(value) ? doc_of(value) : NULL;
}
