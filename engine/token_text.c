/* Tokens as text for people. Small vocabularies are bytes plus special tokens; there is no
 * tokenizer behind the others, so their ids are shown. */
#include "engine/needle.h"
#include "engine/needle_codes.h"

#include <stdio.h>
#include <string.h>

void engine_bytes_to_tokens(const char *text, size_t n, int32_t *out) {
    for (size_t i = 0; i < n; i++) out[i] = (unsigned char)text[i];
}

size_t engine_token_text(const struct model_config *m, int32_t id, char *out, size_t size) {
    static const struct {
        int32_t begin, end;
        const char *format; /* of the id's place in the range */
    } names[] = {
        {NEEDLE_EOS, NEEDLE_EOS + 1, "<eos>"},
        {NEEDLE_CALL, NEEDLE_CALL + NEEDLE_CENSUSES, "<call%d>"},
        {NEEDLE_ROLL, NEEDLE_ROLL + NEEDLE_CENSUSES, "<roll%d>"},
        {NEEDLE_TICK, NEEDLE_TICK + NEEDLE_CENSUSES, "<tick%d>"},
        {NEEDLE_ANSWER, NEEDLE_ANSWER + NEEDLE_VALUES, "<answer%d>"},
        {NEEDLE_HOP, NEEDLE_TICK, "<hop%d>"},
        {NEEDLE_CARRIER, NEEDLE_CARRIER + NEEDLE_VALUES, "<value%d>"},
    };
    char text[32];
    snprintf(text, sizeof text, "<%d>", id);
    if (needle_is_model(m)) {
        if (id >= 0 && id < 256) {
            text[0] = (char)id;
            text[1] = 0;
        }
        for (size_t i = 0; i < sizeof names / sizeof *names; i++)
            if (id >= names[i].begin && id < names[i].end) {
                snprintf(text, sizeof text, names[i].format, id - names[i].begin);
                break;
            }
    }
    const size_t n = needle_is_model(m) && id == 0 ? 1 : strlen(text);
    if (size > 0) {
        const size_t copied = n < size ? n : size - 1;
        memcpy(out, text, copied);
        out[copied] = 0;
    }
    return n;
}
