/* Fetches a file in as many tries as it takes. A try is one transfer of libcurl, driven by its
 * multi interface so that a stall and Ctrl-C are seen at once; http_reply.c judges what the server
 * says. Before it: prompt_cache.c. */
#include "harness/download.h"

#include "harness/format.h"
#include "harness/http_reply.h"
#include "harness/interrupt.h"
#include "harness/jsondoc.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    REDIRECTS_MAX = 5,
    POLL_MS = 100,
    STALL_BYTES_PER_S = 200, /* slower than that is no transfer */
    TRY_BYTES = 64 << 10,    /* a try that brings so much more than any before is not held against
                                the server */
    RETRY_AFTER_MAX_S = 30,
    PATH_BYTES = 4200,
};

/* One fetch: what is there, and what was tried. */
struct fetch {
    const struct download *d;
    struct http_partial partial;
    int fd;
    int64_t furthest; /* bytes that were ever there */
    int tries, failures;
    bool too_large; /* what is there is of no use */
};

/* One try of it. */
struct transfer {
    struct fetch *f;
    CURL *curl;
    struct http_reply reply;
    int64_t asked; /* the byte that the body was asked to begin at */
    bool judged;
    enum http_verdict verdict;
    bool disk_failed; /* why says how */
    char why[400];
    char curl_text[CURL_ERROR_SIZE];
    double window_s; /* when the bytes below were counted, to see a stall */
    int64_t window_bytes;
    double shown_s;
};

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- what lies beside the partial file */

static void state_path(const char *part, char out[PATH_BYTES]) {
    snprintf(out, PATH_BYTES, "%s.json", part);
}

static enum status write_state(const struct fetch *f, struct error *err) {
    char path[PATH_BYTES];
    struct jsondoc *d = jsondoc_object();
    state_path(f->d->part, path);
    jsondoc_put_text(d, "url", f->d->url);
    jsondoc_put_text(d, "etag", f->partial.etag);
    jsondoc_put_text(d, "last_modified", f->partial.last_modified);
    jsondoc_put_int(d, "total_bytes", f->partial.total);
    const enum status s = jsondoc_write(d, path, err);
    jsondoc_close(d);
    return s;
}

static bool take_text(const struct jsondoc *d, const char *key, char *out, size_t size) {
    const char *text = jsondoc_get_text(d, key);
    if (!text || strlen(text) >= size) return false;
    strcpy(out, text);
    return true;
}

/* What another try can go on from; false, and nothing of it: only from the first byte. */
static bool read_state(const char *part, const char *url, struct http_partial *out) {
    char path[PATH_BYTES];
    struct jsondoc *d;
    struct stat st;
    *out = (struct http_partial){.total = -1};
    state_path(part, path);
    if (stat(part, &st) != 0 || st.st_size <= 0 || jsondoc_read(&d, path, NULL) != STATUS_OK)
        return false;
    const char *of = jsondoc_get_text(d, "url");
    const bool good =
        of && !strcmp(of, url) && take_text(d, "etag", out->etag, sizeof out->etag) &&
        take_text(d, "last_modified", out->last_modified, sizeof out->last_modified) &&
        jsondoc_get_int(d, "total_bytes", &out->total);
    jsondoc_close(d);
    out->bytes = st.st_size;
    if (good && http_validator(out) && (out->total < 0 || out->bytes <= out->total)) return true;
    *out = (struct http_partial){.total = -1};
    return false;
}

bool download_partial(const char *part, const char *url, int64_t *bytes, int64_t *total_bytes) {
    struct http_partial p;
    const bool found = read_state(part, url, &p);
    *bytes = p.bytes;
    *total_bytes = p.total;
    return found;
}

void download_remove(const char *part) {
    char path[PATH_BYTES];
    state_path(part, path);
    unlink(path);
    unlink(part);
}

/* ---- addresses */

static bool url_part(CURLU *u, CURLUPart part, char *out, size_t size) {
    char *text = NULL;
    const bool found = curl_url_get(u, part, &text, 0) == CURLUE_OK && text;
    snprintf(out, size, "%s", found ? text : "");
    curl_free(text);
    return found;
}

