/* Memory of a device: arenas are zeroed, resident, charged to the last byte, and refused in time.
 */
#include "kernels/backend.h"
#include "kernels/host_memory.h"
#include "tests/enough_memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static int open_device(void **state) {
    struct device_opts opts = device_opts_defaults();
    opts.threads = 2;
    return device_open((struct device **)state, &opts, NULL) == STATUS_OK ? 0 : -1;
}

static int close_device(void **state) {
    device_close(*state);
    return 0;
}

static struct arena *open_arena(struct device *dev, enum memory_category c, size_t bytes) {
    struct arena *a;
    struct error err = {""};
    if (arena_open(&a, dev, c, bytes, &err) != STATUS_OK) fail_msg("%s", err.text);
    return a;
}

static int64_t charged(struct device *dev, int rank, enum memory_category c) {
    struct memory_use use;
    device_memory(dev, rank, &use);
    return use.bytes[c];
}

static int64_t high_water(struct device *dev, int rank, enum memory_category c) {
    struct memory_use use;
    device_memory(dev, rank, &use);
    return use.high_water[c];
}

static void takes_are_zeroed_aligned_and_apart(void **state) {
    const size_t sizes[] = {1, 255, 256, 257, 4096, 1000003};
    size_t all = 0;
    for (size_t i = 0; i < 6; i++) all += arena_bytes(sizes[i]);
    struct arena *a = open_arena(*state, MEMORY_KV, all);
    char *at[6];
    for (size_t i = 0; i < 6; i++) {
        at[i] = arena_take(a, 0, sizes[i]);
        assert_non_null(at[i]);
        assert_int_equal((uintptr_t)at[i] % 256, 0);
        for (size_t j = 0; j < sizes[i]; j++) assert_int_equal(at[i][j], 0);
        memset(at[i], (int)i + 1, sizes[i]);
    }
    for (size_t i = 0; i < 6; i++) {
        assert_int_equal(at[i][0], i + 1);
        assert_int_equal(at[i][sizes[i] - 1], i + 1);
    }
    assert_null(arena_take(a, 0, 1));
    arena_close(a);
}

static void a_take_that_does_not_fit_leaves_the_arena_as_it_was(void **state) {
    struct arena *a = open_arena(*state, MEMORY_KV, 1024);
    assert_null(arena_take(a, 0, 1025));
    assert_null(arena_take(a, 0, SIZE_MAX));
    assert_int_equal(charged(*state, 0, MEMORY_KV), 0);
    assert_non_null(arena_take(a, 0, 1024));
    arena_close(a);
    a = open_arena(*state, MEMORY_KV, 0);
    assert_null(arena_take(a, 0, 1));
    arena_close(a);
    arena_close(NULL);
}

static void large_arenas_are_aligned_to_huge_pages_and_resident(void **state) {
    enum { BYTES = (70 << 20) + 4096 };
    struct arena *a = open_arena(*state, MEMORY_WEIGHTS, BYTES);
    char *at = arena_take(a, 0, BYTES);
    assert_int_equal((uintptr_t)at % (2 << 20), 0);
    static unsigned char in_core[BYTES / 4096];
    assert_int_equal(mincore(at, BYTES, in_core), 0);
    size_t resident = 0;
    for (size_t i = 0; i < BYTES / 4096; i++) resident += in_core[i] & 1;
    assert_int_equal(resident, BYTES / 4096);
    arena_close(a);
}

