/* Which cases run in full, sampled, or not. See budget.h for the rule. */
#include "harness/budget.h"

/* What the next form of a case costs on top of the one that it has; false: there is none. */
static bool next_price(const struct budget_case *c, double *price) {
    if (c->chosen + 1 >= c->n) return false;
    *price = c->form[c->chosen + 1].cost_s - (c->chosen < 0 ? 0 : c->form[c->chosen].cost_s);
    return true;
}

struct step {
    int index; /* -1: none */
    double price;
};

enum who { ALL = -1 };

/* The cheapest step of those cases of a group (or of all) that have nothing yet (or may have
 * something); the first of equals. */
static struct step cheapest_step(const struct budget_case *cases, int n, int group, bool first) {
    struct step best = {.index = -1};
    for (int i = 0; i < n; i++) {
        double price;
        if (group != ALL && cases[i].group != group) continue;
        if (first && cases[i].chosen >= 0) continue;
        if (next_price(&cases[i], &price) && (best.index < 0 || price < best.price))
            best = (struct step){i, price};
    }
    return best;
}

static bool is_first_of_group(const struct budget_case *cases, int i) {
    for (int j = 0; j < i; j++)
        if (cases[j].group == cases[i].group) return false;
    return true;
}

static bool buy(struct budget_case *cases, struct step step, double budget_s, double *spent) {
    if (step.index < 0 || *spent + step.price > budget_s) return false;
    cases[step.index].chosen++;
    *spent += step.price;
    return true;
}

static double left_of(double budget_s, double spent) {
    return budget_s > spent ? budget_s - spent : 0;
}

double budget_decide(struct budget_case *cases, int n, double budget_s) {
    double spent = 0;
    for (int i = 0; i < n; i++) cases[i].chosen = -1;
    for (int i = 0; i < n; i++)
        if (is_first_of_group(cases, i))
            buy(cases, cheapest_step(cases, n, cases[i].group, true), budget_s, &spent);
    /* where the cheapest does not fit, all others cost as much or more */
    while (buy(cases, cheapest_step(cases, n, ALL, true), budget_s, &spent)) continue;
    for (int i = 0; i < n; i++) cases[i].left_s = left_of(budget_s, spent);
    while (buy(cases, cheapest_step(cases, n, ALL, false), budget_s, &spent)) continue;
    for (int i = 0; i < n; i++)
        if (cases[i].chosen >= 0) cases[i].left_s = left_of(budget_s, spent);
    return spent;
}