enum status download_check_url(const char *url, struct error *err) {
    char scheme[16], host[URL_MAX_BYTES], user[URL_MAX_BYTES];
    if (strlen(url) >= URL_MAX_BYTES)
        return error_set(err, STATUS_USAGE, "an address of %zu bytes, expected at most %d",
                         strlen(url), URL_MAX_BYTES - 1);
    for (const char *c = url; *c; c++)
        if ((unsigned char)*c <= ' ' || (unsigned char)*c == 0x7f)
            return error_set(err, STATUS_USAGE, "%s: a space or control character in an address",
                             url);
    const char *slashes = strstr(url, "://"); /* libcurl takes one and three of them too */
    CURLU *u = curl_url();
    if (!u) return error_set(err, STATUS_NO_MEMORY, "no memory for an address");
    const bool parsed = curl_url_set(u, CURLUPART_URL, url, CURLU_NON_SUPPORT_SCHEME) == CURLUE_OK;
    const bool web = parsed && slashes && slashes[3] != '/' &&
                     url_part(u, CURLUPART_SCHEME, scheme, sizeof scheme) &&
                     (!strcmp(scheme, "http") || !strcmp(scheme, "https")) &&
                     url_part(u, CURLUPART_HOST, host, sizeof host) && *host;
    const bool login = web && url_part(u, CURLUPART_USER, user, sizeof user);
    curl_url_cleanup(u);
    if (!web)
        return error_set(err, STATUS_USAGE, "%s: expected http://HOST/... or https://HOST/...",
                         url);
    if (login)
        return error_set(err, STATUS_USAGE,
                         "an address with a user name in it: it would stand in every result");
    return STATUS_OK;
}

/* ---- when to try again */

double download_wait_s(double timeout_s, int retry, uint32_t random) {
    const double whole = timeout_s / 10 * (double)(1 << (retry < 4 ? retry : 4));
    return whole / 2 + whole / 2 * ((double)random / UINT32_MAX);
}

static bool interrupted(const struct fetch *f) {
    return interrupt_count(f->d->interrupts) > 0;
}

static void wait_s(const struct fetch *f, double seconds) {
    const double until = now_s() + seconds;
    for (double left = seconds; left > 0 && !interrupted(f); left = until - now_s()) {
        const double step = left < POLL_MS / 1e3 ? left : POLL_MS / 1e3;
        const struct timespec t = {0, (long)(step * 1e9)};
        nanosleep(&t, NULL);
    }
}

/* ---- a transfer */

static size_t on_header(char *line, size_t size, size_t n, void *ctx) {
    struct transfer *t = ctx;
    http_reply_line(&t->reply, line, size * n);
    return size * n;
}

static bool disk_failed(struct transfer *t, const char *what) {
    t->disk_failed = true;
    snprintf(t->why, sizeof t->why, "cannot %s %.300s: %s", what, t->f->d->part, strerror(errno));
    return false;
}

/* The partial file becomes an empty one. */
static bool start_over(struct transfer *t) {
    t->f->partial = (struct http_partial){.total = -1};
    return ftruncate(t->f->fd, 0) == 0 || disk_failed(t, "truncate");
}

/* Before the first byte of the file is kept: what it is a part of. */
static bool begin_whole(struct transfer *t) {
    struct http_partial *p = &t->f->partial;
    struct error err;
    if (!start_over(t)) return false;
    t->window_bytes = 0;
    p->total = http_total(&t->reply);
    memcpy(p->etag, t->reply.etag, sizeof p->etag);
    memcpy(p->last_modified, t->reply.last_modified, sizeof p->last_modified);
    if (write_state(t->f, &err) == STATUS_OK) return true;
    t->disk_failed = true;
    snprintf(t->why, sizeof t->why, "%.390s", err.text);
    return false;
}

/* On the first byte of a body, or at the end of a reply without one. */
static bool judge(struct transfer *t) {
    const struct http_partial *p = &t->f->partial;
    t->judged = true;
    t->verdict = http_judge(&t->reply, t->asked, p, t->f->d->most_bytes, t->why);
    if (t->verdict == HTTP_WHOLE) return begin_whole(t);
    if (t->verdict == HTTP_REST && t->f->partial.total < 0) t->f->partial.total = t->reply.total;
    return t->verdict == HTTP_REST;
}

