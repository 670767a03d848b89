/* HDF5 files of plain tables: see h5file.h. The only user of libhdf5. */
#include "harness/h5file.h"

#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(sizeof(hid_t) == sizeof(h5_id), "an HDF5 id fits in h5_id");

/* Sane limits of a file that we are asked to read. */
enum {
    ROWS_MAX = 1 << 27,          /* of a table */
    ELEMENT_MAX_BYTES = 1 << 16, /* of a compound row or a text in a column */
    TEXT_MAX_BYTES = 16 << 20,   /* of a text */
    PIECE_MAX_BYTES = 16 << 20,  /* of a compressed piece */
    PATH_BYTES = 4096
};
enum {
    ROWS_PER_PIECE = 16384,
    DEFLATE_LEVEL = 1,
    DEFLATE_BEST_RATIO = 1100,
    COMPACT_MAX_BYTES = 60000 /* the format's limit is 64 KiB with what else stands in a header */
};

/* ---- HDF5 with its errors told ---- */

static herr_t innermost(unsigned n, const H5E_error2_t *e, void *out) {
    if (n == 0) snprintf(out, 200, "%s", e->desc ? e->desc : "");
    return 0;
}

bool h5_fail(struct h5 *h, const char *step, const char *name, const char *why) {
    if (h->status == STATUS_OK)
        h->status = error_set(h->err, STATUS_IO, "%s: cannot %s%s%s: %s", h->path, step,
                              *name ? " " : "", name, why);
    return false;
}

/* `result` is what an HDF5 function returned: an id or a status, negative on failure. */
static bool check(struct h5 *h, int64_t result, const char *step, const char *name) {
    if (h->status != STATUS_OK) return false;
    if (result >= 0) return true;
    char why[200] = "";
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, innermost, why);
    return h5_fail(h, step, name, *why ? why : "the HDF5 library gives no reason");
}

bool h5_check_memory(struct h5 *h, const void *p, const char *name) {
    if (p || h->status != STATUS_OK) return h->status == STATUS_OK;
    h->status = error_set(h->err, STATUS_NO_MEMORY, "%s: no memory for %s", h->path, name);
    return false;
}

