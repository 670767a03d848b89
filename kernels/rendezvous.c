/* Sockets in a star around process 0, and a page that all see. See rendezvous.h.
 *
 * The end is a word in that page with a reason beside it; who ends shuts its sockets down, and so
 * does everyone who hears of it: whatever waits on one returns. A thread watches them for that, and
 * for a process that is gone. Before it: engine/devices.c; after it: the groups of
 * kernels/exchange. */
#include "kernels/rendezvous.h"

#include "kernels/types.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum end_state { GOES_ON, ENDING, ENDED };

/* What all processes see. */
struct common {
    _Atomic int state;            /* enum end_state */
    _Atomic bool left[MAX_RANKS]; /* [process]: in order */
    int status;                   /* these two once state is ENDED */
    struct error why;
};

struct rendezvous {
    int process, processes;
    int fd[MAX_RANKS]; /* of process 0: to each other; of the others: [0]. -1: none */
    struct common *common;
    int wake; /* eventfd: the watcher has something to look at */
    pthread_t watcher;
    bool watching;
    _Atomic bool closing;
    pthread_mutex_t lock; /* guards what follows */
    void (*on_end)(void *ctx);
    void *ctx;
    bool told; /* on_end has been called, or nobody was there when it would have been */
};

int rendezvous_process(const struct rendezvous *r) {
    return r->process;
}

int rendezvous_processes(const struct rendezvous *r) {
    return r->processes;
}

/* ---- the end */

static bool has_ended(const struct rendezvous *r) {
    return r->common && atomic_load(&r->common->state) != GOES_ON;
}

static void shut_down(struct rendezvous *r) {
    for (int i = 0; i < r->processes; i++)
        if (r->fd[i] >= 0) shutdown(r->fd[i], SHUT_RDWR);
}

static void wake_watcher(struct rendezvous *r) {
    const uint64_t one = 1;
    if (r->wake >= 0 && write(r->wake, &one, sizeof one) < 0) return; /* it is awake already */
}

void rendezvous_end(struct rendezvous *r, enum status s, const struct error *why) {
    int goes_on = GOES_ON;
    struct common *c = r->common;
    if (atomic_compare_exchange_strong(&c->state, &goes_on, ENDING)) {
        c->status = (int)s;
        c->why = *why;
        atomic_store(&c->state, ENDED);
    }
    shut_down(r);
    wake_watcher(r);
}

static void lose(struct rendezvous *r, int process) {
    struct error why;
    error_set(&why, STATUS_LOST, "process %d of %d is gone", process, r->processes);
    rendezvous_end(r, STATUS_LOST, &why);
}

/* A process that died while it wrote its reason has none. */
static bool has_reason(const struct rendezvous *r) {
    enum { PATIENCE_MS = 200 };
    for (int ms = 0; atomic_load(&r->common->state) == ENDING && ms < PATIENCE_MS; ms++)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    return atomic_load(&r->common->state) == ENDED;
}

enum status rendezvous_status(const struct rendezvous *r, struct error *err) {
    if (!has_ended(r)) return STATUS_OK;
    if (!has_reason(r)) return error_set(err, STATUS_RUN_FAILED, "another process failed");
    return error_set(err, (enum status)r->common->status, "%s", r->common->why.text);
}

static void tell_end(struct rendezvous *r) {
    pthread_mutex_lock(&r->lock);
    if (!r->told && r->on_end) r->on_end(r->ctx);
    r->told = true;
    pthread_mutex_unlock(&r->lock);
}

void rendezvous_on_end(struct rendezvous *r, void (*fn)(void *ctx), void *ctx) {
    pthread_mutex_lock(&r->lock);
    r->on_end = fn, r->ctx = ctx;
    if (fn && r->told) fn(ctx);
    pthread_mutex_unlock(&r->lock);
}

/* ---- the watcher */

/* Those that may still leave or be lost, behind the eventfd. */
static int watched(const struct rendezvous *r, const bool *gone, struct pollfd *fds, int *process) {
    int n = 0;
    fds[n] = (struct pollfd){.fd = r->wake, .events = POLLIN}, process[n++] = -1;
    for (int i = 0; i < r->processes; i++)
        if (r->fd[i] >= 0 && !gone[i])
            fds[n] = (struct pollfd){.fd = r->fd[i], .events = POLLRDHUP}, process[n++] = i;
    return n;
}

