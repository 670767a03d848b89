/* What the pages have in common, and `bench describe`. Before it: the tables; after it:
 * describe_man.c and describe_shells.c, whose pages CMake installs. */
#include "harness/describe.h"

#include "harness/bench.h"
#include "harness/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct describe_page *describe_page(int i) {
    static const struct describe_page *const pages[] = {&describe_man, &describe_bash,
                                                        &describe_zsh, &describe_fish};
    return i >= 0 && i < (int)(sizeof pages / sizeof *pages) ? pages[i] : NULL;
}

static const struct describe_page *find(const char *name) {
    const struct describe_page *page;
    for (int i = 0; (page = describe_page(i)) != NULL; i++)
        if (strcmp(page->name, name) == 0) return page;
    return NULL;
}

bool describe_part(const char *name, const struct command_line *c) {
    const struct describe_page *page = find(name);
    if (page) page->part(c);
    return page != NULL;
}

enum describe_kind describe_kind(const char *value, bool of_option) {
    static const struct {
        const char *name;
        enum describe_kind of_option, operand;
    } kinds[] = {
        {"FILE", DESCRIBE_FILE, DESCRIBE_RESULT},
        {"DIR", DESCRIBE_FOLDER, DESCRIBE_FOLDER},
        {"CONFIG", DESCRIBE_CONFIG, DESCRIBE_CONFIG},
        {"RUN.h5", DESCRIBE_RESULT, DESCRIBE_RESULT},
        {"PROMPT", DESCRIBE_PROMPT, DESCRIBE_PROMPT},
        {"SECTION.KEY=VALUE", DESCRIBE_KEY, DESCRIBE_KEY},
    };
    value += *value == '[';
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        const size_t n = strlen(kinds[i].name);
        if (strncmp(value, kinds[i].name, n) == 0 &&
            strspn(value + n, ".]") == strcspn(value + n, " "))
            return of_option ? kinds[i].of_option : kinds[i].operand;
    }
    return strchr(value, '|') ? DESCRIBE_WORDS : DESCRIBE_NOTHING;
}

char *describe_keys(void) {
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    struct option_info o;
    if (!out) return NULL;
    for (int i = 0; config_option(i, &o); i++) {
        fprintf(out, " %s.%s=", o.section, o.key);
        for (const char *word = o.choices; word && *word;) {
            const int n = (int)strcspn(word, "|");
            fprintf(out, " %s.%s=%.*s", o.section, o.key, n, word);
            word += n + (word[n] == '|');
        }
    }
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

/* ---- the command */

static void print(const struct describe_page *page, const struct bench_hooks *hooks) {
    char part[64];
    snprintf(part, sizeof part, "--help=%s", page->name);
    page->head();
#define X(name, text) cmd_##name(2, (char *[]){#name, part, NULL}, hooks);
    SUBCOMMAND_TABLE(X)
#undef X
    page->foot();
}

int cmd_describe(int argc, char **argv, const struct bench_hooks *hooks) {
    const struct command_line line = {
        .command = "describe",
        .operands = "man|bash|zsh|fish",
        .purpose = "Prints the manual page, or what completes this command's line in a shell.\n"
                   "An installed program has brought all of them. To try one here:\n"
                   "  . <(bench describe bash)        bench describe man | man -l -\n"
                   "  bench describe fish | source",
        .least = 1,
        .most = 1,
    };
    struct argument_list operands;
    const int code = arguments_parse(&line, argc, argv, &operands);
    if (code >= 0) return code;
    const struct describe_page *page = find(operands.v[0]);
    if (!page)
        return bench_fail_usage("describe", "expected man, bash, zsh or fish, found",
                                operands.v[0]);
    print(page, hooks);
    return 0;
}
