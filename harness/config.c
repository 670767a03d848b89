/* From a file and --set to struct config, and back to text. inih cuts lines into section, key and
 * value; a reader of our own under it counts lines, cuts comments and keeps lines within the
 * library's buffer; options.c knows what the values mean. All findings are collected before any is
 * reported. Comes after main's command line, before plan.c. */
#include "harness/config.h"

#include "harness/data_dir.h"
#include "harness/options.h"
#include "harness/sha256.h"

#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FILE_MAX_BYTES = 1 << 20 };

/* Findings come by line, then those about defaults, then those about overrides. */
static int64_t place_of(int32_t from) {
    if (from > 0) return from;
    return from == FROM_DEFAULT ? INT32_MAX : (int64_t)INT32_MAX - from;
}

void config_error(struct config_errors *errors, int32_t from, const char *format, ...) {
    const int most = (int)(sizeof errors->e / sizeof errors->e[0]);
    if (!errors) return;
    int at = errors->n;
    while (at > 0 && place_of(errors->from[at - 1]) > place_of(from)) at--;
    const bool full = errors->n == most;
    errors->more += full;
    if (at == most) return;
    const size_t behind = (size_t)(errors->n - at - full);
    memmove(&errors->e[at + 1], &errors->e[at], behind * sizeof errors->e[0]);
    memmove(&errors->from[at + 1], &errors->from[at], behind * sizeof errors->from[0]);
    errors->n += !full;
    errors->from[at] = from;
    va_list ap;
    va_start(ap, format);
    vsnprintf(errors->e[at].text, sizeof errors->e[at].text, format, ap);
    va_end(ap);
}

void config_errors_print(const struct config_errors *errors) {
    for (int i = 0; i < errors->n; i++) fprintf(stderr, "%s\n", errors->e[i].text);
    if (errors->more) fprintf(stderr, "and %d more errors\n", errors->more);
}

void config_defaults(struct config *out) {
    int n;
    const struct option *options = option_table(&n);
    char found[300];
    memset(out, 0, sizeof *out);
    for (int i = 0; i < n; i++) option_parse(&options[i], options[i].fallback, out, found);
}

bool config_has(const struct config *c, const char *section, const char *key) {
    const int i = option_find(section, key);
    return i >= 0 && !c->refused[i];
}

void config_refuse(struct config *c, const char *section, const char *key) {
    const int i = option_find(section, key);
    if (i >= 0) c->refused[i] = true;
}

int32_t config_from(const struct config *c, const char *section, const char *key) {
    const int i = option_find(section, key);
    return i < 0 ? FROM_DEFAULT : c->from[i];
}

/* "--set engine.isa=amx_bf16" */
static void print_override(const struct config *c, const char *section, const char *key, char *out,
                           size_t size) {
    const struct option *o = &option_table(&(int){0})[option_find(section, key)];
    char *value = NULL;
    size_t n = 0;
    FILE *text = open_memstream(&value, &n);
    if (text) option_print(o, c, text);
    const bool ok = text && fclose(text) == 0;
    snprintf(out, size, "--set %s.%s%s%.200s", section, key, ok ? "=" : "", ok ? value : "");
    free(value);
}

char *config_where(const struct config *c, const char *section, const char *key, char *out,
                   size_t size) {
    const int32_t from = config_from(c, section, key);
    if (from > 0)
        snprintf(out, size, "%s:%d", c->file, (int)from);
    else if (from <= FROM_SET)
        print_override(c, section, key, out, size);
    else
        snprintf(out, size, "%s: default of [%s] %s", c->file, section, key);
    return out;
}

/* ---- the file as lines */

struct entry {
    char *section, *key, *value; /* owned */
    int line;
};

struct reading {
    const char *file;
    const char *next; /* rest of the text */
    int line;
    int unanswered; /* a line that inih must answer with a key and a value, or 0 */
    bool continued; /* this line goes on with the value of the last entry */
    bool joined;    /* ... without a space between: the line before ended with a backslash */
    char unanswered_text[80];
    struct entry *entries; /* owned */
    int n, capacity;
    bool no_memory;
    struct config *config; /* keys that a line without a value names are refused in it */
    struct config_errors *errors;
};

