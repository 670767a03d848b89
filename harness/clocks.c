/* Samples of the GPUs during chunks. See clocks.h. Before it: nvml.c; after it: worker_case.c. */
#include "harness/clocks.h"

#include "kernels/nvml.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

/* Of one GPU, since clocks_begin. */
struct sums {
    int device; /* of the engine */
    int gpu;    /* of NVML */
    int32_t samples;
    int64_t energy_before_mj;
    double sm_mhz, power_w; /* sums */
    int32_t sm_min_mhz;
    int64_t reasons_seen;
    struct nvml_sample last;
};

struct clocks {
    struct nvml *nvml; /* owned */
    int n;
    struct sums of[MAX_RANKS];
    pthread_t thread;
    pthread_mutex_t lock; /* guards all that follows, and `of` */
    pthread_cond_t wake;
    bool running, quit;
};

/* ---- one sample */

static void take_sample(const struct clocks *c, struct sums *s) {
    struct nvml_sample *now = &s->last;
    nvml_sample(c->nvml, s->gpu, now);
    s->samples++;
    s->sm_mhz += now->sm_clock_mhz >= 0 ? now->sm_clock_mhz : (double)NAN;
    s->power_w += now->power_w;
    if (now->sm_clock_mhz >= 0 && (s->sm_min_mhz < 0 || now->sm_clock_mhz < s->sm_min_mhz))
        s->sm_min_mhz = now->sm_clock_mhz;
    if (now->reasons >= 0)
        s->reasons_seen = (s->reasons_seen < 0 ? 0 : s->reasons_seen) | now->reasons;
}

/* ---- the thread */

static void add_period(struct timespec *t) {
    t->tv_nsec += CLOCKS_PERIOD_MS * 1000000l;
    t->tv_sec += t->tv_nsec / 1000000000;
    t->tv_nsec %= 1000000000;
}

/* Waits for a chunk, then for each period of it; holds the lock but while it waits. */
static void *sample_main(void *ctx) {
    struct clocks *c = ctx;
    struct timespec next;
    bool in_chunk = false;
    pthread_mutex_lock(&c->lock);
    while (!c->quit) {
        if (!c->running) {
            in_chunk = false;
            pthread_cond_wait(&c->wake, &c->lock);
            continue;
        }
        if (!in_chunk) clock_gettime(CLOCK_MONOTONIC, &next);
        in_chunk = true;
        add_period(&next);
        while (c->running && !c->quit)
            if (pthread_cond_timedwait(&c->wake, &c->lock, &next) != 0) break;
        for (int i = 0; c->running && !c->quit && i < c->n; i++) take_sample(c, &c->of[i]);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

static bool start_thread(struct clocks *c) {
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&c->wake, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&c->lock, NULL);
    if (pthread_create(&c->thread, NULL, sample_main, c) == 0) return true;
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->wake);
    return false;
}

/* ---- opening and closing */

static void find_gpus(struct clocks *c, const struct device_info *devices, int n) {
    for (int i = 0; i < n && i < MAX_RANKS; i++) {
        const char *id = devices[i].bus_id;
        const int gpu = id[0] ? nvml_find(c->nvml, id) : -1;
        if (gpu >= 0) c->of[c->n++] = (struct sums){.device = i, .gpu = gpu};
    }
}

static bool is_gpu(const struct device_info *devices, int n) {
    for (int i = 0; i < n; i++)
        if (devices[i].bus_id[0]) return true;
    return false;
}

struct clocks *clocks_open(const struct device_info *devices, int n, const char *library) {
    struct clocks *c = is_gpu(devices, n) ? calloc(1, sizeof *c) : NULL;
    if (!c) return NULL;
    if (nvml_open(&c->nvml, library, NULL) == STATUS_OK) find_gpus(c, devices, n);
    if (c->n > 0 && start_thread(c)) return c;
    nvml_close(c->nvml);
    free(c);
    return NULL;
}

void clocks_close(struct clocks *c) {
    if (!c) return;
    pthread_mutex_lock(&c->lock);
    c->quit = true;
    pthread_cond_signal(&c->wake);
    pthread_mutex_unlock(&c->lock);
    pthread_join(c->thread, NULL);
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->wake);
    nvml_close(c->nvml);
    free(c);
}

/* ---- around a chunk */

void clocks_begin(struct clocks *c) {
    if (!c) return;
    pthread_mutex_lock(&c->lock);
    for (int i = 0; i < c->n; i++) {
        struct sums *s = &c->of[i];
        *s = (struct sums){.device = s->device,
                           .gpu = s->gpu,
                           .energy_before_mj = nvml_energy(c->nvml, s->gpu),
                           .sm_min_mhz = -1,
                           .reasons_seen = -1};
    }
    c->running = true;
    pthread_cond_signal(&c->wake);
    pthread_mutex_unlock(&c->lock);
}

void clocks_end(struct clocks *c) {
    int64_t energy_mj[MAX_RANKS];
    if (!c) return;
    pthread_mutex_lock(&c->lock);
    c->running = false;
    /* All joules first; after a period has passed these alone: a GPU that waits cools. */
    for (int i = 0; i < c->n; i++) energy_mj[i] = nvml_energy(c->nvml, c->of[i].gpu);
    for (int i = 0; i < c->n; i++) {
        if (c->of[i].samples == 0) take_sample(c, &c->of[i]);
        c->of[i].last.energy_mj = energy_mj[i];
    }
    pthread_cond_signal(&c->wake);
    pthread_mutex_unlock(&c->lock);
}

bool clocks_row(const struct clocks *c, int i, struct clock_row *out) {
    if (!c || i < 0 || i >= c->n) return false;
    const struct sums *s = &c->of[i];
    const bool counted = s->energy_before_mj >= 0 && s->last.energy_mj >= s->energy_before_mj;
    *out = (struct clock_row){
        .device = s->device,
        .samples = s->samples,
        .sm_clock_mhz = s->last.sm_clock_mhz,
        .sm_clock_mean_mhz = s->sm_mhz / s->samples,
        .sm_clock_min_mhz = s->sm_min_mhz,
        .memory_clock_mhz = s->last.memory_clock_mhz,
        .temperature_c = s->last.temperature_c,
        .power_w = s->last.power_w,
        .power_mean_w = s->power_w / s->samples,
        .throttle_reasons = s->last.reasons,
        .throttle_reasons_seen = s->reasons_seen,
        .energy_mj = counted ? s->last.energy_mj - s->energy_before_mj : -1,
    };
    return true;
}
