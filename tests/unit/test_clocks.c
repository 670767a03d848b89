/* clocks.c over a driver's library that tests describe: what stands in a chunk's row, by which GPU,
 * and that nothing is recorded where nothing is told. */
#include "harness/clocks.h"

#include "fakes/fake_nvml.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

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

static struct engine_info info_of(int devices, const char *a, const char *b) {
    struct engine_info info = {.devices = devices};
    snprintf(info.device[0].bus_id, sizeof info.device[0].bus_id, "%s", a);
    snprintf(info.device[1].bus_id, sizeof info.device[1].bus_id, "%s", b);
    return info;
}

static void pause_ms(long ms) {
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

static void a_short_chunk_has_its_end_and_its_energy(void **state) {
    (void)state;
    const struct engine_info info = info_of(1, "0000:0a:00.0", "");
    struct clocks *c = clocks_open(info.device, info.devices, FAKE_NVML);
    struct clock_row row;
    assert_non_null(c);
    clocks_begin(c);
    fake->gpu[1].energy_mj += 1500;
    fake->gpu[0].energy_mj += 9999; /* another GPU */
    fake->gpu[1].sm_mhz = 1700;
    clocks_end(c);
    assert_true(clocks_row(c, 0, &row));
    assert_false(clocks_row(c, 1, &row));
    assert_true(clocks_row(c, 0, &row));
    assert_int_equal(row.device, 0);
    assert_int_equal(row.samples, 1);
    assert_int_equal(row.energy_mj, 1500);
    assert_true(row.sm_clock_mhz == 1700 && row.sm_clock_min_mhz == 1700);
    assert_true(row.sm_clock_mean_mhz == 1700 && row.power_w == 650.5 && row.power_mean_w == 650.5);
    assert_true(row.memory_clock_mhz == 3201 && row.temperature_c == 61);
    assert_true(row.throttle_reasons == 4 && row.throttle_reasons_seen == 4);
    clocks_close(c);
}

/* The clock falls in the middle, and is back at the end. The begin reads the energy alone. */
static void a_long_chunk_has_means_and_the_least(void **state) {
    (void)state;
    const struct engine_info info = info_of(1, "00000000:07:00.0", "");
    struct clocks *c = clocks_open(info.device, info.devices, FAKE_NVML);
    struct clock_row row;
    assert_non_null(c);
    fake->sm_mhz_of[0] = 1000;
    fake->gpu[0].reasons = 0x20;
    clocks_begin(c);
    pause_ms(4 * CLOCKS_PERIOD_MS);
    fake->gpu[0].energy_mj += 7000; /* what a sample is too old for */
    clocks_end(c);
    assert_true(clocks_row(c, 0, &row));
    assert_true(row.samples >= 2 && row.samples <= 4 && row.energy_mj == 7000);
    assert_int_equal(row.sm_clock_mhz, 1980);
    assert_int_equal(row.sm_clock_min_mhz, 1000);
    const double mean = (1000 + (row.samples - 1) * 1980.0) / row.samples;
    assert_true(fabs(row.sm_clock_mean_mhz - mean) < 1e-9);
    assert_int_equal(row.throttle_reasons_seen, 0x20);
    fake->gpu[0].reasons = 0;
    clocks_begin(c); /* the next chunk knows nothing of this one */
    clocks_end(c);
    assert_true(clocks_row(c, 0, &row));
    assert_int_equal(row.sm_clock_min_mhz, 1980);
    assert_int_equal(row.throttle_reasons_seen, 0);
    clocks_close(c);
}

static void every_gpu_of_the_engine_has_a_row(void **state) {
    (void)state;
    const struct engine_info info = info_of(2, "0000:0a:00.0", "0000:07:00.0");
    struct clocks *c = clocks_open(info.device, info.devices, FAKE_NVML);
    struct clock_row a, b;
    assert_non_null(c);
    fake->gpu[0].temperature = 70;
    clocks_begin(c);
    clocks_end(c);
    assert_true(clocks_row(c, 0, &a) && clocks_row(c, 1, &b));
    assert_true(a.device == 0 && a.temperature_c == 61);
    assert_true(b.device == 1 && b.temperature_c == 70);
    clocks_close(c);
}

static void what_the_driver_does_not_tell_is_absent(void **state) {
    (void)state;
    const struct engine_info info = info_of(1, "0000:07:00.0", "");
    struct clock_row row;
    struct clocks *c = clocks_open(info.device, info.devices, FAKE_NVML_OLD); /* knows no energy */
    assert_non_null(c);
    clocks_begin(c);
    clocks_end(c);
    assert_true(clocks_row(c, 0, &row));
    assert_true(row.energy_mj == -1 && row.temperature_c == -1 && row.sm_clock_mhz == 1980);
    clocks_close(c);
    c = clocks_open(info.device, info.devices, FAKE_NVML);
    assert_non_null(c);
    clocks_begin(c);
    fake->gpu_result = 15; /* the GPU is lost in the middle of the chunk */
    clocks_end(c);
    assert_true(clocks_row(c, 0, &row));
    assert_true(row.energy_mj == -1 && row.sm_clock_mhz == -1 && row.sm_clock_min_mhz == -1);
    assert_true(isnan(row.sm_clock_mean_mhz) && isnan(row.power_mean_w));
    assert_int_equal(row.throttle_reasons_seen, -1);
    clocks_close(c);
}

static void without_a_gpu_or_a_driver_nothing_is_recorded(void **state) {
    (void)state;
    struct clock_row row;
    const struct engine_info cpu = info_of(1, "", ""), gpu = info_of(1, "0000:07:00.0", "");
    const struct engine_info other = info_of(1, "0000:99:00.0", "");
    assert_null(clocks_open(cpu.device, cpu.devices, FAKE_NVML));
    assert_null(clocks_open(gpu.device, gpu.devices, "/nowhere/libnvidia-ml.so.1"));
    assert_null(clocks_open(other.device, other.devices, FAKE_NVML));
    clocks_begin(NULL);
    clocks_end(NULL);
    assert_false(clocks_row(NULL, 0, &row));
    clocks_close(NULL);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(a_short_chunk_has_its_end_and_its_energy),
        TEST(a_long_chunk_has_means_and_the_least),
        TEST(every_gpu_of_the_engine_has_a_row),
        TEST(what_the_driver_does_not_tell_is_absent),
        TEST(without_a_gpu_or_a_driver_nothing_is_recorded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
