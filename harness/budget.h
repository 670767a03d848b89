/* What a time budget buys: a pure function, so that the same predictions always give the same plan.
 *
 * First as many cases as possible at all, fairly over the prompts: round by round, each prompt (in
 * the order of the configuration) gets its next cheapest case, sampled where it may be, if it still
 * fits. Then what is left turns sampled cases into full ones, the cheapest step first. A case that
 * does not fit does not stop those after it. */
#ifndef HARNESS_BUDGET_H
#define HARNESS_BUDGET_H

#include "harness/plan.h"

struct budget_case {
    int group;        /* its prompt's number */
    double full_s;    /* whole cost; negative: full is not on offer */
    double sampled_s; /* negative: sampled is not on offer */
    bool excluded;    /* does not take part (it does not fit in memory) */
    /* out */
    enum coverage coverage;
    double
        left_s; /* what was left when it was refused: sampled ones the full run, skipped ones all;
                 */
};

/* budget_s: for the cases together; infinite: everything on offer fits. Returns what is spent, or a
 * negative number when memory ran out. */
double budget_decide(struct budget_case *cases, int n, double budget_s);

#endif
