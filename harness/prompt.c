/* Prompts: what a configuration names becomes token ids. plan.c asks for the length, the worker
 * makes the ids. Owns the ids; the needle's text and truth are the engine's (engine/needle.h). */
#include "harness/prompt.h"

#include "harness/config.h"
#include "harness/format.h"
#include "harness/sha256.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum source_kind { SOURCE_NEEDLE, SOURCE_RANDOM, SOURCE_FILE };
enum { DEPTHS_MAX = 64, NEEDLE_IDS = 384, BYTE_IDS = 256 };

struct source {
    enum source_kind kind;
    int64_t length;   /* needle, random */
    const char *path; /* file; points into the configured text */
    double depths[DEPTHS_MAX];
    int n_depths;
};

/* ---- what was configured */

static enum status parse_depth(const char *text, size_t n, struct source *out, struct error *err) {
    char copy[32], *end;
    if (n == 0 || n >= sizeof copy)
        return error_set(err, STATUS_USAGE, "a depth is missing or too long");
    memcpy(copy, text, n);
    copy[n] = '\0';
    const double x = strtod(copy, &end);
    const bool percent = end > copy && strcmp(end, "%") == 0;
    if (end == copy || (*end && !percent) || !(x >= 0 && x <= (percent ? 100 : 1)))
        return error_set(err, STATUS_USAGE,
                         "depth \"%s\": expected a percent (25%%) or a fraction of 0 to 1 (0.25)",
                         copy);
    if (out->n_depths == DEPTHS_MAX)
        return error_set(err, STATUS_USAGE, "more than %d depths", DEPTHS_MAX);
    out->depths[out->n_depths++] = percent ? x / 100 : x;
    return STATUS_OK;
}

static enum status parse_depths(const char *text, struct source *out, struct error *err) {
    for (;;) {
        const size_t n = strcspn(text, "+");
        const enum status s = parse_depth(text, n, out, err);
        if (s != STATUS_OK || text[n] == '\0') return s;
        text += n + 1;
    }
}

static enum status parse_length(const char *text, size_t n, struct source *out, struct error *err) {
    char copy[32];
    snprintf(copy, sizeof copy, "%.*s", (int)(n < sizeof copy ? n : sizeof copy - 1), text);
    if (n == 0 || n >= sizeof copy || !parse_tokens(copy, &out->length) || out->length < 1)
        return error_set(err, STATUS_USAGE,
                         "length \"%s\": expected a number of tokens, as 4096, 64k or 1m", copy);
    return STATUS_OK;
}

static enum status parse_source(const char *text, struct source *out, struct error *err) {
    static const char *const kinds[] = {"needle:", "random:", "file:"};
    *out = (struct source){.kind = SOURCE_NEEDLE};
    for (int kind = SOURCE_NEEDLE; kind <= SOURCE_FILE; kind++) {
        if (strncmp(text, kinds[kind], strlen(kinds[kind])) != 0) continue;
        const char *rest = text + strlen(kinds[kind]);
        out->kind = kind;
        out->path = rest;
        if (kind == SOURCE_FILE)
            return *rest ? STATUS_OK : error_set(err, STATUS_USAGE, "%s: no path", text);
        const size_t n = kind == SOURCE_NEEDLE ? strcspn(rest, "@") : strlen(rest);
        enum status s = parse_length(rest, n, out, err);
        if (s == STATUS_OK && rest[n] == '@') s = parse_depths(rest + n + 1, out, err);
        return s == STATUS_OK ? s : error_prefix(err, s, "%s", text);
    }
    return error_set(
        err, STATUS_USAGE,
        "prompt \"%s\": expected needle:LENGTH[@DEPTH+...], random:LENGTH or file:PATH", text);
}

/* ---- files */

struct bytes {
    char *data; /* owned */
    size_t n;
};

/* Reads to the end or to one byte more than `most`. */
static enum status read_bytes(int fd, const char *path, size_t most, struct bytes *out,
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

static enum status read_file(const char *path, size_t most, struct bytes *out, struct error *err) {
    struct stat st;
    *out = (struct bytes){0};
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return error_set(err, STATUS_IO, "cannot open %s: %s", path, strerror(errno));
    enum status s = STATUS_OK;
    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode))
        s = error_set(err, STATUS_IO, "cannot read %s: it is a directory", path);
    if (s == STATUS_OK) s = read_bytes(fd, path, most, out, err);
    close(fd);
    if (s != STATUS_OK) free(out->data), out->data = NULL;
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

static enum status check_utf8(const char *path, const struct bytes *b, struct error *err) {
    const unsigned char *s = (const unsigned char *)b->data;
    for (size_t i = 0; i < b->n;) {
        const size_t length = utf8_character(s + i, b->n - i);
        if (length == 0)
            return error_set(err, STATUS_USAGE, "%s is not UTF-8: byte 0x%02x at offset %zu", path,
                             s[i], i);
        i += length;
    }
    return STATUS_OK;
}

/* The whole text, at most `most` bytes of it plus one. */
static enum status read_text(const char *path, int64_t most, struct bytes *out, struct error *err) {
    enum status s = read_file(path, (size_t)most, out, err);
    if (s != STATUS_OK) return s;
    if (out->n == 0)
        s = error_set(err, STATUS_USAGE, "%s is empty: a prompt needs at least one byte", path);
    else if ((int64_t)out->n <= most)
        s = check_utf8(path, out, err);
    if (s != STATUS_OK) free(out->data), out->data = NULL;
    return s;
}