static void show(struct transfer *t, bool always) {
    const struct download_observer *o = &t->f->d->observer;
    const double now = now_s();
    if (!o->progress || (!always && now - t->shown_s < 0.1)) return;
    t->shown_s = now;
    o->progress(o->ctx, t->f->partial.bytes, t->f->partial.total);
}

/* libcurl ends the transfer when less than all bytes are taken. */
static size_t on_body(char *data, size_t size, size_t n, void *ctx) {
    struct transfer *t = ctx;
    struct http_partial *p = &t->f->partial;
    const size_t bytes = size * n;
    if (!t->judged && !judge(t)) return 0;
    if (p->bytes + (int64_t)bytes > t->f->d->most_bytes) {
        char most[FORMAT_BYTES];
        t->verdict = HTTP_REFUSED;
        t->f->too_large = true;
        snprintf(t->why, sizeof t->why, "the file has more than %s bytes (max_bytes)",
                 format_count(most, t->f->d->most_bytes));
        return 0;
    }
    for (size_t done = 0; done < bytes;) {
        const ssize_t put =
            pwrite(t->f->fd, data + done, bytes - done, (off_t)(p->bytes + (int64_t)done));
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) {
            disk_failed(t, "write");
            return 0;
        }
        done += (size_t)put;
    }
    p->bytes += (int64_t)bytes;
    show(t, false);
    return bytes;
}

/* Certificates where this libcurl does not look by itself: it may come from another distribution.
 */
static void find_certificates(CURL *curl) {
    static const char *const variables[] = {"CURL_CA_BUNDLE", "SSL_CERT_FILE"};
    static const char *const files[] = {"/etc/ssl/certs/ca-certificates.crt",
                                        "/etc/pki/tls/certs/ca-bundle.crt",
                                        "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"};
    const curl_version_info_data *version = curl_version_info(CURLVERSION_NOW);
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++) {
        const char *path = getenv(variables[i]);
        if (!path || !*path) continue;
        curl_easy_setopt(curl, CURLOPT_CAINFO, path);
        return;
    }
    if (version->cainfo && access(version->cainfo, R_OK) == 0) return;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (access(files[i], R_OK) == 0) {
            curl_easy_setopt(curl, CURLOPT_CAINFO, files[i]);
            return;
        }
}

/* The request. *headers: the caller frees. False: no memory. */
static bool set_up(struct transfer *t, struct curl_slist **headers) {
    const struct download *d = t->f->d;
    const bool secure = strncasecmp(d->url, "https:", 6) == 0;
    CURL *c = t->curl;
    char range[32], if_range[300];
    *headers = NULL;
    t->curl_text[0] = 0;
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, t->curl_text);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_QUICK_EXIT, 1L); /* a name server that is silent holds up nobody */
    curl_easy_setopt(c, CURLOPT_USERAGENT, "chunkbench/" BENCH_VERSION);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_REDIR_PROTOCOLS_STR, secure ? "https" : "http,https");
    curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(c, CURLOPT_MAXREDIRS, (long)REDIRECTS_MAX);
    curl_easy_setopt(c, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, (long)(d->timeout_s * 1e3));
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, t);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, t);
    if (secure) find_certificates(c);
    if (curl_easy_setopt(c, CURLOPT_URL, d->url) != CURLE_OK) return false;
    const char *validator = http_validator(&t->f->partial);
    if (t->f->partial.bytes == 0 || !validator) return start_over(t);
    t->asked = t->f->partial.bytes;
    snprintf(range, sizeof range, "%lld-", (long long)t->asked);
    snprintf(if_range, sizeof if_range, "If-Range: %s", validator);
    *headers = curl_slist_append(NULL, if_range);
    return *headers && curl_easy_setopt(c, CURLOPT_RANGE, range) == CURLE_OK &&
           curl_easy_setopt(c, CURLOPT_HTTPHEADER, *headers) == CURLE_OK;
}

/* Whether next to nothing came for as long as the timeout. Connecting has a limit of its own. */
static bool stalled(struct transfer *t) {
    const double limit = t->f->d->timeout_s, now = now_s();
    curl_off_t connected = 0;
    curl_easy_getinfo(t->curl, CURLINFO_PRETRANSFER_TIME_T, &connected);
    const int64_t came = t->f->partial.bytes - t->window_bytes;
    if (connected > 0 && (double)came < STALL_BYTES_PER_S * limit) {
        if (now - t->window_s < limit) return false;
        snprintf(t->why, sizeof t->why, "the transfer stalled: %lld bytes in %.3g s",
                 (long long)came, limit);
        return true;
    }
    t->window_s = now;
    t->window_bytes = t->f->partial.bytes;
    return false;
}