static void every_byte_is_charged_to_its_rank_and_category(void **state) {
    struct device *dev = *state;
    int64_t shared = charged(dev, SHARED_RANK, MEMORY_KV);
    struct arena *a = open_arena(dev, MEMORY_KV, 4096);
    assert_int_equal(charged(dev, SHARED_RANK, MEMORY_KV), shared + 4096); /* nobody's yet */
    arena_take(a, 0, 1000);
    arena_take(a, 3, 256);
    arena_take(a, SHARED_RANK, 512);
    assert_int_equal(charged(dev, 0, MEMORY_KV), 1024);
    assert_int_equal(charged(dev, 3, MEMORY_KV), 256);
    assert_int_equal(charged(dev, 1, MEMORY_KV), 0);
    assert_int_equal(charged(dev, 0, MEMORY_ACTIVATIONS), 0);
    assert_int_equal(charged(dev, SHARED_RANK, MEMORY_KV), shared + 4096 - 1024 - 256);
    arena_close(a);
    for (int rank = 0; rank < MAX_RANKS; rank++) assert_int_equal(charged(dev, rank, MEMORY_KV), 0);
    assert_int_equal(charged(dev, SHARED_RANK, MEMORY_KV), shared);
}

static void high_water_stays_until_it_is_reset(void **state) {
    struct device *dev = *state;
    struct arena *a = open_arena(dev, MEMORY_ACTIVATIONS, 8192);
    arena_take(a, 1, 8192);
    arena_close(a);
    assert_int_equal(charged(dev, 1, MEMORY_ACTIVATIONS), 0);
    assert_int_equal(high_water(dev, 1, MEMORY_ACTIVATIONS), 8192);
    a = open_arena(dev, MEMORY_ACTIVATIONS, 1024);
    arena_take(a, 1, 1024);
    assert_int_equal(high_water(dev, 1, MEMORY_ACTIVATIONS), 8192);
    device_memory_reset_high_water(dev);
    assert_int_equal(high_water(dev, 1, MEMORY_ACTIVATIONS), 1024);
    arena_close(a);
    assert_int_equal(high_water(dev, 1, MEMORY_ACTIVATIONS), 1024);
}

static void shared_high_water_does_not_count_what_ranks_took(void **state) {
    struct device *dev = *state;
    struct arena *a = open_arena(dev, MEMORY_COMM, 8192);
    arena_take(a, 2, 8192);
    assert_int_equal(high_water(dev, SHARED_RANK, MEMORY_COMM), 0);
    arena_close(a);
}

static void more_than_there_is_is_refused_with_the_arithmetic(void **state) {
    struct device *dev = *state;
    struct device_info info;
    device_info(dev, &info);
    int64_t before = device_allocations(dev);
    const size_t sizes[] = {(size_t)info.available_bytes + (size_t)info.memory_bytes,
                            (size_t)1 << 46, SIZE_MAX - 10};
    for (size_t i = 0; i < 3; i++) {
        struct arena *a = (void *)1;
        struct error err = {""};
        assert_int_equal(arena_open(&a, dev, MEMORY_KV, sizes[i], &err), STATUS_NO_MEMORY);
        assert_null(a);
        assert_non_null(strstr(err.text, "memory for kv"));
        assert_non_null(strstr(err.text, "wanted"));
    }
    struct arena *a;
    struct error err = {""};
    arena_open(&a, dev, MEMORY_KV, (size_t)1 << 46, &err);
    assert_non_null(strstr(err.text, "67108864.0 MiB wanted"));
    assert_non_null(strstr(err.text, "available"));
    assert_int_equal(device_allocations(dev), before);
    assert_int_equal(charged(dev, SHARED_RANK, MEMORY_KV), 0);
}

static int64_t mapped_bytes(void) {
    long long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f || fscanf(f, "%lld", &pages) != 1) pages = 0;
    if (f) fclose(f);
    return pages * sysconf(_SC_PAGESIZE);
}

/* In a child: a limit cannot be lifted again by everybody. */
static int refused_under_ulimit(struct device *dev) {
    rlim_t limit = (rlim_t)(mapped_bytes() + (64 << 20));
    if (setrlimit(RLIMIT_AS, &(struct rlimit){limit, limit}) != 0) return 1;
    struct arena *a;
    struct error err = {""};
    if (arena_open(&a, dev, MEMORY_KV, 256 << 20, &err) != STATUS_NO_MEMORY) return 2;
    return strstr(err.text, "ulimit -v") ? 0 : 3;
}

