/* JSON documents: the narrow door to jansson (its only user is jsondoc.c). Building never fails
 * half-way: text that is not UTF-8 is repaired with U+FFFD, NaN and infinity become null.
 *
 *     struct jsondoc *d = jsondoc_object();
 *     jsondoc_put_int(d, "schema_version", 1);
 *     struct jsondoc *rows = jsondoc_put_array(d, "cases");
 *     struct jsondoc *row = jsondoc_add_object(rows);
 *     ...
 *     char *text = jsondoc_text(d);
 *     jsondoc_close(d);
 */
#ifndef HARNESS_JSONDOC_H
#define HARNESS_JSONDOC_H

#include "engine/engine.h"

#include <stdbool.h>
#include <stdint.h>

struct jsondoc; /* an object or an array; children belong to their parent */

struct jsondoc *jsondoc_object(void);  /* a root; the caller closes it */
struct jsondoc *jsondoc_array(void);   /* a root that is an array */
void jsondoc_close(struct jsondoc *d); /* roots only; NULL is legal */

void jsondoc_put_text(struct jsondoc *object, const char *key, const char *text); /* NULL: null */
void jsondoc_put_int(struct jsondoc *object, const char *key, int64_t value);
void jsondoc_put_real(struct jsondoc *object, const char *key, double value);
void jsondoc_put_bool(struct jsondoc *object, const char *key, bool value);
struct jsondoc *jsondoc_put_object(struct jsondoc *object, const char *key); /* borrowed */
struct jsondoc *jsondoc_put_array(struct jsondoc *object, const char *key);
struct jsondoc *jsondoc_add_object(struct jsondoc *array);
void jsondoc_add_text(struct jsondoc *array, const char *text);
void jsondoc_add_int(struct jsondoc *array, int64_t value);
void jsondoc_add_real(struct jsondoc *array, double value);

/* Indented text, keys in the order of insertion; malloc'd. */
char *jsondoc_text(const struct jsondoc *d);
/* To a temporary name in the same folder, fsync, rename. */
enum status jsondoc_write(const struct jsondoc *d, const char *path, struct error *err);

/* STATUS_IO names file, line and what is wrong; nesting and size are bounded. The root is an
 * object.
 */
enum status jsondoc_read(struct jsondoc **out, const char *path, struct error *err);
/* false, or NULL: not there or of another type. Integers are also reals. */
bool jsondoc_get_int(const struct jsondoc *object, const char *key, int64_t *out);
bool jsondoc_get_real(const struct jsondoc *object, const char *key, double *out);
bool jsondoc_get_bool(const struct jsondoc *object, const char *key, bool *out);
const char *jsondoc_get_text(const struct jsondoc *object, const char *key);
const struct jsondoc *jsondoc_get(const struct jsondoc *object, const char *key);
int jsondoc_length(const struct jsondoc *array);
const struct jsondoc *jsondoc_at(const struct jsondoc *array, int i);

#endif
