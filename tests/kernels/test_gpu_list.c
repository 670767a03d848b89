/* gpu_list.c: which GPUs CUDA would show, which kernels they could run, and the reasons why not. */
#include "kernels/gpu_list.h"

#include "fakes/fake_nvml.h"
#include "kernels/device.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static struct fake_nvml *fake;
static void *fake_handle;

static int set_up(void **state) {
    (void)state;
    fake = fake_nvml_open(FAKE_NVML, &fake_handle);
    return fake ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    const int left_open = fake->opened;
    dlclose(fake_handle);
    return left_open;
}

static struct gpu_list list;

static void read_list(const char *visible) {
    gpu_list_read(&list, FAKE_NVML, visible, 13000);
}

static void assert_has(const char *text, const char *part) {
    if (!strstr(text, part)) fail_msg("expected \"%s\" in \"%s\"", part, text);
}

static void a_hopper_runs_both_kinds_of_kernels(void **state) {
    (void)state;
    read_list(NULL);
    assert_true(list.driver_there);
    assert_int_equal(list.n, 2);
    assert_int_equal(gpu_list_first(&list), 0);
    assert_string_equal(list.why_none, "");
    assert_string_equal(list.why_sm80, "");
    assert_string_equal(list.why_sm90a, "");
    assert_string_equal(list.gpu[1].uuid, "GPU-bbbbbbbb-1111");
    assert_int_equal(list.reasons[0], 4);
}

static void capability_decides(void **state) {
    (void)state;
    static const struct {
        int major, minor;
        bool sm80, sm90a;
    } gpus[] = {{7, 5, false, false},
                {8, 0, true, false},
                {8, 9, true, false},
                {9, 0, true, true},
                {10, 0, true, false}};
    for (size_t i = 0; i < sizeof gpus / sizeof *gpus; i++) {
        fake->gpu[0].major = gpus[i].major, fake->gpu[0].minor = gpus[i].minor;
        read_list(NULL);
        assert_int_equal(list.why_sm80[0] == 0, gpus[i].sm80);
        assert_int_equal(list.why_sm90a[0] == 0, gpus[i].sm90a);
    }
    fake->gpu[0].major = 7, fake->gpu[0].minor = 5;
    read_list(NULL);
    assert_string_equal(list.why_sm80,
                        "needs compute capability 8.0 or more, the GPU (NVIDIA H200) has 7.5");
    assert_has(list.why_sm90a, "9.0 exactly");
}

static void visible_devices_are_read_as_cuda_reads_them(void **state) {
    (void)state;
    static const struct {
        const char *value;
        bool visible[4];
    } values[] = {{NULL, {1, 1, 1, 1}},
                  {"", {0}},
                  {"-1", {0}},
                  {"2", {0, 0, 1, 0}},
                  {"3,1", {0, 1, 0, 1}},
                  {"1, 0", {1, 1, 0, 0}},
                  {"0,9,1", {1, 0, 0, 0}}, /* ends at what names none */
                  {"0,0,1", {1, 0, 0, 0}}, /* and at what was named before */
                  {"GPU-bbbb", {0, 1, 0, 0}},
                  {"GPU-x", {0}},
                  {"MIG-1234", {0, 0, 0, 1}},
                  {"all", {0}}};
    fake->n = 4;
    fake->gpu[3].mig = 1;
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        read_list(values[i].value);
        for (int k = 0; k < 4; k++)
            if (list.visible[k] != values[i].visible[k])
                fail_msg("CUDA_VISIBLE_DEVICES=%s: GPU %d", values[i].value, k);
    }
}

static void why_there_is_no_gpu_is_said(void **state) {
    (void)state;
    read_list("");
    assert_int_equal(gpu_list_first(&list), -1);
    assert_string_equal(list.why_sm80, "CUDA_VISIBLE_DEVICES=\"\" hides every GPU of this machine");
    fake->n = 0;
    read_list(NULL);
    assert_string_equal(list.why_sm90a, "the NVIDIA driver 580.159.04 finds no GPU");
    gpu_list_read(&list, "/nowhere/libnvidia-ml.so.1", NULL, 13000);
    assert_false(list.driver_there);
    assert_has(list.why_sm80, "no NVIDIA driver on this machine");
    assert_int_equal(list.driver.cuda_version, -1);
}

static void the_driver_must_serve_the_major_version_built_with(void **state) {
    (void)state;
    fake->cuda_version = 12080;
    read_list(NULL);
    assert_string_equal(list.why_sm80,
                        "the NVIDIA driver 580.159.04 serves CUDA 12.8, this program "
                        "was built with CUDA 13.0");
    gpu_list_read(&list, FAKE_NVML, NULL, 12090); /* a newer minor version is served */
    assert_string_equal(list.why_sm80, "");
    gpu_list_read(&list, FAKE_NVML, NULL, 0); /* built without: nothing is needed */
    assert_string_equal(list.why_sm80, "");
    fake->cuda_version = 14000;
    read_list(NULL);
    assert_string_equal(list.why_sm80, "");
}

static void more_gpus_than_there_is_room_for_are_left_out(void **state) {
    (void)state;
    fake->n = 3;
    fake->gpu[1].name = NULL; /* does not answer */
    read_list(NULL);
    assert_int_equal(list.n, 2);
    assert_string_equal(list.gpu[1].uuid, "GPU-cccccccc-2222");
}

/* The rows of the table say the same as the list of this machine. */
static void variants_ask_the_list_of_this_machine(void **state) {
    (void)state;
    const struct gpu_list *here = gpu_list_machine();
    assert_ptr_equal(here, gpu_list_machine());
    int n;
    const struct variant *v = variant_table(&n);
    for (int i = 0; i < n; i++) {
        const char *why;
        if (v[i].device != DEVICE_CUDA) continue;
        const char *expected = v[i].isa == ISA_SM90A ? here->why_sm90a : here->why_sm80;
        assert_int_equal(variant_usable(&v[i], &why), expected[0] == 0);
        if (expected[0]) assert_string_equal(why, expected);
    }
    if (here->n == 0) assert_true(here->why_sm80[0] && here->why_sm90a[0]);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(a_hopper_runs_both_kinds_of_kernels),
        TEST(capability_decides),
        TEST(visible_devices_are_read_as_cuda_reads_them),
        TEST(why_there_is_no_gpu_is_said),
        TEST(the_driver_must_serve_the_major_version_built_with),
        TEST(more_gpus_than_there_is_room_for_are_left_out),
        TEST(variants_ask_the_list_of_this_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