/* Drives the transfer to its end: libcurl's word, or CURLE_OPERATION_TIMEDOUT for a stall,
 * CURLE_ABORTED_BY_CALLBACK for an interrupt. */
static CURLcode drive(struct transfer *t, CURLM *multi) {
    t->window_s = now_s();
    t->window_bytes = t->f->partial.bytes;
    for (;;) {
        int running, queued;
        CURLMcode m = curl_multi_perform(multi, &running);
        const CURLMsg *message = curl_multi_info_read(multi, &queued);
        if (message && message->msg == CURLMSG_DONE) return message->data.result;
        if (interrupted(t->f)) return CURLE_ABORTED_BY_CALLBACK;
        if (stalled(t)) return CURLE_OPERATION_TIMEDOUT;
        if (m == CURLM_OK) m = curl_multi_poll(multi, NULL, 0, POLL_MS, NULL);
        if (m != CURLM_OK) return CURLE_FAILED_INIT;
        show(t, false);
    }
}

static CURLcode run(struct transfer *t) {
    struct curl_slist *headers = NULL;
    CURLM *multi = curl_multi_init();
    t->curl = curl_easy_init();
    CURLcode code = CURLE_OUT_OF_MEMORY;
    if (multi && t->curl && set_up(t, &headers) &&
        curl_multi_add_handle(multi, t->curl) == CURLM_OK) {
        code = drive(t, multi);
        curl_multi_remove_handle(multi, t->curl);
    }
    if (multi) curl_multi_cleanup(multi);
    curl_slist_free_all(headers);
    return code;
}

/* ---- what came of it */

/* Errors that another try would meet again. */
static bool is_final(CURLcode code) {
    switch (code) {
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_URL_MALFORMAT:
    case CURLE_OUT_OF_MEMORY:
    case CURLE_TOO_MANY_REDIRECTS:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_BAD_FUNCTION_ARGUMENT: return true;
    default: return false;
    }
}

static void explain(struct transfer *t, CURLcode code) {
    if (t->why[0]) return;
    if (code == CURLE_TOO_MANY_REDIRECTS)
        snprintf(t->why, sizeof t->why, "more than %d redirects", REDIRECTS_MAX);
    else
        snprintf(t->why, sizeof t->why, "%s",
                 t->curl_text[0] ? t->curl_text : curl_easy_strerror(code));
}

/* What to do after a transfer: HTTP_WHOLE and HTTP_REST mean that the file is there. */
static enum http_verdict conclude(struct transfer *t, CURLcode code) {
    struct http_partial *p = &t->f->partial;
    if (t->disk_failed) return HTTP_REFUSED;
    if (code == CURLE_OK && !t->judged) judge(t);
    if (t->disk_failed) return HTTP_REFUSED;
    if (t->judged && t->verdict != HTTP_WHOLE && t->verdict != HTTP_REST) return t->verdict;
    if (code != CURLE_OK) {
        explain(t, code);
        return is_final(code) ? HTTP_REFUSED : HTTP_AGAIN;
    }
    if (p->total >= 0 && p->bytes != p->total) {
        snprintf(t->why, sizeof t->why, "%lld of %lld bytes came", (long long)p->bytes,
                 (long long)p->total);
        return p->bytes > p->total ? HTTP_RESTART : HTTP_AGAIN;
    }
    if (p->bytes > 0) return t->verdict;
    snprintf(t->why, sizeof t->why, "the file is empty");
    return HTTP_REFUSED;
}

/* Seconds that the server asks for. */
static double retry_after_s(const struct transfer *t) {
    curl_off_t seconds = 0;
    curl_easy_getinfo(t->curl, CURLINFO_RETRY_AFTER, &seconds);
    if (seconds > RETRY_AFTER_MAX_S) seconds = RETRY_AFTER_MAX_S;
    return (double)seconds;
}

