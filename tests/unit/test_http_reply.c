/* Reply heads: what is read out of them, what it means for a file that is being fetched, and that
 * nothing which a server may send does harm. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "harness/http_reply.h"

enum { MOST = 10000 };

/* Lines by '\n' */
static struct http_reply reply_of(const char *head) {
    struct http_reply r = {0};
    for (const char *line = head; *line;) {
        const size_t n = strcspn(line, "\n");
        http_reply_line(&r, line, n + (line[n] == '\n'));
        line += n + (line[n] == '\n');
    }
    return r;
}

static void judged(const char *head, int64_t asked, const struct http_partial *p,
                   enum http_verdict expected, const char *words) {
    const struct http_partial nothing = {.total = -1};
    const struct http_reply r = reply_of(head);
    char why[200];
    const enum http_verdict v = http_judge(&r, asked, p ? p : &nothing, MOST, why);
    if (v != expected || !strstr(why, words))
        fail_msg("%s: verdict %d \"%s\", expected %d \"%s\"", head, (int)v, why, (int)expected,
                 words);
}

static void a_head_is_read(void **state) {
    (void)state;
    struct http_reply r = reply_of("HTTP/1.1 206 Partial Content\r\n"
                                   "content-LENGTH:  50 \r\n"
                                   "Content-Range: bytes 50-99/100\r\n"
                                   "ETag: \"a b\"\r\n"
                                   "Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n"
                                   "Content-Type: text/plain; charset=utf-8\r\n"
                                   "\r\n");
    assert_int_equal(r.version, 1);
    assert_int_equal(r.status, 206);
    assert_int_equal(r.length, 50);
    assert_true(r.first == 50 && r.last == 99 && r.total == 100);
    assert_string_equal(r.etag, "\"a b\"");
    assert_string_equal(r.last_modified, "Wed, 21 Oct 2015 07:28:00 GMT");
    assert_string_equal(r.type, "text/plain");
    assert_string_equal(r.encoding, "");
    assert_false(r.chunked);
    assert_int_equal(http_total(&r), 100);
    r = reply_of("HTTP/2 200\nTransfer-Encoding: gzip, chunked\nContent-Encoding: br\n");
    assert_int_equal(r.version, 2);
    assert_int_equal(r.status, 200);
    assert_true(r.chunked);
    assert_string_equal(r.encoding, "br");
    assert_int_equal(http_total(&r), -1);
}

static void the_last_head_counts(void **state) {
    (void)state;
    const struct http_reply r = reply_of("HTTP/1.1 302 Found\nETag: \"x\"\nContent-Length: 9\n\n"
                                         "HTTP/1.1 200 OK\n\n");
    assert_int_equal(r.status, 200);
    assert_int_equal(r.length, -1);
    assert_string_equal(r.etag, "");
}

static void what_is_malformed_is_not_there(void **state) {
    (void)state;
    static const char *const lengths[] = {"-5", "", "5x", "99999999999999999999", "0x10", "5, 5"};
    static const char *const ranges[] = {"bytes 9-5/10",
                                         "bytes 0-9/9",
                                         "bytes -5/10",
                                         "bytes 0-9",
                                         "bytes 0-9/",
                                         "items 0-9/10",
                                         "bytes 0-9/10x",
                                         "bytes 0-9/**",
                                         "bytes 0-99999999999999999999/*",
                                         ""};
    char line[120];
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        snprintf(line, sizeof line, "HTTP/1.1 200 OK\nContent-Length: %s\n", lengths[i]);
        assert_int_equal(reply_of(line).length, -1);
    }
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        snprintf(line, sizeof line, "HTTP/1.1 206 x\nContent-Range: %s\n", ranges[i]);
        assert_int_equal(reply_of(line).first, -1);
    }
    assert_int_equal(reply_of("HTTP/1.1 206 x\nContent-Range: bytes 0-9/*\n").last, 9);
    assert_string_equal(reply_of("HTTP/1.1 200 OK\nETag: \"a\tb\"\n").etag, "");
    assert_int_equal(reply_of("HTTP/\n").status, 0);
    assert_int_equal(reply_of("HTTP/1.1 2000 OK\n").status, 0);
    assert_int_equal(reply_of("HTTP/7 200 OK\n").version, 0);
}

