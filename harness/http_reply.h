/* What a server's reply head says, and what it means for a file that is being fetched: pure
 * functions over text that comes from anywhere. Before it: download.c, which feeds the lines.
 * RFC 9110 (ranges, validators), RFC 9112 (where a body ends). */
#ifndef HARNESS_HTTP_REPLY_H
#define HARNESS_HTTP_REPLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct http_reply {
    int version; /* 1: HTTP/1.x, 2, 3; 0: no head yet */
    int status;
    int64_t length;             /* Content-Length; -1: not told */
    int64_t first, last, total; /* Content-Range "bytes first-last/total"; -1: not told */
    bool chunked;
    char etag[256], last_modified[64]; /* "" : none, or one that is too long */
    char type[64], encoding[32];       /* media type; Content-Encoding other than identity */
};

/* Takes one line of a head, with or without its line end. A status line begins a new head: what a
 * redirect or an interim reply said before is forgotten. Anything else that is not a header that we
 * know is ignored. */
void http_reply_line(struct http_reply *r, const char *line, size_t n);

/* A file of which some bytes are there already. */
struct http_partial {
    int64_t bytes, total;              /* total: -1: not known */
    char etag[256], last_modified[64]; /* of the reply that the bytes came with */
};
/* What a request for the rest may name in If-Range, or NULL: nothing says that the rest would
 * belong to these bytes (a weak ETag does not). */
const char *http_validator(const struct http_partial *p);

enum http_verdict {
    HTTP_WHOLE,   /* the body is the file from its first byte */
    HTTP_REST,    /* the body goes on where the bytes that are there end */
    HTTP_RESTART, /* those bytes are of no use: ask for the whole file */
    HTTP_AGAIN,   /* the server may do better later */
    HTTP_REFUSED, /* asking again would not help */
};
/* asked: the body was asked to begin there, 0 or p->bytes. most: bytes that a file may have. Fills
 * `why` (at least 200 bytes) for the last three. */
enum http_verdict http_judge(const struct http_reply *r, int64_t asked,
                             const struct http_partial *p, int64_t most, char *why);
/* Bytes of the file that the reply speaks of; -1: not told. */
int64_t http_total(const struct http_reply *r);

#endif
