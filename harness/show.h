/* What a result says, for people (tables) and for programs (one JSON object). Nothing is "ok" that
 * did not run; estimates carry a "~" and the word; every number has its unit and, where there is
 * more than one sample, its spread. */
#ifndef HARNESS_SHOW_H
#define HARNESS_SHOW_H

#include "harness/record.h"
#include "harness/table.h"

enum { SHOW_SCHEMA_VERSION = 1 };

struct show_style {
    bool color;
    bool bars;    /* the locale can show them */
    bool verbose; /* of one case every chunk and every op */
    int width;    /* of the screen, in columns; 0: lines may be of any length */
};
enum { SHOW_WIDTH = 100 }; /* where there is no screen */

/* One line per case, what is the same for all above it, what went wrong below it. Columns that the
 * style's width has no room for are left out, the least needed first, and named. */
void show_table(FILE *out, const struct record_run *run, const char *path,
                const struct show_style *style);
/* Facts of the run: machine, program, ceilings, configuration. */
void show_facts(FILE *out, const struct record_run *run);
/* {"schema": "chunkbench-show", "schema_version": 1, ...}: the run and a summary of each case, as
 * docs/show.schema.json says. */
void show_json(FILE *out, const struct record_run *run, const char *path);

/* Everything about one case. */
void show_case(FILE *out, const struct record_run *run, const struct case_result *r,
               const struct show_style *style);
/* Its part about clocks, power and energy; nothing where there are no such rows. */
void show_clocks(FILE *out, const struct case_result *r, const struct case_summary *s,
                 const struct show_style *style);
/* The same object with this case alone, and its rows. */
void show_case_json(FILE *out, const struct record_run *run, const struct case_result *r,
                    const char *path);

/* Comma-separated values: a line per case; of one case a line per chunk. Units in the names. */
void show_csv(FILE *out, const struct record_run *run);
void show_case_csv(FILE *out, const struct case_result *r);

/* Text from a file or a model, at most `most` characters: what a terminal would obey, and what is
 * not UTF-8, is written as \xNN. */
void show_text(FILE *out, const char *text, size_t most);

/* Why a check failed or did not run, or what it saw; of a check that did not run never "". */
const char *show_check_detail(const struct check_result *c);

/* Measured over predicted; NaN where there is no such pair. Memory is the device's accounted peak
 * over the plan's total. */
double show_time_ratio(const struct case_result *r, const struct case_summary *s);
double show_memory_ratio(const struct case_result *r, const struct case_summary *s);
enum tone show_verdict_tone(enum verdict v);
enum tone show_status_tone(enum case_status s);
/* Whether a kernel has a name: where a case did not come to choose one, it is still "auto". */
bool show_is_known(const char *kernel);

#endif
