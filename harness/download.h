/* One file from a web server: the narrow door to libcurl (its only user is download.c).
 *
 * The bytes go into a partial file, PART; beside it PART.json says what they are a part of
 * (address, ETag, length). So a fetch that is cut off, by the network, by Ctrl-C or by kill -9,
 * goes on where it ended: the rest is asked for by Range under If-Range, and the whole file again
 * when the server does not know these bytes any more. Whoever calls holds the lock on PART.
 *
 * Only http and https, on redirects too, and never from https to http. Proxies by the environment
 * (https_proxy, no_proxy, ...), as curl has it. */
#ifndef HARNESS_DOWNLOAD_H
#define HARNESS_DOWNLOAD_H

#include "engine/engine.h"

#include <stdbool.h>
#include <stdint.h>

enum { URL_MAX_BYTES = 252 }; /* "url:" and an address fit into a prompt's source */

struct download_observer { /* any may be NULL */
    /* At most ten times a second, and at the end; total: -1: not known. */
    void (*progress)(void *ctx, int64_t bytes, int64_t total_bytes);
    void (*retry)(void *ctx, const char *why, double wait_s);
    void *ctx;
};

struct download {
    const char *url, *part; /* address; path of the partial file */
    double timeout_s;       /* to connect; and how long it may bring next to nothing */
    int retries;            /* after the first try; a try that brought much does not count */
    int64_t most_bytes;
    const volatile int *interrupts; /* or NULL */
    struct download_observer observer;
};

struct download_facts {
    int64_t bytes;
    char etag[256], last_modified[64];
};

/* STATUS_OK: PART is the whole file, on the disk; the caller takes it away, and then calls
 * download_remove for what lies beside it. Else PART stays if it is of use to another try:
 * STATUS_IO (network, server, disk; the text says how often it was tried), STATUS_INTERRUPTED. */
enum status download(const struct download *d, struct download_facts *out, struct error *err);
/* The bytes of PART that another try of `url` could go on from, and of how many (-1: not known). */
bool download_partial(const char *part, const char *url, int64_t *bytes, int64_t *total_bytes);
/* PART and what lies beside it. */
void download_remove(const char *part);

/* STATUS_USAGE unless it is an http or https address with a host and without a password. */
enum status download_check_url(const char *url, struct error *err);
/* Seconds to wait before retry number `retry`, from 0: a tenth of the timeout, twice as much each
 * time up to 16 times it, and of that between the half and the whole, by a random number. */
double download_wait_s(double timeout_s, int retry, uint32_t random);

#endif