static void *watch(void *arg) {
    struct rendezvous *r = arg;
    bool gone[MAX_RANKS] = {false};
    struct pollfd fds[MAX_RANKS + 1];
    int process[MAX_RANKS + 1];
    while (!has_ended(r) && !atomic_load(&r->closing)) {
        const int n = watched(r, gone, fds, process);
        if (poll(fds, (nfds_t)n, -1) < 0) continue;
        for (int i = 1; i < n; i++) {
            if (!fds[i].revents || has_ended(r) || atomic_load(&r->closing)) continue;
            gone[process[i]] = true;
            if (!atomic_load(&r->common->left[process[i]])) lose(r, process[i]);
        }
    }
    if (atomic_load(&r->closing)) return NULL;
    shut_down(r);
    tell_end(r);
    return NULL;
}

/* ---- messages */

static int fd_of(const struct rendezvous *r, int process) {
    return r->fd[r->process == 0 ? process : 0];
}

/* The other side is not there any more, or the meeting is over. */
static enum status broken(struct rendezvous *r, int process, struct error *err) {
    if (r->common && !has_ended(r) && !atomic_load(&r->common->left[process])) lose(r, process);
    if (r->common && has_ended(r)) return rendezvous_status(r, err);
    return error_set(err, STATUS_RUN_FAILED, "process %d of %d has left", process, r->processes);
}

enum status rendezvous_send(struct rendezvous *r, int process, const void *bytes, size_t n,
                            struct error *err) {
    const char *at = bytes;
    while (n > 0) {
        const ssize_t sent = send(fd_of(r, process), at, n, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent <= 0) return broken(r, process, err);
        at += sent, n -= (size_t)sent;
    }
    return STATUS_OK;
}

enum status rendezvous_receive(struct rendezvous *r, int process, void *bytes, size_t n,
                               struct error *err) {
    char *at = bytes;
    while (n > 0) {
        const ssize_t got = recv(fd_of(r, process), at, n, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return broken(r, process, err);
        at += got, n -= (size_t)got;
    }
    return STATUS_OK;
}

enum status rendezvous_gather(struct rendezvous *r, const void *mine, size_t n, void *all,
                              struct error *err) {
    char *out = all;
    const size_t whole = n * (size_t)r->processes;
    enum status s = STATUS_OK;
    if (r->process > 0) {
        s = rendezvous_send(r, 0, mine, n, err);
        return s == STATUS_OK ? rendezvous_receive(r, 0, all, whole, err) : s;
    }
    memcpy(out, mine, n);
    for (int i = 1; s == STATUS_OK && i < r->processes; i++)
        s = rendezvous_receive(r, i, out + n * (size_t)i, n, err);
    for (int i = 1; s == STATUS_OK && i < r->processes; i++)
        s = rendezvous_send(r, i, all, whole, err);
    return s;
}

/* ---- memory */

/* A message that carries a file descriptor. */
union control {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr align;
};

static bool send_file(int socket, int file) {
    char byte = 0;
    union control control = {.bytes = {0}};
    struct iovec io = {&byte, 1};
    struct msghdr m = {.msg_iov = &io,
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = sizeof control.bytes};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_RIGHTS, c->cmsg_len = CMSG_LEN(sizeof file);
    memcpy(CMSG_DATA(c), &file, sizeof file);
    return sendmsg(socket, &m, MSG_NOSIGNAL) == 1;
}

/* -1: none came. */
static int receive_file(int socket) {
    int file = -1;
    char byte;
    union control control;
    struct iovec io = {&byte, 1};
    struct msghdr m = {.msg_iov = &io,
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = sizeof control.bytes};
    ssize_t got;
    do got = recvmsg(socket, &m, MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    const struct cmsghdr *c = got == 1 ? CMSG_FIRSTHDR(&m) : NULL;
    if (c && c->cmsg_type == SCM_RIGHTS) memcpy(&file, CMSG_DATA(c), sizeof file);
    return file;
}

/* Process 0 makes it and hands it out. *file: owned by the caller, or -1. */
static enum status share_file(struct rendezvous *r, size_t bytes, int *file, struct error *err) {
    *file = r->process == 0 ? memfd_create("bench", MFD_CLOEXEC) : receive_file(fd_of(r, 0));
    if (*file < 0 && r->process > 0) return broken(r, 0, err);
    if (*file < 0 || (r->process == 0 && ftruncate(*file, (off_t)bytes) != 0))
        return error_set(err, STATUS_NO_MEMORY, "no memory for processes to share: %s",
                         strerror(errno));
    for (int i = 1; r->process == 0 && i < r->processes; i++)
        if (!send_file(fd_of(r, i), *file)) return broken(r, i, err);
    return STATUS_OK;
}

enum status rendezvous_memory(struct rendezvous *r, size_t bytes, void **out, struct error *err) {
    int file;
    *out = NULL;
    enum status s = share_file(r, bytes, &file, err);
    if (s == STATUS_OK) {
        void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, file, 0);
        if (at == MAP_FAILED)
            s = error_set(err, STATUS_NO_MEMORY, "no memory for processes to share: %s",
                          strerror(errno));
        else
            *out = at;
    }
    if (file >= 0) close(file);
    return s;
}

void rendezvous_memory_close(void *at, size_t bytes) {
    if (at) munmap(at, bytes);
}

/* ---- coming together */

/* What a process says of itself. The program is a file: processes of one run execute the same. */
struct hello {
    int32_t process, processes;
    uint64_t device, file;
};

static struct hello hello_of(const struct rendezvous *r) {
    struct stat program = {0};
    stat("/proc/self/exe", &program);
    return (struct hello){r->process, r->processes, (uint64_t)program.st_dev,
                          (uint64_t)program.st_ino};
}

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static socklen_t address_of(const char *name, struct sockaddr_un *a) {
    *a = (struct sockaddr_un){.sun_family = AF_UNIX}; /* a zero first: no file has this name */
    const size_t n = strnlen(name, RENDEZVOUS_NAME_MOST);
    memcpy(a->sun_path + 1, name, n);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n);
}

