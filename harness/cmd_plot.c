/* `bench plot`: pictures of a result, drawn by gnuplot with the scripts of plots/. A picture is
 * made in a working folder beside its place and renamed to it, so a half-written one is never seen.
 */
#include "harness/arguments.h"
#include "harness/bench.h"
#include "harness/data_dir.h"
#include "harness/gnuplot.h"
#include "harness/plot.h"
#include "harness/trace.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct picture {
    const char *name, *title;
    void (*write)(const struct plot *p, struct plot_files *f);
} pictures[] =
    {
#define X(name, text) {#name, text, plot_##name},
        PICTURE_TABLE(X)},
  trace_pictures[] = {TRACE_PICTURE_TABLE(X)
#undef X
};
enum {
    PICTURES = sizeof pictures / sizeof *pictures,
    TRACE_PICTURES = sizeof trace_pictures / sizeof *trace_pictures,
};

static const char *const formats[] = {"png", "svg"};
enum { FORMATS = sizeof formats / sizeof *formats };

struct options {
    const char *path, *folder, *format, *id;
    bool keep_data, trace;
    bool wanted[FORMATS];
};

struct drawing {
    const struct options *o;
    char folder[PATH_MAX_BYTES];  /* where the pictures go */
    char scripts[PATH_MAX_BYTES]; /* where plots/ is */
    char work[PATH_MAX_BYTES];    /* of the picture at hand */
    char prefix[100];             /* of names of pictures: "", or a case's "ID-" */
    int drawn;
};

/* "png,svg" */
static bool parse_formats(struct options *o) {
    for (const char *at = o->format;; at++) {
        const size_t n = strcspn(at, ",");
        bool known = false;
        for (int i = 0; i < FORMATS; i++)
            if (strlen(formats[i]) == n && !strncmp(at, formats[i], n)) known = o->wanted[i] = true;
        if (!known) return false;
        at += n;
        if (!*at) return true;
    }
}

/* -o DIR; else RUN-plots beside RUN.h5. Only the last folder of the path is made. */
static enum status make_folder(struct drawing *d, struct error *err) {
    const struct options *o = d->o;
    const size_t n = strlen(o->path);
    const int stem = (int)(n > 3 && !strcmp(o->path + n - 3, ".h5") ? n - 3 : n);
    const int used = o->folder ? snprintf(d->folder, sizeof d->folder, "%s", o->folder)
                               : snprintf(d->folder, sizeof d->folder, "%.*s-plots", stem, o->path);
    struct stat st;
    if (used < 0 || (size_t)used >= sizeof d->folder - 64)
        return error_set(err, STATUS_IO, "the path of the folder is too long");
    if (mkdir(d->folder, 0777) != 0 && errno != EEXIST)
        return error_set(err, STATUS_IO, "cannot make folder %s: %s", d->folder, strerror(errno));
    if (stat(d->folder, &st) != 0 || !S_ISDIR(st.st_mode))
        return error_set(err, STATUS_IO, "%s is not a folder", d->folder);
    return STATUS_OK;
}

static enum status find_scripts(struct drawing *d, struct error *err) {
    char data[PATH_MAX_BYTES], style[PATH_MAX_BYTES + 16];
    const bool found = bench_data_dir(data, sizeof data);
    const int used = snprintf(d->scripts, sizeof d->scripts, "%s/plots", data);
    snprintf(style, sizeof style, "%s/style.gp", d->scripts);
    if (found && used > 0 && (size_t)used < sizeof d->scripts && access(style, R_OK) == 0)
        return STATUS_OK;
    return error_set(err, STATUS_IO,
                     "the scripts are not there (plots/style.gp); keep bin/ and share/ of the "
                     "installed folder together");
}

/* ---- one picture ---- */

static enum status open_work(struct drawing *d, const struct picture *picture, struct error *err) {
    if (d->o->keep_data) {
        snprintf(d->work, sizeof d->work, "%.*s/%s%s-data", (int)sizeof d->work - 140, d->folder,
                 d->prefix, picture->name);
        if (mkdir(d->work, 0777) == 0 || errno == EEXIST) return STATUS_OK;
    } else {
        snprintf(d->work, sizeof d->work, "%.*s/.plot-XXXXXX", (int)sizeof d->work - 40, d->folder);
        if (mkdtemp(d->work)) return STATUS_OK;
    }
    return error_set(err, STATUS_IO, "cannot make folder %s: %s", d->work, strerror(errno));
}

