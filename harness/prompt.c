/* Prompts: what a configuration names becomes token ids. plan.c asks for the length, the worker
 * makes the ids. Owns the ids; the needle's text and truth are the engine's (engine/needle.h). */
#include "harness/prompt.h"

#include "harness/config.h"
#include "harness/format.h"
#include "harness/prompt_cache.h"
#include "harness/sha256.h"
#include "harness/text_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum source_kind { SOURCE_NEEDLE, SOURCE_RANDOM, SOURCE_FILE, SOURCE_REMOTE };
enum { DEPTHS_MAX = 64, NEEDLE_IDS = 384, BYTE_IDS = 256 };

struct source {
    enum source_kind kind;
    int64_t length;   /* needle, random */
    const char *text; /* as configured */
    const char *path; /* file; points into it */
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

/* Names that mean another file, or another text, in every process: a worker would not read what the
 * plan has read. */
static bool means_one_file(const char *path) {
    static const char *const others[] = {"/dev/stdin", "/dev/fd/", "/proc/"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strncmp(path, others[i], strlen(others[i])) == 0) return false;
    return true;
}

static enum status check_path(const char *path, const char *source, struct error *err) {
    if (!*path) return error_set(err, STATUS_USAGE, "%s: no path", source);
    if (means_one_file(path)) return STATUS_OK;
    return error_set(err, STATUS_USAGE,
                     "%s: it is not the same for every process, expected a regular file", source);
}

static enum status parse_source(const char *text, struct source *out, struct error *err) {
    static const char *const kinds[] = {"needle:", "random:", "file:"};
    char url[URL_MAX_BYTES];
    *out = (struct source){.kind = SOURCE_NEEDLE, .text = text};
    if (prompt_is_remote(text)) {
        out->kind = SOURCE_REMOTE;
        return prompt_url(text, url, err);
    }
    for (int kind = SOURCE_NEEDLE; kind <= SOURCE_FILE; kind++) {
        if (strncmp(text, kinds[kind], strlen(kinds[kind])) != 0) continue;
        const char *rest = text + strlen(kinds[kind]);
        out->kind = kind;
        out->path = rest;
        if (kind == SOURCE_FILE) return check_path(rest, text, err);
        const size_t n = kind == SOURCE_NEEDLE ? strcspn(rest, "@") : strlen(rest);
        enum status s = parse_length(rest, n, out, err);
        if (s == STATUS_OK && rest[n] == '@') s = parse_depths(rest + n + 1, out, err);
        return s == STATUS_OK ? s : error_prefix(err, s, "%s", text);
    }
    return error_set(err, STATUS_USAGE,
                     "prompt \"%s\": expected needle:LENGTH[@DEPTH+...], random:LENGTH, file:PATH, "
                     "url:URL or qwen:64k|200k|600k|1m",
                     text);
}

/* ---- texts */

static bool is_text(const struct source *src) {
    return src->kind == SOURCE_FILE || src->kind == SOURCE_REMOTE;
}

/* The whole text of a file or from the cache, at most `most` bytes of it plus one. */
static enum status read_text(const struct source *src, int64_t most, struct text *out,
                             struct error *err) {
    struct cached_prompt cached;
    if (src->kind == SOURCE_REMOTE) return prompt_cache_read(src->text, &cached, out, err);
    enum status s = text_read(src->path, most, out, err);
    if (s != STATUS_OK) return s;
    if ((int64_t)out->n <= most) s = text_check(out, src->path, err);
    if (s != STATUS_OK) text_free(out);
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
    static const int32_t needed[] = {[SOURCE_NEEDLE] = NEEDLE_IDS,
                                     [SOURCE_RANDOM] = 1,
                                     [SOURCE_FILE] = BYTE_IDS,
                                     [SOURCE_REMOTE] = BYTE_IDS};
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
    if (is_text(&src)) {
        struct text text;
        s = read_text(&src, room > 0 ? room : 0, &text, err);
        if (s != STATUS_OK) return s;
        src.length = (int64_t)text.n;
        text_free(&text);
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

/* ---- checksum */

enum status prompt_text_sha256(const char *source, char out[65], struct error *err) {
    struct source src;
    struct text text;
    out[0] = 0;
    enum status s = parse_source(source, &src, err);
    if (s != STATUS_OK || !is_text(&src)) return s;
    s = read_text(&src, INT32_MAX, &text, err);
    if (s != STATUS_OK) return s;
    sha256_hex(text.data, text.n, out);
    text_free(&text);
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

static enum status make_from_text(struct prompt *out, const struct source *src, int32_t length,
                                  struct error *err) {
    struct text text;
    enum status s = read_text(src, length, &text, err);
    if (s != STATUS_OK) return s;
    sha256_hex(text.data, text.n, out->file_sha256);
    if (text.n != (size_t)length)
        s = error_set(err, STATUS_IO,
                      "%s has changed since the run was planned: %s%zu bytes instead of %d",
                      src->text, text.n > (size_t)length ? "at least " : "", text.n, length);
    if (s == STATUS_OK) s = allocate_ids(out, length, err);
    if (s == STATUS_OK) engine_bytes_to_tokens(text.data, text.n, out->tokens);
    text_free(&text);
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
    case SOURCE_FILE:
    case SOURCE_REMOTE: s = make_from_text(out, &src, length, err); break;
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
