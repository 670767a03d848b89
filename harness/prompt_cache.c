/* The cache of prompts from the web. See prompt_cache.h. Before it: prompt.c, which reads, and
 * fetch.c, which fills it; under it: download.c. */
#include "harness/prompt_cache.h"

#include "harness/cache_dir.h"
#include "harness/interrupt.h"
#include "harness/jsondoc.h"
#include "harness/sha256.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* The published test prompts: https://HOST/.../64k.txt, and so on. */
static const char qwen_folder[] =
    "https://qianwen-res.oss-cn-beijing.aliyuncs.com/Qwen2.5-1M/test-data/";
static const char *const qwen_names[] = {"64k", "200k", "600k", "1m"};
enum { QWEN_NAMES = sizeof qwen_names / sizeof *qwen_names };

/* No prompt is longer: a token takes a byte at least, and token counts end at 2^30. */
static const int64_t text_max_bytes = 1 << 30;

/* ---- addresses and names */

bool prompt_is_remote(const char *source) {
    return !strncmp(source, "url:", 4) || !strncmp(source, "qwen:", 5);
}

static void qwen_url(int i, char url[URL_MAX_BYTES]) {
    snprintf(url, URL_MAX_BYTES, "%s%s.txt", qwen_folder, qwen_names[i]);
}

enum status prompt_url(const char *source, char url[URL_MAX_BYTES], struct error *err) {
    url[0] = 0;
    if (!strncmp(source, "url:", 4)) {
        const enum status s = download_check_url(source + 4, err);
        if (s == STATUS_OK) snprintf(url, URL_MAX_BYTES, "%s", source + 4);
        return s;
    }
    for (int i = 0; i < QWEN_NAMES; i++)
        if (!strncmp(source, "qwen:", 5) && !strcmp(source + 5, qwen_names[i])) {
            qwen_url(i, url);
            return STATUS_OK;
        }
    return error_set(err, STATUS_USAGE,
                     "prompt \"%s\": expected url:URL, qwen:64k, qwen:200k, qwen:600k or qwen:1m",
                     source);
}

/* The reverse. */
static void source_of_url(const char *url, char source[NAME_MAX_BYTES]) {
    _Static_assert((int)URL_MAX_BYTES + 4 <= (int)NAME_MAX_BYTES, "\"url:\" and an address fit");
    char qwen[URL_MAX_BYTES];
    snprintf(source, NAME_MAX_BYTES, "url:%.*s", URL_MAX_BYTES - 1, url);
    for (int i = 0; i < QWEN_NAMES; i++) {
        qwen_url(i, qwen);
        if (!strcmp(url, qwen)) snprintf(source, NAME_MAX_BYTES, "qwen:%s", qwen_names[i]);
    }
}

