/* What the parts of plan_make share: plan.c makes the cases, plan_check.c finds what is wrong with
 * a configuration, plan_cost.c says what its cases cost and what the budget does to them. */
#ifndef HARNESS_PLAN_MAKING_H
#define HARNESS_PLAN_MAKING_H

#include "harness/plan.h"
#include "harness/rates.h"

struct making {
    struct plan *p;
    struct config_errors *errors;
    enum status status;  /* of the findings so far: a usage error outranks an I/O error */
    struct rates *rates; /* [launches], owned; plan_predict makes them */
    int64_t max_model_len;
    bool device_known, model_known; /* what depends on them can be judged */
    bool measure_anew;              /* kept rates are not good enough */
    bool only_findings;             /* there will be no plan: what is not fetched is not missed */
};

/* A finding about a key, with where the configuration has it. A usage error outranks others as the
 * status of the whole. */
#if defined(__GNUC__)
__attribute__((format(printf, 5, 6)))
#endif
void plan_finding(struct making *m, enum status status, const char *section, const char *key,
                  const char *format, ...);

/* For people, kept in the plan; beyond the room for notes there it is dropped. */
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
void plan_note(struct plan *p, const char *format, ...);

/* Whether a GPU can be used, or why not: static text. */
bool plan_cuda_usable(const char **why);

/* Everything that can be found without measuring; each check where it knows what it needs. */
void plan_find_errors(struct making *m);

/* Measures the rates that are not kept, into m->rates, which it allocates, and predicts time and
 * memory of every case. */
void plan_predict(struct making *m);

/* What is done with every case: in full, sampled or not at all, as the budget and memory allow. */
void plan_decide(struct making *m);

#endif
