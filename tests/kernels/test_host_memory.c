/* What the host has left: made-up /proc and /sys trees of both generations of control groups, and
 * the figures of this process. */
#include "kernels/host_memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct tree {
    char root[64];
};

static int make_tree(void **state) {
    struct tree *t = calloc(1, sizeof *t);
    snprintf(t->root, sizeof t->root, "/tmp/test_host_memory.XXXXXX");
    if (!mkdtemp(t->root)) return -1;
    *state = t;
    return 0;
}

static int remove_one(const char *path, const struct stat *s, int kind, struct FTW *walk) {
    (void)s;
    (void)kind;
    (void)walk;
    return remove(path);
}

static int remove_tree(void **state) {
    struct tree *t = *state;
    nftw(t->root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    free(t);
    return 0;
}

/* Writes root/path with its folders. */
static void put(const struct tree *t, const char *path, const char *text) {
    char full[512];
    snprintf(full, sizeof full, "%s%s", t->root, path);
    for (char *slash = full + strlen(t->root) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = 0;
        mkdir(full, 0755);
        *slash = '/';
    }
    FILE *f = fopen(full, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static const char meminfo[] = "MemTotal:        1000 kB\nMemFree: 1 kB\nMemAvailable:     600 kB\n";

static void without_groups_meminfo_decides(void **state) {
    struct tree *t = *state;
    put(t, "/proc/meminfo", meminfo);
    struct host_memory m = host_memory_read(t->root);
    assert_int_equal(m.total_bytes, 1000 * 1024);
    assert_int_equal(m.available_bytes, 600 * 1024);
    assert_false(m.group_decides);
}

static void version_2_limit_counts_file_pages_as_free(void **state) {
    struct tree *t = *state;
    put(t, "/proc/meminfo", meminfo);
    put(t, "/proc/self/cgroup", "0::/job/step\n");
    put(t, "/sys/fs/cgroup/job/step/memory.max", "200000\n");
    put(t, "/sys/fs/cgroup/job/step/memory.current", "150000\n");
    put(t, "/sys/fs/cgroup/job/step/memory.stat",
        "anon 90000\ninactive_anon 5\nactive_anon 6\nfile 60000\ninactive_file 40000\nactive_file "
        "20000\n");
    struct host_memory m = host_memory_read(t->root);
    assert_int_equal(m.total_bytes, 200000);
    assert_int_equal(m.available_bytes, 200000 - 150000 + 40000 + 20000);
    assert_true(m.group_decides);
}

static void a_parent_group_may_be_the_tightest(void **state) {
    struct tree *t = *state;
    put(t, "/proc/meminfo", meminfo);
    put(t, "/proc/self/cgroup", "0::/job/step\n");
    put(t, "/sys/fs/cgroup/job/step/memory.max", "max\n");
    put(t, "/sys/fs/cgroup/job/memory.max", "100000\n");
    put(t, "/sys/fs/cgroup/job/memory.current", "70000\n");
    struct host_memory m = host_memory_read(t->root);
    assert_int_equal(m.total_bytes, 100000);
    assert_int_equal(m.available_bytes, 30000);
}

static void version_1_limit_is_found_at_the_mount_of_a_container(void **state) {
    struct tree *t = *state;
    put(t, "/proc/meminfo", meminfo);
    put(t, "/proc/self/cgroup",
        "9:name=systemd:/\n5:cpu,cpuacct:/\n4:memory:/docker/0123/not/visible\n0::/\n");
    put(t, "/sys/fs/cgroup/memory/memory.limit_in_bytes", "300000\n");
    put(t, "/sys/fs/cgroup/memory/memory.usage_in_bytes", "280000\n");
    put(t, "/sys/fs/cgroup/memory/memory.stat",
        "inactive_file 1\nactive_file 1\ntotal_inactive_file 1000\ntotal_active_file 200\n");
    struct host_memory m = host_memory_read(t->root);
    assert_int_equal(m.total_bytes, 300000);
    assert_int_equal(m.available_bytes, 20000 + 1200);
}

static void no_limit_changes_nothing(void **state) {
    struct tree *t = *state;
    put(t, "/proc/meminfo", meminfo);
    put(t, "/proc/self/cgroup", "4:memory:/a\n");
    put(t, "/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n");
    put(t, "/sys/fs/cgroup/memory/a/memory.usage_in_bytes", "999999999\n");
    struct host_memory m = host_memory_read(t->root);
    assert_int_equal(m.total_bytes, 1000 * 1024);
    assert_int_equal(m.available_bytes, 600 * 1024);
}

static void a_group_over_its_limit_has_nothing_left(void **state) {
    struct tree *t = *state;
    put(t, "/proc/meminfo", meminfo);
    put(t, "/proc/self/cgroup", "0::/\n");
    put(t, "/sys/fs/cgroup/memory.max", "1000\n");
    put(t, "/sys/fs/cgroup/memory.current", "5000\n");
    assert_int_equal(host_memory_read(t->root).available_bytes, 0);
}

static void damaged_files_are_passed_over(void **state) {
    struct tree *t = *state;
    put(t, "/proc/meminfo", meminfo);
    put(t, "/proc/self/cgroup", "\n:::\n4\n4:memory\n0::no slash\n77:xmemory,memoryx:/\n");
    put(t, "/sys/fs/cgroup/memory.max", "\n");
    put(t, "/sys/fs/cgroup/memory/memory.limit_in_bytes", "10\n");
    struct host_memory m = host_memory_read(t->root);
    assert_int_equal(m.total_bytes, 1000 * 1024);
    assert_int_equal(m.available_bytes, 600 * 1024);
}

static void this_host_has_memory(void **state) {
    (void)state;
    struct host_memory m = host_memory_read("");
    assert_true(m.total_bytes > 0);
    assert_true(m.available_bytes > 0 && m.available_bytes <= m.total_bytes);
}

#if defined(__SANITIZE_THREAD__)
#define SHADOWED true
#else
#define SHADOWED false
#endif

static void resident_set_follows_touched_pages_and_the_peak_stays(void **state) {
    (void)state;
    enum { BYTES = 32 << 20 };
    if (SHADOWED) {
        print_message("skipped: the thread sanitizer keeps a resident shadow of touched pages\n");
        skip();
    }
    struct host_self self = host_self_open();
    int64_t before = host_resident_bytes(&self);
    char *at = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(at != MAP_FAILED);
    for (size_t i = 0; i < BYTES; i += 4096) ((volatile char *)at)[i] = 1;
    int64_t with = host_resident_bytes(&self), same = 0;
    int64_t peak_with = host_resident_peak_bytes(&self, &same);
    munmap(at, BYTES);
    assert_in_range(with - before, BYTES * 9 / 10, BYTES * 11 / 10);
    assert_true(host_resident_bytes(&self) < before + BYTES / 2);
    if (peak_with > 0) { /* the kernel tells */
        assert_in_range(same, with - (1 << 20), with + (1 << 20));
        assert_true(host_resident_peak_bytes(&self, NULL) >= with - (1 << 20));
        if (host_resident_peak_reset(&self))
            assert_true(host_resident_peak_bytes(&self, NULL) < before + BYTES / 2);
    }
    host_self_close(&self);
}

static void a_system_that_tells_nothing_is_not_a_failure(void **state) {
    (void)state;
    const struct host_self nothing = {-1, -1, -1};
    int64_t resident = 1;
    assert_int_equal(host_resident_bytes(&nothing), 0);
    assert_int_equal(host_resident_peak_bytes(&nothing, &resident), 0);
    assert_int_equal(resident, 0);
    assert_false(host_resident_peak_reset(&nothing));
}

#define IN_TREE(f) cmocka_unit_test_setup_teardown(f, make_tree, remove_tree)

int main(void) {
    const struct CMUnitTest tests[] = {
        IN_TREE(without_groups_meminfo_decides),
        IN_TREE(version_2_limit_counts_file_pages_as_free),
        IN_TREE(a_parent_group_may_be_the_tightest),
        IN_TREE(version_1_limit_is_found_at_the_mount_of_a_container),
        IN_TREE(no_limit_changes_nothing),
        IN_TREE(a_group_over_its_limit_has_nothing_left),
        IN_TREE(damaged_files_are_passed_over),
        cmocka_unit_test(this_host_has_memory),
        cmocka_unit_test(resident_set_follows_touched_pages_and_the_peak_stays),
        cmocka_unit_test(a_system_that_tells_nothing_is_not_a_failure),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