/* Names of this kind are seen by all users of the host. */
static bool is_ours(int fd) {
    struct ucred peer;
    socklen_t size = sizeof peer;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == geteuid();
}

/* All n bytes before the time is over. */
static bool receive_until(int fd, void *bytes, size_t n, int64_t until_ms) {
    char *at = bytes;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    for (int64_t left; n > 0 && (left = until_ms - now_ms()) > 0;) {
        if (poll(&p, 1, (int)left) <= 0) continue;
        const ssize_t got = recv(fd, at, n, MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN)) return false;
        if (got > 0) at += got, n -= (size_t)got;
    }
    return n == 0;
}

static enum status check_hello(const struct rendezvous *r, const struct hello *h,
                               struct error *err) {
    const struct hello mine = hello_of(r);
    if (h->processes != mine.processes)
        return error_set(err, STATUS_USAGE,
                         "process %d believes to be one of %d, process 0 to be one of %d",
                         h->process, h->processes, mine.processes);
    if (h->device != mine.device || h->file != mine.file)
        return error_set(err, STATUS_USAGE, "process %d executes another program than process 0",
                         h->process);
    if (h->process < 1 || h->process >= mine.processes || r->fd[h->process] >= 0)
        return error_set(err, STATUS_USAGE,
                         "there is a process %d of %d twice: each needs a number of its own",
                         h->process, mine.processes);
    return STATUS_OK;
}

static enum status nobody_came(const struct rendezvous *r, int patience_s, struct error *err) {
    char who[100] = "";
    for (int i = 1; i < r->processes; i++)
        if (r->fd[i] < 0)
            snprintf(who + strlen(who), sizeof who - strlen(who), "%s%d", who[0] ? ", " : "", i);
    return error_set(err, STATUS_TIMEOUT, "process %s of %d did not come within %d s", who,
                     r->processes, patience_s);
}

static enum status accept_all(struct rendezvous *r, int listener, int patience_s,
                              struct error *err) {
    const int64_t until = now_ms() + 1000 * (int64_t)patience_s;
    struct pollfd p = {.fd = listener, .events = POLLIN};
    for (int there = 1; there < r->processes;) {
        const int64_t left = until - now_ms();
        struct hello h;
        if (left <= 0) return nobody_came(r, patience_s, err);
        if (poll(&p, 1, (int)left) <= 0) continue;
        const int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0) continue;
        if (!is_ours(fd) || !receive_until(fd, &h, sizeof h, until)) {
            close(fd);
            continue;
        }
        const enum status s = check_hello(r, &h, err);
        if (s != STATUS_OK) {
            close(fd);
            return s;
        }
        r->fd[h.process] = fd;
        there++;
    }
    return STATUS_OK;
}

