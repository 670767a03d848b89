/* `bench fetch`: fills the cache of prompts from the web, and lists it. Under it: fetch.c. */
#include "harness/arguments.h"
#include "harness/bench.h"
#include "harness/fetch.h"
#include "harness/format.h"
#include "harness/interrupt.h"
#include "harness/jsondoc.h"
#include "harness/options.h"
#include "harness/table.h"
#include "harness/terminal.h"

#include <stdlib.h>
#include <string.h>

struct request {
    struct argument_list prompts;
    const char *timeout, *retries, *max_bytes;
    bool force, json;
    struct config config; /* its [prompt] */
};

static int parse(struct request *r, int argc, char **argv) {
    const struct argument arguments[] = {
        {"--force", ARGUMENT_FLAG, &r->force, NULL, "fetch again what is there"},
        {"--timeout", ARGUMENT_VALUE, &r->timeout, "SECONDS",
         "to connect, and of silence; default 5"},
        {"--retries", ARGUMENT_VALUE, &r->retries, "N", "after a first try that fails; default 3"},
        {"--max-bytes", ARGUMENT_VALUE, &r->max_bytes, "N", "of a prompt; default 64m"},
        {"--json", ARGUMENT_FLAG, &r->json, NULL, "print one JSON object on stdout"},
    };
    const struct command_line line = {
        .command = "fetch",
        .operands = "[PROMPT...]",
        .purpose =
            "Fetches prompts from the web into the cache, as `bench plan` and `bench run` do\n"
            "when they need one. A PROMPT is an http or https address, url:ADDRESS, or one\n"
            "of the published test prompts qwen:64k, qwen:200k, qwen:600k, qwen:1m.\n"
            "Without one: lists the cache. A fetch that was cut off, or stopped by Ctrl-C,\n"
            "goes on where it ended. Proxies come from the environment (https_proxy).\n"
            "Exits with 0, 2 usage, 6 network or storage, 130 interrupted.",
        .arguments = arguments,
        .n = sizeof arguments / sizeof arguments[0],
        .most = ARGUMENT_LIST_MAX,
    };
    return arguments_parse(&line, argc, argv, &r->prompts);
}

/* An option of the command as its key of a configuration. */
static enum status take_option(struct config *c, const char *name, const char *key,
                               const char *text, struct error *err) {
    char found[300], expected[400];
    if (!text) return STATUS_OK;
    const struct option *o = &option_table(&(int){0})[option_find("prompt", key)];
    if (option_parse(o, text, c, found)) return STATUS_OK;
    option_expected(o, expected);
    return error_set(err, STATUS_USAGE, "%s: found %s, expected %s", name, found, expected);
}

static enum status take_options(struct request *r, struct error *err) {
    config_defaults(&r->config);
    enum status s = take_option(&r->config, "--timeout", "timeout_s", r->timeout, err);
    if (s == STATUS_OK) s = take_option(&r->config, "--retries", "retries", r->retries, err);
    if (s == STATUS_OK) s = take_option(&r->config, "--max-bytes", "max_bytes", r->max_bytes, err);
    return s;
}

/* "https://..." is short for "url:https://...". */
static enum status source_of(const char *operand, char out[NAME_MAX_BYTES], struct error *err) {
    char url[URL_MAX_BYTES];
    const bool bare = strstr(operand, "://") && !prompt_is_remote(operand);
    if ((size_t)snprintf(out, NAME_MAX_BYTES, "%s%s", bare ? "url:" : "", operand) >=
        NAME_MAX_BYTES)
        return error_set(err, STATUS_USAGE, "an address of %zu bytes, expected at most %d",
                         strlen(operand), URL_MAX_BYTES - 1);
    return prompt_url(out, url, err);
}

/* ---- what is there */

static void add_row(struct table *t, const struct cached_prompt *p) {
    static const enum tone tones[] = {TONE_FAINT, TONE_DOUBTFUL, TONE_GOOD,
                                      TONE_GOOD,  TONE_BAD,      TONE_BAD};
    char bytes[FORMAT_BYTES];
    if (p->state == CACHED_PART && p->total_bytes > 0)
        table_add(t, TONE_DOUBTFUL, "part, %d %%",
                  (int)(100.0 * (double)p->bytes / (double)p->total_bytes));
    else
        table_add(t, tones[p->state], "%s", cached_state_text(p->state));
    table_add(t, TONE_PLAIN, "%s",
              p->state == CACHED_NOTHING ? "-" : format_count(bytes, p->bytes));
    table_add(t, TONE_PLAIN, "%.10s", p->fetched_utc[0] ? p->fetched_utc : "-");
    table_add(t, TONE_PLAIN, "%.16s", p->sha256[0] ? p->sha256 : "-");
    table_add(t, TONE_PLAIN, "%s", p->name);
    table_add(t, TONE_PLAIN, "%s", p->source[0] ? p->source : "-");
}

static enum status print_table(const struct cached_prompt *list, int n, struct error *err) {
    const struct table_column columns[] = {
        {"state", "", true, false},  {"size", "bytes", false, false}, {"fetched", "", true, false},
        {"sha256", "", true, false}, {"file", "", true, false},       {"prompt", "", true, false},
    };
    struct table *t = table_open(columns, sizeof columns / sizeof columns[0]);
    if (!t) return error_set(err, STATUS_NO_MEMORY, "no memory for the table");
    for (int i = 0; i < n; i++) add_row(t, &list[i]);
    table_print(stdout, t, "", 0, terminal_colored(stdout, false));
    table_close(t);
    return STATUS_OK;
}