/* Files alone: nothing makes folders in there. */
static void close_work(const struct drawing *d) {
    if (d->o->keep_data) return;
    DIR *dir = opendir(d->work);
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..")) unlinkat(dirfd(dir), e->d_name, 0);
    if (dir) closedir(dir);
    rmdir(d->work);
}

/* The format's few variables stand in a file of their own, after the picture's settings. */
static enum status draw_format(struct drawing *d, const struct picture *picture, const char *format,
                               struct error *err) {
    char style[PATH_MAX_BYTES + 40], script[PATH_MAX_BYTES + 40], made[PATH_MAX_BYTES + 40],
        place[PATH_MAX_BYTES + 140];
    struct plot_files f = {.folder = d->work, .err = err};
    f.settings = plot_data_open(&f, "format.gp");
    plot_set_text(&f, "FORMAT", format);
    plot_set_path(&f, "PLOTS", d->scripts);
    if (plot_files_close(&f) != STATUS_OK) return f.status;
    snprintf(style, sizeof style, "%s/style.gp", d->scripts);
    snprintf(script, sizeof script, "%s/%s.gp", d->scripts, picture->name);
    const char *const scripts[] = {"settings.gp", "format.gp", style, script};
    enum status s = gnuplot_draw(d->work, scripts, 4, err);
    if (s != STATUS_OK) return s;
    snprintf(made, sizeof made, "%s/picture.%s", d->work, format);
    snprintf(place, sizeof place, "%s/%s%s.%s", d->folder, d->prefix, picture->name, format);
    if (rename(made, place) != 0)
        return error_set(err, STATUS_IO, "cannot move a picture to %s: %s", place, strerror(errno));
    puts(place);
    d->drawn++;
    return STATUS_OK;
}

static enum status draw_picture(struct drawing *d, const struct plot *p,
                                const struct picture *picture, struct error *err) {
    struct plot_files f;
    enum status s = open_work(d, picture, err);
    if (s != STATUS_OK) return s;
    plot_files_open(&f, p, d->work, picture->title, err);
    if (f.status == STATUS_OK) picture->write(p, &f);
    s = plot_files_close(&f);
    if (s == STATUS_OK && f.why[0])
        fprintf(stderr, "bench plot: %s%s is left out: %s\n", d->prefix, picture->name, f.why);
    for (int i = 0; s == STATUS_OK && !f.why[0] && i < FORMATS; i++)
        if (d->o->wanted[i]) s = draw_format(d, picture, formats[i], err);
    close_work(d);
    return s;
}

/* ---- all of them ---- */

static enum status draw_all(struct drawing *d, const struct record_run *run, struct error *err) {
    struct plot p;
    enum status s = plot_open(&p, run, err);
    for (int i = 0; s == STATUS_OK && i < PICTURES; i++) s = draw_picture(d, &p, &pictures[i], err);
    if (s == STATUS_OK && d->drawn == 0)
        s = error_set(err, STATUS_INVALID, "%s: none of its %d cases has a result to show",
                      d->o->path, run->n);
    plot_close(&p);
    return s;
}

/* The pictures of one case's spans, or else of its kernels; of a case without any none, unless it
 * was asked for. */
static enum status draw_case(struct drawing *d, const struct record_run *run, const char *id,
                             struct error *err) {
    struct case_result r;
    struct trace t = {0};
    struct plot p = {0};
    enum status s = record_read_case(d->o->path, id, true, &r, err);
    if (s != STATUS_OK) return s;
    const bool kernels = r.kernel_trace.log.n_kernels > 0;
    if (r.n_spans == 0 && !kernels && !d->o->id) {
        result_free(&r);
        return STATUS_OK;
    }
    if (r.n_spans > 0 || !kernels) s = trace_open(&t, &r, -1, err);
    trace_close(&t);
    if (s != STATUS_OK) error_prefix(err, s, "%s", d->o->path);
    struct record_run one = *run;
    one.cases = &r, one.n = 1;
    snprintf(d->prefix, sizeof d->prefix, "%s-", id);
    if (s == STATUS_OK) s = plot_open(&p, &one, err);
    for (int i = 0; s == STATUS_OK && i < TRACE_PICTURES; i++)
        s = draw_picture(d, &p, &trace_pictures[i], err);
    plot_close(&p);
    result_free(&r);
    return s;
}

