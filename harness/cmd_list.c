/* `bench list`: what there is to choose from. */
#include "harness/arguments.h"
#include "harness/bench.h"
#include "harness/config.h"
#include "harness/data_dir.h"
#include "harness/table.h"
#include "harness/terminal.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int list_models(void) {
    const char *name, *description;
    for (int i = 0; engine_builtin_model(i, &name, &description); i++)
        printf("%-28s %s\n", name, description);
    puts("\nCheckpoints on disk are not read by this version.");
    return 0;
}

static int list_kernels(void) {
    const struct table_column columns[] = {{"op", "", true, false},
                                           {"kernel", "", true, false},
                                           {"device", "", true, false},
                                           {"needs", "", true, false},
                                           {"here", "", true, false}};
    struct table *t = table_open(columns, sizeof columns / sizeof columns[0]);
    struct variant_info v;
    for (int i = 0; variant_info(i, &v); i++) {
        table_add(t, TONE_PLAIN, "%s", op_name(v.op));
        table_add(t, TONE_PLAIN, "%s", v.name);
        table_add(t, TONE_PLAIN, "%s", v.device);
        table_add(t, TONE_PLAIN, "%s", *v.needs ? v.needs : "-");
        table_add(t, TONE_PLAIN, "%s%s", v.usable ? "yes" : "no: ", v.usable ? "" : v.why_not);
    }
    if (!t) return bench_fail("list", STATUS_NO_MEMORY, &(struct error){"no memory"});
    table_print(stdout, t, "", terminal_width(stdout, 0), false);
    table_close(t);
    return 0;
}

static int list_options(bool markdown) {
    if (markdown) {
        char *page = config_reference_page();
        if (!page) return bench_fail("list", STATUS_NO_MEMORY, &(struct error){"no memory"});
        fputs(page, stdout);
        free(page);
        return 0;
    }
    struct option_info o;
    const char *section = "";
    for (int i = 0; config_option(i, &o); i++) {
        if (strcmp(section, o.section) != 0) printf("%s[%s]\n", *section ? "\n" : "", o.section);
        section = o.section;
        printf("  %s = %s   (%s%s%s%s)\n", o.key, o.fallback, o.type, *o.range ? ": " : "", o.range,
               o.axis ? "; axis" : "");
        fputs("    ", stdout);
        print_wrapped(stdout, o.help, 4);
    }
    return 0;
}

/* ---- configurations: the first comment of each file is its question */

static int is_ini(const struct dirent *entry) {
    const size_t n = strlen(entry->d_name);
    return n > 4 && !strcmp(entry->d_name + n - 4, ".ini");
}

static void print_question(const char *folder, const char *name) {
    char path[2 * PATH_MAX_BYTES], line[400] = "";
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "re");
    if (file && !fgets(line, sizeof line, file)) line[0] = 0;
    if (file) fclose(file);
    const char *text = line + strspn(line, "#; ");
    printf("%s/%-24s %.*s\n", folder, name, (int)strcspn(text, "\r\n"), text);
}

static int list_configs(void) {
    struct dirent **names;
    struct error err;
    char folder[PATH_MAX_BYTES + 16] = "configs", data[PATH_MAX_BYTES];
    int n = scandir(folder, &names, is_ini, alphasort);
    if (n < 0 && errno == ENOENT && bench_data_dir(data, sizeof data)) {
        snprintf(folder, sizeof folder, "%s/configs", data);
        n = scandir(folder, &names, is_ini, alphasort);
    }
    if (n < 0) {
        error_set(&err, STATUS_IO, "cannot read %s: %s", folder, strerror(errno));
        return bench_fail("list", STATUS_IO, &err);
    }
    for (int i = 0; i < n; i++) {
        print_question(folder, names[i]->d_name);
        free(names[i]);
    }
    free(names);
    return 0;
}

int cmd_list(int argc, char **argv, const struct bench_hooks *hooks) {
    (void)hooks;
    bool markdown = false;
    const struct argument arguments[] = {
        {"--markdown", ARGUMENT_FLAG, &markdown, NULL, "options as the reference page"},
    };
    const struct command_line line = {
        .command = "list",
        .operands = "models|kernels|options|configs",
        .purpose = "Lists one of these:\n"
                   "  models   that need no download, for [model] path\n"
                   "  kernels  of this program, and which can run here\n"
                   "  options  every key of a configuration\n"
                   "  configs  of this folder, with the question that each answers",
        .arguments = arguments,
        .n = 1,
        .least = 1,
        .most = 1,
    };
    struct argument_list operands;
    const int code = arguments_parse(&line, argc, argv, &operands);
    if (code >= 0) return code;
    const char *what = operands.v[0];
    if (markdown && strcmp(what, "options") != 0)
        return bench_fail_usage("list", "--markdown is for options, not for", what);
    if (!strcmp(what, "models")) return list_models();
    if (!strcmp(what, "kernels")) return list_kernels();
    if (!strcmp(what, "options")) return list_options(markdown);
    if (!strcmp(what, "configs")) return list_configs();
    return bench_fail_usage("list", "expected models, kernels, options or configs, found", what);
}