/* ---- length */

static enum status too_long(const char *source, bool more, int64_t length, int64_t max_model_len,
                            int64_t max_tokens, struct error *err) {
    char a[FORMAT_BYTES], b[FORMAT_BYTES], c[FORMAT_BYTES];
    return error_set(err, STATUS_USAGE,
                     "%s: %s%s prompt tokens + %s new tokens exceed max_model_len %s", source,
                     more ? "at least " : "", format_count(a, length), format_count(b, max_tokens),
                     format_count(c, max_model_len));
}

static enum status check_vocabulary(const char *source, enum source_kind kind,
                                    const struct model_config *m, struct error *err) {
    static const int32_t needed[] = {
        [SOURCE_NEEDLE] = NEEDLE_IDS, [SOURCE_RANDOM] = 1, [SOURCE_FILE] = BYTE_IDS};
    if (m->V >= needed[kind]) return STATUS_OK;
    return error_set(err, STATUS_USAGE, "%s needs a vocabulary of %d ids, %s has %d", source,
                     needed[kind], m->name, m->V);
}

enum status prompt_length(const char *source, const struct model_config *m, int64_t max_model_len,
                          int64_t max_tokens, int32_t *length, bool *clamped, struct error *err) {
    struct source src;
    const int64_t limit = max_model_len < INT32_MAX ? max_model_len : INT32_MAX;
    const int64_t room = limit - max_tokens;

    *length = 0;
    *clamped = false;
    enum status s = parse_source(source, &src, err);
    if (s == STATUS_OK) s = check_vocabulary(source, src.kind, m, err);
    if (s != STATUS_OK) return s;
    if (src.kind == SOURCE_FILE) {
        struct bytes text;
        s = read_text(src.path, room > 0 ? room : 0, &text, err);
        if (s != STATUS_OK) return s;
        src.length = (int64_t)text.n;
        free(text.data);
    } else if (src.length == limit && room > 0) {
        *clamped = src.length > room;
        src.length = room;
    }
    if (src.length > room)
        return too_long(source, src.kind == SOURCE_FILE, src.length, max_model_len, max_tokens,
                        err);
    if (src.kind == SOURCE_NEEDLE && src.length < needle_min_length()) {
        char a[FORMAT_BYTES], b[FORMAT_BYTES];
        return error_set(err, STATUS_USAGE,
                         "%s: %s tokens are too short, the needles need at least %s", source,
                         format_count(a, src.length), format_count(b, needle_min_length()));
    }
    *length = (int32_t)src.length;
    return STATUS_OK;
}

/* ---- ids */

static enum status make_needle(struct prompt *out, const struct source *src,
                               const struct model_config *m, int32_t length,
                               struct attention_pattern pattern, uint64_t seed, struct error *err) {
    const enum status s =
        needle_prompt_build(&out->needle, length, src->depths, src->n_depths, pattern, seed, err);
    if (s != STATUS_OK) return s;
    out->tokens = out->needle.tokens;
    out->has_answer = needle_is_model(m);
    return STATUS_OK;
}

static enum status allocate_ids(struct prompt *out, int32_t length, struct error *err) {
    out->tokens = malloc((size_t)length * sizeof *out->tokens);
    if (out->tokens) return STATUS_OK;
    return error_set(err, STATUS_NO_MEMORY, "no memory for a prompt of %d tokens", length);
}

static enum status make_random(struct prompt *out, const struct model_config *m, int32_t length,
                               uint64_t seed, struct error *err) {
    const enum status s = allocate_ids(out, length, err);
    if (s == STATUS_OK) engine_random_tokens(seed, m->V, length, out->tokens);
    return s;
}

static enum status make_from_file(struct prompt *out, const struct source *src, int32_t length,
                                  struct error *err) {
    struct bytes text;
    enum status s = read_text(src->path, length, &text, err);
    if (s != STATUS_OK) return s;
    if (text.n != (size_t)length)
        s = error_set(err, STATUS_IO,
                      "%s has changed since the run was planned: %s%zu bytes instead of %d",
                      src->path, text.n > (size_t)length ? "at least " : "", text.n, length);
    if (s == STATUS_OK) s = allocate_ids(out, length, err);
    if (s == STATUS_OK) engine_bytes_to_tokens(text.data, text.n, out->tokens);
    free(text.data);
    return s;
}

enum status prompt_make(struct prompt *out, const char *source, const struct model_config *m,
                        int32_t length, struct attention_pattern pattern, uint64_t seed,
                        struct error *err) {
    _Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "ids are hashed as they lie there");
    struct source src;
    *out = (struct prompt){.length = length};
    enum status s = parse_source(source, &src, err);
    if (s == STATUS_OK) s = check_vocabulary(source, src.kind, m, err);
    if (s != STATUS_OK) return s;
    switch (src.kind) {
    case SOURCE_NEEDLE: s = make_needle(out, &src, m, length, pattern, seed, err); break;
    case SOURCE_RANDOM: s = make_random(out, m, length, seed, err); break;
    case SOURCE_FILE: s = make_from_file(out, &src, length, err); break;
    }
    if (s != STATUS_OK) {
        prompt_free(out);
        return s;
    }
    sha256_hex(out->tokens, (size_t)length * sizeof *out->tokens, out->sha256);
    return STATUS_OK;
}

void prompt_free(struct prompt *p) {
    if (p->tokens != p->needle.tokens) free(p->tokens);
    needle_prompt_free(&p->needle);
    *p = (struct prompt){0};
}
