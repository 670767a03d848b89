/* cuDNN's attention as far as no GPU is needed: the numbers of its interface are those of its
 * headers where there are any, and the library takes the graph and has kernels for it on a GPU that
 * is only described. Each is skipped, by name, where it has neither. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/attention/cudnn_graph.h"
#include "kernels/gpu_list.h"

#ifdef HAVE_CUDNN_HEADERS
extern const int64_t cudnn_header_numbers[]; /* cudnn_numbers.c, in the order of the table */
#endif

static void the_numbers_are_those_of_the_headers(void **state) {
    (void)state;
#ifdef HAVE_CUDNN_HEADERS
    static const struct {
        const char *name;
        int64_t number;
    } ours[] = {
#define X(name, number) {#name, number},
        CUDNN_NUMBER_TABLE(X)
#undef X
    };
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        if (ours[i].number != cudnn_header_numbers[i])
            fail_msg("%s is %d, in the headers %d", ours[i].name, (int)ours[i].number,
                     (int)cudnn_header_numbers[i]);
#else
    print_message("skipped: built without cuDNN's headers\n");
    skip();
#endif
}

/* ---- the library */

/* What the library would find on an H200. */
static const char h200[] =
    "{\"deviceName\":\"NVIDIA H200\",\"cudaDeviceId\":0,\"deviceVer\":900,\"driverVer\":13000,"
    "\"totalGlobalMem\":150000000000,\"maxGridSize\":[2147483647,65535,65535],"
    "\"maxBlockSize\":[1024,1024,64],\"regsPerBlock\":65536,\"multiProcessorCount\":132,"
    "\"warpSize\":32,\"maxSharedMemoryPerBlock\":49152,\"maxSharedMemoryPerBlockOptin\":232448,"
    "\"reservedSharedMemoryPerBlock\":1024,\"maxRegistersPerSM\":65536,\"maxCtasPerSM\":32,"
    "\"maxThreadsPerBlock\":1024,\"maxThreadsPerSM\":2048,\"pciDeviceId\":0,\"isTccDriver\":0,"
    "\"supportCoopLaunch\":1,\"smClockRateKHz\":1980000,\"memClockRateKHz\":3201000,"
    "\"l2CacheSize\":62914560}";

static const struct cudnn *library(void) {
    const char *why;
    const struct cudnn *lib = cudnn_library(&why);
    if (!lib) {
        print_message("skipped: %s\n", why);
        skip();
    }
    return lib;
}

static void must(const struct cudnn *lib, cudnn_status e, const char *what) {
    struct error err = {""};
    if (e == 0) return;
    cudnn_failed(lib, e, what, &err);
    fail_msg("%s", err.text);
}

/* How many kernels the library proposes on that GPU. */
static int64_t proposals(struct cudnn_graph *g) {
    const struct cudnn *lib = g->lib;
    const int mode = CUDNN_HEUR_MODE_A;
    int64_t n = 0;
    cudnn_descriptor gpu = cudnn_graph_make(g, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
    cudnn_descriptor ask = cudnn_graph_make(g, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    must(lib,
         lib->set(gpu, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, sizeof h200,
                  h200),
         "description of a GPU");
    must(lib, lib->finalize(gpu), "description of a GPU");
    must(lib,
         lib->set(ask, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                  &g->graph),
         "graph");
    must(lib, lib->set(ask, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode), "mode");
    must(lib,
         lib->set(ask, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &gpu),
         "GPU");
    must(lib, lib->finalize(ask), "asking for kernels");
    must(lib,
         lib->get(ask, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, 0, &n, NULL),
         "kernels");
    return n;
}

static void the_library_has_kernels_for_the_graph(void **state) {
    static const struct cudnn_shape shapes[] = {
        {8192, 65536, 28, 4, 128, 28 * 128, 28 * 128},
        {131072, 1048704, 28, 4, 128, 28 * 128, 28 * 128},
        {131072, 1048704, 7, 1, 128, 7 * 128, 7 * 128},
        {8192, 614400, 16, 4, 64, 16 * 64, 16 * 64},
        {1, 256, 28, 4, 128, 28 * 128, 28 * 128},
        {130, 640, 4, 4, 128, 4 * 128 + 8, 4 * 128 + 64},
    };
    const struct cudnn *lib = library();
    (void)state;
    if (lib->version < 90800) skip(); /* takes no description of a GPU */
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct cudnn_graph g;
        struct error err = {""};
        if (cudnn_graph_open(&g, lib, NULL, &shapes[i], &err) != STATUS_OK)
            fail_msg("shape %zu: %s", i, err.text);
        if (proposals(&g) < 1) fail_msg("shape %zu: the library has no kernel", i);
        cudnn_graph_close(&g);
    }
}

/* A matrix with less than no columns. */
static void what_is_no_attention_fails_in_the_librarys_words(void **state) {
    const struct cudnn *lib = library();
    const struct cudnn_shape odd = {128, 256, 4, 4, -1, 512, 512};
    struct cudnn_graph g;
    struct error err = {""};
    (void)state;
    assert_int_equal(cudnn_graph_open(&g, lib, NULL, &odd, &err), STATUS_RUN_FAILED);
    if (!strstr(err.text, "CUDNN_STATUS_")) fail_msg("%s", err.text);
    cudnn_graph_close(&g);
    assert_int_equal(g.n, 0);
}

static void the_version_is_the_librarys(void **state) {
    const struct cudnn *lib = library();
    (void)state;
    assert_true(lib->version >= 90000 && lib->version < 100000);
    assert_true(cuda_dnn_version() == lib->version);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_numbers_are_those_of_the_headers),
        cmocka_unit_test(the_library_has_kernels_for_the_graph),
        cmocka_unit_test(what_is_no_attention_fails_in_the_librarys_words),
        cmocka_unit_test(the_version_is_the_librarys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
