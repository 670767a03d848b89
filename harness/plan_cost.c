/* What the cases of a plan cost, and what the budget does to them. See plan_making.h. */
#include "harness/budget.h"
#include "harness/format.h"
#include "harness/machine.h"
#include "harness/plan_making.h"
#include "harness/predict.h"

#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what they cost */

static const struct case_plan *first_of_launch(const struct plan *p, int launch) {
    for (int i = 0; i < p->n; i++)
        if (p->cases[i].launch == launch) return &p->cases[i];
    return NULL;
}

/* Launches that differ in tp alone run the same kernels: they share one measurement. */
static int launch_with_same_kernels(const struct plan *p, int launch) {
    const struct engine_opts *mine = &first_of_launch(p, launch)->engine;
    for (int i = 0; i < launch; i++) {
        const struct engine_opts *other = &first_of_launch(p, i)->engine;
        if (mine->dtype == other->dtype &&
            !strcmp(mine->attention_backend, other->attention_backend))
            return i;
    }
    return launch;
}

static void measure_rates(struct making *m) {
    struct plan *p = m->p;
    for (int i = 0; i < p->launches; i++) {
        struct error err = {""};
        const int same = launch_with_same_kernels(p, i);
        if (same != i) {
            m->rates[i] = m->rates[same];
            continue;
        }
        const struct engine_opts *engine = &first_of_launch(p, i)->engine;
        const enum status s = rates_get(&m->rates[i], engine, &p->model, m->measure_anew, &err);
        if (s != STATUS_OK)
            plan_finding(m, s, "engine", "attention_backend", "%s, %s: %s",
                         dtype_name(engine->dtype), engine->attention_backend, err.text);
        else if (*m->rates[i].note)
            plan_note(p, "%s", m->rates[i].note);
    }
    if (m->status != STATUS_OK) return;
    p->rates = m->rates[0].rates;
    for (int i = 0; i < p->n; i++) p->cases[i].rates = m->rates[p->cases[i].launch].rates;
    for (int i = 0; i < p->launches; i++)
        p->rates_measured = p->rates_measured || m->rates[i].measured;
    for (int i = 0; i < p->launches; i++)
        if (m->rates[i].busy) {
            plan_note(p,
                      "other programs held the cores while the rates were measured: they are too "
                      "low, and predicted times too long; `bench plan --measure` measures anew");
            break;
        }
    p->device_info = m->rates[0].info;
    memcpy(p->variant_names, m->rates[0].names, sizeof p->variant_names);
    for (int op = 0; op < OPS; op++)
        if (p->device_info.variant[op]) p->device_info.variant[op] = p->variant_names[op];
}

/* "weights 1.20 GiB + kv 3.00 GiB + ... = 5.10 GiB" */
static void memory_arithmetic(const struct memory_prediction *m, char *out, size_t size) {
    static const char *const names[MEMORY_CATEGORIES] = {
#define X(name, text) text,
        MEMORY_CATEGORY_TABLE(X)
#undef X
    };
    char b[FORMAT_BYTES];
    size_t used = 0;
    out[0] = 0;
    for (int k = 0; k < MEMORY_CATEGORIES; k++) {
        int64_t bytes = m->shared_bytes[k];
        for (int r = 0; r < m->ranks; r++) bytes += m->rank_bytes[r][k];
        if (!bytes || used >= size) continue;
        used += (size_t)snprintf(out + used, size - used, "%s%s %s", used ? " + " : "", names[k],
                                 format_bytes(b, bytes));
    }
    if (used < size) snprintf(out + used, size - used, " = %s", format_bytes(b, m->total_bytes));
}

static int64_t session_bytes(const struct memory_prediction *m) {
    int64_t bytes = m->total_bytes - m->shared_bytes[MEMORY_WEIGHTS];
    for (int r = 0; r < m->ranks; r++) bytes -= m->rank_bytes[r][MEMORY_WEIGHTS];
    return bytes;
}

/* Of all chunks of a case; the spans of "auto" need none of their own. */
static int passes(const struct config *c) {
    return (int)(c->warmup + c->repeats) + (strcmp(c->spans, "all") == 0);
}

/* Of case i, k chunks of a sampled pass. */
static struct case_time time_of(const struct making *m, int i, int k) {
    const struct plan *p = m->p;
    const struct config *c = &p->config;
    const struct case_plan *one = &m->p->cases[i];
    const int threads = m->rates[one->launch].info.threads;
    const struct case_work work = {
        .model = &p->model,
        .engine = &one->engine,
        .session = &one->session,
        .rates = &one->rates,
        .session_bytes = session_bytes(&one->memory),
        .threads = threads > 0 ? threads : 1,
        .passes = passes(c),
        .spot = c->spot,
        .k = k,
    };
    struct case_time time;
    predict_case(&work, &time);
    return time;
}

