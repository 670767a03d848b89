/* Starts gnuplot as a child whose words go to a file, so that a failure can be told. */
#include "harness/gnuplot.h"

#include "harness/config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TIME_LIMIT_S = 120, SCRIPTS_MOST = 8 };

static const char log_name[] = "gnuplot.log";

enum status gnuplot_find(struct error *err) {
    const char *folders = getenv("PATH");
    while (folders && *folders) {
        char path[PATH_MAX_BYTES];
        const int n = (int)strcspn(folders, ":");
        const int used = snprintf(path, sizeof path, "%.*s/gnuplot", n, folders);
        if (n > 0 && used > 0 && (size_t)used < sizeof path && access(path, X_OK) == 0)
            return STATUS_OK;
        folders += n + (folders[n] == ':');
    }
    return error_set(err, STATUS_RUN_FAILED,
                     "gnuplot is not installed: the package is gnuplot-nox "
                     "(apt-get install gnuplot-nox)");
}

static void run_child(const char *work, char **argv) {
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (chdir(work) != 0 || null < 0) _exit(126);
    int log = open(log_name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (log < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(log, STDOUT_FILENO) < 0 ||
        dup2(log, STDERR_FILENO) < 0)
        _exit(126);
    unsetenv("GNUTERM"); /* a terminal for a screen: a gnuplot that lacks it stops */
    alarm(TIME_LIMIT_S);
    execvp(argv[0], argv);
    _exit(127);
}

/* The line of the log that says what is wrong: gnuplot's caret points into the one before. */
static void read_complaint(const char *work, char *out, size_t size) {
    char path[PATH_MAX_BYTES + 32], line[300];
    out[0] = 0;
    snprintf(path, sizeof path, "%s/%s", work, log_name);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        if (strstr(line, "line ") || strstr(line, "error") || !out[0])
            snprintf(out, size, "%s", line);
    }
    if (f) fclose(f);
}

static enum status judge(int how, const char *work, const char *script, struct error *err) {
    char complaint[300];
    if (WIFEXITED(how) && WEXITSTATUS(how) == 0) return STATUS_OK;
    if (WIFEXITED(how) && WEXITSTATUS(how) == 127) return gnuplot_find(err);
    if (WIFSIGNALED(how) && WTERMSIG(how) == SIGALRM)
        return error_set(err, STATUS_RUN_FAILED, "gnuplot %s does not end", script);
    read_complaint(work, complaint, sizeof complaint);
    return error_set(err, STATUS_RUN_FAILED, "gnuplot %s failed: %s", script,
                     complaint[0] ? complaint : "it says nothing");
}

enum status gnuplot_draw(const char *work, const char *const *scripts, int n, struct error *err) {
    char *argv[SCRIPTS_MOST + 3] = {"gnuplot", "-d"};
    for (int i = 0; i < n && i < SCRIPTS_MOST; i++) argv[2 + i] = (char *)(intptr_t)scripts[i];
    pid_t child = fork();
    if (child == 0) run_child(work, argv);
    if (child < 0) return error_set(err, STATUS_IO, "cannot start gnuplot: %s", strerror(errno));
    int how = 0;
    while (waitpid(child, &how, 0) < 0)
        if (errno != EINTR)
            return error_set(err, STATUS_IO, "cannot wait for gnuplot: %s", strerror(errno));
    return judge(how, work, scripts[n - 1], err);
}
