/* Planning for a GPU in a child process. Opening a GPU costs half a GiB of its memory for as long
 * as the process lives, and a driver that crashes takes the process along: neither may happen to
 * the supervisor. The child makes the plan; this process takes it, or what is wrong, from there. */
#ifndef HARNESS_PLAN_APART_H
#define HARNESS_PLAN_APART_H

#include "harness/plan.h"

enum { PLAN_APART_LIMIT_S = 60 };

/* Makes a plan in the process that it runs in: see plan_make. *out is freed where it fails. */
typedef enum status plan_maker(struct plan *out, const struct config *c, bool measure_anew,
                               struct config_errors *errors);

/* What make() would have done here, done there: same plan, same findings (added to those that are
 * in `errors` already), same status. A child that crashes, hangs or is interrupted is a finding of
 * [engine] device. */
enum status plan_apart(struct plan *out, const struct config *c, bool measure_anew,
                       struct config_errors *errors, plan_maker *make, int limit_s);

#endif
