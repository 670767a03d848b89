/* One device's part of a session: its buffers, its recorded steps, and what it does of a step. The
 * parts of a session take the same steps at the same time, each in the thread of its device; what
 * changes from step to step they are told, so that nothing here is decided twice. */
#ifndef ENGINE_PART_H
#define ENGINE_PART_H

#include "engine/engine_core.h"

struct part {
    const struct session_opts *opts; /* of the session; borrowed */
    struct device *dev;              /* borrowed */
    struct forward forward;
    struct buffers buffers;                         /* owned */
    struct op_sink sink;                            /* runs */
    struct device_graph *body_graph, *decode_graph; /* owned; NULL in eager mode */
    bool prune;
    int64_t issued_ns; /* CLOCK_MONOTONIC, when the newest chunk had been issued */
};

/* Prompt tokens of one step. */
struct chunk {
    int32_t start, n;
    bool last; /* of the prompt */
    const int32_t *tokens;
    const uint32_t *seen; /* bit set of [V]: the prompt so far */
    struct step_params params, finish_params;
};

/* Allocates; waits for no other part. The part is zeroed before, and closed also after a failure.
 */
enum status part_open(struct part *p, const struct engine *e, int device,
                      const struct session_opts *opts, struct error *err);
/* The rest of opening, all parts together: has libraries prepared, code loaded, steps recorded. */
enum status part_get_ready(struct part *p, struct error *err);
void part_close(struct part *p);

/* Marks of its device. */
enum part_mark { MARK_CHUNK_BEGIN, MARK_CHUNK_END };
/* All parts together, and waited for. The chunk is between the marks. */
enum status part_prefill(struct part *p, const struct chunk *c, struct error *err);
/* The first token is sampled from the logits that the prompt left; later ones (step not NULL) run
 * the one before through the model. */
enum status part_generate(struct part *p, const struct step_params *step, struct error *err);

/* Draws begin anew. */
enum status part_reset(struct part *p, struct error *err);
/* Synthetic keys and values at [begin, end). */
enum status part_skip(struct part *p, int32_t begin, int32_t end, uint64_t seed, struct error *err);
/* Whether the newest chunk was replayed from the recorded step. */
bool part_replays(const struct part *p, const struct chunk *c);
/* The calls of a chunk on this device, in the order in which they run, into another sink. *step is
 * set to the host copy of what the calls that follow read. */
enum status part_walk(const struct part *p, const struct chunk *c, const struct op_sink *sink,
                      const struct step_params **step, struct error *err);
/* Adds what the chunk executes on this device. */
void part_count(const struct part *p, const struct chunk *c, int64_t *flops, int64_t *bytes);

#endif
