/* `bench export`: a result file in the format of another tool. */
#include "harness/arguments.h"
#include "harness/bench.h"
#include "harness/export.h"

int cmd_export(int argc, char **argv, const struct bench_hooks *hooks) {
    (void)hooks;
    bool llama_bench = false;
    const struct argument arguments[] = {
        {"--llama-bench", ARGUMENT_FLAG, &llama_bench, NULL,
         "JSON as `llama-bench -o json` prints it"},
    };
    const struct command_line line = {
        .command = "export",
        .operands = "FILE",
        .purpose =
            "Prints a result file that `bench run` left in the format of another tool.\n"
            "Cases that were estimated, did not end well or have a wrong output are left\n"
            "out, and named on stderr. Exits with 0, 4 when that leaves nothing, or 6 for a\n"
            "file that is missing, damaged or of another version.",
        .arguments = arguments,
        .n = sizeof arguments / sizeof arguments[0],
        .least = 1,
        .most = 1,
    };
    struct argument_list operands;
    struct record_run run;
    struct error err = {""};
    int code = arguments_parse(&line, argc, argv, &operands);
    if (code >= 0) return code;
    if (!llama_bench) {
        error_set(&err, STATUS_USAGE, "which format? expected --llama-bench");
        return bench_fail("export", STATUS_USAGE, &err);
    }
    enum status s = record_read_run(operands.v[0], &run, &err);
    if (s == STATUS_OK) {
        if (export_llama_bench(stdout, stderr, &run) == 0)
            s = error_set(&err, STATUS_INVALID, "%s: no case was measured in full", operands.v[0]);
        record_run_free(&run);
    }
    return s == STATUS_OK ? 0 : bench_fail("export", s, &err);
}
