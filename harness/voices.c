/* See voices.h. */
#include "harness/voices.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* A zero first: no file has this name. */
static socklen_t address_of(const char *name, struct sockaddr_un *a) {
    *a = (struct sockaddr_un){.sun_family = AF_UNIX};
    const size_t n = strnlen(name, VOICES_NAME_BYTES);
    memcpy(a->sun_path + 1, name, n);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n);
}

/* All users of the host see these names. */
static bool is_ours(int fd, struct ucred *peer) {
    socklen_t size = sizeof *peer;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, peer, &size) == 0 && peer->uid == geteuid();
}

void voices_open(struct voices *v) {
    *v = (struct voices){.listener = -1};
}

enum status voices_listen(struct voices *v, struct error *err) {
    struct sockaddr_un a;
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    snprintf(v->name, sizeof v->name, "bench-%d-%lld%09ld", (int)getpid(), (long long)t.tv_sec,
             t.tv_nsec);
    const socklen_t size = address_of(v->name, &a);
    v->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (v->listener >= 0 && bind(v->listener, (const struct sockaddr *)&a, size) == 0 &&
        listen(v->listener, VOICES_MOST) == 0)
        return STATUS_OK;
    return error_set(err, STATUS_RUN_FAILED, "cannot wait for the processes of a launcher: %s",
                     strerror(errno));
}

void voices_add(struct voices *v, int fd, pid_t pid) {
    v->v[v->n++] = (struct voice){.fd = fd, .pid = pid};
}

void voices_accept(struct voices *v) {
    while (v->listener >= 0 && v->n < VOICES_MOST) {
        const int fd = accept4(v->listener, NULL, NULL, SOCK_CLOEXEC);
        struct ucred peer;
        if (fd < 0) break;
        if (!is_ours(fd, &peer)) {
            close(fd);
            continue;
        }
        voices_add(v, fd, 0);
        v->v[v->n - 1].guard = peer.pid;
    }
    if (v->processes > 0 && v->n >= v->processes) voices_stop_listening(v);
}

void voices_stop_listening(struct voices *v) {
    if (v->listener >= 0) close(v->listener);
    v->listener = -1;
}

void voices_close(struct voices *v) {
    voices_stop_listening(v);
    for (int i = 0; i < v->n; i++) {
        if (v->v[i].fd >= 0) close(v->v[i].fd);
        v->v[i].fd = -1;
    }
}

bool voices_live(const struct voices *v) {
    bool live = v->listener >= 0;
    for (int i = 0; i < v->n; i++) live = live || v->v[i].fd >= 0;
    return live;
}

int voices_poll(const struct voices *v, struct pollfd *fds) {
    int n = 0;
    if (v->listener >= 0) fds[n++] = (struct pollfd){.fd = v->listener, .events = POLLIN};
    for (int i = 0; i < v->n; i++)
        if (v->v[i].fd >= 0) fds[n++] = (struct pollfd){.fd = v->v[i].fd, .events = POLLIN};
    return n;
}

struct voice *voices_of(struct voices *v, int process) {
    for (int i = 0; i < v->n; i++)
        if (v->v[i].pid > 0 && v->v[i].process == process) return &v->v[i];
    return NULL;
}

/* Whether a is rather to blame than b. */
static bool is_worse(const struct voice *a, const struct voice *b) {
    if (!b || WIFSIGNALED(a->wait_status) != WIFSIGNALED(b->wait_status))
        return !b || WIFSIGNALED(a->wait_status);
    return a->ended_ns < b->ended_ns;
}

struct voice *voices_blamed(struct voices *v) {
    struct voice *worst = NULL;
    for (int i = 0; i < v->n; i++)
        if (v->v[i].ended && v->v[i].wait_status != 0 && is_worse(&v->v[i], worst))
            worst = &v->v[i];
    return worst;
}

void voices_kill(const struct voices *v, int signal_number) {
    for (int i = 0; i < v->n; i++)
        if (v->v[i].pid > 0 && !v->v[i].ended) kill(v->v[i].pid, signal_number);
}

void voices_end(struct voices *v) {
    voices_stop_listening(v);
    for (int i = 0; i < v->n; i++) {
        struct voice *one = &v->v[i];
        if (one->fd < 0) continue;
        if (one->guard > 0) kill(one->guard, SIGKILL);
        close(one->fd);
        one->fd = -1;
        one->ended = true;
    }
}

int voices_connect(const char *name) {
    struct sockaddr_un a;
    const socklen_t size = address_of(name, &a);
    const int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    struct ucred peer;
    if (fd < 0) return -1;
    if (connect(fd, (const struct sockaddr *)&a, size) == 0 && is_ours(fd, &peer)) return fd;
    close(fd);
    return -1;
}