/* Cases of a launch stand together: each launch opens its device once. */
static void predict_cases(struct making *m) {
    struct plan *p = m->p;
    struct engine_planner *planner = NULL;
    enum status s = STATUS_OK;
    for (int i = 0; s == STATUS_OK && i < p->n; i++) {
        struct case_plan *one = &p->cases[i];
        struct error err = {""};
        if (i == 0 || one->launch != p->cases[i - 1].launch) {
            engine_planner_close(planner);
            s = engine_planner_open(&planner, &one->engine, &err);
        }
        if (s == STATUS_OK) s = engine_planner_predict(planner, &one->session, &one->memory, &err);
        if (s == STATUS_OK)
            one->predicted_prefill_s = time_of(m, i, 1).full_prefill_s;
        else
            plan_finding(m, s, "engine", "tensor_parallel_size", "%s: %s", one->id, err.text);
    }
    engine_planner_close(planner);
}

void plan_predict(struct making *m) {
    m->rates = calloc((size_t)m->p->launches, sizeof *m->rates);
    if (!m->rates)
        plan_finding(m, STATUS_NO_MEMORY, "prompt", "source", "no memory for %d cases", m->p->n);
    else
        measure_rates(m);
    if (m->status == STATUS_OK) predict_cases(m);
}

/* ---- what is done with them */

static bool fits_in_memory(const struct case_plan *c) {
    return c->memory.total_bytes <= c->memory.available_bytes;
}

static int prompt_number(const struct plan *p, const struct case_plan *c) {
    for (int i = 0; i < p->config.prompt.n; i++)
        if (!strcmp(p->config.prompt.v[i], c->prompt)) return i;
    return 0;
}

/* Measured rates drift, and fall with the length of the context: a tenth stays in reserve. */
static double usable_budget(const struct plan *p) {
    return 0.9 * (double)p->config.time_budget_s;
}

/* Better than what is there, which it replaces where it costs no more. */
static void add_form(const struct making *m, int i, struct budget_case *b, int chunks) {
    const struct case_plan *one = &m->p->cases[i];
    const struct case_time t = time_of(m, i, chunks);
    const bool full = chunks == one->chunks;
    const double cost = full ? t.full_fixed_s + passes(&m->p->config) * t.full_prefill_s
                             : t.sampled_fixed_s + passes(&m->p->config) * t.sampled_prefill_s;
    while (b->n > 0 && b->form[b->n - 1].cost_s >= cost) b->n--;
    b->form[b->n++] = (struct budget_form){full ? COVER_FULL : COVER_SAMPLED, chunks, cost};
}

/* Where the budget decides, a sample may be as small as its error allows. */
static struct budget_case offer_of(const struct making *m, int i) {
    const struct config *c = &m->p->config;
    const struct case_plan *one = &m->p->cases[i];
    const int k = (int)c->sample_chunks;
    struct budget_case b = {.group = prompt_number(m->p, one)};
    if (!fits_in_memory(one)) return b;
    if (c->coverage == COVERAGE_AUTO && SAMPLE_LEAST < k && SAMPLE_LEAST < one->chunks)
        add_form(m, i, &b, SAMPLE_LEAST);
    if (c->coverage != COVERAGE_FULL && k < one->chunks) add_form(m, i, &b, k);
    if (c->coverage != COVERAGE_SAMPLE || k >= one->chunks) add_form(m, i, &b, one->chunks);
    return b;
}

/* " in 3 passes", or nothing for one. */
static void passes_text(const struct config *c, char *out, size_t size) {
    out[0] = 0;
    if (passes(c) > 1) snprintf(out, size, " in %d passes", passes(c));
}

static void explain_skipped(const struct making *m, int i, const struct budget_case *b) {
    struct case_plan *c = &m->p->cases[i];
    char memory[300], times[32], t1[FORMAT_BYTES], t2[FORMAT_BYTES], t3[FORMAT_BYTES];
    if (!fits_in_memory(c)) {
        memory_arithmetic(&c->memory, memory, sizeof memory);
        snprintf(c->reason, sizeof c->reason, "memory: %s, but %s are available", memory,
                 format_bytes(t1, c->memory.available_bytes));
        return;
    }
    passes_text(&m->p->config, times, sizeof times);
    snprintf(c->reason, sizeof c->reason, "time: %d of %d chunks take %s%s, but %s of %s are left",
             b->form[0].chunks, c->chunks, format_seconds(t1, b->form[0].cost_s), times,
             format_seconds(t2, b->left_s), format_seconds(t3, usable_budget(m->p)));
}

