/* See guard.h. */
#include "harness/guard.h"

#include "harness/voices.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static bool tell(int fd, enum event_kind kind, const struct launcher_place *p, int64_t value) {
    const struct event e = {.kind = kind,
                            .case_index = -1,
                            .chunk = p->process,
                            .chunks = p->processes,
                            .latency_ns = now_ns(),
                            .value = value};
    return send(fd, &e, sizeof e, MSG_NOSIGNAL) == sizeof e;
}

/* True when the worker has ended: *how. False: the supervisor is gone, and so is the worker. */
static bool watch(int fd, int signals, pid_t worker, int *how) {
    for (;;) {
        struct pollfd fds[2] = {{.fd = signals, .events = POLLIN}, {.fd = fd, .events = POLLRDHUP}};
        struct signalfd_siginfo s = {0};
        poll(fds, 2, -1);
        if (fds[0].revents && read(signals, &s, sizeof s) == sizeof s) {
            if (s.ssi_signo != SIGCHLD) kill(worker, (int)s.ssi_signo);
            if (waitpid(worker, how, WNOHANG) == worker) return true;
        }
        if (!fds[1].revents) continue;
        kill(worker, SIGKILL);
        waitpid(worker, how, 0);
        return false;
    }
}

bool guard_stand(const char *name, const struct launcher_place *place, int *fd, int *code) {
    sigset_t heeded, before;
    const pid_t self = getpid();
    *fd = voices_connect(name);
    *code = status_exit_code(STATUS_RUN_FAILED);
    if (*fd < 0) {
        fprintf(stderr, "bench worker: no supervisor waits for this process on this host\n");
        return false;
    }
    sigemptyset(&heeded);
    sigaddset(&heeded, SIGCHLD);
    sigaddset(&heeded, SIGINT);
    sigaddset(&heeded, SIGTERM);
    sigaddset(&heeded, SIGHUP);
    sigprocmask(SIG_BLOCK, &heeded, &before);
    const pid_t worker = fork();
    if (worker == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != self) _exit(1); /* it died before the line above */
        sigprocmask(SIG_SETMASK, &before, NULL);
        return tell(*fd, EVENT_PROCESS_BEGIN, place, getpid());
    }
    prctl(PR_SET_NAME, "bench guard");
    const int signals = signalfd(-1, &heeded, SFD_CLOEXEC);
    int how = 0;
    if (worker > 0 && signals >= 0 && watch(*fd, signals, worker, &how) &&
        tell(*fd, EVENT_PROCESS_END, place, how))
        *code = 0;
    if (worker > 0 && signals < 0) kill(worker, SIGKILL);
    if (signals >= 0) close(signals);
    close(*fd);
    return false;
}
