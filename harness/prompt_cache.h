/* Prompts from the web, and the folder that they are kept in.
 *
 *   url:URL                  http or https
 *   qwen:64k|200k|600k|1m    the published test prompts of Qwen2.5-1M
 *
 * Both stand for an address; a file in the cache folder (cache_dir.h), prompts/NAME, holds its
 * text. NAME is made of the address alone, so that a file can be put there by hand. Beside it:
 *   NAME.json              address, length, SHA-256, ETag, when it was fetched; absent: by hand
 *   NAME.part, .part.json  a fetch that is not finished (download.h)
 *   NAME.lock              held by the process that fetches; never removed
 * A file appears by rename, when it is whole and its text is good; its record is there before it.
 */
#ifndef HARNESS_PROMPT_CACHE_H
#define HARNESS_PROMPT_CACHE_H

#include "harness/config.h"
#include "harness/download.h"
#include "harness/text_file.h"

enum cached_state {
    CACHED_NOTHING,
    CACHED_PART,     /* a fetch was cut off; the next one goes on from there */
    CACHED_WHOLE,    /* as fetched: length and SHA-256 agree with its record */
    CACHED_BY_HAND,  /* a file without a record */
    CACHED_DAMAGED,  /* a file that its record does not agree with */
    CACHED_UNUSABLE, /* no text, or it cannot be read */
};
const char *cached_state_text(enum cached_state s);

struct cached_prompt {
    char source[NAME_MAX_BYTES]; /* "qwen:64k", "url:...", or "": not known */
    char url[URL_MAX_BYTES];     /* "": not known: a file by hand of any other name */
    char file[PATH_MAX_BYTES];   /* where it is, or would be */
    char name[80];               /* the last part of that */
    enum cached_state state;
    int64_t bytes, total_bytes;      /* total: of a part; -1: not known */
    char sha256[65];                 /* of the file as it is; "": there is none */
    char etag[256], fetched_utc[32]; /* from the record */
    struct error why;                /* unusable: the reason */
    enum status why_status;
};

/* Whether a prompt comes from the web. */
bool prompt_is_remote(const char *source);
/* "qwen:64k" or "url:URL" -> URL. STATUS_USAGE. */
enum status prompt_url(const char *source, char url[URL_MAX_BYTES], struct error *err);
/* File name for an address: letters of its last part, and a hash of the whole. */
void prompt_cache_name(const char *url, char out[80]);

/* What the cache holds for a prompt. *text: its bytes when the state is whole or by hand; NULL: not
 * wanted. STATUS_OK whatever the state is; STATUS_USAGE, STATUS_IO. */
enum status prompt_cache_look(const char *source, struct cached_prompt *out, struct text *text,
                              struct error *err);
/* The text of a prompt that is there. STATUS_IO: it is not, or damaged; the text says what to do.
 */
enum status prompt_cache_read(const char *source, struct cached_prompt *out, struct text *text,
                              struct error *err);

struct prompt_fetch {
    double timeout_s;
    int retries;
    int64_t most_bytes;
    bool anew; /* even if it is there */
    const volatile int *interrupts;
    struct download_observer observer;
    void (*waiting)(void *ctx); /* another process fetches it; NULL: not wanted. observer.ctx */
};
/* Makes the prompt be there. *fetched: false if it was. STATUS_USAGE (not UTF-8, empty), STATUS_IO
 * (the text names the file to put by hand), STATUS_INTERRUPTED. An unusable file that was put there
 * by hand is replaced only by `anew`. */
enum status prompt_cache_fetch(const char *source, const struct prompt_fetch *how,
                               struct cached_prompt *out, bool *fetched, struct error *err);

/* Everything in the cache by name; malloc'd. folder: where, at least PATH_MAX_BYTES. */
enum status prompt_cache_list(struct cached_prompt **out, int *n, char *folder, struct error *err);

#endif