static enum status receive_others(struct rendezvous *r, const struct rendezvous_opts *o,
                                  struct error *err) {
    struct sockaddr_un a;
    const socklen_t size = address_of(o->name, &a);
    const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    enum status s = STATUS_OK;
    if (listener < 0 || bind(listener, (const struct sockaddr *)&a, size) != 0 ||
        listen(listener, MAX_RANKS) != 0)
        s = error_set(err, STATUS_RUN_FAILED, "process 0 cannot wait for the others: %s",
                      errno == EADDRINUSE ? "another process calls itself 0, too"
                                          : strerror(errno));
    if (s == STATUS_OK) s = accept_all(r, listener, o->patience_s, err);
    if (listener >= 0) close(listener);
    return s;
}

static enum status go_to_first(struct rendezvous *r, const struct rendezvous_opts *o,
                               struct error *err) {
    const int64_t until = now_ms() + 1000 * (int64_t)o->patience_s;
    const struct hello mine = hello_of(r);
    struct sockaddr_un a;
    const socklen_t size = address_of(o->name, &a);
    int fd = -1;
    do {
        if (fd >= 0) {
            close(fd);
            nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
        }
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
            return error_set(err, STATUS_RUN_FAILED, "no socket to process 0: %s", strerror(errno));
    } while (connect(fd, (const struct sockaddr *)&a, size) != 0 && now_ms() < until);
    r->fd[0] = fd;
    if (!is_ours(fd) || send(fd, &mine, sizeof mine, MSG_NOSIGNAL) != sizeof mine)
        return error_set(err, STATUS_TIMEOUT,
                         "process %d of %d did not find process 0 within %d s: all must run on one "
                         "host",
                         r->process, r->processes, o->patience_s);
    return STATUS_OK;
}

static enum status meet(struct rendezvous *r, const struct rendezvous_opts *o, struct error *err) {
    void *page = NULL;
    enum status s = r->process == 0 ? receive_others(r, o, err) : go_to_first(r, o, err);
    if (s == STATUS_OK) s = rendezvous_memory(r, sizeof *r->common, &page, err);
    r->common = page;
    if (s != STATUS_OK) return s;
    r->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    const int rc = r->wake < 0 ? errno : pthread_create(&r->watcher, NULL, watch, r);
    r->watching = rc == 0;
    return rc == 0 ? s : error_set(err, STATUS_RUN_FAILED, "no thread to watch: %s", strerror(rc));
}

enum status rendezvous_open(struct rendezvous **out, const struct rendezvous_opts *opts,
                            struct error *err) {
    *out = NULL;
    if (opts->process < 0 || opts->process >= opts->processes || opts->processes < 2 ||
        opts->processes > MAX_RANKS || strlen(opts->name) > RENDEZVOUS_NAME_MOST)
        return error_set(err, STATUS_USAGE, "process %d of %d: expected at most %d", opts->process,
                         opts->processes, MAX_RANKS);
    struct rendezvous *r = calloc(1, sizeof *r);
    if (!r) return error_set(err, STATUS_NO_MEMORY, "no memory for processes to meet");
    r->process = opts->process, r->processes = opts->processes;
    r->wake = -1;
    for (int i = 0; i < MAX_RANKS; i++) r->fd[i] = -1;
    pthread_mutex_init(&r->lock, NULL);
    const enum status s = meet(r, opts, err);
    if (s == STATUS_OK)
        *out = r;
    else
        rendezvous_close(r);
    return s;
}

void rendezvous_close(struct rendezvous *r) {
    if (!r) return;
    if (r->watching) {
        atomic_store(&r->common->left[r->process], true);
        atomic_store(&r->closing, true);
        shut_down(r);
        wake_watcher(r);
        pthread_join(r->watcher, NULL);
    }
    for (int i = 0; i < r->processes; i++)
        if (r->fd[i] >= 0) close(r->fd[i]);
    if (r->wake >= 0) close(r->wake);
    rendezvous_memory_close(r->common, sizeof *r->common);
    pthread_mutex_destroy(&r->lock);
    free(r);
}
