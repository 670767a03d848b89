/* nvml.c over a library that tests describe: facts, what is absent, what cannot be opened. */
#include "kernels/nvml.h"

#include "fakes/fake_nvml.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static struct fake_nvml *fake, *old;
static void *fake_handle, *old_handle;

static int set_up(void **state) {
    (void)state;
    fake = fake_nvml_open(FAKE_NVML, &fake_handle);
    old = fake_nvml_open(FAKE_NVML_OLD, &old_handle);
    return fake && old ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    const int left_open = fake->opened + old->opened;
    dlclose(fake_handle);
    dlclose(old_handle);
    return left_open;
}

static struct nvml *open_ok(const char *path) {
    struct nvml *n;
    struct error err = {""};
    if (nvml_open(&n, path, &err) != STATUS_OK) fail_msg("%s", err.text);
    return n;
}

static void facts_of_a_gpu_are_told(void **state) {
    (void)state;
    struct nvml *n = open_ok(FAKE_NVML);
    struct nvml_driver driver;
    struct nvml_gpu g;
    nvml_driver(n, &driver);
    assert_string_equal(driver.version, "580.159.04");
    assert_int_equal(driver.cuda_version, 13000);
    assert_int_equal(nvml_count(n), 2);
    assert_true(nvml_gpu(n, 0, &g));
    assert_string_equal(g.name, "NVIDIA H200");
    assert_string_equal(g.uuid, "GPU-aaaaaaaa-0000");
    assert_string_equal(g.bus_id, "00000000:07:00.0");
    assert_int_equal(g.capability, 90);
    assert_true(g.memory_bytes == 150109880320 && g.memory_used_bytes == 569180160);
    assert_true(g.power_limit_w == 700);
    assert_int_equal(g.sm_clock_max_mhz, 1980);
    assert_int_equal(g.memory_clock_max_mhz, 3201);
    assert_true(g.persistence == 1 && g.mig == 0 && g.ecc == 1 && g.nvlinks == 18);
    assert_true(g.pcie_generation == 5 && g.pcie_width == 16);
    assert_false(nvml_gpu(n, 2, &g));
    assert_false(nvml_gpu(n, -1, &g));
    nvml_close(n);
}

static void a_sample_is_what_the_gpu_does_now(void **state) {
    (void)state;
    struct nvml *n = open_ok(FAKE_NVML);
    struct nvml_sample s;
    fake->gpu[1].sm_mhz = 1200;
    nvml_sample(n, 1, &s);
    assert_true(s.sm_clock_mhz == 1200 && s.memory_clock_mhz == 3201 && s.temperature_c == 61);
    assert_true(s.power_w == 650.5 && s.reasons == 4 && s.energy_mj == 5000000000);
    nvml_close(n);
}

static void assert_absent(const struct nvml_sample *s) {
    assert_true(s->sm_clock_mhz == -1 && s->memory_clock_mhz == -1 && s->temperature_c == -1);
    assert_true(isnan(s->power_w) && s->reasons == -1 && s->energy_mj == -1);
}

/* Not supported, no permission, GPU lost: whatever it is. */
static void what_a_gpu_refuses_is_absent(void **state) {
    (void)state;
    static const int results[] = {3, 4, 15, 999};
    struct nvml *n = open_ok(FAKE_NVML);
    for (size_t i = 0; i < sizeof results / sizeof *results; i++) {
        struct nvml_gpu g;
        struct nvml_sample s;
        fake->gpu_result = results[i];
        assert_true(nvml_gpu(n, 0, &g));
        assert_string_equal(g.name, "");
        assert_string_equal(g.uuid, "");
        assert_true(g.capability == -1 && g.memory_bytes == -1 && isnan(g.power_limit_w));
        assert_true(g.sm_clock_max_mhz == -1 && g.persistence == -1 && g.mig == -1 && g.ecc == -1);
        assert_true(g.nvlinks == 0 && g.pcie_generation == -1 && g.pcie_width == -1);
        nvml_sample(n, 0, &s);
        assert_absent(&s);
    }
    struct nvml_gpu g;
    fake->gpu_result = 0;
    assert_true(nvml_gpu(n, 1, &g)); /* this one alone does not tell its width */
    assert_true(g.pcie_generation == 5 && g.pcie_width == -1);
    struct nvml_sample s;
    nvml_sample(n, 7, &s);
    assert_absent(&s);
    nvml_close(n);
}

