/* `bench test`: runs the tests of the build that this program came from. The wrapper script has
 * built them by then. --all also builds and tests with the sanitizers and with clang. */
#include "harness/arguments.h"
#include "harness/bench.h"
#include "harness/data_dir.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* Folder of the running program: the build folder. */
static bool build_folder(char out[PATH_MAX]) {
    ssize_t n = readlink("/proc/self/exe", out, PATH_MAX - 1);
    if (n <= 0) return false;
    out[n] = 0;
    char *slash = strrchr(out, '/');
    if (slash) *slash = 0;
    return slash != NULL;
}

/* ctest's files name the folders that they were made in: those of a tree that was moved or copied
 * since would run the tests of another one. */
static bool has_tests(const char *build) {
    char marker[PATH_MAX + 32], data[PATH_MAX];
    struct stat here, there;
    snprintf(marker, sizeof marker, "%s/CTestTestfile.cmake", build);
    return access(marker, R_OK) == 0 && bench_data_dir(data, sizeof data) &&
           stat(data, &here) == 0 && stat(BENCH_SOURCE_DIR, &there) == 0 &&
           here.st_dev == there.st_dev && here.st_ino == there.st_ino;
}

/* Runs a program to its end: 0, or "run failed" whatever its own code was. */
static int execute(char **argv) {
    struct error err;
    int status = 0;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        execvp(argv[0], argv);
        fprintf(stderr, "bench test: cannot execute %s: %s\n", argv[0], strerror(errno));
        _exit(127);
    }
    if (pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    error_set(&err, STATUS_RUN_FAILED, "not all tests passed");
    return bench_fail("test", STATUS_RUN_FAILED, &err);
}

int cmd_test(int argc, char **argv, const struct bench_hooks *hooks) {
    (void)hooks;
    bool all = false, verbose = false;
    const char *only = NULL;
    const struct argument arguments[] = {
        {"--all", ARGUMENT_FLAG, &all, NULL,
         "also build and test with asan, ubsan, tsan and clang"},
        {"--only", ARGUMENT_VALUE, &only, "REGEX", "only tests whose name matches"},
        {"--verbose", ARGUMENT_FLAG, &verbose, NULL, "print what the tests print"},
    };
    const struct command_line line = {
        .command = "test",
        .operands = "",
        .purpose = "Runs the tests: those for everybody (minutes, on any machine), or all.\n"
                   "Exits with 0 when all pass, else as ctest does.",
        .arguments = arguments,
        .n = sizeof arguments / sizeof arguments[0],
    };
    struct argument_list operands;
    int code = arguments_parse(&line, argc, argv, &operands);
    if (code >= 0) return code;

    char build[PATH_MAX];
    struct error err;
    if (!build_folder(build) || !has_tests(build)) {
        error_set(&err, STATUS_RUN_FAILED,
                  "this program was built without its tests, or was moved since; run ./bench test "
                  "in the source folder");
        return bench_fail("test", STATUS_RUN_FAILED, &err);
    }
    if (all)
        return execute((char *[]){"sh", BENCH_SOURCE_DIR "/tests/run_all.sh", build,
                                  only ? (char *)only : ".", NULL});
    return execute((char *[]){"ctest", "--test-dir", build, "--label-regex", "fast",
                              "--tests-regex", only ? (char *)only : ".", "--no-tests=error",
                              verbose ? "--verbose" : "--output-on-failure", NULL});
}
