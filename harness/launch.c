/* The supervisor's side of the workers: starts them, hears them, buries them.
 *
 * A launch is a queue of cases. A worker gets what is left of it; every EVENT_CASE_END moves the
 * front of the queue. When a worker is gone before the queue is empty, the case at the front gets
 * its fragment here, and another worker takes the rest. Owns the processes, their pipes, and their
 * logs DIR/worker-N.log. Before it: cmd_run.c; after it: record.c, which merges the fragments. */
#include "harness/launch.h"

#include "harness/death.h"
#include "harness/format.h"
#include "harness/interrupt.h"
#include "harness/launcher.h"
#include "harness/machine.h"
#include "harness/record.h"
#include "harness/voices.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    TICK_MS = 100,
    REAP_MS = 30000,
    GRACE_MS = 5000, /* of processes whose company has lost one, or has no case left */
    TELL_MS = 1000,  /* of guards, to tell how their workers ended once these were killed */
    MOST_LOGS = 1000000
};

struct launch {
    const struct plan *plan;
    const struct launch_opts *opts;
    const struct launch_observer *observer;
    int *queue; /* indices of cases in the plan, in order; owned */
    int n, front;
    int idle_deaths; /* workers in a row that died before they began a case */
};

struct child {
    pid_t pid;
    struct launcher launcher; /* its words; none: pid is the worker itself */
    struct voices voices;
    int errors, log; /* -1: closed */
    bool reaped;
    int64_t alive_ns;    /* when it was last seen not to have ended */
    bool launcher_died;  /* by a signal, not this run's, and before any of its processes failed */
    int64_t broken_ns;   /* since when not all processes are there that were, or shall be; or 0 */
    int64_t killed_ns;   /* when this run has killed it; 0: not */
    int base;            /* queue position of its case_index 0 */
    bool in_case, begun; /* a case is at work; one was, ever */
    bool told, stopped;  /* SIGTERM after one interrupt, SIGKILL after two */
    bool by_stranger;    /* it stopped in a case, as if told, and this run had not told it */
    int64_t silent_s;    /* what the watchdog found; 0: nothing */
    char states[300];    /* of its processes then */
    int64_t heard_ns, looked_ns, resident_bytes, oom_kills_before;
    int wait_status;
    struct event last, error; /* last chunk or token; last words (kind EVENT_ERROR) or zeros */
    char tail[STDERR_TAIL_BYTES + 1];
    size_t tail_n;
};