static bool is_comment_start(char c) {
    return c == ';' || c == '#';
}

/* Cuts a comment and spaces at the end; returns the first character that is not a space. */
static char *trim(char *text) {
    for (char *c = text; *c; c++)
        if (is_comment_start(*c) && (c == text || isspace((unsigned char)c[-1]))) {
            *c = 0;
            break;
        }
    size_t n = strlen(text);
    while (n && isspace((unsigned char)text[n - 1])) text[--n] = 0;
    while (isspace((unsigned char)*text)) text++;
    return text;
}

/* "key = ..." with a plain word for a key, or "[section]": never the rest of a value. */
static bool starts_something(const char *text) {
    if (*text == '[') return true;
    const size_t n =
        strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");
    return n && text[n + strspn(text + n, " \t")] == '=';
}

/* A line that could not be read began with these words: it may have been about such a key. */
static void refuse_named(struct config *c, const char *text) {
    int n;
    const struct option *options = option_table(&n);
    const size_t word = strcspn(text, " \t=:");
    for (int i = 0; i < n; i++)
        if (strlen(options[i].key) == word && !strncmp(options[i].key, text, word))
            c->refused[i] = true;
}

static void check_answered(struct reading *r) {
    if (r->unanswered) {
        config_error(r->errors, r->unanswered,
                     "%s:%d: found \"%s\", expected key = value or [section]", r->file,
                     r->unanswered, r->unanswered_text);
        refuse_named(r->config, r->unanswered_text);
    }
    r->unanswered = 0;
}

/* One logical line into `text` (owned copy), without its line end; NULL at the end of the file. */
static char *take_line(struct reading *r) {
    if (!*r->next) return NULL;
    const size_t n = strcspn(r->next, "\n");
    char *line = strndup(r->next, n);
    if (!line) r->no_memory = true;
    r->next += n + (r->next[n] == '\n');
    r->line++;
    return line;
}

/* inih's reader: puts the next line, shortened to what matters, into str. */
static char *read_line(char *str, int size, void *stream) {
    struct reading *r = stream;
    check_answered(r);
    char *line = take_line(r);
    if (!line) return NULL;
    const bool indented = isspace((unsigned char)*line);
    char *text = trim(line);
    const size_t n = strlen(text), room = (size_t)size - 3;
    str[0] = 0;
    r->continued = *text && (r->joined || (indented && !starts_something(text))) && r->n > 0;
    if (n > room) {
        config_error(r->errors, r->line,
                     "%s:%d: found a line of %zu bytes, expected at most %zu: a value goes on in "
                     "the next line if that is indented",
                     r->file, r->line, n, room);
        refuse_named(r->config, r->continued ? r->entries[r->n - 1].key : text);
    } else if (*text == '[' && !r->continued && !strchr(text, ']')) {
        config_error(r->errors, r->line, "%s:%d: found \"%.60s\", expected [section]", r->file,
                     r->line, text);
        snprintf(str, (size_t)size, "%s]", text); /* its keys are no findings of their own */
    } else if (*text) {
        snprintf(str, (size_t)size, "%s%s", r->continued ? " " : "", text);
        if (*text != '[' || r->continued) {
            r->unanswered = r->line;
            snprintf(r->unanswered_text, sizeof r->unanswered_text, "%.70s", text);
        }
    }
    if (*text) r->joined = text[n - 1] == '\\';
    free(line);
    return str;
}

static void append_value(struct reading *r, const char *more) {
    struct entry *e = &r->entries[r->n - 1];
    size_t n = strlen(e->value);
    const bool joined = n && e->value[n - 1] == '\\';
    if (joined) n--;
    char *value = malloc(n + strlen(more) + 2);
    if (!value) {
        r->no_memory = true;
        return;
    }
    memcpy(value, e->value, n);
    if (!joined && n) value[n++] = ' ';
    strcpy(value + n, more);
    free(e->value);
    e->value = value;
}