static enum status stopped(const struct fetch *f, struct error *err) {
    char have[FORMAT_BYTES];
    if (f->partial.bytes > 0 && http_validator(&f->partial))
        return error_set(err, STATUS_INTERRUPTED,
                         "interrupted; %s are kept, and the next fetch goes on from there",
                         format_bytes(have, f->partial.bytes));
    return error_set(err, STATUS_INTERRUPTED, "interrupted");
}

static enum status give_up(const struct fetch *f, const char *why, struct error *err) {
    char tries[40] = "";
    if (f->tries > 1) snprintf(tries, sizeof tries, " (%d tries)", f->tries);
    return error_set(err, STATUS_IO, "cannot fetch %s: %s%s", f->d->url, why, tries);
}

/* One try. *done: whether it was the last one, with the status to return. */
static enum status try_once(struct fetch *f, bool *done, struct error *err) {
    struct transfer t = {.f = f, .reply = {.length = -1, .first = -1, .last = -1, .total = -1}};
    const struct download_observer *o = &f->d->observer;
    f->tries++;
    const CURLcode code = run(&t);
    const enum http_verdict verdict = t.curl ? conclude(&t, code) : HTTP_REFUSED;
    double wait = t.curl ? retry_after_s(&t) : 0;
    if (t.curl) curl_easy_cleanup(t.curl);
    explain(&t, code);
    *done = true;
    if (code == CURLE_ABORTED_BY_CALLBACK) return stopped(f, err);
    if (verdict == HTTP_WHOLE || verdict == HTTP_REST) {
        show(&t, true);
        return STATUS_OK;
    }
    if (verdict == HTTP_REFUSED) return give_up(f, t.why, err);
    if (verdict == HTTP_RESTART && !start_over(&t)) return give_up(f, t.why, err);
    if (f->partial.bytes >= f->furthest + TRY_BYTES) f->failures = 0;
    if (f->partial.bytes > f->furthest) f->furthest = f->partial.bytes;
    if (verdict == HTTP_AGAIN && f->failures == f->d->retries) return give_up(f, t.why, err);
    *done = false;
    uint32_t random = 0;
    if (getrandom(&random, sizeof random, GRND_NONBLOCK) != sizeof random) random = 0;
    const double backoff = download_wait_s(f->d->timeout_s, f->failures, random);
    if (verdict == HTTP_AGAIN) f->failures++;
    if (wait < backoff) wait = backoff;
    if (verdict == HTTP_RESTART) wait = 0;
    if (o->retry) o->retry(o->ctx, t.why, wait);
    wait_s(f, wait);
    return STATUS_OK;
}

static enum status fetch_all(struct fetch *f, struct error *err) {
    const bool whole = f->partial.total > 0 && f->partial.bytes == f->partial.total;
    enum status s = STATUS_OK;
    for (bool done = whole; s == STATUS_OK && !done;) {
        if (interrupted(f)) return stopped(f, err);
        s = try_once(f, &done, err);
    }
    if (s == STATUS_OK && fsync(f->fd) != 0)
        s = error_set(err, STATUS_IO, "cannot write %s: %s", f->d->part, strerror(errno));
    return s;
}

enum status download(const struct download *d, struct download_facts *out, struct error *err) {
    struct fetch f = {.d = d};
    if (strlen(d->part) + sizeof ".json" > PATH_BYTES)
        return error_set(err, STATUS_IO, "%.200s...: the path is too long", d->part);
    f.fd = open(d->part, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (f.fd < 0)
        return error_set(err, STATUS_IO, "cannot create %s: %s", d->part, strerror(errno));
    read_state(d->part, d->url, &f.partial);
    f.furthest = f.partial.bytes;
    enum status s = STATUS_IO;
    if (curl_global_init(CURL_GLOBAL_DEFAULT) == 0) {
        s = fetch_all(&f, err);
        curl_global_cleanup();
    } else {
        error_set(err, s, "cannot fetch %s: libcurl does not start", d->url);
    }
    close(f.fd);
    *out = (struct download_facts){.bytes = f.partial.bytes};
    memcpy(out->etag, f.partial.etag, sizeof out->etag);
    memcpy(out->last_modified, f.partial.last_modified, sizeof out->last_modified);
    if (s != STATUS_OK && (f.partial.bytes == 0 || f.too_large || !http_validator(&f.partial)))
        download_remove(d->part);
    return s;
}