const char *probe_name(enum probe p) {
    static const char *const names[PROBES] = {
#define X(name, text) text,
        PROBE_TABLE(X)
#undef X
    };
    return names[p];
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static const struct case_plan *queued(const struct launch *l, int position) {
    return &l->plan->cases[l->queue[position]];
}

/* ---- starting a worker ---- */

/* DIR/worker-N.log with the first N that is free: a resumed run keeps the old ones. */
static enum status open_log(struct child *c, const char *dir, struct error *err) {
    char path[PATH_MAX_BYTES + 32];
    for (int n = 0; n < MOST_LOGS; n++) {
        snprintf(path, sizeof path, "%s/worker-%d.log", dir, n);
        c->log = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (c->log >= 0) return STATUS_OK;
        if (errno != EEXIST) break;
    }
    return error_set(err, STATUS_IO, "cannot create %s: %s", path, strerror(errno));
}

/* Arguments of a worker that are not there yet, as text. */
struct worker_texts {
    char program[PATH_MAX_BYTES], voice[VOICES_NAME_BYTES], begin[32], end[32];
};

/* "[LAUNCHER] bench worker --fd N|--at NAME --dir DIR --time BEGIN END --probe NAME ID...",
 * NULL-terminated; owned by the caller, strings borrowed. */
static char **worker_arguments(const struct launch *l, const struct child *c,
                               struct worker_texts *texts) {
    const int ids = l->n - l->front, words = c->launcher.words;
    int n = 0;
    char **argv = calloc((size_t)(words + ids) + 12, sizeof *argv);
    if (!argv) return NULL;
    for (int i = 0; i < words; i++) argv[n++] = c->launcher.word[i];
    argv[n++] = words ? texts->program : "bench";
    argv[n++] = "worker";
    argv[n++] = words ? "--at" : "--fd";
    argv[n++] = texts->voice;
    argv[n++] = "--dir";
    argv[n++] = (char *)l->opts->dir;
    argv[n++] = "--time";
    argv[n++] = texts->begin;
    argv[n++] = texts->end;
    argv[n++] = "--probe";
    argv[n++] = (char *)probe_name(l->opts->probe);
    for (int i = 0; i < ids; i++) argv[n++] = (char *)queued(l, l->front + i)->id;
    return argv;
}

/* In the child, between fork and exec: async-signal-safe calls only. Signals that ask to stop have
 * been blocked since before the fork: the supervisor's handler, which is still here, would count
 * them in a copy that exec throws away. */
static void become_worker(const char *program, char **argv, pid_t supervisor, int events,
                          int errors, const sigset_t *unblocked) {
    setpgid(0, 0); /* Ctrl-C in the terminal is the supervisor's alone */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != supervisor) _exit(1); /* it died before the line above */
    interrupt_release();
    signal(SIGPIPE, SIG_DFL);
    sigprocmask(SIG_SETMASK, unblocked, NULL); /* one that has come ends it here */
    int null = open("/dev/null", O_RDWR);
    if (null >= 0) dup2(null, STDIN_FILENO);
    dup2(errors, STDOUT_FILENO); /* whatever a library prints is a message, not a result */
    dup2(errors, STDERR_FILENO);
    if (events >= 0) fcntl(events, F_SETFD, 0);
    /* Where memory runs out, the kernel shall take the worker and not its supervisor. */
    int oom = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    bool offered = oom >= 0 && write(oom, "800", 3) == 3; /* no help without /proc, no harm */
    (void)offered;
    execvp(program, argv);
    static const char message[] = "cannot execute ";
    if (write(STDERR_FILENO, message, sizeof message - 1) < 0 ||
        write(STDERR_FILENO, program, strlen(program)) < 0 || write(STDERR_FILENO, "\n", 1) < 0)
        _exit(126);
    _exit(127);
}

/* The worker's end of its voice is *worker_end: a file descriptor that it inherits, or -1 where its
 * processes come by themselves. */
