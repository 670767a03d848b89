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
    /* positions whose rows carry the answer: [links], for messages that say which depth broke */
    int32_t *needle_positions;
    int32_t needle_count;
};

/* Shortest prompt that holds all its needles. */
int32_t needle_min_length(void);
/* depths: fractions in [0, 1] of the prompt near which the answer's pairs are planted, or NULL:
 * spread so that every chunk, every dual chunk range and every rank slice is crossed by some answer
 * token. `pattern` decides at which phases the census pairs may stand (needle_sim.py: `phase`).
 * STATUS_USAGE if length is too short. */
enum status needle_prompt_build(struct needle_prompt *out, int32_t length, const double *depths,
                                int n_depths, struct attention_pattern pattern, uint64_t seed,
                                struct error *err);
void needle_prompt_free(struct needle_prompt *p); /* zeroed struct is legal */

/* Whether a model configuration is one of the needle models. */
bool needle_is_model(const struct model_config *m);
/* Analytic logits of every answer row by exact matching, f32 [answer_length][V], caller's memory;
 * row i is what the engine must produce after the prompt and the first i answer tokens. */
enum status needle_expected_logits(const struct model_config *m, const struct needle_prompt *p,
                                   struct attention_pattern pattern, float *out, struct error *err);
/* Largest |difference| that a row of bf16 logits may show: 0.01 + 0.006 max|row| (needle_sim.py:
 * measured worst 0.42 of it); f32 runs use the same, they lie far inside. */
float needle_logit_tolerance(const float *expected_row, int32_t V);

#endif
