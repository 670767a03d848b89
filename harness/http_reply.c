/* Reply heads: lines in, verdict out. See http_reply.h. */
#include "harness/http_reply.h"

#include "harness/format.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { WHY_BYTES = 200 };

/* ---- lines */

static bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* A number without a sign, up to `end`; false: not one, or too large. */
static bool number(const char **at, const char *end, int64_t *out) {
    int64_t value = 0;
    const char *c = *at;
    for (; c < end && isdigit((unsigned char)*c); c++)
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, *c - '0', &value))
            return false;
    if (c == *at) return false;
    *at = c;
    *out = value;
    return true;
}

/* Copies printable ASCII that fits whole; anything else leaves "". */
static void copy(char *out, size_t size, const char *value, size_t n) {
    out[0] = 0;
    if (n >= size) return;
    for (size_t i = 0; i < n; i++)
        if (value[i] < 0x20 || value[i] > 0x7e) return;
    memcpy(out, value, n);
    out[n] = 0;
}

static void status_line(struct http_reply *r, const char *line, const char *end) {
    int64_t major = 0, code = 0;
    const char *c = line + 5;
    *r = (struct http_reply){.length = -1, .first = -1, .last = -1, .total = -1};
    if (!number(&c, end, &major)) return;
    while (c < end && *c != ' ') c++;
    while (c < end && *c == ' ') c++;
    if (!number(&c, end, &code)) return;
    r->version = major >= 1 && major <= 3 ? (int)major : 0;
    r->status = code <= 999 ? (int)code : 0;
}

/* "bytes 0-99/200" or "bytes 0-99/" "*"; anything else leaves -1 everywhere. */
static void content_range(struct http_reply *r, const char *c, const char *end) {
    int64_t first, last, total = -1;
    if (end - c < 6 || strncasecmp(c, "bytes ", 6) != 0) return;
    c += 6;
    if (!number(&c, end, &first) || c == end || *c++ != '-') return;
    if (!number(&c, end, &last) || c == end || *c++ != '/') return;
    if (end - c == 1 && *c == '*')
        c++;
    else if (!number(&c, end, &total))
        return;
    if (c != end || last < first || (total >= 0 && last >= total)) return;
    r->first = first, r->last = last, r->total = total;
}

static void header(struct http_reply *r, const char *name, size_t n, const char *value,
                   const char *end) {
    const size_t length = (size_t)(end - value);
    const char *c = value;
#define IS(text) (n == sizeof text - 1 && strncasecmp(name, text, n) == 0)
    if (IS("Content-Length")) {
        if (!number(&c, end, &r->length) || c != end) r->length = -1;
    } else if (IS("Content-Range")) {
        content_range(r, value, end);
    } else if (IS("Transfer-Encoding")) {
        r->chunked = length >= 7 && strncasecmp(end - 7, "chunked", 7) == 0;
    } else if (IS("ETag")) {
        copy(r->etag, sizeof r->etag, value, length);
    } else if (IS("Last-Modified")) {
        copy(r->last_modified, sizeof r->last_modified, value, length);
    } else if (IS("Content-Type")) {
        while (c < end && *c != ';' && !is_space(*c)) c++;
        copy(r->type, sizeof r->type, value, (size_t)(c - value));
    } else if (IS("Content-Encoding") && length &&
               !(length == 8 && strncasecmp(value, "identity", 8) == 0)) {
        copy(r->encoding, sizeof r->encoding, value, length);
        if (!r->encoding[0]) strcpy(r->encoding, "unknown");
    }
#undef IS
}

void http_reply_line(struct http_reply *r, const char *line, size_t n) {
    const char *end = line + n;
    while (end > line && is_space(end[-1])) end--;
    if (end - line >= 5 && strncasecmp(line, "HTTP/", 5) == 0) {
        status_line(r, line, end);
        return;
    }
    const char *colon = memchr(line, ':', (size_t)(end - line));
    if (!colon || colon == line) return;
    const char *value = colon + 1;
    while (value < end && is_space(*value)) value++;
    header(r, line, (size_t)(colon - line), value, end);
}

