/* RUN.partial: the folder beside RUN.h5 in which a run is made. It holds config.ini (effective
 * configuration), plan.json (decisions), a fragment per finished case, worker logs, and a lock that
 * its one user holds. It goes away when all cases are ok (as RUN.finished, while its files are
 * removed), and stays for --resume otherwise. */
#ifndef HARNESS_RUN_DIR_H
#define HARNESS_RUN_DIR_H

#include "harness/config.h"

struct run_dir {
    char file[PATH_MAX_BYTES]; /* RUN.h5 */
    char path[PATH_MAX_BYTES]; /* RUN.partial */
    char plan[PATH_MAX_BYTES]; /* RUN.partial/plan.json */
    bool has_plan;             /* it is there: of the run that is resumed */
    int lock;
};

enum run_mode {
    RUN_NEW,    /* refuses to touch what is there */
    RUN_FORCE,  /* replaces it */
    RUN_RESUME, /* continues it */
};

/* Where results go: `output` if given, else results/raw/NAME-YYYYmmdd-HHMMSS.h5 after the
 * configuration's file; to resume without a name: the newest unfinished one of that name.
 * STATUS_USAGE if there is none, or `output` is a folder; STATUS_IO if the folder that it would
 * stand in does not exist: only results/raw is made. out: PATH_MAX_BYTES. */
enum status run_dir_file(const struct config *c, const char *output, enum run_mode mode, char *out,
                         struct error *err);

/* Makes or opens the folder, locks it, compares or writes config.ini. STATUS_USAGE: something is
 * there that the mode does not allow, or that is no result of bench and would be replaced, another
 * run holds it, or (resume) the configuration differs; the text names the keys that do. STATUS_IO
 * names path and errno. */
enum status run_dir_open(struct run_dir *d, const char *file, const struct config *c,
                         enum run_mode mode, struct error *err);
/* `finished`: removes the folder and what a run leaves in it. */
void run_dir_close(struct run_dir *d, bool finished);

/* The keys in which two effective configurations (config_to_text) differ: "[engine] threads: was 2,
 * is 4; ...". Returns how many; [run] output does not count. */
int run_dir_differences(const char *was, const char *is, char *out, size_t size);

#endif
