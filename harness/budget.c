/* Which cases run in full, sampled, or not. See budget.h for the rule. */
#include "harness/budget.h"

#include <stdlib.h>

/* A thing to buy: `rank` orders rounds, `price` orders within, `index` breaks ties. */
struct offer {
    int index, group, round;
    double price;
};

static int by_price(const void *a, const void *b) {
    const struct offer *x = a, *y = b;
    if (x->price != y->price) return x->price < y->price ? -1 : 1;
    return x->index - y->index;
}

static int by_round(const void *a, const void *b) {
    const struct offer *x = a, *y = b;
    if (x->round != y->round) return x->round - y->round;
    if (x->group != y->group) return x->group - y->group;
    return x->index - y->index;
}

/* The cheaper form of a case. */
static double cheapest(const struct budget_case *c) {
    if (c->sampled_s < 0) return c->full_s;
    return c->full_s >= 0 && c->full_s <= c->sampled_s ? c->full_s : c->sampled_s;
}

/* Every case takes the round that is its place among its group's cases by price. */
static int make_rounds(const struct budget_case *cases, int n, struct offer *offers) {
    int count = 0;
    for (int i = 0; i < n; i++)
        if (!cases[i].excluded)
            offers[count++] =
                (struct offer){.index = i, .group = cases[i].group, .price = cheapest(&cases[i])};
    qsort(offers, (size_t)count, sizeof *offers, by_price);
    for (int i = 0; i < count; i++)
        for (int j = 0; j < i; j++)
            if (offers[j].group == offers[i].group) offers[i].round = offers[j].round + 1;
    qsort(offers, (size_t)count, sizeof *offers, by_round);
    return count;
}

static double admit(struct budget_case *cases, const struct offer *offers, int count,
                    double budget_s) {
    double spent = 0;
    for (int i = 0; i < count; i++) {
        struct budget_case *c = &cases[offers[i].index];
        if (spent + offers[i].price > budget_s) {
            c->left_s = budget_s - spent;
            continue;
        }
        spent += offers[i].price;
        c->coverage = offers[i].price == c->full_s ? COVER_FULL : COVER_SAMPLED;
    }
    return spent;
}

static double upgrade(struct budget_case *cases, int n, struct offer *offers, double spent,
                      double budget_s) {
    int count = 0;
    for (int i = 0; i < n; i++)
        if (cases[i].coverage == COVER_SAMPLED && cases[i].full_s >= 0)
            offers[count++] =
                (struct offer){.index = i, .price = cases[i].full_s - cases[i].sampled_s};
    qsort(offers, (size_t)count, sizeof *offers, by_price);
    for (int i = 0; i < count; i++) {
        struct budget_case *c = &cases[offers[i].index];
        if (spent + offers[i].price > budget_s) {
            c->left_s = budget_s - spent;
            continue;
        }
        spent += offers[i].price;
        c->coverage = COVER_FULL;
    }
    return spent;
}

double budget_decide(struct budget_case *cases, int n, double budget_s) {
    struct offer *offers = calloc(n ? (size_t)n : 1, sizeof *offers);
    if (!offers) return -1;
    for (int i = 0; i < n; i++) {
        cases[i].coverage = COVER_SKIPPED;
        cases[i].left_s = 0;
    }
    const int count = make_rounds(cases, n, offers);
    double spent = admit(cases, offers, count, budget_s);
    spent = upgrade(cases, n, offers, spent, budget_s);
    free(offers);
    return spent;
}
