/* A forked child with a time limit, whose answer comes back through a file in memory.
 * Before it: plan_apart.c, doctor_gpu.c. */
#include "harness/isolated.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* The child's ends of what connects it to its parent. */
struct ends {
    int answer, errors; /* files in memory, read by the parent when the child is gone */
    int alive[2];       /* a pipe that the child alone holds open: it ends with the child */
};

static void close_ends(struct ends *e) {
    if (e->answer >= 0) close(e->answer);
    if (e->errors >= 0) close(e->errors);
    if (e->alive[0] >= 0) close(e->alive[0]);
    if (e->alive[1] >= 0) close(e->alive[1]);
}

static bool open_ends(struct ends *e) {
    *e = (struct ends){
        memfd_create("answer", MFD_CLOEXEC), memfd_create("errors", MFD_CLOEXEC), {-1, -1}};
    return e->answer >= 0 && e->errors >= 0 && pipe2(e->alive, O_CLOEXEC) == 0;
}

static void write_answer(int fd, const struct jsondoc *answer) {
    char *text = jsondoc_text(answer);
    const size_t n = text ? strlen(text) : 0;
    for (size_t done = 0; done < n;) {
        const ssize_t w = write(fd, text + done, n - done);
        if (w < 0 && errno == EINTR) continue;
        if (w <= 0) break;
        done += (size_t)w;
    }
    free(text);
}

/* In the child; does not return. _exit: nothing of the parent's is flushed or torn down twice. */
static void be_the_child(const struct ends *e, pid_t parent, isolated_work *work, void *ctx) {
    static const int usual[] = {SIGINT, SIGTERM, SIGHUP,  SIGSEGV, SIGBUS,
                                SIGFPE, SIGILL,  SIGABRT, SIGALRM};
    for (size_t i = 0; i < sizeof usual / sizeof *usual; i++) signal(usual[i], SIG_DFL);
    const struct rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    dup2(e->errors, STDOUT_FILENO);
    dup2(e->errors, STDERR_FILENO);
    close(e->alive[0]);
    struct jsondoc *answer = jsondoc_object();
    work(ctx, answer);
    write_answer(e->answer, answer);
    _exit(0);
}

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* False: the limit came first. */
static bool wait_for_end(int alive, int limit_s) {
    const int64_t until = now_ms() + 1000 * (int64_t)limit_s;
    struct pollfd fd = {.fd = alive, .events = POLLIN};
    for (int64_t left; (left = until - now_ms()) > 0;)
        if (poll(&fd, 1, (int)left) > 0) return true;
    return false;
}

/* The child's end; one that the kernel holds on to after SIGKILL (a driver that hangs) is left
 * behind after a while: it dies when that lets go. */
static int reap(pid_t pid, bool killed) {
    enum { PATIENCE_MS = 10000, STEP_MS = 10 };
    int how = SIGKILL;
    for (int waited_ms = 0; !killed || waited_ms < PATIENCE_MS; waited_ms += STEP_MS) {
        const pid_t got = waitpid(pid, &how, killed ? WNOHANG : 0);
        if (got == pid || (got < 0 && errno != EINTR)) break;
        if (got == 0) nanosleep(&(struct timespec){.tv_nsec = STEP_MS * 1000000}, NULL);
    }
    return how;
}

/* ": last line", or nothing. */
static void last_words(int fd, char *out, size_t size) {
    char text[4096];
    const off_t end = lseek(fd, 0, SEEK_END);
    const off_t begin = end > (off_t)sizeof text - 1 ? end - (off_t)sizeof text + 1 : 0;
    ssize_t n = pread(fd, text, sizeof text - 1, begin);
    if (n < 0) n = 0;
    while (n > 0 && strchr("\n ", text[n - 1])) n--;
    text[n] = 0;
    const char *line = strrchr(text, '\n');
    snprintf(out, size, "%s%.200s", n ? ": " : "", line ? line + 1 : text);
}

static enum status explain_end(const char *what, int how, int limit_s, bool late, int errors,
                               struct error *err) {
    char words[240];
    last_words(errors, words, sizeof words);
    if (late)
        return error_set(err, STATUS_DEVICE, "%s gave no answer within %d s%s", what, limit_s,
                         words);
    if (WIFEXITED(how))
        return error_set(err, STATUS_DEVICE, "%s ended with exit code %d%s", what, WEXITSTATUS(how),
                         words);
    const int signal_number = WTERMSIG(how);
    if (signal_number == SIGINT || signal_number == SIGTERM || signal_number == SIGHUP)
        return error_set(err, STATUS_INTERRUPTED, "%s was interrupted", what);
    const char *name = sigabbrev_np(signal_number);
    return error_set(err, STATUS_DEVICE, "%s crashed: SIG%s (%s)%s", what, name ? name : "?",
                     strsignal(signal_number), words);
}

/* By its file descriptor's name in /proc: the file has no other. */
static enum status take_answer(struct jsondoc **answer, const char *what, int fd,
                               struct error *err) {
    char path[64];
    struct error why = {""};
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (jsondoc_read(answer, path, &why) == STATUS_OK) return STATUS_OK;
    return error_set(err, STATUS_DEVICE, "%s gave no answer that can be read: %.600s", what,
                     why.text);
}

enum status isolated_run(struct jsondoc **answer, const char *what, int limit_s,
                         isolated_work *work, void *ctx, struct error *err) {
    struct ends e;
    pid_t pid = -1;
    const pid_t parent = getpid();
    *answer = NULL;
    fflush(NULL); /* what is buffered is the parent's to write */
    if (open_ends(&e)) pid = fork();
    if (pid == 0) be_the_child(&e, parent, work, ctx);
    if (pid < 0) {
        const enum status s = error_set(err, STATUS_RUN_FAILED, "%s: cannot start a process: %s",
                                        what, strerror(errno));
        close_ends(&e);
        return s;
    }
    close(e.alive[1]);
    e.alive[1] = -1;
    const bool late = !wait_for_end(e.alive[0], limit_s);
    if (late) kill(pid, SIGKILL);
    const int how = reap(pid, late);
    const bool ended = !late && WIFEXITED(how) && WEXITSTATUS(how) == 0;
    const enum status s = ended ? take_answer(answer, what, e.answer, err)
                                : explain_end(what, how, limit_s, late, e.errors, err);
    close_ends(&e);
    return s;
}