/* inih's handler: a key and its value, or the rest of a value. */
static int take_entry(void *user, const char *section, const char *key, const char *value) {
    struct reading *r = user;
    r->unanswered = 0;
    if (r->continued) {
        append_value(r, value);
        return 1;
    }
    if (r->n == r->capacity) {
        const int capacity = r->capacity ? 2 * r->capacity : 32;
        struct entry *entries = realloc(r->entries, (size_t)capacity * sizeof *entries);
        if (!entries) {
            r->no_memory = true;
            return 1;
        }
        r->entries = entries;
        r->capacity = capacity;
    }
    struct entry *e = &r->entries[r->n++];
    *e = (struct entry){strdup(section), strdup(key), strdup(value), r->line};
    if (!e->section || !e->key || !e->value) r->no_memory = true;
    return 1;
}

static void entries_free(struct reading *r) {
    for (int i = 0; i < r->n; i++) {
        free(r->entries[i].section);
        free(r->entries[i].key);
        free(r->entries[i].value);
    }
    free(r->entries);
}

/* ---- from entries to values */

static void take_value(struct config *out, const struct entry *e, struct config_errors *errors) {
    const int i = option_find(e->section, e->key);
    char expected[400], found[300];
    if (i < 0) {
        const int meant = option_suggest(e->section, e->key, expected);
        if (meant >= 0 && !out->from[meant]) out->refused[meant] = true;
        if (!*e->section)
            config_error(errors, e->line, "%s:%d: found key %.60s before any section, expected %s",
                         out->file, e->line, e->key, expected);
        else
            config_error(errors, e->line, "%s:%d: found key %.60s in [%.60s], expected %s",
                         out->file, e->line, e->key, e->section, expected);
        return;
    }
    const struct option *o = &option_table(&(int){0})[i];
    if (out->from[i]) {
        config_error(errors, e->line,
                     "%s:%d: found a second value for [%s] %s, expected one: the first is in line "
                     "%d",
                     out->file, e->line, o->section, o->key, (int)out->from[i]);
        return;
    }
    out->from[i] = e->line;
    out->refused[i] = !option_parse(o, e->value, out, found);
    if (!out->refused[i]) return;
    option_expected(o, expected);
    config_error(errors, e->line, "%s:%d: [%s] %s: found %s, expected %s", out->file, e->line,
                 o->section, o->key, found, expected);
}

static enum status parse_text_of_file(struct config *out, const char *text,
                                      struct config_errors *errors) {
    struct reading r = {.file = out->file, .next = text, .config = out, .errors = errors};
    if (!strncmp(text, "\xef\xbb\xbf", 3)) r.next += 3; /* a byte order mark */
    ini_parse_stream(read_line, &r, take_entry, &r);
    check_answered(&r);
    if (r.no_memory)
        config_error(errors, FROM_DEFAULT, "%s: out of memory", out->file);
    else
        for (int i = 0; i < r.n; i++) take_value(out, &r.entries[i], errors);
    entries_free(&r);
    return r.no_memory ? STATUS_NO_MEMORY : STATUS_OK;
}

/* A path that is not there, and where the program has brought a configuration of that name. */
static void not_opened(const char *path, struct config_errors *errors) {
    const int why = errno;
    char data[PATH_MAX_BYTES], brought[2 * PATH_MAX_BYTES] = "";
    const char *slash = strrchr(path, '/');
    if (why == ENOENT && bench_data_dir(data, sizeof data))
        snprintf(brought, sizeof brought, "%s/configs/%s", data, slash ? slash + 1 : path);
    const bool found = *brought && access(brought, R_OK) == 0;
    config_error(errors, FROM_DEFAULT, "cannot open the configuration %s: %s%s%s", path,
                 strerror(why), found ? "; there is " : "", found ? brought : "");
}

