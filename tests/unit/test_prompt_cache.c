/* The cache of prompts, and what download.c decides without a network: names, addresses, waits, and
 * what becomes of the files that lie there. (Fetching itself: e2e/test_fetch.py.) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "harness/cache_dir.h"
#include "harness/prompt.h"
#include "harness/prompt_cache.h"
#include "harness/sha256.h"

static char folder[64];
static const char url[] = "https://example.org/texts/long.txt";

static int setup(void **state) {
    (void)state;
    strcpy(folder, "/tmp/test_prompt_cache.XXXXXX");
    return mkdtemp(folder) && setenv("XDG_CACHE_HOME", folder, 1) == 0 ? 0 : -1;
}

static int teardown(void **state) {
    char command[100];
    (void)state;
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

static void write_beside(const char *suffix, const char *data) {
    char path[300], name[80], prompts[200];
    assert_true(cache_dir("prompts", prompts, sizeof prompts));
    prompt_cache_name(url, name);
    snprintf(path, sizeof path, "%s/%s%s", prompts, name, suffix);
    if (!data) {
        unlink(path);
        return;
    }
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    assert_true(fputs(data, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void named(const char *address, const char *word) {
    char name[80];
    prompt_cache_name(address, name);
    const size_t n = strlen(word);
    if (strncmp(name, word, n) != 0 || name[n] != '-' || strlen(name) != n + 1 + 12 + 4 ||
        strcmp(name + n + 13, ".txt") != 0)
        fail_msg("%s: %s, expected %s-HASH.txt", address, name, word);
    assert_int_equal(strspn(name + n + 1, "0123456789abcdef"), 12);
}

static void a_name_tells_what_it_is_and_is_safe(void **state) {
    (void)state;
    named("https://example.org/texts/long.txt", "long");
    named("https://example.org/a/long.txt?version=../../x", "long");
    named("https://example.org/long.md#part", "long.md");
    named("https://example.org/a/", "prompt");
    named("https://example.org", "prompt");
    named("https://example.org/.txt", "_txt");
    named("https://example.org/..", "_.");
    named("https://example.org/%2e%2e%2fetc", "_2e_2e_2fetc");
    named("https://example.org/a/0123456789012345678901234567890123456789rest",
          "0123456789012345678901234567890123456789");
}

static void names_differ_where_addresses_do(void **state) {
    (void)state;
    static const char *const addresses[] = {
        "https://example.org/a.txt",    "http://example.org/a.txt",
        "https://example.org/b/a.txt",  "https://example.org/a.txt?1",
        "https://example.org:80/a.txt", "https://example.com/a.txt"};
    enum { N = sizeof addresses / sizeof *addresses };
    char names[N][80];
    for (int i = 0; i < N; i++) {
        prompt_cache_name(addresses[i], names[i]);
        for (int j = 0; j < i; j++) assert_string_not_equal(names[i], names[j]);
    }
    /* What stands in people's caches: a change of it would orphan their files. */
    prompt_cache_name("https://example.org/texts/long.txt", names[0]);
    assert_string_equal(names[0], "long-2edc09665399.txt");
}

static void published_prompts_have_addresses(void **state) {
    (void)state;
    char a[URL_MAX_BYTES], b[URL_MAX_BYTES];
    struct error err;
    assert_int_equal(prompt_url("qwen:64k", a, &err), STATUS_OK);
    assert_true(!strncmp(a, "https://", 8) && strstr(a, "/64k.txt"));
    assert_int_equal(prompt_url("qwen:1m", b, &err), STATUS_OK);
    assert_true(strstr(b, "/1m.txt") != NULL);
    assert_int_equal(prompt_url("qwen:2m", a, &err), STATUS_USAGE);
    assert_non_null(strstr(err.text, "qwen:600k"));
    assert_int_equal(prompt_url("qwen:", a, &err), STATUS_USAGE);
    assert_int_equal(prompt_url("file:64k", a, &err), STATUS_USAGE);
    assert_true(prompt_is_remote("qwen:64k") && prompt_is_remote("url:x"));
    assert_false(prompt_is_remote("file:url:x") || prompt_is_remote("needle:64k"));
}

