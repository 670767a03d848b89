/* The stages of `bench run`, in the order in which cmd_run.c calls them. */
#ifndef HARNESS_RUN_H
#define HARNESS_RUN_H

#include "harness/arguments.h"
#include "harness/result.h"
#include "harness/run_dir.h"

#include <stdio.h>

struct run {
    /* the command line */
    int argc;
    char **argv;
    const char *config_path, *output, *only, *chunk;
    char chunk_set[64]; /* what --chunk sets */
    struct argument_list sets;
    bool resume, force, json, quiet, no_color, dry_run, once;
    /* what becomes of it */
    struct config config;
    struct config_errors config_errors;
    struct plan plan; /* owned */
    struct run_dir dir;
    bool dir_open;
    bool *wanted, *pending;      /* [plan.n]: part of this run; still to be executed. Owned */
    struct case_result *results; /* [plan.n]: of wanted cases, read back; owned */
    struct case_result **found;  /* [n_found]: those whose fragment can be read; owned */
    int n_found, n_wanted;
    int n_lost;                     /* wanted cases whose fragment is missing or damaged */
    struct error first_lost;        /* which case came first, and why */
    bool started;                   /* workers may have left something */
    bool finished;                  /* nothing is left for --resume */
    const volatile int *interrupts; /* signals that asked to stop */
};

/* Every stage: STATUS_OK, or what ended the run, with err filled, or config_errors. */

/* config.ini and --set -> config */
enum status run_load_config(struct run *r, struct error *err);
/* config -> plan, and RUN.partial open. A new run is planned before its folder is made; a resumed
 * one keeps the decisions that it finds. */
enum status run_open(struct run *r, struct error *err);
/* --only and --resume -> wanted, pending; skipped cases get their fragments. */
enum status run_choose_cases(struct run *r, struct error *err);
/* Worker processes; afterwards every wanted case should have a fragment, unless stopped at once. */
enum status run_launches(struct run *r, struct error *err);
/* Whether, after `launched`, there is something to merge and a place for it. */
bool run_can_merge(const struct run *r, enum status launched);
/* Fragments -> results; checks over cases (invariance). A fragment that cannot be read back is
 * counted, not an error yet: the rest is merged and shown. */
enum status run_check_cases(struct run *r, struct error *err);
/* Whether an interrupt has left something undone: cases, or kernels of cases that are to be
 * recorded. One that came after the last of them has not. Known after run_check_cases. */
bool run_was_stopped(const struct run *r, enum status launched);
/* RUN.partial -> RUN.h5. complete: the run was not stopped; that no case is lost is seen here. */
enum status run_merge(struct run *r, bool complete, struct error *err);
/* RUN.h5 -> table, or JSON, on stdout. */
enum status run_show(struct run *r, struct error *err);
/* A failed check outranks lost fragments, these an interrupt, this cases that did not run to their
 * end, and these that nothing ran at all. */
enum status run_verdict(struct run *r, enum status launched, struct error *err);
/* Cases that the plan skipped. */
int run_skipped(const struct run *r);
/* One line for a run that went well: how many cases ran, and how many of them were checked. */
void run_good_news(const struct run *r, char *out, size_t size);
/* Frees everything; removes RUN.partial when nothing is left for --resume. */
void run_close(struct run *r);

#endif