/* The whole file, NUL-terminated and owned; NULL and an error otherwise. */
static char *read_file(const char *path, enum status *status, struct config_errors *errors) {
    *status = STATUS_IO;
    FILE *file = fopen(path, "rbe");
    if (!file) {
        not_opened(path, errors);
        return NULL;
    }
    char *text = malloc(FILE_MAX_BYTES + 1);
    const size_t n = text ? fread(text, 1, FILE_MAX_BYTES + 1, file) : 0;
    const bool failed = !text || ferror(file);
    if (failed)
        config_error(errors, FROM_DEFAULT, "cannot read the configuration %s: %s", path,
                     strerror(errno));
    fclose(file);
    if (!failed && n <= FILE_MAX_BYTES) {
        text[n] = 0;
        const size_t bytes = strlen(text);
        if (bytes == n) {
            *status = STATUS_OK;
            return text;
        }
        int line = 1;
        for (size_t i = 0; i < bytes; i++) line += text[i] == '\n';
        config_error(errors, line, "%s:%d: found a NUL byte, expected text", path, line);
        *status = STATUS_USAGE;
    } else if (!failed) {
        config_error(errors, FROM_DEFAULT, "%s: found more than %d bytes, expected a configuration",
                     path, FILE_MAX_BYTES);
        *status = STATUS_USAGE;
    }
    free(text);
    return NULL;
}

/* "section.key=value", the i-th of them */
static void take_override(struct config *out, const char *set, int number,
                          struct config_errors *errors) {
    const int32_t from = FROM_SET - number;
    const char *dot = strchr(set, '.'), *equals = strchr(set, '=');
    char section[64], key[64], expected[400], found[300];
    if (!dot || !equals || dot > equals || dot - set >= (int)sizeof section ||
        equals - dot > (int)sizeof key) {
        config_error(errors, from, "--set %.200s: expected section.key=value", set);
        return;
    }
    snprintf(section, sizeof section, "%.*s", (int)(dot - set), set);
    snprintf(key, sizeof key, "%.*s", (int)(equals - dot - 1), dot + 1);
    const int i = option_find(section, key);
    if (i < 0) {
        const int meant = option_suggest(section, key, expected);
        if (meant >= 0) out->refused[meant] = true;
        config_error(errors, from, "--set %.200s: found key %s in [%s], expected %s", set, key,
                     section, expected);
        return;
    }
    const struct option *o = &option_table(&(int){0})[i];
    out->from[i] = from;
    out->refused[i] = !option_parse(o, equals + 1, out, found);
    if (!out->refused[i]) return;
    option_expected(o, expected);
    config_error(errors, from, "--set %.200s: found %s, expected %s", set, found, expected);
}

/* ---- values that are right alone and wrong together */

static void check_chunk_sizes(const struct config *c, struct config_errors *errors) {
    char where[PATH_MAX_BYTES + 64], other[PATH_MAX_BYTES + 64];
    if (!config_has(c, "engine", "max_num_batched_tokens") ||
        !config_has(c, "engine", "enable_chunked_prefill") || c->enable_chunked_prefill ||
        c->max_num_batched_tokens.n == 1)
        return;
    config_error(errors, config_from(c, "engine", "max_num_batched_tokens"),
                 "%s: found %d chunk sizes with enable_chunked_prefill = false (%s), expected "
                 "one: without chunks the prompt is prefilled in one step",
                 config_where(c, "engine", "max_num_batched_tokens", where, sizeof where),
                 c->max_num_batched_tokens.n,
                 config_where(c, "engine", "enable_chunked_prefill", other, sizeof other));
}

static void check_room(const struct config *c, struct config_errors *errors) {
    char where[PATH_MAX_BYTES + 64], other[PATH_MAX_BYTES + 64];
    if (!config_has(c, "model", "max_model_len") || !config_has(c, "sampling", "max_tokens") ||
        !c->max_model_len || c->max_tokens < c->max_model_len)
        return;
    config_error(errors, config_from(c, "sampling", "max_tokens"),
                 "%s: found max_tokens = %" PRId64 " under max_model_len = %" PRId64
                 " (%s), expected room for a prompt",
                 config_where(c, "sampling", "max_tokens", where, sizeof where), c->max_tokens,
                 c->max_model_len, config_where(c, "model", "max_model_len", other, sizeof other));
}

/* One of `words` ("none|last"), or the number of a chunk. */
static void check_chunk(const struct config *c, const char *key, const char *text,
                        const char *words, const char *expected, struct config_errors *errors) {
    char where[PATH_MAX_BYTES + 64];
    const size_t n = strlen(text);
    if (n > 0 && n < 10 && strspn(text, "0123456789") == n) return;
    for (const char *word = words; word; word = strchr(word, '|') ? strchr(word, '|') + 1 : NULL)
        if (strcspn(word, "|") == n && strncmp(word, text, n) == 0) return;
    config_error(errors, config_from(c, "trace", key),
                 "%s: found %s = %s, expected %s or the number of a chunk",
                 config_where(c, "trace", key, where, sizeof where), key, text, expected);
}