static void a_value_that_is_too_long_is_not_there(void **state) {
    (void)state;
    char line[400];
    memset(line, 'x', sizeof line);
    memcpy(line, "ETag: ", 6);
    struct http_reply r = reply_of("HTTP/1.1 200 OK\n");
    http_reply_line(&r, line, 6 + 255);
    assert_int_equal(strlen(r.etag), 255);
    http_reply_line(&r, line, 6 + 256);
    assert_string_equal(r.etag, "");
}

static void a_whole_file_is_taken(void **state) {
    (void)state;
    judged("HTTP/1.1 200 OK\nContent-Length: 10000\n", 0, NULL, HTTP_WHOLE, "");
    judged("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n", 0, NULL, HTTP_WHOLE, "");
    judged("HTTP/2 200\n", 0, NULL, HTTP_WHOLE, "");
    judged("HTTP/1.1 200 OK\nContent-Length: 5\nContent-Encoding: identity\n", 0, NULL, HTTP_WHOLE,
           "");
    judged("HTTP/1.1 200 OK\nContent-Length: 5\n", 3, NULL, HTTP_WHOLE, ""); /* Range ignored */
    judged("HTTP/1.1 200 OK\n", 0, NULL, HTTP_REFUSED, "does not say how long");
    judged("HTTP/1.1 200 OK\nContent-Length: 0\n", 0, NULL, HTTP_REFUSED, "empty");
    judged("HTTP/1.1 200 OK\nContent-Length: 10001\n", 0, NULL, HTTP_REFUSED,
           "10,001 bytes, expected at most 10,000");
    judged("HTTP/1.1 200 OK\nContent-Length: 5\nContent-Type: TEXT/HTML\n", 0, NULL, HTTP_REFUSED,
           "web page");
    judged("HTTP/1.1 200 OK\nContent-Length: 5\nContent-Encoding: gzip\n", 0, NULL, HTTP_REFUSED,
           "compressed (gzip)");
}

static void the_rest_must_belong_to_what_is_there(void **state) {
    (void)state;
    const struct http_partial p = {.bytes = 50, .total = 100, .etag = "\"one\""};
    struct http_partial unknown = p;
    unknown.total = -1;
#define HEAD "HTTP/1.1 206 Partial Content\n"
    judged(HEAD "Content-Range: bytes 50-99/100\nContent-Length: 50\nETag: \"one\"\n", 50, &p,
           HTTP_REST, "");
    judged(HEAD "Content-Range: bytes 50-99/*\n", 50, &p, HTTP_REST, "");
    judged(HEAD "Content-Range: bytes 50-99/100\n", 50, &unknown, HTTP_REST, "");
    judged(HEAD "Content-Range: bytes 50-99/*\n", 50, &unknown, HTTP_RESTART, "not known");
    judged(HEAD, 50, &p, HTTP_RESTART, "which part");
    judged(HEAD "Content-Range: bytes 49-99/100\n", 50, &p, HTTP_RESTART, "another byte");
    judged(HEAD "Content-Range: bytes 50-99/100\nETag: \"two\"\n", 50, &p, HTTP_RESTART, "ETag");
    judged(HEAD "Content-Range: bytes 50-100/101\n", 50, &p, HTTP_RESTART, "another length");
    judged(HEAD "Content-Range: bytes 50-99/100\nContent-Length: 49\n", 50, &p, HTTP_RESTART,
           "disagree");
    judged(HEAD "Content-Range: bytes 0-99/100\n", 0, NULL, HTTP_REFUSED, "206");
    judged(HEAD "Content-Range: bytes 50-99/20000\n", 50, &unknown, HTTP_REFUSED, "20,000 bytes");
#undef HEAD
}