static void explain_sampled(const struct making *m, int i, const struct budget_case *b) {
    struct case_plan *c = &m->p->cases[i];
    char times[32], t1[FORMAT_BYTES], t2[FORMAT_BYTES], t3[FORMAT_BYTES];
    const struct budget_form *has = &b->form[b->chosen], *next = has + 1;
    if (b->chosen + 1 == b->n) {
        snprintf(c->reason, sizeof c->reason, "coverage = sample:%d", has->chunks);
        return;
    }
    char chunks[40];
    const bool all = next->chunks == c->chunks;
    snprintf(chunks, sizeof chunks, all ? "all %d" : "%d of %d", next->chunks, c->chunks);
    passes_text(&m->p->config, times, sizeof times);
    snprintf(c->reason, sizeof c->reason,
             "time: %s chunks take %s more than these %d%s, but %s of %s are left", chunks,
             format_seconds(t1, next->cost_s - has->cost_s), has->chunks, times,
             format_seconds(t2, b->left_s), format_seconds(t3, usable_budget(m->p)));
}

static void take_decision(struct making *m, int i, const struct budget_case *b) {
    struct case_plan *c = &m->p->cases[i];
    c->coverage = b->chosen < 0 ? COVER_SKIPPED : b->form[b->chosen].coverage;
    if (c->coverage == COVER_SKIPPED) {
        explain_skipped(m, i, b);
        return;
    }
    const struct budget_form *form = &b->form[b->chosen];
    const struct case_time t = time_of(m, i, form->chunks);
    c->predicted_fixed_s = c->coverage == COVER_FULL ? t.full_fixed_s : t.sampled_fixed_s;
    c->predicted_total_s = form->cost_s;
    if (c->coverage == COVER_SAMPLED) {
        c->sampled = form->chunks;
        explain_sampled(m, i, b);
    }
    m->p->total_s += c->predicted_total_s;
}

static bool launch_runs(const struct plan *p, int launch) {
    for (int i = 0; i < p->n; i++)
        if (p->cases[i].launch == launch && p->cases[i].coverage != COVER_SKIPPED) return true;
    return false;
}

static bool is_wanted(const struct plan *p, int i) {
    return !p->config.only || fnmatch(p->config.only, p->cases[i].id, 0) == 0;
}

static bool launch_is_wanted(const struct plan *p, int launch) {
    for (int i = 0; i < p->n; i++)
        if (p->cases[i].launch == launch && is_wanted(p, i)) return true;
    return false;
}

/* For the cases that were asked for, or for the others; returns what is left of the budget. */
static double decide(struct making *m, struct budget_case *offers, bool wanted, double budget) {
    struct plan *p = m->p;
    for (int i = 0; i < p->n; i++) {
        offers[i] = (struct budget_case){.group = prompt_number(p, &p->cases[i])};
        if (is_wanted(p, i) == wanted) offers[i] = offer_of(m, i);
    }
    const double left = budget - budget_decide(offers, p->n, budget);
    for (int i = 0; i < p->n; i++)
        if (is_wanted(p, i) == wanted) take_decision(m, i, &offers[i]);
    return left;
}

/* Loading is paid first, for every launch that may run: the budget of the cases is what it leaves.
 */
void plan_decide(struct making *m) {
    struct plan *p = m->p;
    struct budget_case *offers = calloc((size_t)p->n, sizeof *offers);
    const int threads = p->device_info.threads > 0 ? p->device_info.threads : machine_cores();
    const double load = predict_load_s(&p->model, p->device, threads);
    int asked_for = 0;
    for (int i = 0; i < p->launches; i++) asked_for += launch_is_wanted(p, i);
    const double budget = p->config.time_budget_s ? usable_budget(p) - asked_for * load : INFINITY;
    if (!offers) {
        plan_finding(m, STATUS_NO_MEMORY, "run", "time_budget", "no memory for the plan");
        return;
    }
    const double left = decide(m, offers, true, budget);
    decide(m, offers, false, left - (p->launches - asked_for) * load);
    for (int i = 0; i < p->launches; i++)
        if (launch_runs(p, i)) p->load_s += load;
    p->total_s += p->load_s;
    free(offers);
}