static void quiet(void) {
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

static void close_type(hid_t id) {
    if (id >= 0) H5Tclose(id);
}
static void close_space(hid_t id) {
    if (id >= 0) H5Sclose(id);
}
static void close_list(hid_t id) {
    if (id >= 0) H5Pclose(id);
}
static void close_data(hid_t id) {
    if (id >= 0) H5Dclose(id);
}
void h5_close_group(hid_t id) {
    if (id >= 0) H5Gclose(id);
}
static void close_attribute(hid_t id) {
    if (id >= 0) H5Aclose(id);
}

void h5_version(char *out, size_t size) {
    unsigned major = 0, minor = 0, patch = 0;
    H5get_libversion(&major, &minor, &patch);
    snprintf(out, size, "%u.%u.%u", major, minor, patch);
}

static hid_t text_type(size_t size) {
    hid_t t = H5Tcopy(H5T_C_S1);
    if (t >= 0 && (H5Tset_size(t, size) < 0 || H5Tset_strpad(t, H5T_STR_NULLTERM) < 0 ||
                   H5Tset_cset(t, H5T_CSET_UTF8) < 0)) {
        H5Tclose(t);
        t = -1;
    }
    return t;
}

/* In the file: little-endian whatever the host; in memory: the host's own. */
static hid_t column_type(const struct column *c, bool in_file) {
    if (c->kind == TEXT) return text_type(c->size);
    if (c->kind == REAL) {
        if (c->size == 4) return H5Tcopy(in_file ? H5T_IEEE_F32LE : H5T_NATIVE_FLOAT);
        return H5Tcopy(in_file ? H5T_IEEE_F64LE : H5T_NATIVE_DOUBLE);
    }
    bool sign = c->kind == SIGNED;
    switch (c->size) {
    case 1:
        if (in_file) return H5Tcopy(sign ? H5T_STD_I8LE : H5T_STD_U8LE);
        return H5Tcopy(sign ? H5T_NATIVE_INT8 : H5T_NATIVE_UINT8);
    case 2:
        if (in_file) return H5Tcopy(sign ? H5T_STD_I16LE : H5T_STD_U16LE);
        return H5Tcopy(sign ? H5T_NATIVE_INT16 : H5T_NATIVE_UINT16);
    case 4:
        if (in_file) return H5Tcopy(sign ? H5T_STD_I32LE : H5T_STD_U32LE);
        return H5Tcopy(sign ? H5T_NATIVE_INT32 : H5T_NATIVE_UINT32);
    default:
        if (in_file) return H5Tcopy(sign ? H5T_STD_I64LE : H5T_STD_U64LE);
        return H5Tcopy(sign ? H5T_NATIVE_INT64 : H5T_NATIVE_UINT64);
    }
}

/* ---- writing: pieces ---- */

static void write_attribute(struct h5 *h, hid_t at, const struct column *c, const void *row) {
    if (h->status != STATUS_OK) return;
    hid_t space = H5Screate(H5S_SCALAR), in_file = column_type(c, true),
          in_memory = column_type(c, false), a = -1;
    if (check(h, space, "describe attribute", c->name) &&
        check(h, in_file, "describe attribute", c->name) &&
        check(h, in_memory, "describe attribute", c->name)) {
        a = H5Acreate2(at, c->name, in_file, space, H5P_DEFAULT, H5P_DEFAULT);
        if (check(h, a, "create attribute", c->name))
            check(h, H5Awrite(a, in_memory, (const char *)row + c->offset), "write attribute",
                  c->name);
    }
    close_attribute(a);
    close_type(in_memory);
    close_type(in_file);
    close_space(space);
}

void h5_write_attributes(struct h5 *h, hid_t at, const struct column *columns, int n,
                         const void *row) {
    for (int i = 0; i < n; i++) write_attribute(h, at, &columns[i], row);
}

void h5_write_text_attribute(struct h5 *h, hid_t at, const char *name, const char *text) {
    struct column c = {name, TEXT, 0, strlen(text) + 1, "", ""};
    write_attribute(h, at, &c, text);
}

void h5_write_int_attribute(struct h5 *h, hid_t at, const char *name, int64_t value) {
    struct column c = {name, SIGNED, 0, sizeof value, "", ""};
    write_attribute(h, at, &c, &value);
}

hid_t h5_create_group(struct h5 *h, hid_t at, const char *name) {
    if (h->status != STATUS_OK) return -1;
    hid_t g = H5Gcreate2(at, name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    check(h, g, "create group", name);
    return g;
}

/* How a text is stored: in the header of its dataset, under that one's checksum, where it fits. */
static hid_t text_storage(size_t bytes) {
    hid_t list = H5Pcreate(H5P_DATASET_CREATE);
    if (list >= 0 && bytes <= COMPACT_MAX_BYTES && H5Pset_layout(list, H5D_COMPACT) < 0) {
        H5Pclose(list);
        list = -1;
    }
    return list;
}

/* A text of any length: a scalar dataset (attributes stay small). */
void h5_write_text(struct h5 *h, hid_t group, const char *name, const char *text) {
    if (h->status != STATUS_OK) return;
    if (!text) text = "";
    size_t bytes = strlen(text) + 1;
    hid_t space = H5Screate(H5S_SCALAR), type = text_type(bytes), list = text_storage(bytes),
          d = -1;
    if (check(h, space, "describe text", name) && check(h, type, "describe text", name) &&
        check(h, list, "describe text", name)) {
        d = H5Dcreate2(group, name, type, space, H5P_DEFAULT, list, H5P_DEFAULT);
        if (check(h, d, "create text", name))
            check(h, H5Dwrite(d, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text), "write text", name);
    }
    close_data(d);
    close_list(list);
    close_type(type);
    close_space(space);
}

/* Pieces of whole rows, shuffled and deflated; a table without rows has none. */
static hid_t storage(hsize_t rows, hsize_t width) {
    hid_t list = H5Pcreate(H5P_DATASET_CREATE);
    hsize_t piece[2] = {rows < ROWS_PER_PIECE ? rows : ROWS_PER_PIECE, width};
    if (list >= 0 && rows > 0 &&
        (H5Pset_chunk(list, width ? 2 : 1, piece) < 0 || H5Pset_shuffle(list) < 0 ||
         H5Pset_deflate(list, DEFLATE_LEVEL) < 0)) {
        H5Pclose(list);
        list = -1;
    }
    return list;
}

/* One dataset [rows] (width 0) or [rows][width] of packed elements, with its unit. */
static void write_packed(struct h5 *h, hid_t group, const struct column *c, const void *packed,
                         hsize_t rows, hsize_t width) {
    if (h->status != STATUS_OK) return;
    hsize_t dims[2] = {rows, width};
    hid_t space = H5Screate_simple(width ? 2 : 1, dims, NULL), in_file = column_type(c, true),
          in_memory = column_type(c, false), list = storage(rows, width), d = -1;
    if (check(h, space, "describe column", c->name) &&
        check(h, in_file, "describe column", c->name) &&
        check(h, in_memory, "describe column", c->name) &&
        check(h, list, "describe column", c->name)) {
        d = H5Dcreate2(group, c->name, in_file, space, H5P_DEFAULT, list, H5P_DEFAULT);
        if (check(h, d, "create column", c->name) && rows > 0)
            check(h, H5Dwrite(d, in_memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, packed), "write column",
                  c->name);
        h5_write_text_attribute(h, d, "units", c->units);
        h5_write_text_attribute(h, d, "description", c->description);
    }
    close_data(d);
    close_list(list);
    close_type(in_memory);
    close_type(in_file);
    close_space(space);
}

void h5_write_column(struct h5 *h, hid_t group, const struct column *c, const void *rows,
                     size_t stride, int64_t n) {
    if (h->status != STATUS_OK) return;
    char *packed = calloc((size_t)n + 1, c->size);
    if (!h5_check_memory(h, packed, c->name)) return;
    for (int64_t i = 0; i < n; i++)
        memcpy(packed + (size_t)i * c->size, (const char *)rows + (size_t)i * stride + c->offset,
               c->size);
    write_packed(h, group, c, packed, (hsize_t)n, 0);
    free(packed);
}

void h5_write_matrix(struct h5 *h, hid_t group, const struct column *c, const void *packed,
                     int64_t rows, int width) {
    write_packed(h, group, c, packed, (hsize_t)rows, (hsize_t)width);
}

/* A group of equally long columns; `rows` says how long. Returns the open group. */
hid_t h5_write_table(struct h5 *h, hid_t at, const char *name, const struct column *columns,
                     int n_columns, const void *rows, size_t stride, int64_t n) {
    hid_t g = h5_create_group(h, at, name);
    h5_write_int_attribute(h, g, "rows", n);
    for (int i = 0; i < n_columns; i++) h5_write_column(h, g, &columns[i], rows, stride, n);
    return g;
}
/* The rows' type as they stand in memory, and packed and little-endian for the file. */
static void compound_types(struct h5 *h, const struct column *columns, int n, size_t stride,
                           hid_t *in_file, hid_t *in_memory) {
    *in_file = H5Tcreate(H5T_COMPOUND, stride);
    *in_memory = H5Tcreate(H5T_COMPOUND, stride);
    check(h, *in_file, "describe", "rows");
    check(h, *in_memory, "describe", "rows");
    for (int i = 0; i < n && h->status == STATUS_OK; i++) {
        const struct column *c = &columns[i];
        hid_t a = column_type(c, true), b = column_type(c, false);
        if (check(h, a, "describe", c->name) && check(h, b, "describe", c->name) &&
            check(h, H5Tinsert(*in_file, c->name, c->offset, a), "describe", c->name))
            check(h, H5Tinsert(*in_memory, c->name, c->offset, b), "describe", c->name);
        close_type(b);
        close_type(a);
    }
    if (h->status == STATUS_OK) check(h, H5Tpack(*in_file), "describe", "rows");
}

/* Members of a compound have no attributes of their own. */
static void describe_members(struct h5 *h, hid_t d, const struct column *columns, int n) {
    char name[80];
    for (int i = 0; i < n; i++) {
        const struct column *c = &columns[i];
        snprintf(name, sizeof name, "%s.units", c->name);
        if (c->units[0] && strcmp(c->units, "1") != 0)
            h5_write_text_attribute(h, d, name, c->units);
        snprintf(name, sizeof name, "%s.description", c->name);
        if (c->description[0]) h5_write_text_attribute(h, d, name, c->description);
    }
}

void h5_write_compound(struct h5 *h, hid_t at, const char *name, const struct column *columns,
                       int n_columns, const void *rows, size_t stride, int64_t n,
                       const char *description) {
    if (h->status != STATUS_OK) return;
    hsize_t dims = (hsize_t)n;
    hid_t in_file, in_memory, space = H5Screate_simple(1, &dims, NULL), list = storage(dims, 0),
                              d = -1;
    compound_types(h, columns, n_columns, stride, &in_file, &in_memory);
    if (check(h, space, "describe", name) && check(h, list, "describe", name)) {
        d = H5Dcreate2(at, name, in_file, space, H5P_DEFAULT, list, H5P_DEFAULT);
        if (check(h, d, "create", name) && n > 0)
            check(h, H5Dwrite(d, in_memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, rows), "write", name);
        h5_write_text_attribute(h, d, "description", description);
        describe_members(h, d, columns, n_columns);
    }
    close_data(d);
    close_list(list);
    close_space(space);
    close_type(in_memory);
    close_type(in_file);
}

void h5_copy(struct h5 *h, hid_t from, hid_t to, const char *name) {
    if (h->status != STATUS_OK) return;
    check(h, H5Ocopy(from, name, to, name, H5P_DEFAULT, H5P_DEFAULT), "copy", name);
}

void h5_delete(struct h5 *h, hid_t at, const char *name) {
    if (h->status != STATUS_OK) return;
    check(h, H5Ldelete(at, name, H5P_DEFAULT), "delete", name);
}

void h5_delete_attribute(struct h5 *h, hid_t at, const char *name) {
    if (h->status != STATUS_OK) return;
    check(h, H5Adelete(at, name), "delete attribute", name);
}

/* ---- writing: files ---- */

/* The bytes of a file that is built in memory. libhdf5 takes and gives back their memory through
 * the functions below; we keep them when it closes the file. (What H5Fget_file_image gives of an
 * open file has a superblock whose checksum is wrong.) */
struct h5_image {
    unsigned char *data;
    size_t bytes; /* taken; the file is shorter */
};

/* What H5Fcreate reads of an older file at that path, before it forgets it. */
static void *image_malloc(size_t bytes, H5FD_file_image_op_t op, void *ctx) {
    (void)op, (void)ctx;
    return malloc(bytes);
}

static void *image_realloc(void *old, size_t bytes, H5FD_file_image_op_t op, void *ctx) {
    struct h5_image *image = ctx;
    void *data = realloc(old, bytes);
    (void)op;
    if (data) *image = (struct h5_image){data, bytes};
    return data;
}

static herr_t image_free(void *data, H5FD_file_image_op_t op, void *ctx) {
    struct h5_image *image = ctx;
    const bool ours = data == image->data;
    if (ours && op == H5FD_FILE_IMAGE_OP_FILE_CLOSE) return 0;
    if (ours) *image = (struct h5_image){NULL, 0};
    free(data);
    return 0;
}

static void *image_ctx(void *ctx) {
    return ctx;
}

static herr_t image_ctx_free(void *ctx) {
    (void)ctx;
    return 0;
}

static void drop_image(struct h5 *h) {
    if (h->image) free(h->image->data);
    free(h->image);
    h->image = NULL;
}

/* Where the file ends: the superblock (version 2 and 3) says so. 0: the image holds no file. */
static size_t image_end(const struct h5_image *image) {
    enum { END_AT = 28, SUPERBLOCK_BYTES = 48 };
    uint64_t end = 0;
    if (image->bytes < SUPERBLOCK_BYTES) return 0;
    for (int i = 0; i < 8; i++) end |= (uint64_t)image->data[END_AT + i] << 8 * i;
    return end <= image->bytes ? (size_t)end : 0;
}

/* An HDF5 file in memory. In the format of 1.10 every piece of metadata, so every attribute, has a
 * checksum; in the default one none has. */
hid_t h5_create(struct h5 *h) {
    quiet();
    h->image = calloc(1, sizeof *h->image);
    if (!h5_check_memory(h, h->image, "the file")) return -1;
    H5FD_file_image_callbacks_t callbacks = {.image_malloc = image_malloc,
                                             .image_realloc = image_realloc,
                                             .image_free = image_free,
                                             .udata_copy = image_ctx,
                                             .udata_free = image_ctx_free,
                                             .udata = h->image};
    hid_t access = H5Pcreate(H5P_FILE_ACCESS), file = -1;
    if (check(h, access, "prepare", "the file") &&
        check(h, H5Pset_fapl_core(access, 1 << 20, false), "prepare", "the file") &&
        check(h, H5Pset_file_image_callbacks(access, &callbacks), "prepare", "the file") &&
        check(h, H5Pset_fclose_degree(access, H5F_CLOSE_STRONG), "prepare", "the file") &&
        check(h, H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110), "prepare",
              "the file")) {
        file = H5Fcreate(h->path, H5F_ACC_TRUNC, H5P_DEFAULT, access);
        check(h, file, "create", "the file");
    }
    close_list(access);
    if (file < 0) drop_image(h);
    return file;
}

static enum status write_bytes(int fd, const char *path, const char *data, size_t n,
                               struct error *err) {
    size_t done = 0;
    while (done < n) {
        ssize_t w = write(fd, data + done, n - done);
        if (w < 0 && errno == EINTR) continue;
        if (w <= 0)
            return error_set(err, STATUS_IO, "%s: cannot write: %s (%zu of %zu bytes written)",
                             path, w < 0 ? strerror(errno) : "nothing was taken", done, n);
        done += (size_t)w;
    }
    if (fsync(fd) != 0)
        return error_set(err, STATUS_IO, "%s: cannot fsync: %s", path, strerror(errno));
    return STATUS_OK;
}

/* The rename is durable once its folder is. */
static enum status sync_folder(const char *path, struct error *err) {
    char folder[PATH_BYTES];
    const char *slash = strrchr(path, '/');
    size_t n = !slash ? 0 : slash == path ? 1 : (size_t)(slash - path);
    if (n >= sizeof folder) return error_set(err, STATUS_IO, "%s: path too long", path);
    memcpy(folder, n ? path : ".", n ? n : 1);
    folder[n ? n : 1] = 0;
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return error_set(err, STATUS_IO, "%s: cannot open the folder: %s", folder, strerror(errno));
    enum status s = STATUS_OK;
    if (fsync(fd) != 0 && errno != EINVAL && errno != ENOTSUP && errno != EROFS)
        s = error_set(err, STATUS_IO, "%s: cannot fsync the folder: %s", folder, strerror(errno));
    close(fd);
    return s;
}

static enum status put_file(const char *path, const void *data, size_t n, struct error *err) {
    char temporary[PATH_BYTES];
    if ((size_t)snprintf(temporary, sizeof temporary, "%s.tmp", path) >= sizeof temporary)
        return error_set(err, STATUS_IO, "%s: path too long", path);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return error_set(err, STATUS_IO, "%s: cannot create: %s", temporary, strerror(errno));
    enum status s = write_bytes(fd, temporary, data, n, err);
    if (close(fd) != 0 && s == STATUS_OK)
        s = error_set(err, STATUS_IO, "%s: cannot close: %s", temporary, strerror(errno));
    if (s == STATUS_OK && rename(temporary, path) != 0)
        s = error_set(err, STATUS_IO, "%s: cannot rename to %s: %s", temporary, path,
                      strerror(errno));
    if (s != STATUS_OK) {
        unlink(temporary);
        return s;
    }
    return sync_folder(path, err);
}

/* Closes the image and, if all went well, puts it to disk. */
enum status h5_finish(struct h5 *h, hid_t file) {
    if (file >= 0) check(h, H5Fclose(file), "close", "the file in memory");
    const size_t bytes = h->image ? image_end(h->image) : 0;
    if (h->status == STATUS_OK && bytes == 0)
        h5_fail(h, "close", "the file in memory", "there is none");
    if (h->status == STATUS_OK) h->status = put_file(h->path, h->image->data, bytes, h->err);
    drop_image(h);
    return h->status;
}

/* ---- reading: pieces ---- */

/* A child of a group, reached by a hard link: soft and external ones may lead anywhere. */
static bool check_link(struct h5 *h, hid_t at, const char *name) {
    H5L_info_t link;
    if (h->status != STATUS_OK) return false;
    if (!check(h, H5Lget_info(at, name, &link, H5P_DEFAULT), "find", name)) return false;
    return link.type == H5L_TYPE_HARD || h5_fail(h, "follow", name, "it is not a hard link");
}

bool h5_has(struct h5 *h, hid_t at, const char *name) {
    return h->status == STATUS_OK && H5Lexists(at, name, H5P_DEFAULT) > 0;
}

bool h5_has_attribute(struct h5 *h, hid_t at, const char *name) {
    return h->status == STATUS_OK && H5Aexists(at, name) > 0;
}

hid_t h5_open_group(struct h5 *h, hid_t at, const char *name) {
    if (!check_link(h, at, name)) return -1;
    hid_t g = H5Gopen2(at, name, H5P_DEFAULT);
    check(h, g, "open group", name);
    return g;
}

static bool check_type(struct h5 *h, hid_t type, const struct column *c) {
    H5T_class_t class = H5Tget_class(type);
    size_t size = H5Tget_size(type), most = c->kind == TEXT ? TEXT_MAX_BYTES : 8;
    H5T_class_t wanted = c->kind == TEXT ? H5T_STRING : c->kind == REAL ? H5T_FLOAT : H5T_INTEGER;
    if (class != wanted || size == 0 || size > most ||
        (class == H5T_STRING && H5Tis_variable_str(type) != 0))
        return h5_fail(h, "read", c->name, "it is of another type");
    return true;
}

static void read_attribute(struct h5 *h, hid_t at, const struct column *c, void *row) {
    if (h->status != STATUS_OK) return;
    hid_t a = H5Aopen(at, c->name, H5P_DEFAULT), type = -1, space = -1, in_memory = -1;
    if (check(h, a, "find attribute", c->name)) {
        type = H5Aget_type(a), space = H5Aget_space(a), in_memory = column_type(c, false);
        if (check(h, type, "read attribute", c->name) &&
            check(h, space, "read attribute", c->name) &&
            check(h, in_memory, "read attribute", c->name) && check_type(h, type, c)) {
            if (H5Sget_simple_extent_type(space) != H5S_SCALAR)
                h5_fail(h, "read attribute", c->name, "it is not one value");
            else
                check(h, H5Aread(a, in_memory, (char *)row + c->offset), "read attribute", c->name);
        }
    }
    if (c->kind == TEXT) ((char *)row + c->offset)[c->size - 1] = 0;
    close_type(in_memory);
    close_space(space);
    close_type(type);
    close_attribute(a);
}

void h5_read_attributes(struct h5 *h, hid_t at, const struct column *columns, int n, void *row) {
    for (int i = 0; i < n; i++) read_attribute(h, at, &columns[i], row);
}

int64_t h5_read_int_attribute(struct h5 *h, hid_t at, const char *name) {
    int64_t value = 0;
    struct column c = {name, SIGNED, 0, sizeof value, "", ""};
    read_attribute(h, at, &c, &value);
    return value;
}

void h5_read_text_attribute(struct h5 *h, hid_t at, const char *name, char *out, size_t size) {
    struct column c = {name, TEXT, 0, size, "", ""};
    out[0] = 0;
    read_attribute(h, at, &c, out);
}

static bool check_shape(struct h5 *h, hid_t space, const char *name, int rank, hsize_t dims[2]) {
    dims[0] = dims[1] = 1;
    if (H5Sget_simple_extent_type(space) != (rank ? H5S_SIMPLE : H5S_SCALAR) ||
        H5Sget_simple_extent_ndims(space) != rank ||
        (rank > 0 && H5Sget_simple_extent_dims(space, dims, NULL) != rank))
        return h5_fail(h, "read", name, "it has another number of dimensions");
    return true;
}

/* What deflate can make of the whole file bounds what a dataset can hold. */
static bool check_room(struct h5 *h, const char *name, const hsize_t dims[2], size_t element) {
    int64_t most = h->file_bytes / (int64_t)element * DEFLATE_BEST_RATIO + DEFLATE_BEST_RATIO;
    if (dims[0] > ROWS_MAX || dims[1] > ROWS_MAX || (int64_t)(dims[0] * dims[1]) > most)
        return h5_fail(h, "read", name, "it claims more rows than the file can hold");
    return true;
}

/* Bytes in this file only, in filters that we know, in pieces of bounded size. */
static bool check_storage(struct h5 *h, hid_t d, const char *name, int rank, size_t element) {
    hid_t list = H5Dget_create_plist(d);
    if (!check(h, list, "read", name)) return false;
    H5D_layout_t layout = H5Pget_layout(list);
    bool good = (layout == H5D_CHUNKED || layout == H5D_CONTIGUOUS || layout == H5D_COMPACT) &&
                H5Pget_external_count(list) == 0;
    hsize_t piece[2] = {1, 1};
    if (good && layout == H5D_CHUNKED) {
        good = H5Pget_chunk(list, 2, piece) == rank && piece[0] <= PIECE_MAX_BYTES &&
               (rank == 1 || piece[1] <= PIECE_MAX_BYTES);
        if (rank == 1) piece[1] = 1;
        good = good && piece[0] * piece[1] * element <= PIECE_MAX_BYTES;
    }
    int filters = H5Pget_nfilters(list);
    good = good && filters >= 0;
    for (int i = 0; good && i < filters; i++) {
        unsigned flags, config;
        size_t values = 0;
        H5Z_filter_t f = H5Pget_filter2(list, (unsigned)i, &flags, &values, NULL, 0, NULL, &config);
        good = f == H5Z_FILTER_DEFLATE || f == H5Z_FILTER_SHUFFLE || f == H5Z_FILTER_FLETCHER32;
    }
    H5Pclose(list);
    return good || h5_fail(h, "read", name, "it is stored in a way that schema 1 does not know");
}

/* Opens a dataset of c's type with `rank` dimensions; false: it is something else, or claims more
 * than the file can hold. */
static bool open_data(struct h5 *h, hid_t group, const struct column *c, int rank, hid_t *out,
                      hsize_t dims[2]) {
    *out = -1;
    if (!check_link(h, group, c->name)) return false;
    hid_t d = H5Dopen2(group, c->name, H5P_DEFAULT);
    if (!check(h, d, "open", c->name)) return false;
    hid_t type = H5Dget_type(d), space = H5Dget_space(d);
    bool good = check(h, type, "read", c->name) && check(h, space, "read", c->name) &&
                check_type(h, type, c) && check_shape(h, space, c->name, rank, dims) &&
                check_storage(h, d, c->name, rank, H5Tget_size(type)) &&
                check_room(h, c->name, dims, H5Tget_size(type));
    close_space(space);
    close_type(type);
    if (good)
        *out = d;
    else
        H5Dclose(d);
    return good;
}

/* All of a dataset, packed; malloc'd, NULL on failure. */
static void *read_packed(struct h5 *h, hid_t group, const struct column *c, int rank,
                         hsize_t dims[2]) {
    hid_t d = -1;
    dims[0] = dims[1] = 0;
    if (h->status != STATUS_OK || !open_data(h, group, c, rank, &d, dims)) return NULL;
    size_t count = (size_t)(dims[0] * dims[1]);
    hid_t in_memory = column_type(c, false);
    void *packed = calloc(count + 1, c->size);
    if (check(h, in_memory, "read", c->name) && h5_check_memory(h, packed, c->name) && count > 0)
        check(h, H5Dread(d, in_memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, packed), "read", c->name);
    close_type(in_memory);
    H5Dclose(d);
    if (h->status == STATUS_OK) return packed;
    free(packed);
    return NULL;
}

void *h5_read_column(struct h5 *h, hid_t group, const struct column *c, int64_t *rows) {
    hsize_t dims[2];
    void *packed = read_packed(h, group, c, 1, dims);
    *rows = packed ? (int64_t)dims[0] : 0;
    return packed;
}

void *h5_read_matrix(struct h5 *h, hid_t group, const struct column *c, int64_t rows, int max_width,
                     int *width) {
    hsize_t dims[2];
    void *packed = read_packed(h, group, c, 2, dims);
    *width = 0;
    if (!packed) return NULL;
    if (dims[0] != (hsize_t)rows || dims[1] > (hsize_t)max_width) {
        h5_fail(h, "read", c->name, "its shape is not that of its table");
        free(packed);
        return NULL;
    }
    *width = (int)dims[1];
    return packed;
}

/* A column into its field of every row. */
static void scatter(struct h5 *h, hid_t group, const struct column *c, char *rows, size_t stride,
                    int64_t n) {
    int64_t got;
    char *packed = h5_read_column(h, group, c, &got);
    if (packed && got != n)
        h5_fail(h, "read", c->name, "its number of rows is not that of its table");
    for (int64_t i = 0; packed && got == n && i < n; i++) {
        char *to = rows + (size_t)i * stride + c->offset;
        memcpy(to, packed + (size_t)i * c->size, c->size);
        if (c->kind == TEXT) to[c->size - 1] = 0;
    }
    free(packed);
}

void *h5_read_table(struct h5 *h, hid_t at, const char *name, const struct column *columns,
                    int n_columns, size_t stride, int64_t *n, hid_t *group) {
    *n = 0;
    *group = h5_open_group(h, at, name);
    int64_t rows = h5_read_int_attribute(h, *group, "rows");
    /* The first column must agree before memory is taken for all of them. */
    hid_t d;
    hsize_t dims[2];
    if (h->status != STATUS_OK || !open_data(h, *group, &columns[0], 1, &d, dims)) return NULL;
    H5Dclose(d);
    if (rows < 0 || dims[0] != (hsize_t)rows) {
        h5_fail(h, "read", name, "its number of rows is not that of its columns");
        return NULL;
    }
    char *out = calloc((size_t)rows + 1, stride);
    if (!h5_check_memory(h, out, name)) return NULL;
    for (int i = 0; i < n_columns; i++) scatter(h, *group, &columns[i], out, stride, rows);
    if (h->status != STATUS_OK) {
        free(out);
        return NULL;
    }
    *n = rows;
    return out;
}

/* Whether rows of `type` have a column. */
static bool check_member(struct h5 *h, hid_t type, const char *name, const struct column *c) {
    int member = H5Tget_class(type) == H5T_COMPOUND ? H5Tget_member_index(type, c->name) : -1;
    if (member < 0) return h5_fail(h, "read", name, "it is not the table that it should be");
    hid_t of_member = H5Tget_member_type(type, (unsigned)member);
    bool good = check(h, of_member, "read", c->name) && check_type(h, of_member, c);
    close_type(of_member);
    return good;
}

/* Whether a dataset is a table of rows with those columns in them; gives their number. */
static bool check_compound(struct h5 *h, hid_t d, const char *name, const struct column *columns,
                           int n_columns, hsize_t dims[2]) {
    hid_t type = H5Dget_type(d), space = H5Dget_space(d);
    bool good = check(h, type, "read", name) && check(h, space, "read", name);
    size_t row = good ? H5Tget_size(type) : 0;
    if (good && (row == 0 || row > ELEMENT_MAX_BYTES))
        good = h5_fail(h, "read", name, "it is not the table that it should be");
    for (int i = 0; good && i < n_columns; i++) good = check_member(h, type, name, &columns[i]);
    good = good && check_shape(h, space, name, 1, dims) && check_storage(h, d, name, 1, row) &&
           check_room(h, name, dims, row);
    close_space(space);
    close_type(type);
    return good;
}

void *h5_read_compound(struct h5 *h, hid_t at, const char *name, const struct column *columns,
                       int n_columns, size_t stride, int64_t *n) {
    *n = 0;
    if (!check_link(h, at, name)) return NULL;
    hid_t d = H5Dopen2(at, name, H5P_DEFAULT), in_file = -1, in_memory = -1;
    char *out = NULL;
    hsize_t dims[2] = {0, 0};
    if (check(h, d, "open", name) && check_compound(h, d, name, columns, n_columns, dims)) {
        compound_types(h, columns, n_columns, stride, &in_file, &in_memory);
        out = calloc((size_t)dims[0] + 1, stride);
        if (h5_check_memory(h, out, name) && h->status == STATUS_OK && dims[0] > 0)
            check(h, H5Dread(d, in_memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, out), "read", name);
    }
    close_type(in_memory);
    close_type(in_file);
    close_data(d);
    if (h->status != STATUS_OK) {
        free(out);
        return NULL;
    }
    for (int i = 0; i < n_columns; i++)
        for (hsize_t row = 0; columns[i].kind == TEXT && row < dims[0]; row++)
            out[row * stride + columns[i].offset + columns[i].size - 1] = 0;
    *n = (int64_t)dims[0];
    return out;
}

char *h5_read_compound_text(struct h5 *h, hid_t at, const char *name, const struct column *c,
                            int64_t *rows) {
    const struct column alone = {c->name, TEXT, 0, c->size, c->units, c->description};
    return h5_read_compound(h, at, name, &alone, 1, c->size, rows);
}

int64_t h5_children(struct h5 *h, hid_t group) {
    H5G_info_t info = {.nlinks = 0};
    if (h->status == STATUS_OK) check(h, H5Gget_info(group, &info), "list", "a group");
    return info.nlinks > ROWS_MAX ? ROWS_MAX : (int64_t)info.nlinks;
}

void h5_first_child(struct h5 *h, hid_t group, char *out, size_t size) {
    out[0] = 0;
    if (h->status != STATUS_OK) return;
    ssize_t n =
        H5Lget_name_by_idx(group, ".", H5_INDEX_NAME, H5_ITER_INC, 0, out, size, H5P_DEFAULT);
    if (check(h, n, "list", "a group") && (size_t)n >= size)
        h5_fail(h, "list", "a group", "a name that is too long");
    out[size - 1] = 0;
}

/* A scalar text, malloc'd; NULL on failure. */
char *h5_read_text(struct h5 *h, hid_t group, const char *name) {
    struct column c = {name, TEXT, 0, 0, "", ""};
    hsize_t dims[2];
    hid_t d;
    if (h->status != STATUS_OK || !open_data(h, group, &c, 0, &d, dims)) return NULL;
    hid_t type = H5Dget_type(d), in_memory = -1;
    char *text = NULL;
    if (check(h, type, "read", name)) {
        size_t size = H5Tget_size(type) + 1;
        text = calloc(size, 1);
        in_memory = text_type(size);
        if (h5_check_memory(h, text, name) && check(h, in_memory, "read", name))
            check(h, H5Dread(d, in_memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, text), "read", name);
        if (text) text[size - 1] = 0;
    }
    close_type(in_memory);
    close_type(type);
    H5Dclose(d);
    if (h->status == STATUS_OK) return text;
    free(text);
    return NULL;
}

hid_t h5_open(struct h5 *h) {
    struct stat st;
    quiet();
    if (stat(h->path, &st) != 0) {
        h5_fail(h, "open", "", strerror(errno));
        return -1;
    }
    if (!S_ISREG(st.st_mode)) {
        h5_fail(h, "open", "", "it is not a regular file");
        return -1;
    }
    h->file_bytes = st.st_size;
    if (access(h->path, R_OK) != 0) {
        h5_fail(h, "open", "", strerror(errno));
        return -1;
    }
    hid_t list = H5Pcreate(H5P_FILE_ACCESS), file = -1;
    if (check(h, list, "prepare", "to read") &&
        check(h, H5Pset_fclose_degree(list, H5F_CLOSE_STRONG), "prepare", "to read") &&
        check(h, H5Pset_file_locking(list, false, true), "prepare", "to read")) {
        file = H5Fopen(h->path, H5F_ACC_RDONLY, list);
        check(h, file, "open", "as an HDF5 file (truncated, damaged or something else)");
    }
    close_list(list);
    return file;
}

void h5_close(struct h5 *h, hid_t file) {
    if (file >= 0) check(h, H5Fclose(file), "close", "the file");
}
