/* However a range ends, what was opened in it is closed: a recorder in a tool's place
 * (fakes/nvtx_recorder.c) tells what it saw. Skipped (77) in a build without NVTX's headers. */
#include "kernels/nvtx.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#ifdef NVTX_RECORDER

static char path[200];

static long bytes_so_far(void) {
    char name[220];
    snprintf(name, sizeof name, "%s.%d", path, (int)getpid());
    FILE *f = fopen(name, "r");
    if (!f) return 0;
    fseek(f, 0, SEEK_END);
    const long n = ftell(f);
    fclose(f);
    return n;
}

/* Ranges since `from`, as "+name payload" and "-", parted by commas. */
static void seen_since(long from, char *out, size_t size) {
    char name[220], line[300], word[300], payload[100];
    snprintf(name, sizeof name, "%s.%d", path, (int)getpid());
    FILE *f = fopen(name, "r");
    assert_non_null(f);
    fseek(f, from, SEEK_SET);
    size_t used = 0;
    out[0] = 0;
    while (fgets(line, sizeof line, f) && used + 320 < size) {
        const char *comma = used ? "," : "";
        if (sscanf(line, "push\t%*d\t%*d\t%299[^\t]\t%99[^\n]", word, payload) == 2)
            used += (size_t)snprintf(out + used, size - used, "%s+%s %s", comma, word, payload);
        else if (strncmp(line, "pop", 3) == 0)
            used += (size_t)snprintf(out + used, size - used, "%s-", comma);
    }
    fclose(f);
}

static struct op_call call_of(enum op op, enum role role, int rank, int layer) {
    return (struct op_call){.op = op, .role = role, .rank = (int16_t)rank, .layer = (int16_t)layer};
}

static void the_end_of_a_range_closes_all_in_it(void **state) {
    (void)state;
    char seen[2000];
    struct nvtx *n = nvtx_open(NVTX_OP);
    const long from = bytes_so_far();
    const struct op_call call = call_of(OP_LINEAR, ROLE_QKV, 1, 3);
    assert_non_null(n);
    nvtx_begin(n, NVTX_ONE_CASE, "a case", 2);
    nvtx_begin(n, NVTX_PASS, "repeat", 0);
    nvtx_begin_chunk(n, &(struct nvtx_chunk){4, 1024, 256});
    nvtx_begin_op(n, &call); /* and it fails: nobody ends anything but the case */
    nvtx_end(n, NVTX_ONE_CASE);
    nvtx_end(n, NVTX_CHUNK_RANGE); /* is not open: nothing happens */
    seen_since(from, seen, sizeof seen);
    assert_string_equal(seen, "+a case 2,+repeat 0,+chunk schema 77: 4 1024 256,+layer 3,"
                              "+linear qkv 1,-,-,-,-,-");
    nvtx_close(n);
}

static void a_new_range_ends_the_last_one_of_its_kind(void **state) {
    (void)state;
    char seen[2000];
    struct nvtx *n = nvtx_open(NVTX_OP);
    const long from = bytes_so_far();
    nvtx_begin(n, NVTX_RUN, NULL, 1);
    nvtx_begin(n, NVTX_TOKEN, NULL, 0);
    nvtx_begin(n, NVTX_TOKEN, NULL, 1);
    nvtx_close(n);
    seen_since(from, seen, sizeof seen);
    assert_string_equal(seen, "+run 1,+token 0,-,+token 1,-,-");
}

static void layers_open_and_close_with_their_ops(void **state) {
    (void)state;
    static const int layer[] = {-1, 0, 0, 1, -1, 1};
    char seen[2000];
    struct nvtx *n = nvtx_open(NVTX_OP);
    const long from = bytes_so_far();
    for (int i = 0; i < 6; i++) {
        const struct op_call call = call_of(OP_SWIGLU, ROLE_NONE, 0, layer[i]);
        nvtx_begin_op(n, &call);
        nvtx_end_op(n);
    }
    nvtx_end(n, NVTX_LAYER);
    nvtx_end(n, NVTX_LAYER);
    seen_since(from, seen, sizeof seen);
    assert_string_equal(seen, "+swiglu 0,-,+layer 0,+swiglu 0,-,+swiglu 0,-,-,+layer 1,+swiglu 0,-,"
                              "-,+swiglu 0,-,+layer 1,+swiglu 0,-,-");
    nvtx_close(n);
}

static void a_level_leaves_out_what_is_deeper(void **state) {
    (void)state;
    char seen[2000];
    struct nvtx *n = nvtx_open(NVTX_CASE);
    const long from = bytes_so_far();
    const struct op_call call = call_of(OP_SWIGLU, ROLE_NONE, 0, 0);
    nvtx_begin(n, NVTX_PASS, "warm-up", -1);
    nvtx_begin_chunk(n, &(struct nvtx_chunk){0, 0, 256});
    nvtx_begin_op(n, &call);
    nvtx_end_op(n);
    nvtx_end(n, NVTX_CHUNK_RANGE);
    nvtx_end(n, NVTX_PASS);
    seen_since(from, seen, sizeof seen);
    assert_string_equal(seen, "+warm-up -1,-");
    nvtx_close(n);
}

int main(void) {
    snprintf(path, sizeof path, "%s/bench-nvtx-XXXXXX",
             getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    const int fd = mkstemp(path);
    if (fd < 0) return 1;
    close(fd);
    setenv("NVTX_INJECTION64_PATH", NVTX_RECORDER, 1); /* before the first call of NVTX */
    setenv("NVTX_RECORDER_FILE", path, 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_end_of_a_range_closes_all_in_it),
        cmocka_unit_test(a_new_range_ends_the_last_one_of_its_kind),
        cmocka_unit_test(layers_open_and_close_with_their_ops),
        cmocka_unit_test(a_level_leaves_out_what_is_deeper),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char name[220];
    snprintf(name, sizeof name, "%s.%d", path, (int)getpid());
    unlink(name);
    unlink(path);
    return failed;
}

#else

int main(void) {
    puts("skipped: built without NVTX's headers");
    return 77;
}

#endif