static void a_limit_of_the_address_space_is_an_error_not_a_crash(void **state) {
    pid_t child = fork();
    if (child == 0) _exit(refused_under_ulimit(*state));
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void opening_counts_as_an_allocation(void **state) {
    int64_t before = device_allocations(*state);
    struct arena *a = open_arena(*state, MEMORY_KV, 1);
    assert_int_equal(device_allocations(*state), before + 1);
    arena_take(a, 0, 1);
    assert_int_equal(device_allocations(*state), before + 1);
    arena_close(a);
}

static void the_systems_own_figure_follows_an_arena(void **state) {
    struct device *dev = *state;
    enum { BYTES = 96 << 20 };
    int64_t before, with, after, peak;
    device_memory_reset_high_water(dev);
    device_memory_driver(dev, &before, &peak);
    struct arena *a = open_arena(dev, MEMORY_KV, BYTES);
    device_memory_driver(dev, &with, &peak);
    assert_in_range(with - before, BYTES - (4 << 20), BYTES + (32 << 20));
    assert_true(peak >= with);
    arena_close(a);
    device_memory_driver(dev, &after, &peak);
    assert_true(after < with - BYTES / 2);
    assert_true(peak >= with - (1 << 20));
    device_memory_reset_high_water(dev);
    device_memory_driver(dev, &after, &peak);
    assert_true(peak < with - BYTES / 2);
}

static void the_peak_is_seen_though_nobody_looked_at_it(void **state) {
    struct device *dev = *state;
    enum { BYTES = 96 << 20 };
    struct host_self self = host_self_open();
    const bool resets =
        host_resident_peak_bytes(&self, NULL) > 0 && host_resident_peak_reset(&self);
    host_self_close(&self);
    if (!resets) skip();
    int64_t before, peak;
    device_memory_reset_high_water(dev);
    device_memory_driver(dev, &before, &peak);
    arena_close(open_arena(dev, MEMORY_KV, BYTES));
    int64_t now;
    device_memory_driver(dev, &now, &peak);
    assert_true(now < before + BYTES / 2);
    assert_true(peak > before + BYTES / 2);
}

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
static void what_is_not_taken_is_poisoned(void **state) {
    struct arena *a = open_arena(*state, MEMORY_KV, 1024);
    char *at = arena_take(a, 0, 100);
    assert_false(__asan_address_is_poisoned(at + 99));
    assert_true(__asan_address_is_poisoned(at + 100 + 8));
    assert_true(__asan_address_is_poisoned(at + 256));
    arena_close(a);
}
#endif

#define ON_DEVICE(f) cmocka_unit_test_setup_teardown(f, open_device, close_device)

int main(void) {
    if (!enough_memory(384)) return TEST_SKIPPED;
    const struct CMUnitTest tests[] = {
        ON_DEVICE(takes_are_zeroed_aligned_and_apart),
        ON_DEVICE(a_take_that_does_not_fit_leaves_the_arena_as_it_was),
        ON_DEVICE(large_arenas_are_aligned_to_huge_pages_and_resident),
        ON_DEVICE(every_byte_is_charged_to_its_rank_and_category),
        ON_DEVICE(high_water_stays_until_it_is_reset),
        ON_DEVICE(shared_high_water_does_not_count_what_ranks_took),
        ON_DEVICE(more_than_there_is_is_refused_with_the_arithmetic),
        ON_DEVICE(a_limit_of_the_address_space_is_an_error_not_a_crash),
        ON_DEVICE(opening_counts_as_an_allocation),
        ON_DEVICE(the_systems_own_figure_follows_an_arena),
        ON_DEVICE(the_peak_is_seen_though_nobody_looked_at_it),
#if defined(__SANITIZE_ADDRESS__)
        ON_DEVICE(what_is_not_taken_is_poisoned),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