void prompt_cache_name(const char *url, char out[80]) {
    enum { WORD_BYTES = 40, HASH_DIGITS = 12 };
    static const char safe[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    char hash[65], word[WORD_BYTES + 1];
    const char *path = strstr(url, "://");
    path = path ? path + 3 : url;
    const char *end = path + strcspn(path, "?#"), *first = end;
    while (first > path && first[-1] != '/') first--;
    if (first == path) first = end; /* a host alone */
    if (end - first > 4 && !strncmp(end - 4, ".txt", 4)) end -= 4;
    size_t n = 0;
    for (; first < end && n < WORD_BYTES; first++, n++)
        word[n] = strchr(safe, *first) && !(n == 0 && *first == '.') ? *first : '_';
    word[n] = 0;
    sha256_hex(url, strlen(url), hash);
    snprintf(out, 80, "%s-%.*s.txt", n ? word : "prompt", HASH_DIGITS, hash);
}

const char *cached_state_text(enum cached_state s) {
    static const char *const texts[] = {"absent",  "part",    "whole",
                                        "by hand", "damaged", "unusable"};
    return texts[s];
}

/* ---- one prompt */

static enum status open_folder(char *out, size_t size, struct error *err) {
    if (cache_dir("prompts", out, size)) return STATUS_OK;
    return error_set(err, STATUS_IO,
                     *out ? "cannot make the folder for prompts, %.700s; set XDG_CACHE_HOME to a "
                            "folder that can be written"
                          : "no folder for prompts: neither XDG_CACHE_HOME nor HOME is set%s",
                     out);
}

static bool beside(const struct cached_prompt *p, const char *suffix, char *out, size_t size) {
    return (size_t)snprintf(out, size, "%s%s", p->file, suffix) < size;
}

static bool take_text(const struct jsondoc *d, const char *key, char *out, size_t size) {
    const char *text = jsondoc_get_text(d, key);
    if (!text || strlen(text) >= size) return false;
    strcpy(out, text);
    return true;
}

/* The record against the file: whether there is one that belongs to this name; *agrees with it. */
static bool read_record(struct cached_prompt *p, bool *agrees) {
    char path[PATH_MAX_BYTES + 16], sha256[65], name[80], url[URL_MAX_BYTES] = "";
    struct jsondoc *d;
    int64_t bytes = -1;
    beside(p, ".json", path, sizeof path);
    if (jsondoc_read(&d, path, NULL) != STATUS_OK) {
        *agrees = false;
        return access(path, F_OK) == 0;
    }
    *agrees =
        take_text(d, "url", url, sizeof url) && take_text(d, "sha256", sha256, sizeof sha256) &&
        jsondoc_get_int(d, "bytes", &bytes) && bytes == p->bytes && !strcmp(sha256, p->sha256);
    take_text(d, "etag", p->etag, sizeof p->etag);
    take_text(d, "fetched_utc", p->fetched_utc, sizeof p->fetched_utc);
    jsondoc_close(d);
    prompt_cache_name(url, name);
    if (strcmp(name, p->name) != 0)
        *agrees = false;
    else if (!p->url[0])
        memcpy(p->url, url, sizeof p->url);
    return true;
}

static void look_unusable(struct cached_prompt *p, enum status s) {
    p->state = CACHED_UNUSABLE;
    p->why_status = s;
}

/* Everything but source, url, file and name, by what is there. *text: as of prompt_cache_look. */
static void look(struct cached_prompt *p, struct text *text) {
    char part[PATH_MAX_BYTES + 16];
    struct text own = {0};
    bool agrees;
    if (access(p->file, F_OK) != 0) {
        beside(p, ".part", part, sizeof part);
        p->state = p->url[0] && download_partial(part, p->url, &p->bytes, &p->total_bytes)
                       ? CACHED_PART
                       : CACHED_NOTHING;
        return;
    }
    enum status s = text_read(p->file, text_max_bytes, &own, &p->why);
    if (s != STATUS_OK) {
        look_unusable(p, s);
        return;
    }
    p->bytes = (int64_t)own.n;
    sha256_hex(own.data, own.n, p->sha256);
    const bool record = read_record(p, &agrees);
    p->state = !record ? CACHED_BY_HAND : agrees ? CACHED_WHOLE : CACHED_DAMAGED;
    if (p->state != CACHED_DAMAGED) s = text_check(&own, p->file, &p->why);
    if (s != STATUS_OK) look_unusable(p, s);
    if (text && (p->state == CACHED_WHOLE || p->state == CACHED_BY_HAND))
        *text = own;
    else
        text_free(&own);
}

static enum status place(struct cached_prompt *p, const char *folder, const char *name,
                         struct error *err) {
    snprintf(p->name, sizeof p->name, "%s", name);
    if ((size_t)snprintf(p->file, sizeof p->file, "%s/%s", folder, name) < sizeof p->file)
        return STATUS_OK;
    return error_set(err, STATUS_IO, "%.700s: the path is too long", folder);
}

enum status prompt_cache_look(const char *source, struct cached_prompt *out, struct text *text,
                              struct error *err) {
    char folder[PATH_MAX_BYTES], name[80];
    *out = (struct cached_prompt){.total_bytes = -1};
    if (text) *text = (struct text){0};
    enum status s = prompt_url(source, out->url, err);
    if (s == STATUS_OK) s = open_folder(folder, sizeof folder, err);
    if (s != STATUS_OK) return s;
    source_of_url(out->url, out->source);
    prompt_cache_name(out->url, name);
    s = place(out, folder, name, err);
    if (s == STATUS_OK) look(out, text);
    return s;
}

enum status prompt_cache_read(const char *source, struct cached_prompt *out, struct text *text,
                              struct error *err) {
    enum status s = prompt_cache_look(source, out, text, err);
    if (s != STATUS_OK) return s;
    switch (out->state) {
    case CACHED_WHOLE:
    case CACHED_BY_HAND: return STATUS_OK;
    case CACHED_UNUSABLE: return error_set(err, out->why_status, "%s", out->why.text);
    case CACHED_DAMAGED:
        return error_set(
            err, STATUS_IO,
            "%s: %s is not what was fetched (its .json says); `bench fetch %s` gets it "
            "again; remove the .json if you put the file there",
            source, out->file, source);
    default:
        return error_set(err, STATUS_IO,
                         "%s is not fetched yet: `bench fetch %s`, or put the text there by hand: "
                         "%s",
                         source, source, out->file);
    }
}

/* ---- fetching */

/* The lock of a prompt: STATUS_OK with an open file in *fd, which is closed to release it. */
static enum status take_lock(const struct cached_prompt *p, const struct prompt_fetch *how, int *fd,
                             struct error *err) {
    char path[PATH_MAX_BYTES + 16];
    const struct timespec pause = {0, 50000000};
    beside(p, ".lock", path, sizeof path);
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (*fd < 0) return error_set(err, STATUS_IO, "cannot open %s: %s", path, strerror(errno));
    for (bool told = false; flock(*fd, LOCK_EX | LOCK_NB) != 0; told = true) {
        enum status s = STATUS_OK;
        if (errno != EWOULDBLOCK && errno != EINTR)
            s = error_set(err, STATUS_IO, "cannot lock %s: %s", path, strerror(errno));
        else if (interrupt_count(how->interrupts) > 0)
            s = error_set(err, STATUS_INTERRUPTED, "interrupted");
        if (s != STATUS_OK) {
            close(*fd);
            return s;
        }
        if (!told && how->waiting) how->waiting(how->observer.ctx);
        nanosleep(&pause, NULL);
    }
    return STATUS_OK;
}

static enum status write_record(struct cached_prompt *p, const struct download_facts *facts,
                                struct error *err) {
    char path[PATH_MAX_BYTES + 16];
    struct tm utc;
    const time_t now = time(NULL);
    beside(p, ".json", path, sizeof path);
    if (gmtime_r(&now, &utc))
        strftime(p->fetched_utc, sizeof p->fetched_utc, "%Y-%m-%dT%H:%M:%SZ", &utc);
    memcpy(p->etag, facts->etag, sizeof p->etag);
    struct jsondoc *d = jsondoc_object();
    jsondoc_put_text(d, "url", p->url);
    jsondoc_put_int(d, "bytes", p->bytes);
    jsondoc_put_text(d, "sha256", p->sha256);
    jsondoc_put_text(d, "etag", p->etag);
    jsondoc_put_text(d, "last_modified", facts->last_modified);
    jsondoc_put_text(d, "fetched_utc", p->fetched_utc);
    const enum status s = jsondoc_write(d, path, err);
    jsondoc_close(d);
    return s;
}

static void sync_folder(const char *file) {
    char folder[PATH_MAX_BYTES];
    snprintf(folder, sizeof folder, "%s", file);
    char *slash = strrchr(folder, '/');
    if (slash) *slash = 0;
    const int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;
    fsync(fd); /* a file system that cannot do this has nothing to be synchronised */
    close(fd);
}

/* From a whole partial file to the file: judged, recorded, renamed. */
static enum status settle(struct cached_prompt *p, const char *part,
                          const struct download_facts *facts, struct error *err) {
    struct text text;
    enum status s = text_read(part, text_max_bytes, &text, err);
    if (s != STATUS_OK) return s;
    s = text_check(&text, p->url, err);
    p->bytes = (int64_t)text.n;
    sha256_hex(text.data, text.n, p->sha256);
    text_free(&text);
    if (s == STATUS_OK) s = write_record(p, facts, err);
    if (s == STATUS_OK && rename(part, p->file) != 0)
        s = error_set(err, STATUS_IO, "cannot rename %s to %s: %s", part, p->file, strerror(errno));
    if (s == STATUS_OK) p->state = CACHED_WHOLE;
    if (s == STATUS_OK) sync_folder(p->file);
    if (s == STATUS_OK || s == STATUS_USAGE) download_remove(part);
    return s;
}

static enum status fetch_locked(struct cached_prompt *p, const struct prompt_fetch *how,
                                struct error *err) {
    char part[PATH_MAX_BYTES + 16];
    struct download_facts facts;
    struct error why = {""};
    beside(p, ".part", part, sizeof part);
    const struct download d = {.url = p->url,
                               .part = part,
                               .timeout_s = how->timeout_s,
                               .retries = how->retries,
                               .most_bytes = how->most_bytes,
                               .interrupts = how->interrupts,
                               .observer = how->observer};
    const enum status s = download(&d, &facts, &why);
    if (s == STATUS_OK) return settle(p, part, &facts, err);
    if (s != STATUS_IO) return error_set(err, s, "%s", why.text);
    return error_set(err, s, "%.500s\nwithout a network: put the text there by hand, as %s",
                     why.text, p->file);
}

static bool is_there(const struct cached_prompt *p) {
    return p->state == CACHED_WHOLE || p->state == CACHED_BY_HAND;
}

enum status prompt_cache_fetch(const char *source, const struct prompt_fetch *how,
                               struct cached_prompt *out, bool *fetched, struct error *err) {
    int lock;
    *fetched = false;
    enum status s = prompt_cache_look(source, out, NULL, err);
    if (s != STATUS_OK || (is_there(out) && !how->anew)) return s;
    if (out->state == CACHED_UNUSABLE && !how->anew)
        return error_set(err, out->why_status, "%s; remove it, or `bench fetch --force`",
                         out->why.text);
    s = take_lock(out, how, &lock, err);
    if (s != STATUS_OK) return s;
    /* Another process may have fetched what was not there; that is as new as can be asked for. */
    const bool was_there = is_there(out);
    s = prompt_cache_look(source, out, NULL, err);
    if (s == STATUS_OK && (!is_there(out) || was_there)) {
        s = fetch_locked(out, how, err);
        *fetched = s == STATUS_OK;
    }
    close(lock);
    return s;
}

/* ---- all of them */

static bool ends_with(const char *text, const char *end) {
    const size_t n = strlen(text), m = strlen(end);
    return n > m && !strcmp(text + n - m, end);
}

/* A prompt is seen by its file, or by its part where there is no file. */
static bool listed_name(const char *folder, const char *entry, char out[80]) {
    char path[PATH_MAX_BYTES + 300];
    const bool part = ends_with(entry, ".txt.part");
    const int n = (int)strlen(entry) - (part ? 5 : 0);
    if ((!part && !ends_with(entry, ".txt")) || n >= 80) return false;
    snprintf(out, 80, "%.*s", n, entry);
    snprintf(path, sizeof path, "%s/%s", folder, out);
    return !part || access(path, F_OK) != 0;
}

/* The address of a file that has no record: of a part, by what lies beside it; of a published
 * prompt, by its name. */
static void find_url(struct cached_prompt *p) {
    char path[PATH_MAX_BYTES + 16], name[80], url[URL_MAX_BYTES];
    struct jsondoc *d;
    beside(p, ".part.json", path, sizeof path);
    if (access(p->file, F_OK) != 0 && jsondoc_read(&d, path, NULL) == STATUS_OK) {
        take_text(d, "url", p->url, sizeof p->url);
        jsondoc_close(d);
    }
    for (int i = 0; i < QWEN_NAMES; i++) {
        qwen_url(i, url);
        prompt_cache_name(url, name);
        if (!strcmp(name, p->name)) memcpy(p->url, url, sizeof p->url);
    }
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct cached_prompt *)a)->name, ((const struct cached_prompt *)b)->name);
}

