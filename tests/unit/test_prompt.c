/* Prompts: sources, lengths, clamping, files good and bad, ids. */
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

#include "harness/prompt.h"
#include "harness/sha256.h"

static const struct attention_pattern plain = {0, 0};
static struct model_config needle, nano;

static int setup(void **state) {
    (void)state;
    needle = (struct model_config){.name = "needle:8x4x64",
                                   .layers = 3,
                                   .C = 512,
                                   .H = 8,
                                   .K = 4,
                                   .D = 64,
                                   .F = 128,
                                   .V = 384};
    nano = needle;
    strcpy(nano.name, "random:nano");
    nano.V = 1000;
    return 0;
}

static char *write_file(const char *name, const void *data, size_t n) {
    static char path[256];
    snprintf(path, sizeof path, "file:test_prompt_%d_%s", (int)getpid(), name);
    FILE *f = fopen(path + 5, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
    return path;
}

static int32_t length_of(const char *source, int64_t max_model_len, int64_t max_tokens,
                         bool *clamped) {
    int32_t n;
    struct error err = {""};
    if (prompt_length(source, &needle, max_model_len, max_tokens, &n, clamped, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    return n;
}

static void refuses(const char *source, int64_t max_model_len, enum status expected,
                    const char *words) {
    int32_t n = 77;
    bool clamped;
    struct error err = {""};
    const enum status s = prompt_length(source, &needle, max_model_len, 256, &n, &clamped, &err);
    if (s != expected || !strstr(err.text, words))
        fail_msg("%s: status %d, \"%s\", expected %d, \"%s\"", source, (int)s, err.text,
                 (int)expected, words);
}

static void lengths_are_read_as_tokens(void **state) {
    (void)state;
    bool clamped;
    assert_int_equal(length_of("needle:64k", 1048576, 256, &clamped), 65536);
    assert_false(clamped);
    assert_int_equal(length_of("random:200k", 1048576, 256, &clamped), 204800);
    assert_int_equal(length_of("random:1", 1048576, 256, &clamped), 1);
    assert_int_equal(length_of("needle:2000@10%+0.5+100%", 1048576, 256, &clamped), 2000);
    assert_int_equal(length_of("needle:2000@10%+0", 1048576, 256, &clamped), 2000);
}

static void a_prompt_of_the_whole_window_makes_room_for_the_answer(void **state) {
    (void)state;
    bool clamped;
    assert_int_equal(length_of("needle:1m", 1048576, 256, &clamped), 1048320);
    assert_true(clamped);
    assert_int_equal(length_of("random:1m", 1048576, 0, &clamped), 1048576);
    assert_false(clamped);
    assert_int_equal(length_of("needle:1048320", 1048576, 256, &clamped), 1048320);
    assert_false(clamped);
}

static void what_does_not_fit_is_refused_with_the_arithmetic(void **state) {
    (void)state;
    refuses("needle:1048321", 1048576, STATUS_USAGE,
            "1,048,321 prompt tokens + 256 new tokens exceed max_model_len 1,048,576");
    refuses("random:2m", 1048576, STATUS_USAGE, "2,097,152 prompt tokens");
    refuses("random:100", 256, STATUS_USAGE, "exceed max_model_len 256");
    refuses("random:256", 256, STATUS_USAGE, "exceed max_model_len 256");
    refuses("random:1g", 1048576, STATUS_USAGE, "expected");
}

static void malformed_sources_say_what_was_expected(void **state) {
    (void)state;
    refuses("needle", 4096, STATUS_USAGE, "expected needle:LENGTH");
    refuses("", 4096, STATUS_USAGE, "expected needle:LENGTH");
    refuses("http://x", 4096, STATUS_USAGE, "expected needle:LENGTH");
    refuses("needle:", 4096, STATUS_USAGE, "number of tokens");
    refuses("needle:abc", 4096, STATUS_USAGE, "\"abc\"");
    refuses("random:0", 4096, STATUS_USAGE, "number of tokens");
    refuses("random:-5", 4096, STATUS_USAGE, "number of tokens");
    refuses("random:99999999999999999999999999999999999999", 4096, STATUS_USAGE,
            "number of tokens");
    refuses("needle:2000@", 4096, STATUS_USAGE, "depth");
    refuses("needle:2000@50", 4096, STATUS_USAGE, "percent");
    refuses("needle:2000@101%", 4096, STATUS_USAGE, "percent");
    refuses("needle:2000@-1%", 4096, STATUS_USAGE, "percent");
    refuses("needle:2000@nan", 4096, STATUS_USAGE, "percent");
    refuses("needle:2000@10%++20%", 4096, STATUS_USAGE, "depth");
    refuses("file:", 4096, STATUS_USAGE, "no path");
    refuses("url:", 4096, STATUS_USAGE, "expected http://");
    refuses("qwen:63k", 4096, STATUS_USAGE, "qwen:600k");
}

static void a_needle_prompt_must_hold_its_needles(void **state) {
    (void)state;
    bool clamped;
    char source[40];
    refuses("needle:1000", 4096, STATUS_USAGE, "need at least 1,024");
    snprintf(source, sizeof source, "needle:%d", needle_min_length());
    assert_int_equal(length_of(source, 4096, 256, &clamped), needle_min_length());
}

static void a_vocabulary_must_hold_the_ids(void **state) {
    (void)state;
    int32_t n;
    bool clamped;
    struct error err;
    struct model_config tiny = nano;
    tiny.V = 383;
    assert_int_equal(prompt_length("needle:2k", &tiny, 4096, 1, &n, &clamped, &err), STATUS_USAGE);
    assert_non_null(strstr(err.text, "384"));
    assert_int_equal(prompt_length("random:2k", &tiny, 4096, 1, &n, &clamped, &err), STATUS_OK);
}

static void files_that_cannot_be_read_say_why(void **state) {
    (void)state;
    refuses("file:/nowhere/at/all.txt", 4096, STATUS_IO, "No such file");
    refuses("file:/tmp", 4096, STATUS_USAGE, "directory");
    refuses("file:/dev/null", 4096, STATUS_USAGE, "device");
    refuses("file:/dev/stdin", 4096, STATUS_USAGE, "not the same for every process");
    refuses("file:/dev/fd/0", 4096, STATUS_USAGE, "not the same for every process");
    refuses("file:/proc/self/fd/0", 4096, STATUS_USAGE, "not the same for every process");
    char *source = write_file("empty", "", 0);
    refuses(source, 4096, STATUS_USAGE, "empty");
    remove(source + 5);
    if (getuid() != 0) {
        source = write_file("locked", "abc", 3);
        assert_int_equal(chmod(source + 5, 0), 0);
        refuses(source, 4096, STATUS_IO, "ermission");
        remove(source + 5);
    }
}

static void text_that_is_not_utf8_is_refused_at_its_first_bad_byte(void **state) {
    (void)state;
    static const struct {
        const char *bytes;
        const char *words;
    } bad[] = {
        {"abc\xff", "0xff at offset 3"},
        {"\x80", "0x80 at offset 0"},
        {"ab\xc3", "0xc3 at offset 2"},            /* cut off */
        {"a\xc0\x80", "0xc0 at offset 1"},         /* overlong */
        {"a\xe0\x9f\xbf", "0xe0 at offset 1"},     /* overlong */
        {"\xed\xa0\x80", "0xed at offset 0"},      /* surrogate */
        {"\xf4\x90\x80\x80", "0xf4 at offset 0"},  /* above U+10FFFF */
        {"\xc3\xa4\xe2\x82(", "0xe2 at offset 2"}, /* third byte missing */
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char *source = write_file("bad", bad[i].bytes, strlen(bad[i].bytes));
        refuses(source, 4096, STATUS_USAGE, bad[i].words);
        remove(source + 5);
    }
}

static void a_file_is_taken_whole_or_refused(void **state) {
    (void)state;
    bool clamped;
    char text[3840];
    memset(text, 'x', sizeof text);
    char *source = write_file("long", text, sizeof text);
    assert_int_equal(length_of(source, 4096, 256, &clamped), 3840);
    assert_false(clamped);
    refuses(source, 3840, STATUS_USAGE, "exceed");
    refuses(source, 4095, STATUS_USAGE, "exceed");
    remove(source + 5);
}

static void bytes_of_a_file_become_its_ids(void **state) {
    (void)state;
    const char text[] = "A\xc3\xa4\n\0\xf0\x9f\x98\x80";
    struct prompt p;
    struct error err = {""};
    char *source = write_file("text", text, sizeof text - 1);
    assert_int_equal(prompt_make(&p, source, &nano, sizeof text - 1, plain, 1, &err), STATUS_OK);
    for (size_t i = 0; i < sizeof text - 1; i++)
        assert_int_equal(p.tokens[i], (unsigned char)text[i]);
    assert_false(p.has_answer);
    prompt_free(&p);
    assert_int_equal(prompt_make(&p, source, &nano, 5, plain, 1, &err), STATUS_IO);
    assert_non_null(strstr(err.text, "changed"));
    assert_int_equal(prompt_make(&p, source, &nano, 50, plain, 1, &err), STATUS_IO);
    assert_null(p.tokens);
    remove(source + 5);
}

static void a_text_has_a_checksum_and_what_is_made_has_none(void **state) {
    (void)state;
    struct prompt p;
    struct error err = {""};
    char sha256[65], expected[65];
    char *source = write_file("sum", "one text", 8);
    sha256_hex("one text", 8, expected);
    assert_int_equal(prompt_text_sha256(source, sha256, &err), STATUS_OK);
    assert_string_equal(sha256, expected);
    assert_int_equal(prompt_make(&p, source, &nano, 8, plain, 1, &err), STATUS_OK);
    assert_string_equal(p.file_sha256, expected);
    prompt_free(&p);
    remove(source + 5);
    assert_int_equal(prompt_text_sha256(source, sha256, &err), STATUS_IO);
    assert_non_null(strstr(err.text, source + 5));
    assert_int_equal(prompt_text_sha256("needle:2k", sha256, &err), STATUS_OK);
    assert_string_equal(sha256, "");
    assert_int_equal(prompt_text_sha256("noodle:2k", sha256, &err), STATUS_USAGE);
}

static void random_ids_fill_the_vocabulary_and_follow_the_seed(void **state) {
    (void)state;
    struct prompt a, b, c;
    int seen[1000] = {0}, different = 0;
    assert_int_equal(prompt_make(&a, "random:20001", &nano, 20001, plain, 3, NULL), STATUS_OK);
    assert_int_equal(prompt_make(&b, "random:10k", &nano, 10240, plain, 3, NULL), STATUS_OK);
    assert_int_equal(prompt_make(&c, "random:10k", &nano, 10240, plain, 4, NULL), STATUS_OK);
    for (int32_t i = 0; i < a.length; i++) {
        assert_in_range(a.tokens[i], 0, 999);
        different += !seen[a.tokens[i]]++;
    }
    assert_int_equal(different, 1000);
    assert_memory_equal(a.tokens, b.tokens, 10240 * sizeof *a.tokens);
    assert_memory_not_equal(b.tokens, c.tokens, 10240 * sizeof *b.tokens);
    assert_string_not_equal(b.sha256, c.sha256);
    prompt_free(&a);
    prompt_free(&b);
    prompt_free(&c);
}

static void a_needle_prompt_has_an_answer_for_the_needle_model_alone(void **state) {
    (void)state;
    struct prompt p;
    assert_int_equal(prompt_make(&p, "needle:2k@50%", &needle, 2048, plain, 3, NULL), STATUS_OK);
    assert_true(p.has_answer);
    assert_int_equal(p.length, 2048);
    assert_int_equal(p.needle.length, 2048);
    assert_in_range(p.needle.needle_positions[0], 900, 1150);
    assert_int_equal(strlen(p.sha256), 64);
    prompt_free(&p);
    assert_int_equal(prompt_make(&p, "needle:2k", &nano, 1500, plain, 3, NULL), STATUS_OK);
    assert_false(p.has_answer);
    assert_int_equal(p.length, 1500); /* as clamped */
    prompt_free(&p);
    prompt_free(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lengths_are_read_as_tokens),
        cmocka_unit_test(a_prompt_of_the_whole_window_makes_room_for_the_answer),
        cmocka_unit_test(what_does_not_fit_is_refused_with_the_arithmetic),
        cmocka_unit_test(malformed_sources_say_what_was_expected),
        cmocka_unit_test(a_needle_prompt_must_hold_its_needles),
        cmocka_unit_test(a_vocabulary_must_hold_the_ids),
        cmocka_unit_test(files_that_cannot_be_read_say_why),
        cmocka_unit_test(text_that_is_not_utf8_is_refused_at_its_first_bad_byte),
        cmocka_unit_test(a_file_is_taken_whole_or_refused),
        cmocka_unit_test(bytes_of_a_file_become_its_ids),
        cmocka_unit_test(a_text_has_a_checksum_and_what_is_made_has_none),
        cmocka_unit_test(random_ids_fill_the_vocabulary_and_follow_the_seed),
        cmocka_unit_test(a_needle_prompt_has_an_answer_for_the_needle_model_alone),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
