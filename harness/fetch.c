/* Fetching with somebody looking on. See fetch.h. */
#include "harness/fetch.h"

#include "harness/format.h"

#include <stdarg.h>
#include <time.h>

/* What is on the screen of one fetch. */
struct showing {
    const struct fetch_screen *screen;
    const char *source;
    bool drawn; /* the live line stands there */
    double began_s;
    int64_t began_bytes; /* what an earlier fetch had brought; -1: not seen yet */
};

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void clear(struct showing *s) {
    if (s->drawn) fputs("\r\033[K", s->screen->stream);
    s->drawn = false;
}

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
static void
say(struct showing *s, const char *format, ...) {
    va_list ap;
    if (!s->screen->stream) return;
    clear(s);
    fprintf(s->screen->stream, "bench %s: ", s->screen->command);
    va_start(ap, format);
    vfprintf(s->screen->stream, format, ap);
    va_end(ap);
    fputc('\n', s->screen->stream);
    fflush(s->screen->stream);
}

/* "qwen:600k  1.20 MiB of 2.40 MiB, 50 %, 3.10 MB/s" */
static void on_progress(void *ctx, int64_t bytes, int64_t total) {
    struct showing *s = ctx;
    char a[FORMAT_BYTES], b[FORMAT_BYTES], rate[FORMAT_BYTES];
    const double now = now_s();
    if (s->began_bytes < 0 || bytes < s->began_bytes) s->began_bytes = bytes, s->began_s = now;
    if (!s->screen->stream || !s->screen->live) return;
    clear(s);
    FILE *out = s->screen->stream;
    fprintf(out, "%.40s  %s", s->source, format_bytes(a, bytes));
    if (total > 0)
        fprintf(out, " of %s, %d %%", format_bytes(b, total),
                (int)(100.0 * (double)bytes / (double)total));
    if (now - s->began_s > 0.2)
        fprintf(out, ", %s",
                format_rate(rate, (double)(bytes - s->began_bytes) / (now - s->began_s), "B/s"));
    fflush(out);
    s->drawn = true;
}

static void on_retry(void *ctx, const char *why, double wait_s) {
    struct showing *s = ctx;
    char wait[FORMAT_BYTES];
    if (wait_s > 0)
        say(s, "%s: %s; again in %s", s->source, why, format_seconds(wait, wait_s));
    else
        say(s, "%s: %s; again from the first byte", s->source, why);
}

static void on_waiting(void *ctx) {
    struct showing *s = ctx;
    say(s, "%s: another process fetches it; waiting for that", s->source);
}

enum status fetch_prompt(const char *source, const struct config *c, bool anew,
                         const struct fetch_screen *screen, const volatile int *interrupts,
                         struct cached_prompt *out, bool *fetched, struct error *err) {
    char bytes[FORMAT_BYTES];
    struct showing s = {.screen = screen, .source = source, .began_bytes = -1};
    const struct prompt_fetch how = {.timeout_s = c->prompt_timeout_s,
                                     .retries = (int)c->prompt_retries,
                                     .most_bytes = c->prompt_max_bytes,
                                     .anew = anew,
                                     .interrupts = interrupts,
                                     .observer = {on_progress, on_retry, &s},
                                     .waiting = on_waiting};
    enum status status = prompt_cache_look(source, out, NULL, err);
    if (status != STATUS_OK) return status;
    if (anew || out->state == CACHED_NOTHING || out->state == CACHED_PART ||
        out->state == CACHED_DAMAGED)
        say(&s, "fetching %s%s%s", out->url,
            out->state == CACHED_DAMAGED ? ": the file that is there is damaged" : "",
            out->state == CACHED_PART ? ", the rest of it" : "");
    status = prompt_cache_fetch(source, &how, out, fetched, err);
    clear(&s);
    if (status == STATUS_OK && *fetched)
        say(&s, "fetched %s: %s, sha256 %.16s, kept as %s", source, format_bytes(bytes, out->bytes),
            out->sha256, out->file);
    return status;
}

enum status fetch_prompts_of(struct config *c, const struct fetch_screen *screen,
                             const volatile int *interrupts, struct config_errors *errors) {
    enum status worst = STATUS_OK;
    char where[PATH_MAX_BYTES + 64];
    if (!config_has(c, "prompt", "source")) return STATUS_OK;
    for (int i = 0; i < c->prompt.n && worst != STATUS_INTERRUPTED; i++) {
        struct cached_prompt prompt;
        struct error err = {""};
        bool fetched;
        if (!prompt_is_remote(c->prompt.v[i])) continue;
        const enum status s =
            fetch_prompt(c->prompt.v[i], c, false, screen, interrupts, &prompt, &fetched, &err);
        if (s == STATUS_OK) continue;
        config_error(errors, config_from(c, "prompt", "source"), "%s: %s",
                     config_where(c, "prompt", "source", where, sizeof where), err.text);
        if (worst == STATUS_OK || s == STATUS_USAGE || s == STATUS_INTERRUPTED) worst = s;
    }
    if (worst != STATUS_OK) config_refuse(c, "prompt", "source");
    return worst;
}
