/* machine.c: what the system says about itself, and what is said where it says nothing. */
#include "harness/machine.h"

#include "fakes/fake_nvml.h"
#include "kernels/cpu_features.h"

#include <ctype.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static void counts_are_plausible(void **state) {
    (void)state;
    assert_in_range(machine_cores(), 1, sysconf(_SC_NPROCESSORS_CONF));
    assert_in_range(machine_numa_nodes(), 1, 1024);
    assert_true(machine_memory_bytes() > 1 << 20);
    assert_in_range(machine_available_bytes(), 1, machine_memory_bytes());
    int64_t limit = machine_cgroup_limit_bytes();
    assert_true(limit >= 0 && limit < machine_memory_bytes());
}

static void texts_are_never_empty(void **state) {
    (void)state;
    char text[128];
    machine_cpu_model(text, sizeof text);
    assert_true(strlen(text) > 0 && !strchr(text, '\n'));
    machine_governor(text, sizeof text);
    assert_true(strlen(text) > 0 && !strchr(text, '\n'));
}

static void libraries_name_the_hdf5_that_runs(void **state) {
    (void)state;
    char text[512], hdf5[64];
    machine_libraries(text, sizeof text);
    record_library(hdf5, sizeof hdf5);
    assert_int_equal(strncmp(text, hdf5, strlen(hdf5)), 0);
    assert_non_null(strstr(text, "glibc 2."));
    assert_true(isdigit((unsigned char)hdf5[strlen("HDF5 ")]));
    char small[8];
    machine_libraries(small, sizeof small);
    assert_string_equal(small, "HDF5 1.");
}

static void the_binary_has_the_hash_that_sha256sum_gives(void **state) {
    (void)state;
    char ours[65], command[128], theirs[65] = "";
    machine_binary_sha256(ours);
    snprintf(command, sizeof command, "sha256sum /proc/%d/exe", (int)getpid());
    FILE *f = popen(command, "r");
    assert_non_null(f);
    assert_int_equal(fread(theirs, 1, 64, f), 64);
    pclose(f);
    assert_string_equal(ours, theirs);
}

static void shell(const char *format, const char *folder) {
    char command[2000];
    snprintf(command, sizeof command, format, folder);
    assert_int_equal(system(command), 0);
}

static void git_tells_commit_and_changes_only_at_the_top_of_a_work_tree(void **state) {
    (void)state;
    char folder[] = "/tmp/test_machine-XXXXXX", inside[64], commit[64];
    bool dirty = true;
    if (system("git --version >/dev/null 2>&1") != 0) skip();
    assert_non_null(mkdtemp(folder));
    machine_git(folder, commit, sizeof commit, &dirty);
    assert_string_equal(commit, "unknown");
    assert_false(dirty);
    shell("cd %s && git init -q . && echo a > a && mkdir in && git add a && "
          "git -c user.name=t -c user.email=t@example.org commit -q -m t",
          folder);
    machine_git(folder, commit, sizeof commit, &dirty);
    assert_int_equal(strspn(commit, "0123456789abcdef"), 40);
    assert_false(dirty);
    shell("echo b > %s/a", folder);
    machine_git(folder, commit, sizeof commit, &dirty);
    assert_true(dirty);
    snprintf(inside, sizeof inside, "%s/in", folder);
    machine_git(inside, commit, sizeof commit, &dirty);
    assert_string_equal(commit, "unknown");
    shell("rm -rf %s", folder);
}

static void without_git_the_commit_is_unknown(void **state) {
    (void)state;
    char commit[64];
    bool dirty;
    char *path = strdup(getenv("PATH") ? getenv("PATH") : "");
    setenv("PATH", "/nonexistent", 1);
    machine_git("/", commit, sizeof commit, &dirty);
    setenv("PATH", path, 1);
    free(path);
    assert_string_equal(commit, "unknown");
}

static void a_command_line_survives_the_shell(void **state) {
    (void)state;
    char *argv[] = {"run", "a b", "it's", "--set", "prompt.source=needle:1k", "", "$x"};
    char *line = machine_command_line(7, argv);
    assert_string_equal(line, "bench run 'a b' 'it'\\''s' --set prompt.source=needle:1k '' '$x'");
    free(line);
}

static void facts_of_a_run_are_whole_and_the_clocks_agree(void **state) {
    (void)state;
    struct plan *p = calloc(1, sizeof *p);
    struct machine_facts m;
    char *argv[] = {"run", "x.ini"};
    assert_non_null(p);
    config_defaults(&p->config);
    strcpy(p->device_info.isa, "avx2");
    p->rates.roof_flops = 3;
    machine_facts_open(&m, p, 2, argv);
    assert_string_equal(m.run.argv, "bench run x.ini");
    assert_non_null(strstr(m.run.config_text, "[model]"));
    assert_int_equal(strlen(m.run.config_sha256), 64);
    assert_int_equal(strlen(m.run.binary_sha256), 64);
    assert_true(m.run.hostname[0] && m.run.kernel[0] && m.run.git_commit[0]);
    assert_string_equal(m.run.isa, "avx2");
    assert_true(m.run.rates.roof_flops == 3);
    machine_facts_close(&m);
    p->device = DEVICE_CUDA; /* the processor has its instruction sets beside a GPU, too */
    enum cpu_isa isa;
    machine_facts_open(&m, p, 2, argv);
    assert_true(cpu_isa_parse(m.run.isa, &isa) && isa == cpu_isa_best());
    struct timespec wall, mono;
    clock_gettime(CLOCK_REALTIME, &wall);
    clock_gettime(CLOCK_MONOTONIC, &mono);
    int64_t offset_now = (wall.tv_sec - mono.tv_sec) * 1000000000 + wall.tv_nsec - mono.tv_nsec;
    int64_t error = m.run.realtime_ns - m.run.monotonic_ns - offset_now;
    assert_true(error > -50000000 && error < 50000000);
    machine_facts_close(&m);
    machine_facts_close(&m);
    free(p);
}

static void gpus_of_the_machine_are_facts_and_one_is_the_runs_own(void **state) {
    (void)state;
    void *handle;
    static struct gpu_list list;
    static struct run_facts facts;
    assert_non_null(fake_nvml_open(FAKE_NVML, &handle));
    gpu_list_read(&list, FAKE_NVML, "0", 0);
    machine_gpus(&list, "0000:0A:00.0", &facts);
    assert_int_equal(facts.n_gpus, 2);
    assert_true(facts.gpus[1].used && !facts.gpus[0].used);
    assert_true(facts.gpus[0].visible && !facts.gpus[1].visible);
    assert_string_equal(facts.gpus[1].driver, "580.159.04");
    assert_string_equal(facts.gpus[1].gpu.uuid, "GPU-bbbbbbbb-1111");
    assert_int_equal(facts.gpus[1].cuda_version, 13000);
    machine_gpus(&list, "", &facts); /* a run on the CPU */
    assert_true(!facts.gpus[0].used && !facts.gpus[1].used);
    dlclose(handle);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_are_plausible),
        cmocka_unit_test(texts_are_never_empty),
        cmocka_unit_test(libraries_name_the_hdf5_that_runs),
        cmocka_unit_test(the_binary_has_the_hash_that_sha256sum_gives),
        cmocka_unit_test(git_tells_commit_and_changes_only_at_the_top_of_a_work_tree),
        cmocka_unit_test(without_git_the_commit_is_unknown),
        cmocka_unit_test(a_command_line_survives_the_shell),
        cmocka_unit_test(gpus_of_the_machine_are_facts_and_one_is_the_runs_own),
        cmocka_unit_test(facts_of_a_run_are_whole_and_the_clocks_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
