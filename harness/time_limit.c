/* The arithmetic of time_limit.h. */
#include "harness/time_limit.h"

#include "harness/format.h"

#include <stdio.h>

enum { MOST_DRIFT = 4 };

static double seconds(int64_t ns) {
    return (double)ns / 1e9;
}

bool time_is_up(const struct time_limit *t, int64_t now_ns) {
    return t->end_ns != 0 && now_ns >= t->end_ns;
}

double time_expected_s(const struct time_limit *t, double predicted_s) {
    if (t->predicted_s <= 0) return predicted_s;
    const double drift = t->took_s / t->predicted_s;
    return predicted_s * (drift > MOST_DRIFT         ? MOST_DRIFT
                          : drift < 1.0 / MOST_DRIFT ? 1.0 / MOST_DRIFT
                                                     : drift);
}

bool time_has_room(const struct time_limit *t, int64_t now_ns, double predicted_s, char *why,
                   size_t size) {
    const double needs_s = time_expected_s(t, predicted_s);
    const double left_s = t->end_ns > now_ns ? seconds(t->end_ns - now_ns) : 0;
    char needs[FORMAT_BYTES], left[FORMAT_BYTES], budget[FORMAT_BYTES];
    if (t->end_ns == 0 || needs_s <= left_s) return true;
    snprintf(why, size,
             "time: a warm-up and a repeat would take %s%s, but %s of the budget of %s are left",
             format_seconds(needs, needs_s),
             t->predicted_s > 0 ? " by the pace of the cases before" : "",
             format_seconds(left, left_s),
             format_seconds(budget, seconds(t->end_ns - t->begin_ns)));
    return false;
}

void time_case_ran(struct time_limit *t, double predicted_s, double took_s) {
    t->predicted_s += predicted_s;
    t->took_s += took_s;
}

void time_used_up(const struct time_limit *t, char *out, size_t size) {
    char budget[FORMAT_BYTES];
    snprintf(out, size, "the budget of %s is used up",
             format_seconds(budget, seconds(t->end_ns - t->begin_ns)));
}
