/* The needle oracle: prompts with a planted two-hop answer, and what a correct engine must produce
 * for them. Belongs with needle_model.c, whose weights are built by formula so that the answer is
 * known in advance. Public to the harness beside engine.h. Nothing here runs a kernel of the
 * engine. */
#ifndef ENGINE_NEEDLE_H
#define ENGINE_NEEDLE_H

#include "engine/engine.h"

struct needle_prompt {
    int32_t *tokens; /* [length], owned */
    int32_t length;
    int32_t *answer; /* [answer_length], ends with eos; owned */
    int32_t answer_length;
    /* [answer_length], owned: position of the planted value that answer token i is read from, or
     * -1 where it is read from many rows (the censuses) or from a generated one; for messages that
     * say which depth broke */
    int32_t *needle_positions;
    int32_t needle_count; /* = answer_length */
};

/* Shortest prompt that holds all its needles: 1,024 tokens. */
int32_t needle_min_length(void);
/* depths: fractions in [0, 1] of the prompt near which the answer's pairs are planted, or NULL:
 * spread so that every chunk, every dual chunk range and every rank slice is crossed by some answer
 * token. The two pairs that hold a repeated question stay near the end. `pattern` decides at which
 * phases the census pairs may stand. The answer: seven two-hop needles, four more tokens of which
 * two are read from generated rows, four censuses (a roll that prefill took and a call that decode
 * takes, of all the prompt), eos: 20 tokens. STATUS_USAGE if length is too short or a depth is
 * outside [0, 1]. */
enum status needle_prompt_build(struct needle_prompt *out, int32_t length, const double *depths,
                                int n_depths, struct attention_pattern pattern, uint64_t seed,
                                struct error *err);
void needle_prompt_free(struct needle_prompt *p); /* zeroed struct is legal */

/* Whether a model configuration is one of the needle models. */
bool needle_is_model(const struct model_config *m);
/* Analytic logits of every answer row by exact matching, f32 [answer_length][V], caller's memory;
 * row i is what the engine must produce after the prompt and the first i answer tokens.
 * tolerance, [answer_length] or NULL: the largest |difference| that a logit of the row may show in
 * a bf16 run: 0.01 + 0.006 max|row| + 0.015 sensitivity. f32 runs lie well inside it. The first two
 * terms are for the rounding of the residual stream (measured: up to 0.45 of them). The third is
 * for rows that weigh several matches: the rotation turns the same code into other bits at other
 * positions, so scores of equal matches differ by about 0.005 (standard deviation, towards a
 * million tokens); sensitivity is how far independent errors of 1 would move a logit. */
enum status needle_expected_logits(const struct model_config *m, const struct needle_prompt *p,
                                   struct attention_pattern pattern, float *out, float *tolerance,
                                   struct error *err);

#endif