static void other_answers(void **state) {
    (void)state;
    static const int again[] = {408, 425, 429, 500, 502, 503, 504};
    static const int refused[] = {204, 304, 400, 401, 403, 404, 410};
    char head[40];
    for (size_t i = 0; i < sizeof again / sizeof *again; i++) {
        snprintf(head, sizeof head, "HTTP/1.1 %d x\n", again[i]);
        judged(head, 0, NULL, HTTP_AGAIN, "the server answers");
    }
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        snprintf(head, sizeof head, "HTTP/1.1 %d x\n", refused[i]);
        judged(head, 0, NULL, HTTP_REFUSED, "the server answers");
    }
    judged("HTTP/1.1 416 x\n", 50, NULL, HTTP_RESTART, "416");
    judged("HTTP/1.1 416 x\n", 0, NULL, HTTP_REFUSED, "416");
    judged("", 0, NULL, HTTP_REFUSED, "not HTTP");
}

static void a_weak_validator_vouches_for_nothing(void **state) {
    (void)state;
    struct http_partial p = {.bytes = 5, .total = 10};
    assert_null(http_validator(&p));
    strcpy(p.last_modified, "Wed, 21 Oct 2015 07:28:00 GMT");
    assert_string_equal(http_validator(&p), p.last_modified);
    p.total = -1;
    assert_null(http_validator(&p));
    strcpy(p.etag, "W/\"one\"");
    p.total = 10;
    assert_null(http_validator(&p));
    strcpy(p.etag, "\"one\"");
    assert_string_equal(http_validator(&p), "\"one\"");
}

/* A number below n (xorshift). */
static size_t next(uint64_t *x, size_t n) {
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return (size_t)(*x % n);
}

/* Heads made of good ones by cutting, repeating and changing bytes, in blocks of exactly their
 * size: a sanitizer sees every read beyond. Whatever is read out is in its range. */
static void garbage_does_no_harm(void **state) {
    (void)state;
    static const char *const seeds[] = {"HTTP/1.1 206 Partial Content\r\n",
                                        "Content-Range: bytes 50-99/100\r\n",
                                        "Content-Length: 1234567890123456789\r\n",
                                        "ETag: \"abc\"\r\n",
                                        "Transfer-Encoding: chunked\r\n",
                                        "Content-Encoding: gzip\r\n",
                                        "Content-Type: text/html;\r\n"};
    uint64_t x = 88172645463325252u;
    struct http_reply r = {0};
    for (int round = 0; round < 200000; round++) {
        const char *seed = seeds[next(&x, sizeof seeds / sizeof *seeds)];
        const size_t n = next(&x, strlen(seed) + 1);
        char *line = malloc(n + 1), why[200];
        memcpy(line, seed, n);
        for (size_t change = next(&x, 4); n && change > 0; change--)
            line[next(&x, n)] = (char)next(&x, 256);
        line = realloc(line, n ? n : 1);
        http_reply_line(&r, line, n);
        free(line);
        assert_in_range(r.status, 0, 999);
        assert_in_range(r.version, 0, 3);
        assert_true(r.length >= -1 && r.first >= -1 && r.last >= r.first);
        const struct http_partial p = {.bytes = 50, .total = 100};
        assert_in_range(http_judge(&r, 50, &p, MOST, why), HTTP_WHOLE, HTTP_REFUSED);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_head_is_read),
        cmocka_unit_test(the_last_head_counts),
        cmocka_unit_test(what_is_malformed_is_not_there),
        cmocka_unit_test(a_value_that_is_too_long_is_not_there),
        cmocka_unit_test(a_whole_file_is_taken),
        cmocka_unit_test(the_rest_must_belong_to_what_is_there),
        cmocka_unit_test(other_answers),
        cmocka_unit_test(a_weak_validator_vouches_for_nothing),
        cmocka_unit_test(garbage_does_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
