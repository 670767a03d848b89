/* The time budget while a run goes on. The plan decides by predictions, and leaves a tenth in
 * reserve; what is here holds when they were wrong: a case that has no room any more does not
 * begin, a case at work ends after the chunk in flight. Before a case and between its chunks; pure
 * but for the clock that the caller reads (CLOCK_MONOTONIC, ns, the same in all processes). */
#ifndef HARNESS_TIME_LIMIT_H
#define HARNESS_TIME_LIMIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct time_limit {
    int64_t begin_ns, end_ns;   /* end 0: no limit */
    double predicted_s, took_s; /* of the cases that ran to their end so far, together */
};

bool time_is_up(const struct time_limit *t, int64_t now_ns);
/* What a prediction is worth after what was seen; at most four times more or less. */
double time_expected_s(const struct time_limit *t, double predicted_s);
/* Whether that fits before the end; if not, `why` gets the arithmetic. */
bool time_has_room(const struct time_limit *t, int64_t now_ns, double predicted_s, char *why,
                   size_t size);
void time_case_ran(struct time_limit *t, double predicted_s, double took_s);
/* "30 min 00 s are used up" */
void time_used_up(const struct time_limit *t, char *out, size_t size);

#endif