static void check_combinations(const struct config *c, struct config_errors *errors) {
    char where[PATH_MAX_BYTES + 64];
    check_chunk_sizes(c, errors);
    check_room(c, errors);
    check_chunk(c, "profile_chunk", c->profile_chunk, "none|last", "none, last", errors);
    check_chunk(c, "cupti", c->cupti, "none|last|spread|all", "none, last, spread, all", errors);
    if (!strcmp(c->model_gpu, "auto"))
        config_error(errors, config_from(c, "model", "path_gpu"),
                     "%s: found path_gpu = auto, expected the model that auto stands for",
                     config_where(c, "model", "path_gpu", where, sizeof where));
}

enum status config_load(struct config *out, const char *path, const char *const *sets, int n_sets,
                        struct config_errors *errors) {
    struct config_errors *own = calloc(1, sizeof *own);
    if (!own) return STATUS_NO_MEMORY;
    config_defaults(out);
    snprintf(out->file, sizeof out->file, "%s", path);
    enum status status;
    char *text = read_file(path, &status, own);
    if (text) status = parse_text_of_file(out, text, own);
    free(text);
    if (status == STATUS_OK) {
        for (int i = 0; i < n_sets; i++) take_override(out, sets[i], i, own);
        check_combinations(out, own);
        if (own->n) status = STATUS_USAGE;
    }
    for (int i = 0; i < own->n; i++) config_error(errors, own->from[i], "%s", own->e[i].text);
    if (errors) errors->more += own->more;
    free(own);
    return status;
}

enum status config_load_text(struct config *out, const char *text, const char *name,
                             struct config_errors *errors) {
    config_defaults(out);
    snprintf(out->file, sizeof out->file, "%s", name);
    errors->n = errors->more = 0;
    const enum status status = parse_text_of_file(out, text, errors);
    return status == STATUS_OK && errors->n ? STATUS_USAGE : status;
}

/* ---- back to text */

/* A value in lines that the reader takes: the rest goes on, indented, after a backslash. */
static void print_value(const char *value, int column, FILE *out) {
    enum { LINE_BYTES = 150 };
    size_t left = strlen(value);
    while (left > (size_t)(LINE_BYTES - column)) {
        size_t cut = (size_t)(LINE_BYTES - column);
        while (cut > 1 && (value[cut] == ' ' || is_comment_start(value[cut]))) cut--;
        fprintf(out, "%.*s\\\n    ", (int)cut, value);
        value += cut;
        left -= cut;
        column = 4;
    }
    fprintf(out, "%s\n", value);
}

static char *text_without(const struct config *c, const char *section, const char *key) {
    int n;
    const struct option *options = option_table(&n);
    char *text = NULL, *value = NULL;
    size_t size = 0, value_size = 0;
    FILE *out = open_memstream(&text, &size);
    bool ok = out != NULL;
    const char *current = "";
    for (int i = 0; ok && i < n; i++) {
        const struct option *o = &options[i];
        if (section && !strcmp(o->section, section) && !strcmp(o->key, key)) continue;
        if (strcmp(current, o->section) != 0)
            fprintf(out, "%s[%s]\n", *current ? "\n" : "", o->section);
        current = o->section;
        FILE *one = open_memstream(&value, &value_size);
        if (!one) {
            ok = false;
            break;
        }
        option_print(o, c, one);
        ok = fclose(one) == 0;
        if (ok) print_value(value, fprintf(out, "%s = ", o->key), out);
        free(value);
        value = NULL;
    }
    if (out && fclose(out) != 0) ok = false;
    if (!ok) {
        free(text);
        return NULL;
    }
    return text;
}

char *config_to_text(const struct config *c) {
    return text_without(c, NULL, NULL);
}

void config_hash(const struct config *c, char out[65]) {
    char *text = text_without(c, "run", "output");
    sha256_hex(text ? text : "", text ? strlen(text) : 0, out);
    free(text);
}
