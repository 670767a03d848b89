/* What a time budget buys: a pure function, so that the same predictions always give the same plan.
 *
 * A case can be had in some forms: a small sample, the sample that was asked for, all of it. First
 * each prompt, in the order of the configuration, gets the cheapest form of its cheapest case, if
 * it fits: every length is seen. Then every other case gets its cheapest form, the cheapest first.
 * Only what is left then buys better forms, step by step, whatever step costs least. The first of
 * equals; it ends when the cheapest step does not fit. */
#ifndef HARNESS_BUDGET_H
#define HARNESS_BUDGET_H

#include "harness/plan.h"

enum { BUDGET_FORMS = 3 };

struct budget_form {
    enum coverage coverage;
    int chunks;    /* that run */
    double cost_s; /* of the whole case */
};

struct budget_case {
    int group;                             /* its prompt's number */
    int n;                                 /* forms on offer; 0: it does not take part */
    struct budget_form form[BUDGET_FORMS]; /* each better than the one before, and dearer */
    /* out */
    int chosen;    /* form; -1: none */
    double left_s; /* of the budget when its next form was too dear: before better ones were bought
                      for a case that has none, else at the end */
};

/* budget_s: for the cases together; infinite: everything on offer fits. Returns what is spent. */
double budget_decide(struct budget_case *cases, int n, double budget_s);

#endif
