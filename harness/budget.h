/* What a time budget buys: a pure function, so that the same predictions always give the same plan.
 *
 * First each prompt, in the order of the configuration, gets its cheapest case, sampled where it
 * may be, if it fits: every length is seen. Then what is left buys, again and again, whatever step
 * costs least: one more case, or turning a sampled case into a full one. The first of equals; it
 * ends when the cheapest step does not fit. */
#ifndef HARNESS_BUDGET_H
#define HARNESS_BUDGET_H

#include "harness/plan.h"

struct budget_case {
    int group;        /* its prompt's number */
    double full_s;    /* whole cost; negative: full is not on offer */
    double sampled_s; /* negative: sampled is not on offer; one of the two is */
    bool excluded;    /* does not take part (it does not fit in memory) */
    /* out */
    enum coverage coverage;
    double left_s; /* of the budget, at the end: less than the next step of any case costs */
};

/* budget_s: for the cases together; infinite: everything on offer fits. Returns what is spent. */
double budget_decide(struct budget_case *cases, int n, double budget_s);

#endif
