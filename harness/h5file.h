/* HDF5 files of plain tables: the narrow door to libhdf5 (its only user is h5file.c).
 *
 * A table is a group of equally long one-dimensional datasets, its columns; a small value is an
 * attribute; a text of any length is a scalar dataset. `struct column` says where a value stands in
 * a row in memory and how it is called in the file.
 *
 * Writing: a file is built as an image in memory (as large as the compressed file will be) and put
 * to disk by plain write, fsync, rename, fsync of the folder. So a full disk is an errno at a known
 * step, HDF5 never holds a half-written file that it would flush again at exit, and a kill at any
 * moment leaves either the whole file or none. Everything in it carries a checksum that readers
 * check (of its metadata, so of attributes; of its compression, so of columns), but the bytes of a
 * text of more than 60,000.
 * Reading: files come from anywhere. Every name, type, shape, filter and size is checked before
 * memory is taken; links and storage that lead out of the file are refused. libhdf5 itself can
 * still crash on hostile bytes: record_read.c lets a child process go first.
 *
 * Errors stick: after the first failure every function does nothing, and `status` tells. */
#ifndef HARNESS_H5FILE_H
#define HARNESS_H5FILE_H

#include "engine/engine.h"

struct h5 {
    const char *path;
    struct error *err; /* or NULL */
    enum status status;
    int64_t file_bytes;     /* when reading */
    struct h5_image *image; /* when writing: owned, from h5_create to h5_finish */
};
typedef int64_t h5_id; /* an open file or group; negative: none */

enum column_kind { SIGNED, UNSIGNED, REAL, TEXT };
struct column {
    const char *name;
    enum column_kind kind;
    size_t offset, size; /* of the field in the row; TEXT: its array, with the NUL */
    const char *units, *description;
};
#define FIELD(row, field) offsetof(struct row, field), sizeof(((struct row *)0)->field)
#define COLUMNS(table) (int)(sizeof(table) / sizeof *(table))

/* "1.10.8": the library that runs. */
void h5_version(char *out, size_t size);
/* Records a failure "PATH: cannot STEP NAME: WHY"; returns false. */
bool h5_fail(struct h5 *h, const char *step, const char *name, const char *why);
/* Records the lack of memory for `name` if p is NULL. */
bool h5_check_memory(struct h5 *h, const void *p, const char *name);

h5_id h5_create(struct h5 *h);
/* Closes the image and, unless something failed, puts it to disk at h->path. */
enum status h5_finish(struct h5 *h, h5_id file);
h5_id h5_create_group(struct h5 *h, h5_id at, const char *name);
void h5_write_attributes(struct h5 *h, h5_id at, const struct column *columns, int n,
                         const void *row);
void h5_write_text_attribute(struct h5 *h, h5_id at, const char *name, const char *text);
void h5_write_int_attribute(struct h5 *h, h5_id at, const char *name, int64_t value);
void h5_write_text(struct h5 *h, h5_id group, const char *name, const char *text); /* NULL: "" */
void h5_write_column(struct h5 *h, h5_id group, const struct column *c, const void *rows,
                     size_t stride, int64_t n);
/* [rows][width] of packed elements. */
void h5_write_matrix(struct h5 *h, h5_id group, const struct column *c, const void *packed,
                     int64_t rows, int width);
/* A group of columns with its number of rows in the attribute `rows`; returns the open group. */
h5_id h5_write_table(struct h5 *h, h5_id at, const char *name, const struct column *columns,
                     int n_columns, const void *rows, size_t stride, int64_t n);
/* One dataset of compound rows; its attributes "COLUMN.units" and "COLUMN.description" say what
 * there is to say: units that are not "1". */
void h5_write_compound(struct h5 *h, h5_id at, const char *name, const struct column *columns,
                       int n_columns, const void *rows, size_t stride, int64_t n,
                       const char *description);
/* Copies a child as it is, from one open file to another (so without checksums of its metadata
 * where an older program wrote it without). */
void h5_copy(struct h5 *h, h5_id from, h5_id to, const char *name);
void h5_delete(struct h5 *h, h5_id at, const char *name);
void h5_delete_attribute(struct h5 *h, h5_id at, const char *name);

h5_id h5_open(struct h5 *h);
void h5_close(struct h5 *h, h5_id file);
h5_id h5_open_group(struct h5 *h, h5_id at, const char *name);
void h5_close_group(h5_id group);
/* Whether a child, an attribute of that name is there. */
bool h5_has(struct h5 *h, h5_id at, const char *name);
bool h5_has_attribute(struct h5 *h, h5_id at, const char *name);
int64_t h5_children(struct h5 *h, h5_id group);
/* The name of the first child. */
void h5_first_child(struct h5 *h, h5_id group, char *out, size_t size);
/* Texts are cut to their field and NUL-terminated. */
void h5_read_attributes(struct h5 *h, h5_id at, const struct column *columns, int n, void *row);
int64_t h5_read_int_attribute(struct h5 *h, h5_id at, const char *name);
void h5_read_text_attribute(struct h5 *h, h5_id at, const char *name, char *out, size_t size);
char *h5_read_text(struct h5 *h, h5_id group, const char *name); /* malloc'd; NULL: failed */
/* A whole column, packed and malloc'd; NULL: failed. */
void *h5_read_column(struct h5 *h, h5_id group, const struct column *c, int64_t *rows);
/* [rows][width], packed and malloc'd, width at most max_width; NULL: failed, or not `rows` rows. */
void *h5_read_matrix(struct h5 *h, h5_id group, const struct column *c, int64_t rows, int max_width,
                     int *width);
/* Rows of a table, zeroed where no column stands, malloc'd; NULL: failed. *group stays open for
 * what else stands in it. */
void *h5_read_table(struct h5 *h, h5_id at, const char *name, const struct column *columns,
                    int n_columns, size_t stride, int64_t *n, h5_id *group);
/* A dataset of compound rows, zeroed where no column stands, malloc'd; NULL: failed. Members that
 * are no columns are passed over. */
void *h5_read_compound(struct h5 *h, h5_id at, const char *name, const struct column *columns,
                       int n_columns, size_t stride, int64_t *n);
/* One text member of a dataset of compound rows, packed [rows][c->size], malloc'd; NULL: failed. */
char *h5_read_compound_text(struct h5 *h, h5_id at, const char *name, const struct column *c,
                            int64_t *rows);

#endif
