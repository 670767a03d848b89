/* Prompts: from a configured source to token ids.
 *
 *   needle:LENGTH             a text with planted needles (engine/needle.h)
 *   needle:LENGTH@DEPTH+...   near these depths: a percent ("25%") or a fraction ("0.25")
 *   random:LENGTH             ids uniform over the vocabulary
 *   file:PATH                 all bytes of a UTF-8 text, an id a byte
 *   url:URL                   the same of a text from the web (prompt_cache.h), which somebody has
 *   qwen:64k|200k|600k|1m     to fetch before (fetch.h); the published test prompts
 *
 * LENGTH as in parse_tokens: 64k = 65,536. A comma separates prompts, so depths have "+". */
#ifndef HARNESS_PROMPT_H
#define HARNESS_PROMPT_H

#include "engine/needle.h"

struct prompt {
    int32_t *tokens; /* [length], owned */
    int32_t length;
    struct needle_prompt needle; /* for needle:...; tokens alias it */
    bool has_answer;
    char sha256[65];      /* of the ids as little-endian int32 */
    char file_sha256[65]; /* of the bytes of a text, from a file or the web; or "" */
};

/* Length in tokens without making the prompt: what the plan needs. A length that leaves no room for
 * max_tokens under max_model_len is clamped when it equals max_model_len (`1m` in a 1,048,576 model
 * means 1,048,320 with 256 new tokens): *clamped tells. Errors: STATUS_USAGE (malformed, too long,
 * too short for the needle, no regular file, not UTF-8, empty, a vocabulary too small for it),
 * STATUS_IO (unreadable, not fetched, damaged in the cache). A file is never clamped: it is taken
 * whole or refused. */
enum status prompt_length(const char *source, const struct model_config *m, int64_t max_model_len,
                          int64_t max_tokens, int32_t *length, bool *clamped, struct error *err);
/* SHA-256 of the bytes of a text; "" for prompts that are made. STATUS_USAGE (malformed, not UTF-8,
 * empty), STATUS_IO (as prompt_length). */
enum status prompt_text_sha256(const char *source, char out[65], struct error *err);
/* length: what prompt_length said. STATUS_IO if a file has another length by now. */
enum status prompt_make(struct prompt *out, const char *source, const struct model_config *m,
                        int32_t length, struct attention_pattern pattern, uint64_t seed,
                        struct error *err);
void prompt_free(struct prompt *p); /* zeroed struct is legal */

#endif