/* --trace: the case that was named, else all that have spans or kernels. */
static enum status draw_traces(struct drawing *d, const struct record_run *run, struct error *err) {
    enum status s = STATUS_OK;
    int n = 0;
    for (int i = 0; s == STATUS_OK && i < run->n; i++) {
        if (d->o->id && strcmp(run->cases[i].id, d->o->id) != 0) continue;
        n++;
        s = draw_case(d, run, run->cases[i].id, err);
    }
    if (s == STATUS_OK && n == 0 && d->o->id)
        return error_set(err, STATUS_USAGE, "%s has no case '%s'; `bench show` lists its %d",
                         d->o->path, d->o->id, run->n);
    if (s == STATUS_OK && d->drawn == 0)
        s = error_set(err, STATUS_INVALID,
                      "%s: no case has spans or kernels to draw; `bench run --set run.spans=all` "
                      "records spans, but not with --once",
                      d->o->path);
    return s;
}

static enum status plot(const struct options *o, struct error *err) {
    struct drawing *d = calloc(1, sizeof *d);
    struct record_run run;
    if (!d) return error_set(err, STATUS_NO_MEMORY, "no memory");
    d->o = o;
    enum status s = record_read_run(o->path, &run, err);
    if (s == STATUS_OK) {
        s = gnuplot_find(err);
        if (s == STATUS_OK) s = find_scripts(d, err);
        if (s == STATUS_OK) s = make_folder(d, err);
        if (s == STATUS_OK) s = o->trace ? draw_traces(d, &run, err) : draw_all(d, &run, err);
        record_run_free(&run);
    }
    free(d);
    return s;
}

int cmd_plot(int argc, char **argv, const struct bench_hooks *hooks) {
    (void)hooks;
    struct options o = {.format = "png"};
    const struct argument arguments[] = {
        {"-o", ARGUMENT_VALUE, &o.folder, "DIR", "where the pictures go; else FILE-plots"},
        {"--format", ARGUMENT_VALUE, &o.format, "png|svg|png,svg", "kinds of pictures; else png"},
        {"--trace", ARGUMENT_FLAG, &o.trace, NULL,
         "of every case with spans: time by op over depth, ops against the measured ceilings, "
         "memory in use; with kernels alone: their time by op"},
        {"--case", ARGUMENT_VALUE, &o.id, "ID", "with --trace: this case alone"},
        {"--keep-data", ARGUMENT_FLAG, &o.keep_data, NULL,
         "leave the data and settings that were drawn in DIR/PICTURE-data"},
    };
    const struct command_line line = {
        .command = "plot",
        .operands = "FILE",
        .purpose = "Draws a result file that `bench run` left: chunk latency over depth, speed by\n"
                   "prompt length, memory by category, prediction against measurement; with\n"
                   "--trace, of each case, where the time of its traced chunks went and how near\n"
                   "its ops come to the measured ceilings. A case without a time, or with a wrong\n"
                   "output, is not drawn; a picture without data is left out. Needs gnuplot\n"
                   "(package gnuplot-nox). Exits with 0 when there is a picture, 2 for an unknown\n"
                   "case, 4 when there is nothing to draw, 5 when gnuplot is missing or fails, 6\n"
                   "for a file that cannot be read or written.",
        .arguments = arguments,
        .n = sizeof arguments / sizeof arguments[0],
        .least = 1,
        .most = 1,
    };
    struct argument_list operands;
    struct error err = {""};
    int code = arguments_parse(&line, argc, argv, &operands);
    if (code >= 0) return code;
    o.path = operands.v[0];
    if (o.id && !o.trace) return bench_fail_usage("plot", "--case needs", "--trace");
    if (!parse_formats(&o)) return bench_fail_usage("plot", "--format: unknown format", o.format);
    enum status s = plot(&o, &err);
    return s == STATUS_OK ? 0 : bench_fail("plot", s, &err);
}