static void only_the_web_has_addresses(void **state) {
    (void)state;
    static const char *const good[] = {"http://h/x", "https://h", "HTTPS://h:8080/a?b=c",
                                       "http://[::1]/x", "http://127.0.0.1:80"};
    static const char *const bad[] = {
        "",          "h/x",          "file:///etc/passwd", "ftp://h/x",          "http://",
        "http:///x", "http:/x",      "http://a b/x",       "http://h/\n",        "http://u@h/x",
        "gopher:x",  "http://u:p@h", "http://h:99999/",    "javascript:alert(1)"};
    struct error err;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        if (download_check_url(good[i], &err) != STATUS_OK) fail_msg("%s", err.text);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (download_check_url(bad[i], &err) != STATUS_USAGE) fail_msg("%s is taken", bad[i]);
    char most[URL_MAX_BYTES + 1];
    memset(most, 'x', sizeof most);
    memcpy(most, "http://h/", 9);
    most[URL_MAX_BYTES] = 0;
    assert_int_equal(download_check_url(most, &err), STATUS_USAGE);
    most[URL_MAX_BYTES - 1] = 0;
    assert_int_equal(download_check_url(most, &err), STATUS_OK);
}

static void waits_grow_to_a_limit_and_differ(void **state) {
    (void)state;
    for (int retry = 0; retry < 100; retry++) {
        const double whole = 0.5 * (retry < 4 ? 1 << retry : 16);
        assert_true(download_wait_s(5, retry, 0) == whole / 2);
        assert_true(download_wait_s(5, retry, UINT32_MAX) == whole);
        const double middle = download_wait_s(5, retry, UINT32_MAX / 2);
        assert_true(middle > whole / 2 && middle < whole);
    }
    assert_true(download_wait_s(0.5, 0, UINT32_MAX) == 0.05);
}

