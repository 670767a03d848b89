/* doctor_gpu.c and library_probe.c: what is said of GPUs that tests describe, and what would help.
 */
#include "harness/doctor.h"
#include "harness/library_probe.h"

#include "fakes/fake_nvml.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static struct fake_nvml *fake;
static void *fake_handle;
static struct gpu_list list;
static struct doctor_findings found;
static struct gpu_trial trial;

static int set_up(void **state) {
    (void)state;
    memset(&found, 0, sizeof found);
    trial = (struct gpu_trial){.works = true};
    fake = fake_nvml_open(FAKE_NVML, &fake_handle);
    return fake ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    return dlclose(fake_handle);
}

static void look(const char *library, const char *visible, struct gpu_signs signs) {
    memset(&found, 0, sizeof found);
    gpu_list_read(&list, library, visible, 13000);
    doctor_look_at_gpus(&found, &list, &signs, &trial);
}

static const struct doctor_finding *finding(const char *name) {
    for (int i = 0; i < found.n; i++)
        if (strcmp(found.f[i].name, name) == 0) return &found.f[i];
    fail_msg("no finding \"%s\"", name);
    return NULL;
}

static void assert_finding(const char *name, enum doctor_level level, const char *text,
                           const char *fix) {
    const struct doctor_finding *f = finding(name);
    if (!strstr(f->text, text)) fail_msg("expected \"%s\" in \"%s\"", text, f->text);
    if (!strstr(f->fix, fix)) fail_msg("expected \"%s\" in \"%s\"", fix, f->fix);
    assert_int_equal(f->fix[0] != 0, fix[0] != 0);
    assert_int_equal(f->level, level);
}

static const struct gpu_signs built = {.built = true, .hardware = true, .nodes = true};

static void a_good_gpu_is_told_of_and_taken(void **state) {
    (void)state;
    look(FAKE_NVML, NULL, built);
    assert_int_equal(found.n, 4);
    assert_finding("GPU", LEVEL_OK, "device = auto takes the NVIDIA H200", "");
    assert_finding("driver", LEVEL_OK, "580.159.04, serves CUDA up to 13.0", "");
    assert_finding("GPU 1", LEVEL_OK, "compute capability 9.0, 140 GiB of memory, 139 GiB free",
                   "");
    assert_finding("GPU 1", LEVEL_OK,
                   "cap 700 W, SM clock 1980 of 1980 MHz (held back by: power "
                   "cap), 18 NVLinks, 00000000:0A:00.0",
                   "");
    assert_true(doctor_gpu_taken(&list, &built));
}

static void a_gpu_that_does_not_work_is_taken_all_the_same_and_the_cpu_is_named(void **state) {
    (void)state;
    trial = (struct gpu_trial){.why_not = "libcuda.so.1 is not there"};
    look(FAKE_NVML, NULL, built);
    assert_finding("GPU", LEVEL_WARNING,
                   "device = auto takes the NVIDIA H200, which does not work, so `bench run` "
                   "refuses: libcuda.so.1 is not there",
                   "--set engine.device=cpu");
    doctor_look_at_gpu_engine(&found, &trial);
    assert_finding("GPU engine", LEVEL_WARNING, "libcuda.so.1 is not there", "device = cpu");
    assert_true(doctor_gpu_taken(&list, &built));
}

static void a_gpu_that_is_full_or_hot_is_a_warning(void **state) {
    (void)state;
    fake->gpu[0].used = fake->gpu[0].total - (1 << 30);
    fake->gpu[1].reasons = 0x40;
    look(FAKE_NVML, NULL, built);
    assert_finding("GPU 0", LEVEL_WARNING, "1.00 GiB free", "nvidia-smi");
    assert_finding("GPU 1", LEVEL_WARNING, "thermal slowdown by hardware", "cooling");
}

static void without_cuda_built_in_a_gpu_is_a_pity(void **state) {
    (void)state;
    const struct gpu_signs signs = {.hardware = true, .nodes = true};
    look(FAKE_NVML, NULL, signs);
    assert_finding("GPU", LEVEL_WARNING, "not built in: this program runs on the CPU alone",
                   "CUDA toolkit");
    assert_finding("GPU 0", LEVEL_OK, "NVIDIA H200", "");
    assert_false(doctor_gpu_taken(&list, &signs));
}