static enum status open_voices(struct child *c, int *worker_end, char *name, struct error *err) {
    int pair[2];
    *worker_end = -1;
    if (c->launcher.words > 0) {
        const enum status s = voices_listen(&c->voices, err);
        snprintf(name, VOICES_NAME_BYTES, "%s", c->voices.name);
        return s;
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return error_set(err, STATUS_RUN_FAILED, "cannot start a worker: %s", strerror(errno));
    voices_add(&c->voices, pair[0], 0);
    *worker_end = pair[1];
    snprintf(name, VOICES_NAME_BYTES, "%d", pair[1]);
    return STATUS_OK;
}

/* A launcher needs a name that its children find, too. */
static void find_program(const struct launch *l, char *out) {
    const ssize_t n = readlink("/proc/self/exe", out, PATH_MAX_BYTES - 1);
    out[n > 0 ? n : 0] = 0;
    if (l->opts->program) snprintf(out, PATH_MAX_BYTES, "%s", l->opts->program);
}

static enum status fork_worker(const struct launch *l, struct child *c, int worker_end,
                               struct worker_texts *texts, struct error *err) {
    int pipe_ends[2] = {-1, -1};
    char **argv = NULL;
    const pid_t supervisor = getpid();
    const char *own = l->opts->program ? l->opts->program : "/proc/self/exe";
    sigset_t asking, before;
    sigemptyset(&asking);
    sigaddset(&asking, SIGINT);
    sigaddset(&asking, SIGTERM);
    sigaddset(&asking, SIGHUP);
    sigprocmask(SIG_BLOCK, &asking, &before);
    if (pipe2(pipe_ends, O_CLOEXEC) == 0 && (argv = worker_arguments(l, c, texts)) != NULL) {
        c->oom_kills_before = death_oom_kills();
        c->pid = fork();
        if (c->pid == 0)
            become_worker(c->launcher.words ? argv[0] : own, argv, supervisor, worker_end,
                          pipe_ends[1], &before);
    }
    const int why = errno;
    sigprocmask(SIG_SETMASK, &before, NULL);
    /* in both, so that the group is there for whoever signals it: too late here is early enough */
    if (c->pid > 0) setpgid(c->pid, c->pid);
    free(argv);
    if (pipe_ends[1] >= 0) close(pipe_ends[1]);
    c->errors = pipe_ends[0];
    if (c->errors >= 0) fcntl(c->errors, F_SETFL, O_NONBLOCK);
    if (c->launcher.words == 0) c->voices.v[0].pid = c->pid;
    if (c->pid >= 0) return STATUS_OK;
    return error_set(err, STATUS_RUN_FAILED, "cannot start a worker: %s", strerror(why));
}

static enum status start_worker(const struct launch *l, struct child *c, struct error *err) {
    struct worker_texts texts;
    int worker_end = -1;
    *c = (struct child){.pid = -1, .errors = -1, .log = -1, .base = l->front};
    voices_open(&c->voices);
    enum status s = launcher_split(&c->launcher, l->plan->config.launcher, err);
    if (s == STATUS_OK) s = open_log(c, l->opts->dir, err);
    if (s == STATUS_OK) s = open_voices(c, &worker_end, texts.voice, err);
    if (s != STATUS_OK) return s;
    find_program(l, texts.program);
    snprintf(texts.begin, sizeof texts.begin, "%" PRId64, l->opts->limit.begin_ns);
    snprintf(texts.end, sizeof texts.end, "%" PRId64, l->opts->limit.end_ns);
    s = fork_worker(l, c, worker_end, &texts, err);
    if (worker_end >= 0) close(worker_end);
    c->heard_ns = now_ns();
    return s;
}

static void close_child(struct child *c) {
    voices_close(&c->voices);
    if (c->errors >= 0) close(c->errors);
    if (c->log >= 0) close(c->log);
    c->errors = c->log = -1;
}

/* ---- hearing it ---- */

static void keep_tail(struct child *c, const char *text, size_t n) {
    if (n > STDERR_TAIL_BYTES) {
        text += n - STDERR_TAIL_BYTES;
        n = STDERR_TAIL_BYTES;
    }
    size_t drop = c->tail_n + n > STDERR_TAIL_BYTES ? c->tail_n + n - STDERR_TAIL_BYTES : 0;
    memmove(c->tail, c->tail + drop, c->tail_n - drop);
    c->tail_n -= drop;
    for (size_t i = 0; i < n; i++) c->tail[c->tail_n++] = text[i] ? text[i] : '?';
    c->tail[c->tail_n] = 0;
}

/* What is there of its stderr, into the log and the tail. */
static void read_errors(struct child *c) {
    char text[4096];
    ssize_t n;
    while (c->errors >= 0 && (n = read(c->errors, text, sizeof text)) != 0) {
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return; /* EAGAIN: nothing more now */
        keep_tail(c, text, (size_t)n);
        if (c->log >= 0 && write(c->log, text, (size_t)n) < 0) {
            close(c->log); /* a full disk shows at the next fragment; the tail is kept */
            c->log = -1;
        }
    }
    if (c->errors >= 0) close(c->errors);
    c->errors = -1;
}

static void tell_done(const struct launch *l, const struct case_plan *c, enum case_status status,
                      const char *reason) {
    if (l->observer && l->observer->case_done)
        l->observer->case_done(l->observer->ctx, c, status, reason);
}

/* What a process says of itself; true: that was all. */
static bool hear_process(struct child *c, struct voice *v, const struct event *e) {
    switch (e->kind) {
    case EVENT_PROCESS_BEGIN:
        v->process = e->chunk, v->pid = (pid_t)e->value;
        c->voices.processes = e->chunks;
        return true;
    case EVENT_PROCESS_END:
        v->ended = true, v->wait_status = (int)e->value, v->ended_ns = e->latency_ns;
        return true;
    case EVENT_STILL: snprintf(v->still, sizeof v->still, "%.199s", e->text); return true;
    case EVENT_ERROR: v->error = *e; break;
    default: break;
    }
    c->heard_ns = now_ns();
    v->still[0] = 0;
    return v->process > 0; /* the run is process 0's to tell */
}

static void hear(struct launch *l, struct child *c, const struct event *e) {
    int position = c->base + e->case_index;
    bool of_case = e->case_index >= 0 && position < l->n;
    const struct case_plan *plan = of_case ? queued(l, position) : NULL;
    if (e->resident_bytes > 0 && l->plan->device == DEVICE_CPU)
        c->resident_bytes = e->resident_bytes;
    if (e->kind == EVENT_CHUNK || e->kind == EVENT_DECODE) c->last = *e;
    if (e->kind == EVENT_CASE_BEGIN && of_case) {
        c->in_case = c->begun = true;
        c->last = (struct event){0};
    }
    if (l->observer && l->observer->event) l->observer->event(l->observer->ctx, plan, e);
    if (e->kind == EVENT_CASE_END && of_case) {
        c->in_case = false;
        c->by_stranger = e->value == CASE_INTERRUPTED && interrupt_count(l->opts->interrupts) == 0;
        if (c->by_stranger) return;
        l->front = position + 1;
        tell_done(l, plan, (enum case_status)e->value, e->text);
    }
}

/* All events of a process that are there; closes its voice when nobody is left to speak. */
static void read_voice(struct launch *l, struct child *c, struct voice *v) {
    struct event e;
    while (v->fd >= 0) {
        ssize_t n = recv(v->fd, &e, sizeof e, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
        if (n <= 0) break;
        e.text[sizeof e.text - 1] = 0;
        if (n == sizeof e && !hear_process(c, v, &e)) hear(l, c, &e);
    }
    if (v->fd >= 0) close(v->fd);
    v->fd = -1;
    if (c->launcher.words == 0 || v->ended) return;
    /* its guard was killed, and the worker with it */
    v->ended = true, v->wait_status = SIGKILL, v->ended_ns = now_ns();
}

static void read_events(struct launch *l, struct child *c) {
    voices_accept(&c->voices);
    for (int i = 0; i < c->voices.n; i++) read_voice(l, c, &c->voices.v[i]);
}

/* A launcher of which no process has come: it failed before, or has nothing to do with them. */
static bool started_none(const struct child *c) {
    return c->launcher.words > 0 && c->voices.n == 0;
}

/* The worker, or all its processes; else the launcher, should none be there yet. */
static void signal_worker(const struct child *c, int signal_number) {
    if (started_none(c)) kill(-c->pid, signal_number);
    voices_kill(&c->voices, signal_number);
}

static void kill_worker(struct child *c) {
    if (!c->killed_ns) c->killed_ns = now_ns();
    signal_worker(c, SIGKILL);
}

/* Process 0 ends what it is at; the others follow it. */
static void ask_to_stop(struct child *c) {
    const struct voice *first = voices_of(&c->voices, 0);
    if (first && !first->ended)
        kill(first->pid, SIGTERM);
    else
        signal_worker(c, SIGTERM);
}

static void heed_interrupts(const struct launch *l, struct child *c) {
    int n = interrupt_count(l->opts->interrupts);
    if (n >= 1 && !c->told) {
        c->told = true;
        ask_to_stop(c);
    }
    if (n >= 2 && !c->stopped) {
        c->stopped = true;
        kill_worker(c);
    }
}

/* Letters of /proc/PID/stat: who is stopped (T) or stuck in a driver (D) does not say so itself. */
static void read_states(struct child *c) {
    const int n = c->voices.processes;
    size_t used = 0;
    for (int i = 0; i < (n > 1 ? n : 1) && used < sizeof c->states; i++) {
        const struct voice *v = voices_of(&c->voices, i);
        const char state = v || i == 0 ? death_process_state(v ? v->pid : c->pid) : 0;
        char who[24] = "process";
        if (!state) continue;
        if (n > 1) snprintf(who, sizeof who, "process %d:", i);
        used += (size_t)snprintf(c->states + used, sizeof c->states - used, "%s%s state %c",
                                 used ? ", " : "", who, state);
    }
}

static void watch_once(const struct launch *l, struct child *c) {
    int64_t now = now_ns(), silent_s = (now - c->heard_ns) / 1000000000;
    if (l->opts->watchdog_s > 0 && silent_s >= l->opts->watchdog_s && !c->silent_s && !c->stopped) {
        c->silent_s = silent_s;
        read_states(c);
        kill_worker(c);
    }
    if (now - c->looked_ns >= 1000000000) { /* what they held, should one be killed for that */
        for (int i = 0; i < c->voices.n; i++) {
            struct voice *v = &c->voices.v[i];
            const int64_t resident = v->pid > 0 && !v->ended ? death_resident_bytes(v->pid) : 0;
            if (resident > 0) v->resident_bytes = resident;
        }
        c->looked_ns = now;
    }
}

static bool is_over(int64_t since_ns, int ms) {
    return since_ns && now_ns() >= since_ns + (int64_t)ms * 1000000;
}

/* Whether it has nothing left to do but to leave. */
static bool should_leave(const struct launch *l, const struct child *c) {
    return c->begun && !c->in_case && (l->front == l->n || c->told || c->by_stranger);
}

/* Whether the kernel is still at the end of one that was killed: a GPU's memory takes a while. */
static bool is_dying(const struct child *c) {
    for (int i = 0; i < c->voices.n; i++) {
        const struct voice *v = &c->voices.v[i];
        const char state = v->pid > 0 && !v->ended ? death_process_state(v->pid) : 0;
        if (state && !strchr("ZX", state)) return true;
    }
    return false;
}

/* Whether it has ended, now or before. */
static bool has_ended(struct child *c) {
    const int64_t now = now_ns();
    if (c->reaped) return true;
    const pid_t got = waitpid(c->pid, &c->wait_status, WNOHANG);
    c->reaped = got == c->pid || (got < 0 && errno != EINTR);
    if (!c->reaped) {
        c->alive_ns = now;
        return false;
    }
    /* A process that failed while the launcher was there may have been the reason for its end; one
     * that failed later is a consequence. */
    const struct voice *worst = voices_blamed(&c->voices);
    c->launcher_died = c->launcher.words > 0 && WIFSIGNALED(c->wait_status) && !c->killed_ns &&
                       (!worst || worst->ended_ns >= c->alive_ns);
    return true;
}

/* A launcher ends without its processes, a process without the others, or the last case ends: the
 * rest have a moment to say what they know of it and to leave. A guard that does not even tell of
 * the end of a worker that was killed (it may be stopped) is killed like the launcher. */
static void watch_company(const struct launch *l, struct child *c) {
    if (c->launcher.words == 0) return;
    const bool alone = has_ended(c);
    if (alone) voices_stop_listening(&c->voices);
    const struct voice *first = voices_of(&c->voices, 0);
    const bool broken = alone || voices_blamed(&c->voices) || (first && first->ended);
    if (!c->broken_ns && (broken || should_leave(l, c))) c->broken_ns = now_ns();
    if (is_over(c->broken_ns, GRACE_MS)) {
        kill_worker(c);
        voices_stop_listening(&c->voices);
    }
    if (!is_over(c->killed_ns, is_dying(c) ? REAP_MS : TELL_MS)) return;
    if (!alone) kill(-c->pid, SIGKILL);
    voices_end(&c->voices);
}

/* Waits for the process to go; forces it when it lingers, or at a second interrupt. */
static void reap(const struct launch *l, struct child *c) {
    int patience_ms = c->launcher.words ? GRACE_MS : REAP_MS;
    for (int waited_ms = 0; !has_ended(c); waited_ms += 10) {
        if (waited_ms < patience_ms && interrupt_count(l->opts->interrupts) >= 2)
            patience_ms = waited_ms;
        if (waited_ms == patience_ms) {
            c->killed_ns = c->killed_ns ? c->killed_ns : now_ns();
            kill(c->launcher.words ? -c->pid : c->pid, SIGKILL);
        }
        if (waited_ms >= patience_ms + REAP_MS)
            return; /* stuck in the kernel: it dies when that
                       lets go */
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
}

/* What is known of a worker is what is known of the process that ended it. */
static void settle_blame(struct child *c) {
    struct voice *first = voices_of(&c->voices, 0), *worst = voices_blamed(&c->voices);
    struct voice *v = worst ? worst : first;
    if (first) c->error = first->error;
    if (c->launcher_died) c->resident_bytes = -1; /* what is known is what the processes held */
    if (c->launcher_died || !v) return;           /* or it has started none */
    if (c->launcher.words > 0) c->wait_status = v->wait_status;
    if (v->resident_bytes > 0) c->resident_bytes = v->resident_bytes;
}

/* From its start to its end. */
static void watch_worker(struct launch *l, struct child *c) {
    while (voices_live(&c->voices)) {
        struct pollfd fds[VOICES_MOST + 2];
        int n = voices_poll(&c->voices, fds);
        if (c->errors >= 0) fds[n++] = (struct pollfd){.fd = c->errors, .events = POLLIN};
        poll(fds, (nfds_t)n, TICK_MS);
        read_errors(c);
        read_events(l, c);
        if (!voices_live(&c->voices)) break;
        watch_company(l, c);
        heed_interrupts(l, c);
        watch_once(l, c);
        if (l->observer && l->observer->tick) l->observer->tick(l->observer->ctx);
    }
    reap(l, c);
    read_errors(c);
    settle_blame(c);
}

/* ---- burying it ---- */

/* Into the fragment that is there: why no kernels were recorded. An interrupted run may go on. */
static enum status write_no_trace(const struct launch *l, struct case_result *r,
                                  struct error *err) {
    r->kernel_trace.wanted = true;
    snprintf(r->kernel_trace.note, sizeof r->kernel_trace.note, "%.399s", r->reason);
    return r->status == CASE_INTERRUPTED ? STATUS_OK : record_update_trace(l->opts->dir, r, err);
}

static enum status write_fragment(const struct launch *l, const struct case_plan *plan,
                                  enum case_status status, const char *reason,
                                  const struct child *c, struct error *err) {
    struct case_result r;
    result_init(&r, plan);
    r.status = status;
    r.repeats = (int)l->plan->config.repeats;
    snprintf(r.reason, sizeof r.reason, "%.599s", reason);
    if (c && WIFSIGNALED(c->wait_status)) r.exit_signal = WTERMSIG(c->wait_status);
    if (c && c->tail_n > 0) r.stderr_tail = strdup(c->tail);
    enum status s = l->opts->probe == PROBE_TRACE ? write_no_trace(l, &r, err)
                                                  : record_write_case(l->opts->dir, &r, err);
    result_free(&r);
    if (s == STATUS_OK) tell_done(l, plan, status, reason);
    return s;
}

/* The last line of stderr that says something: rules of "====" do not. */
static void last_line(const struct child *c, char *out, size_t size) {
    size_t end = c->tail_n;
    while (end > 0 && !isalnum((unsigned char)c->tail[end - 1])) end--;
    size_t begin = end;
    while (begin > 0 && c->tail[begin - 1] != '\n') begin--;
    while (c->tail[end] && c->tail[end] != '\n') end++;
    snprintf(out, size, "%.*s", (int)(end - begin < 200 ? end - begin : 200), c->tail + begin);
}

/* The lines of stderr that say something, from the first on, as one. */
static void first_lines(const struct child *c, char *out, size_t size) {
    size_t used = 0;
    out[0] = 0;
    for (const char *line = c->tail; *line && used < size;) {
        const size_t n = strcspn(line, "\n"), blank = strspn(line, " \t");
        bool says = false;
        for (size_t i = 0; i < n; i++) says = says || isalnum((unsigned char)line[i]);
        if (says)
            used += (size_t)snprintf(out + used, size - used, "%s%.*s", used ? " " : "",
                                     (int)(n - blank), line + blank);
        line += n + (line[n] == '\n');
    }
}

static void where_it_was(const struct launch *l, const struct child *c, char *out, size_t size) {
    char pass[FORMAT_BYTES];
    format_pass(pass, c->last.repeat, (int)l->plan->config.warmup);
    if (started_none(c))
        snprintf(out, size, "no worker was started by the launcher");
    else if (!c->in_case)
        snprintf(out, size, "%s", c->begun ? "between two cases" : "while loading the model");
    else if (c->last.kind == EVENT_DECODE)
        snprintf(out, size, "after token %d of %s", c->last.chunk, pass);
    else if (c->last.kind == EVENT_CHUNK)
        snprintf(out, size, "after chunk %d of %d of %s", c->last.chunk, c->last.chunks, pass);
    else
        snprintf(out, size, "before its first chunk ended");
}

/* What a worker may hold of the host before the kernel ends it; 0: not known. A GPU's own memory is
 * another matter. */
static int64_t host_memory_bytes(const struct plan *p) {
    if (p->device == DEVICE_CPU) return p->device_info.memory_bytes;
    const int64_t limit = machine_cgroup_limit_bytes();
    return limit > 0 ? limit : machine_memory_bytes();
}

/* Its own, or its last line of stderr. Where processes share that, it is anybody's; none where a
 * launcher was killed. One that started no process explains itself from the first line on, and
 * often ends with advice. */
static void last_words(struct child *c, char *out, size_t size) {
    const struct voice *worst = voices_blamed(&c->voices);
    const struct event *error = worst ? &worst->error : &c->error;
    if (started_none(c))
        first_lines(c, out, size);
    else if (c->launcher_died)
        out[0] = 0;
    else if (error->kind == EVENT_ERROR)
        snprintf(out, size, "%s", error->text);
    else
        last_line(c, out, size);
}

/* Which process it was, and before it one that was not even there, for which a launcher may have
 * ended the others; "" where there is only one. */
static void name_dead(struct child *c, char *out, size_t size) {
    const struct voice *worst = voices_blamed(&c->voices);
    const int n = c->voices.processes;
    int missing = 0;
    char before[60] = "";
    out[0] = 0;
    while (missing < n && voices_of(&c->voices, missing)) missing++;
    if (missing < n) snprintf(before, sizeof before, "process %d of %d did not come; ", missing, n);
    if (c->launcher_died || started_none(c))
        snprintf(out, size, "the launcher %.60s", c->launcher.word[0]);
    else if (worst && n > 1 && !c->silent_s)
        snprintf(out, size, "%sprocess %d of %d (pid %d)", before, worst->process, n,
                 (int)worst->pid);
}

/* What each process said its devices were at when nothing moved any more, in their order; in a case
 * also which said nothing. */
static void what_they_were_at(struct child *c, char *out, size_t size) {
    const int n = c->voices.processes;
    size_t used = 0;
    out[0] = 0;
    for (int i = 0; i < (n > 1 ? n : 1) && used < size; i++) {
        const struct voice *v = voices_of(&c->voices, i);
        char mute[60] = "the worker did not tell what its devices were at";
        if (!v || (!v->still[0] && !c->in_case)) continue;
        if (n > 1) snprintf(mute, sizeof mute, "device %d: did not tell", i);
        used += (size_t)snprintf(out + used, size - used, "%s%s", used ? "; " : "",
                                 v->still[0] ? v->still : mute);
    }
}

/* The case at the front pays for its worker; when workers keep dying before any case begins, all
 * that remain do. */
static enum status bury(struct launch *l, struct child *c, struct error *err) {
    char where[100], words[600], who[140], at[500], reason[1000];
    int64_t oom_kills = death_oom_kills();
    where_it_was(l, c, where, sizeof where);
    last_words(c, words, sizeof words);
    name_dead(c, who, sizeof who);
    what_they_were_at(c, at, sizeof at);
    struct death d = {.wait_status = c->wait_status,
                      .stopped = c->stopped,
                      .silent_s = c->silent_s,
                      .states = c->states,
                      .oom_kills = oom_kills < 0 ? -1 : oom_kills - c->oom_kills_before,
                      .resident_bytes = c->resident_bytes,
                      .memory_bytes = host_memory_bytes(l->plan),
                      .who = who,
                      .where = where,
                      .at = at,
                      .words = words};
    enum case_status status = death_reason(&d, reason, sizeof reason);
    enum status s = write_fragment(l, queued(l, l->front), status, reason, c, err);
    l->front++;
    l->idle_deaths = c->begun ? 0 : l->idle_deaths + 1;
    while (s == STATUS_OK && l->idle_deaths >= LAUNCH_LOAD_DEATHS && l->front < l->n) {
        char again[1100];
        snprintf(again, sizeof again, "not tried: %d workers in a row died; the last: %s",
                 l->idle_deaths, reason);
        s = write_fragment(l, queued(l, l->front++), status, again, c, err);
    }
    return s;
}

/* Somebody's kill costs the case, not the run. */
static enum status bury_stopped(struct launch *l, const struct child *c, struct error *err) {
    static const char why[] = "the worker was told to stop, not by bench: SIGTERM or the like";
    return write_fragment(l, queued(l, l->front++), CASE_CRASHED, why, c, err);
}

/* By a signal that asks to stop, before it could listen: the supervisor's SIGTERM, or one that went
 * to the whole group before the worker had its own. */
static bool ended_by_asking(int wait_status) {
    const int n = WIFSIGNALED(wait_status) ? WTERMSIG(wait_status) : 0;
    return n == SIGTERM || n == SIGINT || n == SIGHUP;
}

/* After a worker: what its end means for the launch. */
static enum status settle(struct launch *l, struct child *c, struct error *err) {
    if (c->error.kind == EVENT_ERROR && c->error.value == STATUS_IO)
        return error_set(err, STATUS_IO, "%s", c->error.text);
    if (c->by_stranger && !c->launcher_died && !voices_blamed(&c->voices))
        return bury_stopped(l, c, err);
    const bool asked = interrupt_count(l->opts->interrupts) > 0;
    bool obeyed =
        !c->stopped && !c->silent_s && !c->in_case &&
        ((c->told && WIFEXITED(c->wait_status)) || (asked && ended_by_asking(c->wait_status)));
    /* one that ended its case, said why it cannot go on and left: the next case is not to blame */
    bool resigned = c->error.kind == EVENT_ERROR && c->begun && !c->in_case && !c->silent_s &&
                    WIFEXITED(c->wait_status);
    if (l->front == l->n || obeyed || resigned) return STATUS_OK;
    return bury(l, c, err);
}

/* ---- the launch ---- */

static enum status leave_unstarted(struct launch *l, enum case_status status, const char *why,
                                   struct error *err) {
    enum status s = STATUS_OK;
    for (; s == STATUS_OK && l->front < l->n; l->front++)
        s = write_fragment(l, queued(l, l->front), status, why, NULL, err);
    return s;
}

/* Before a model is loaded for nothing. */
static enum status leave_late(struct launch *l, struct error *err) {
    char used_up[100], why[200];
    if (!time_is_up(&l->opts->limit, now_ns())) return STATUS_OK;
    time_used_up(&l->opts->limit, used_up, sizeof used_up);
    snprintf(why, sizeof why, "time: not started: %s", used_up);
    return leave_unstarted(l, CASE_SKIPPED, why, err);
}

static enum status run_queue(struct launch *l, struct child *c, struct error *err) {
    const volatile int *interrupts = l->opts->interrupts;
    enum status s = STATUS_OK;
    while (s == STATUS_OK && l->front < l->n && interrupt_count(interrupts) == 0) {
        s = leave_late(l, err);
        if (s != STATUS_OK || l->front == l->n) break;
        s = start_worker(l, c, err);
        if (s == STATUS_OK) {
            watch_worker(l, c);
            s = settle(l, c, err);
        }
        close_child(c);
    }
    if (s != STATUS_OK || interrupt_count(interrupts) == 0) return s;
    if (interrupt_count(interrupts) == 1)
        s = leave_unstarted(l, CASE_INTERRUPTED, "not started: the run was interrupted", err);
    return s == STATUS_OK ? error_set(err, STATUS_INTERRUPTED, "interrupted") : s;
}

enum status launch_run(const struct plan *p, int launch, const bool *pending,
                       const struct launch_opts *opts, const struct launch_observer *observer,
                       struct error *err) {
    struct launch l = {.plan = p, .opts = opts, .observer = observer};
    struct child *c = malloc(sizeof *c);
    l.queue = calloc((size_t)p->n + 1, sizeof *l.queue);
    enum status s = STATUS_OK;
    if (!c || !l.queue) s = error_set(err, STATUS_NO_MEMORY, "no memory for a launch");
    for (int i = 0; s == STATUS_OK && i < p->n; i++)
        if (p->cases[i].launch == launch && pending[i]) l.queue[l.n++] = i;
    if (s == STATUS_OK) s = run_queue(&l, c, err);
    free(l.queue);
    free(c);
    return s;
}