static enum cached_state state_of_url(struct cached_prompt *p) {
    struct error err = {""};
    if (prompt_cache_look("url:https://example.org/texts/long.txt", p, NULL, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    return p->state;
}

static void what_lies_in_the_cache_is_judged(void **state) {
    (void)state;
    struct cached_prompt p;
    char hash[65], record[400];
    assert_int_equal(state_of_url(&p), CACHED_NOTHING);
    assert_string_equal(p.url, url);

    write_beside(".part", "abc");
    assert_int_equal(state_of_url(&p), CACHED_NOTHING); /* of what, nobody knows */
    snprintf(record, sizeof record,
             "{\"url\": \"%s\", \"etag\": \"\\\"one\\\"\", \"last_modified\": \"\", "
             "\"total_bytes\": 9}",
             url);
    write_beside(".part.json", record);
    assert_int_equal(state_of_url(&p), CACHED_PART);
    assert_true(p.bytes == 3 && p.total_bytes == 9);
    write_beside(".part", NULL);
    write_beside(".part.json", NULL);

    write_beside("", "a text");
    assert_int_equal(state_of_url(&p), CACHED_BY_HAND);
    assert_int_equal(p.bytes, 6);
    sha256_hex("a text", 6, hash);
    assert_string_equal(p.sha256, hash);

    snprintf(record, sizeof record, "{\"url\": \"%s\", \"bytes\": 6, \"sha256\": \"%s\"}", url,
             hash);
    write_beside(".json", record);
    assert_int_equal(state_of_url(&p), CACHED_WHOLE);
    write_beside("", "a test");
    assert_int_equal(state_of_url(&p), CACHED_DAMAGED);
    write_beside("", "a text");
    snprintf(record, sizeof record, "{\"url\": \"%s/x\", \"bytes\": 6, \"sha256\": \"%s\"}", url,
             hash);
    write_beside(".json", record); /* of another address */
    assert_int_equal(state_of_url(&p), CACHED_DAMAGED);
    write_beside(".json", "{");
    assert_int_equal(state_of_url(&p), CACHED_DAMAGED);
    write_beside(".json", NULL);
    assert_int_equal(state_of_url(&p), CACHED_BY_HAND);
    write_beside("", "no \xff text");
    assert_int_equal(state_of_url(&p), CACHED_UNUSABLE);
    assert_non_null(strstr(p.why.text, "is not UTF-8: byte 0xff at offset 3"));
    assert_int_equal(p.why_status, STATUS_USAGE);
    write_beside("", "");
    assert_int_equal(state_of_url(&p), CACHED_UNUSABLE);
    write_beside("", "a text"); /* for the next test */
}

/* Goes on from the file of the test before. */
static void a_prompt_is_made_of_what_is_there(void **state) {
    (void)state;
    static const char source[] = "url:https://example.org/texts/long.txt";
    static const struct attention_pattern plain = {0, 0};
    const struct model_config model = {.name = "any", .V = 1000};
    struct prompt made;
    struct error err = {""};
    char hash[65];
    int32_t n;
    bool clamped;
    assert_int_equal(prompt_length(source, &model, 100, 1, &n, &clamped, &err), STATUS_OK);
    assert_int_equal(n, 6);
    assert_int_equal(prompt_length(source, &model, 6, 1, &n, &clamped, &err), STATUS_USAGE);
    assert_int_equal(prompt_make(&made, source, &model, 6, plain, 0, &err), STATUS_OK);
    assert_int_equal(made.tokens[5], 't');
    sha256_hex("a text", 6, hash);
    assert_string_equal(made.file_sha256, hash);
    prompt_free(&made);
    assert_int_equal(prompt_make(&made, source, &model, 7, plain, 0, &err), STATUS_IO);
    assert_non_null(strstr(err.text, "changed"));

    write_beside("", "\xff");
    assert_int_equal(prompt_length(source, &model, 100, 1, &n, &clamped, &err), STATUS_USAGE);
    assert_non_null(strstr(err.text, "not UTF-8"));
    write_beside(".json", "{}");
    assert_int_equal(prompt_length(source, &model, 100, 1, &n, &clamped, &err), STATUS_IO);
    assert_non_null(strstr(err.text, "not what was fetched"));
    write_beside("", NULL);
    assert_int_equal(prompt_length(source, &model, 100, 1, &n, &clamped, &err), STATUS_IO);
    assert_non_null(strstr(err.text, "is not fetched yet: `bench fetch url:https://"));
    assert_int_equal(prompt_length("qwen:3m", &model, 100, 1, &n, &clamped, &err), STATUS_USAGE);
    assert_int_equal(prompt_length("url:ftp://x", &model, 100, 1, &n, &clamped, &err),
                     STATUS_USAGE);
    const struct model_config tiny = {.name = "tiny", .V = 255};
    assert_int_equal(prompt_length(source, &tiny, 100, 1, &n, &clamped, &err), STATUS_USAGE);
}

static void a_cache_folder_is_made_or_its_place_is_told(void **state) {
    (void)state;
    char out[200], expected[200], little[10];
    struct stat st;
    setenv("XDG_CACHE_HOME", "/proc/nowhere", 1);
    assert_false(cache_dir("prompts", out, sizeof out));
    assert_string_equal(out, "/proc/nowhere/chunkbench/prompts");
    setenv("XDG_CACHE_HOME", "not/absolute", 1);
    setenv("HOME", folder, 1);
    assert_true(cache_dir("prompts", out, sizeof out));
    snprintf(expected, sizeof expected, "%s/.cache/chunkbench/prompts", folder);
    assert_string_equal(out, expected);
    assert_true(stat(out, &st) == 0 && S_ISDIR(st.st_mode));
    assert_true(cache_dir(NULL, out, sizeof out));
    assert_string_equal(strrchr(out, '/'), "/chunkbench");
    assert_false(cache_dir("prompts", little, sizeof little));
    unsetenv("XDG_CACHE_HOME");
    unsetenv("HOME");
    assert_false(cache_dir("prompts", out, sizeof out));
    assert_string_equal(out, "");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_name_tells_what_it_is_and_is_safe),
        cmocka_unit_test(names_differ_where_addresses_do),
        cmocka_unit_test(published_prompts_have_addresses),
        cmocka_unit_test(only_the_web_has_addresses),
        cmocka_unit_test(waits_grow_to_a_limit_and_differ),
        cmocka_unit_test(what_lies_in_the_cache_is_judged),
        cmocka_unit_test(a_prompt_is_made_of_what_is_there),
        cmocka_unit_test(a_cache_folder_is_made_or_its_place_is_told),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