static enum status add_listed(struct cached_prompt **list, int *n, const char *folder,
                              const char *name, struct error *err) {
    struct cached_prompt *grown = realloc(*list, ((size_t)*n + 1) * sizeof *grown);
    if (!grown) return error_set(err, STATUS_NO_MEMORY, "no memory for a list of %d prompts", *n);
    *list = grown;
    struct cached_prompt *p = &grown[*n];
    *p = (struct cached_prompt){.total_bytes = -1};
    const enum status s = place(p, folder, name, err);
    if (s != STATUS_OK) return s;
    find_url(p);
    look(p, NULL);
    if (p->url[0]) source_of_url(p->url, p->source);
    *n += p->state != CACHED_NOTHING;
    return STATUS_OK;
}

enum status prompt_cache_list(struct cached_prompt **out, int *n, char *folder, struct error *err) {
    char name[80];
    *out = NULL;
    *n = 0;
    enum status s = open_folder(folder, PATH_MAX_BYTES, err);
    if (s != STATUS_OK) return s;
    DIR *dir = opendir(folder);
    if (!dir) return error_set(err, STATUS_IO, "cannot read %s: %s", folder, strerror(errno));
    for (const struct dirent *e; s == STATUS_OK && (e = readdir(dir)) != NULL;)
        if (listed_name(folder, e->d_name, name)) s = add_listed(out, n, folder, name, err);
    closedir(dir);
    if (*n > 1) qsort(*out, (size_t)*n, sizeof **out, by_name);
    if (s != STATUS_OK) {
        free(*out);
        *out = NULL;
        *n = 0;
    }
    return s;
}