static void an_old_driver_lacks_functions_and_still_answers(void **state) {
    (void)state;
    struct nvml *n = open_ok(FAKE_NVML_OLD);
    struct nvml_driver driver;
    struct nvml_gpu g;
    struct nvml_sample s;
    nvml_driver(n, &driver);
    assert_int_equal(driver.cuda_version, -1);
    assert_true(nvml_gpu(n, 0, &g));
    assert_string_equal(g.name, "NVIDIA H200");
    assert_true(g.capability == -1 && g.memory_bytes == -1 && g.nvlinks == -1 && g.mig == -1);
    nvml_sample(n, 0, &s);
    assert_true(s.sm_clock_mhz == 1980 && s.reasons == 4); /* by its name of before */
    assert_true(s.energy_mj == -1 && s.temperature_c == -1);
    nvml_close(n);
}

static void assert_not_open(const char *path, const char *part) {
    struct nvml *n = (struct nvml *)fake;
    struct error err = {""};
    assert_int_equal(nvml_open(&n, path, &err), STATUS_UNSUPPORTED);
    assert_null(n);
    if (!strstr(err.text, part)) fail_msg("expected \"%s\" in \"%s\"", part, err.text);
}

static void what_cannot_be_opened_says_why(void **state) {
    (void)state;
    assert_not_open("/nowhere/libnvidia-ml.so.1", "no NVIDIA driver on this machine");
    assert_not_open(FAKE_NVML_BROKEN, "has no function nvmlDeviceGetCount_v2");
    fake->init_result = 9;
    assert_not_open(FAKE_NVML, "not loaded");
    fake->init_result = 18;
    assert_not_open(FAKE_NVML, "different versions");
    fake->init_result = 4;
    assert_not_open(FAKE_NVML, "some error (NVML 4)");
    fake->init_result = 0;
    fake->count_result = 15;
    assert_not_open(FAKE_NVML, "GPU is lost (NVML 15)");
    assert_int_equal(fake->opened, 0);
    nvml_close(NULL);
}

static void a_gpu_is_found_by_uuid_and_by_either_form_of_its_bus_id(void **state) {
    (void)state;
    fake->n = 4;
    struct nvml *n = open_ok(FAKE_NVML);
    assert_int_equal(nvml_find(n, "GPU-bbbbbbbb-1111"), 1);
    assert_int_equal(nvml_find(n, "0000:07:00.0"), 0);
    assert_int_equal(nvml_find(n, "00000001:07:00.0"), 2);
    assert_int_equal(nvml_find(n, "0001:0A:00.0"), 3);
    assert_int_equal(nvml_find(n, "0000:99:00.0"), -1);
    assert_int_equal(nvml_find(n, ""), -1);
    assert_int_equal(nvml_find(n, "0000:07:00.0x"), -1);
    assert_true(nvml_same_bus_id("0000:0a:00.0", "00000000:0A:00.0"));
    assert_false(nvml_same_bus_id("", ""));
    nvml_close(n);
}

static void a_gpu_that_does_not_answer_keeps_its_number(void **state) {
    (void)state;
    fake->gpu[0].name = NULL;
    struct nvml *n = open_ok(FAKE_NVML);
    struct nvml_gpu g;
    struct nvml_sample s;
    assert_int_equal(nvml_count(n), 2);
    assert_false(nvml_gpu(n, 0, &g));
    nvml_sample(n, 0, &s);
    assert_absent(&s);
    assert_int_equal(nvml_find(n, "0000:0a:00.0"), 1);
    nvml_close(n);
}

static void reasons_are_words(void **state) {
    (void)state;
    char text[200], small[8];
    assert_string_equal(nvml_reasons_text(0, text, sizeof text), "none");
    assert_string_equal(nvml_reasons_text(-1, text, sizeof text), "unknown");
    assert_string_equal(nvml_reasons_text(0x4, text, sizeof text), "power cap");
    assert_string_equal(nvml_reasons_text(0x24, text, sizeof text),
                        "power cap, thermal slowdown by software");
    assert_string_equal(nvml_reasons_text(0x1004, text, sizeof text), "power cap, 0x1000");
    assert_string_equal(nvml_reasons_text(0x24, small, sizeof small), "power c");
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(facts_of_a_gpu_are_told),
        TEST(a_sample_is_what_the_gpu_does_now),
        TEST(what_a_gpu_refuses_is_absent),
        TEST(an_old_driver_lacks_functions_and_still_answers),
        TEST(what_cannot_be_opened_says_why),
        TEST(a_gpu_is_found_by_uuid_and_by_either_form_of_its_bus_id),
        TEST(a_gpu_that_does_not_answer_keeps_its_number),
        TEST(reasons_are_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