static void put_prompt(struct jsondoc *d, const struct cached_prompt *p) {
    const bool known = p->state != CACHED_NOTHING;
    jsondoc_put_text(d, "prompt", p->source[0] ? p->source : NULL);
    jsondoc_put_text(d, "url", p->url[0] ? p->url : NULL);
    jsondoc_put_text(d, "file", p->file);
    jsondoc_put_text(d, "state", cached_state_text(p->state));
    jsondoc_put_text(d, "why", p->why.text[0] ? p->why.text : NULL);
    jsondoc_put_int(d, "bytes", known ? p->bytes : 0);
    jsondoc_put_text(d, "sha256", p->sha256[0] ? p->sha256 : NULL);
    jsondoc_put_text(d, "etag", p->etag[0] ? p->etag : NULL);
    jsondoc_put_text(d, "fetched_utc", p->fetched_utc[0] ? p->fetched_utc : NULL);
}

static enum status print_json(const struct cached_prompt *list, int n, const char *folder,
                              struct error *err) {
    struct jsondoc *d = jsondoc_object();
    jsondoc_put_text(d, "schema", "chunkbench prompts");
    jsondoc_put_int(d, "schema_version", 1);
    jsondoc_put_text(d, "folder", folder);
    struct jsondoc *prompts = jsondoc_put_array(d, "prompts");
    for (int i = 0; i < n; i++) put_prompt(jsondoc_add_object(prompts), &list[i]);
    char *text = jsondoc_text(d);
    jsondoc_close(d);
    if (!text) return error_set(err, STATUS_NO_MEMORY, "no memory for the list as JSON");
    puts(text);
    free(text);
    return STATUS_OK;
}

static enum status print_list(const struct request *r, const struct cached_prompt *list, int n,
                              const char *folder, struct error *err) {
    if (r->json) return print_json(list, n, folder, err);
    if (n == 0) {
        printf("no prompts in %s; `bench fetch qwen:64k` fetches one\n", folder);
        return STATUS_OK;
    }
    const enum status s = print_table(list, n, err);
    for (int i = 0; i < n; i++)
        if (list[i].state == CACHED_UNUSABLE) printf("%s\n", list[i].why.text);
    if (s == STATUS_OK) printf("in %s\n", folder);
    return s;
}

static enum status list_all(const struct request *r, struct error *err) {
    struct cached_prompt *list;
    char folder[PATH_MAX_BYTES];
    int n;
    enum status s = prompt_cache_list(&list, &n, folder, err);
    if (s == STATUS_OK) s = print_list(r, list, n, folder, err);
    free(list);
    return s;
}

/* ---- the command */

/* All of them, though one fails: its error is said at once, and the worst status is returned. */
static enum status fetch_all(const struct request *r, char (*sources)[NAME_MAX_BYTES],
                             struct cached_prompt *list, const volatile int *interrupts) {
    const struct fetch_screen screen = {"fetch", stderr, terminal_obeys(stderr)};
    enum status worst = STATUS_OK;
    for (int i = 0; i < r->prompts.n && worst != STATUS_INTERRUPTED; i++) {
        struct error err = {""};
        bool fetched;
        const enum status s = fetch_prompt(sources[i], &r->config, r->force, &screen, interrupts,
                                           &list[i], &fetched, &err);
        if (s == STATUS_OK) continue;
        bench_fail("fetch", s, &err);
        if (worst == STATUS_OK || s == STATUS_INTERRUPTED) worst = s;
    }
    return worst;
}

/* What became of the prompts that were asked for: looked up anew, a failed one too. */
static enum status tell(const struct request *r, char (*sources)[NAME_MAX_BYTES],
                        struct cached_prompt *list, struct error *err) {
    char folder[PATH_MAX_BYTES];
    int n = 0;
    for (int i = 0; i < r->prompts.n; i++)
        if (prompt_cache_look(sources[i], &list[n], NULL, NULL) == STATUS_OK) n++;
    if (n == 0) return STATUS_OK;
    snprintf(folder, sizeof folder, "%.*s", (int)(strlen(list[0].file) - strlen(list[0].name) - 1),
             list[0].file);
    return print_list(r, list, n, folder, err);
}

static int fetch(struct request *r) {
    struct error err = {""};
    char(*sources)[NAME_MAX_BYTES] = calloc((size_t)r->prompts.n, sizeof *sources);
    struct cached_prompt *list = calloc((size_t)r->prompts.n, sizeof *list);
    enum status s = sources && list ? STATUS_OK : STATUS_NO_MEMORY, fetched = STATUS_OK;
    for (int i = 0; s == STATUS_OK && i < r->prompts.n; i++)
        s = source_of(r->prompts.v[i], sources[i], &err);
    if (s == STATUS_OK) {
        fetched = fetch_all(r, sources, list, interrupt_catch());
        s = tell(r, sources, list, &err);
    }
    free(sources);
    free(list);
    if (s != STATUS_OK) return bench_fail("fetch", s, &err);
    return status_exit_code(fetched);
}

int cmd_fetch(int argc, char **argv, const struct bench_hooks *hooks) {
    (void)hooks;
    struct request *r = calloc(1, sizeof *r); /* a configuration is too large for the stack */
    struct error err = {""};
    if (!r) return bench_fail("fetch", STATUS_NO_MEMORY, &err);
    int code = parse(r, argc, argv);
    if (code < 0) {
        enum status s = take_options(r, &err);
        if (s == STATUS_OK && r->prompts.n == 0) s = list_all(r, &err);
        if (s != STATUS_OK)
            code = bench_fail("fetch", s, &err);
        else
            code = r->prompts.n > 0 ? fetch(r) : 0;
    }
    free(r);
    return code;
}
