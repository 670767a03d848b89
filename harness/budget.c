/* Which cases run in full, sampled, or not. See budget.h for the rule. */
#include "harness/budget.h"

/* The cheaper form of a case, and its price. */
static enum coverage cheaper_form(const struct budget_case *c, double *price) {
    const bool full = c->sampled_s < 0 || (c->full_s >= 0 && c->full_s <= c->sampled_s);
    *price = full ? c->full_s : c->sampled_s;
    return full ? COVER_FULL : COVER_SAMPLED;
}

/* What the next step of a case costs: from nothing to its cheaper form, from sampled to full.
 * false: there is none. */
static bool next_step(const struct budget_case *c, double *price, enum coverage *to) {
    if (c->excluded || c->coverage == COVER_FULL) return false;
    if (c->coverage == COVER_SKIPPED) {
        *to = cheaper_form(c, price);
        return true;
    }
    *price = c->full_s - c->sampled_s;
    *to = COVER_FULL;
    return c->full_s >= 0;
}

struct choice {
    int index; /* -1: none */
    double price;
    enum coverage to;
};

/* The cheapest step of all cases, or of those of one group; the first of equals. */
static struct choice cheapest_step(const struct budget_case *cases, int n, int group) {
    struct choice best = {.index = -1};
    for (int i = 0; i < n; i++) {
        double price;
        enum coverage to;
        if (group >= 0 && cases[i].group != group) continue;
        if (next_step(&cases[i], &price, &to) && (best.index < 0 || price < best.price))
            best = (struct choice){i, price, to};
    }
    return best;
}

static bool is_first_of_group(const struct budget_case *cases, int i) {
    for (int j = 0; j < i; j++)
        if (cases[j].group == cases[i].group) return false;
    return true;
}

double budget_decide(struct budget_case *cases, int n, double budget_s) {
    double spent = 0;
    for (int i = 0; i < n; i++) cases[i].coverage = COVER_SKIPPED;
    for (int i = 0; i < n; i++) {
        if (!is_first_of_group(cases, i)) continue;
        const struct choice c = cheapest_step(cases, n, cases[i].group);
        if (c.index < 0 || spent + c.price > budget_s) continue;
        cases[c.index].coverage = c.to;
        spent += c.price;
    }
    for (;;) {
        const struct choice c = cheapest_step(cases, n, -1);
        if (c.index < 0 || spent + c.price > budget_s) break; /* all others cost as much or more */
        cases[c.index].coverage = c.to;
        spent += c.price;
    }
    for (int i = 0; i < n; i++) cases[i].left_s = budget_s > spent ? budget_s - spent : 0;
    return spent;
}
