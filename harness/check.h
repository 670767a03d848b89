/* Checks: whether the outputs are right. Independent of the kernels that they check.
 * Each fills one check_result; a check that cannot run says so and stays "not checked". */
#ifndef HARNESS_CHECK_H
#define HARNESS_CHECK_H

#include "harness/prompt.h"
#include "harness/result.h"

/* Generated ids against the needle's answer, all of it; names the first differing token.
 * max_tokens: how many could be generated at most. */
void check_tokens(struct check_result *out, const struct model_config *m, const struct prompt *p,
                  const int32_t *ids, int n, int max_tokens);

/* Collects the logits of answer rows while they are generated: check_logits_row(i) after the i-th
 * token has been sampled from them. Rows after a wrong token have no truth and are left out. */
struct check_logits;
enum status check_logits_open(struct check_logits **out, const struct model_config *m,
                              const struct prompt *p, struct attention_pattern pattern,
                              struct error *err);
void check_logits_row(struct check_logits *c, int i, const float *logits);
void check_logits_finish(struct check_logits *c, struct check_result *out); /* closes c */

/* Finite: every logits row seen. */
void check_finite_row(struct check_result *out, const float *logits, int32_t V, int row);

/* The spot check. Samples `count` (layer, head, row) points, deterministically from the seed, rows
 * spread over the chunks that run; the worker taps their rows, has what was tapped kept after each
 * chunk, and checks after the pass, while its cache is still there: the host's loops would let a
 * GPU cool between chunks that are timed. Recomputes attention in float64 from the cached K and V
 * and the row's unrotated query over its full context, by an independent plain loop (RoPE phases
 * and dual chunk ranges from their definition), and compares. So that a wrong key is not taken as
 * given, the row's own cached key and value are compared with what they were before the rotation.
 */
struct check_spot;
enum status check_spot_open(struct check_spot **out, const struct engine_info *info,
                            const struct case_plan *c, const int *chunks, int n_chunks,
                            int64_t count, uint64_t seed, struct error *err);
/* Rows to tap in the chunk [start, start + n): fills positions (at most TAP_ROWS), returns their
 * number. */
int check_spot_rows(const struct check_spot *c, int32_t start, int32_t n,
                    int32_t positions[TAP_ROWS]);
enum status check_spot_keep(struct check_spot *c, struct session *s, int32_t start, int32_t n,
                            struct error *err);
/* Then each point, from 0 to check_spot_points() - 1, once, before the session is reset. One takes
 * about a microsecond a key. */
int check_spot_points(const struct check_spot *c);
enum status check_spot_run(struct check_spot *c, struct session *s, int point, struct error *err);
void check_spot_finish(struct check_spot *c,
                       struct check_result *out); /* closes c; NULL: "not checked" */

/* Count: positions went 0, n0, n0 + n1, ... up to prompt_tokens exactly once in each repeat (full
 * coverage). */
void check_count(struct case_result *r, int32_t session_position);

/* Memory: no step of the case allocated; step_allocations is complete. */
void check_memory(struct case_result *r);

/* Over finished cases: those that differ only in chunk size and mode must have the same ids and the
 * same logits hash, bit for bit; where a library that promises nothing computes attention, other
 * bits are told and not held against it. Full-coverage cases with status ok only; a group of one is
 * not checked. Fills check[CHECK_INVARIANCE]. */
void check_invariance(struct case_result *const *cases, int n);

#endif