/* ---- verdicts */

const char *http_validator(const struct http_partial *p) {
    if (p->etag[0] == '"') return p->etag;
    if (!p->etag[0] && p->last_modified[0] && p->total >= 0) return p->last_modified;
    return NULL;
}

int64_t http_total(const struct http_reply *r) {
    return r->status == 206 ? r->total : r->length;
}

static enum http_verdict refuse(char *why, const char *text) {
    snprintf(why, WHY_BYTES, "%s", text);
    return HTTP_REFUSED;
}

/* What holds for every body that would be kept. */
static enum http_verdict judge_body(const struct http_reply *r, int64_t most, char *why) {
    char a[FORMAT_BYTES], b[FORMAT_BYTES];
    if (!strcasecmp(r->type, "text/html"))
        return refuse(why, "the reply is a web page (text/html), not a text: a login page of the "
                           "network, or a wrong address");
    if (r->encoding[0]) {
        snprintf(why, WHY_BYTES, "the reply is compressed (%.40s), which was not asked for",
                 r->encoding);
        return HTTP_REFUSED;
    }
    if (http_total(r) > most) {
        snprintf(why, WHY_BYTES, "the file has %s bytes, expected at most %s (max_bytes)",
                 format_count(a, http_total(r)), format_count(b, most));
        return HTTP_REFUSED;
    }
    return HTTP_WHOLE;
}

static enum http_verdict judge_whole(const struct http_reply *r, int64_t most, char *why) {
    if (r->length < 0 && !r->chunked && r->version < 2)
        return refuse(why, "the reply does not say how long it is: a file that was cut short would "
                           "look whole");
    if (r->length == 0) return refuse(why, "the file is empty");
    return judge_body(r, most, why);
}

static enum http_verdict judge_rest(const struct http_reply *r, int64_t asked,
                                    const struct http_partial *p, int64_t most, char *why) {
    const char *wrong = NULL;
    if (asked == 0) return refuse(why, "the reply is a part (206) of what was asked for whole");
    if (r->first < 0)
        wrong = "the reply to a request for the rest does not say which part it is";
    else if (r->first != asked)
        wrong = "the reply begins at another byte than the one asked for";
    else if (r->etag[0] && p->etag[0] && strcmp(r->etag, p->etag) != 0)
        wrong = "the file has changed since its first part was fetched (ETag)";
    else if (r->total >= 0 && p->total >= 0 && r->total != p->total)
        wrong = "the file has another length than when its first part was fetched";
    else if (r->total < 0 && p->total < 0)
        wrong = "the length of the file is not known";
    else if (r->length >= 0 && r->length != r->last - r->first + 1)
        wrong = "the length of the reply and the part that it names disagree";
    if (wrong) {
        snprintf(why, WHY_BYTES, "%s", wrong);
        return HTTP_RESTART;
    }
    const enum http_verdict body = judge_body(r, most, why);
    return body == HTTP_WHOLE ? HTTP_REST : body;
}

enum http_verdict http_judge(const struct http_reply *r, int64_t asked,
                             const struct http_partial *p, int64_t most, char *why) {
    why[0] = 0;
    if (r->status == 200) return judge_whole(r, most, why);
    if (r->status == 206) return judge_rest(r, asked, p, most, why);
    snprintf(why, WHY_BYTES, r->status ? "the server answers %d" : "the reply is not HTTP",
             r->status);
    if (r->status == 416 && asked > 0) return HTTP_RESTART;
    /* Request Timeout, Too Early, Too Many Requests, and everything that is the server's fault */
    if (r->status == 408 || r->status == 425 || r->status == 429 || r->status >= 500)
        return HTTP_AGAIN;
    return HTTP_REFUSED;
}
