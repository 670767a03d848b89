/* Prompts from the web are made to be there, and a person sees it: for `bench fetch`, and before a
 * plan, which needs their lengths. Before it: cmd_fetch.c, cmd_plan.c, run.c; under it:
 * prompt_cache.c. */
#ifndef HARNESS_FETCH_H
#define HARNESS_FETCH_H

#include "harness/prompt_cache.h"

#include <stdio.h>

struct fetch_screen {
    const char *command; /* "fetch": begins each line */
    FILE *stream;        /* or NULL: nothing is shown */
    bool live;           /* stream is a terminal: one line shows how far it is */
};

/* prompt_cache_fetch under [prompt] of a configuration, on a screen. */
enum status fetch_prompt(const char *source, const struct config *c, bool anew,
                         const struct fetch_screen *screen, const volatile int *interrupts,
                         struct cached_prompt *out, bool *fetched, struct error *err);

/* All prompts of a configuration that come from the web. What cannot be had is a finding about
 * [prompt] source, whose value is refused then: plan_check has no second opinion. STATUS_OK,
 * STATUS_USAGE, STATUS_IO, STATUS_INTERRUPTED. */
enum status fetch_prompts_of(struct config *c, const struct fetch_screen *screen,
                             const volatile int *interrupts, struct config_errors *errors);

#endif