static void why_there_is_no_gpu_comes_with_what_helps(void **state) {
    (void)state;
    static const char nowhere[] = "/nowhere/libnvidia-ml.so.1";
    look(nowhere, NULL, (struct gpu_signs){.built = true}); /* a laptop: nothing is wrong */
    assert_int_equal(found.n, 1);
    assert_finding("GPU", LEVEL_OK, "built in, but none can be used: no NVIDIA driver",
                   "install the NVIDIA driver");
    look(nowhere, NULL, (struct gpu_signs){.built = true, .hardware = true});
    assert_finding("GPU", LEVEL_WARNING, "no NVIDIA driver", "install the NVIDIA driver");
    look(nowhere, NULL, built);
    assert_finding("GPU", LEVEL_WARNING, "no NVIDIA driver", "container toolkit");
    look(FAKE_NVML, "", built);
    assert_finding("GPU", LEVEL_WARNING, "CUDA_VISIBLE_DEVICES=\"\" hides every GPU",
                   "unset CUDA_VISIBLE_DEVICES");
    assert_finding("GPU 0", LEVEL_OK, "hidden by CUDA_VISIBLE_DEVICES", "");
    fake->cuda_version = 12080;
    look(FAKE_NVML, NULL, built);
    assert_finding("GPU", LEVEL_WARNING, "serves CUDA 12.8, this program was built with CUDA 13.0",
                   "newer NVIDIA driver");
    fake->cuda_version = 13000;
    fake->gpu[0].major = 7, fake->gpu[0].minor = 5;
    look(FAKE_NVML, NULL, built);
    assert_finding("GPU", LEVEL_WARNING, "needs compute capability 8.0 or more", "");
    fake->n = 0;
    look(FAKE_NVML, NULL, built);
    assert_finding("GPU", LEVEL_WARNING, "580.159.04 finds no GPU", "--gpus all");
}

static void facts_as_json_are_null_where_unknown(void **state) {
    (void)state;
    struct jsondoc *d = jsondoc_object();
    int64_t n;
    fake->gpu_result = 3;
    gpu_list_read(&list, FAKE_NVML, "1", 13000);
    doctor_put_gpus(d, &list);
    const struct jsondoc *gpus = jsondoc_get(d, "gpus");
    bool visible;
    assert_int_equal(jsondoc_length(gpus), 2);
    assert_string_equal(jsondoc_get_text(jsondoc_at(gpus, 1), "pci_bus_id"), "00000000:0A:00.0");
    assert_true(jsondoc_get_bool(jsondoc_at(gpus, 0), "visible", &visible) && !visible);
    assert_true(jsondoc_get_bool(jsondoc_at(gpus, 1), "visible", &visible) && visible);
    assert_false(jsondoc_get_int(jsondoc_at(gpus, 1), "memory_bytes", &n));
    assert_true(jsondoc_get_int(d, "driver_cuda_version", &n) && n == 13000);
    jsondoc_close(d);
}

static void a_library_is_there_with_its_version_or_not_with_the_reason(void **state) {
    (void)state;
    char text[200];
    struct library_question q = {.files = {"/nowhere/libfake.so.2", FAKE_NVML},
                                 .version = "fake_version_returned",
                                 .major_unit = 10000,
                                 .minor_unit = 100};
    assert_true(library_probe(&q, text, sizeof text));
    assert_memory_equal(text, "9.14 (", 6);
    assert_non_null(strstr(text, FAKE_NVML));
    q.oldest = 91402; /* that very one */
    assert_true(library_probe(&q, text, sizeof text));
    q.oldest = 91500;
    assert_false(library_probe(&q, text, sizeof text));
    assert_non_null(strstr(text, "is too old: 9.15 or newer is needed"));
    q.oldest = 0;
    q.version = "fake_version_stored", q.call = VERSION_STORED;
    q.major_unit = 1000, q.minor_unit = 10;
    assert_true(library_probe(&q, text, sizeof text));
    assert_memory_equal(text, "13.0 (", 6);
    fake->init_result = 3; /* it does not tell */
    assert_true(library_probe(&q, text, sizeof text));
    assert_memory_equal(text, "of unknown version (", 20);
    q.version = "no_such_function";
    assert_true(library_probe(&q, text, sizeof text));
    assert_memory_equal(text, "of unknown version (", 20);
    q.files[1] = NULL;
    assert_false(library_probe(&q, text, sizeof text));
    assert_non_null(strstr(text, "/nowhere/libfake.so.2: cannot open"));
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(a_good_gpu_is_told_of_and_taken),
        TEST(a_gpu_that_does_not_work_is_taken_all_the_same_and_the_cpu_is_named),
        TEST(a_gpu_that_is_full_or_hot_is_a_warning),
        TEST(without_cuda_built_in_a_gpu_is_a_pity),
        TEST(why_there_is_no_gpu_comes_with_what_helps),
        TEST(facts_as_json_are_null_where_unknown),
        TEST(a_library_is_there_with_its_version_or_not_with_the_reason),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
