/* The plan of a GPU, made in a child. See plan_apart.h. Before it: plan.c; under it: isolated.c. */
#include "harness/plan_apart.h"

#include "harness/isolated.h"

#include <stdlib.h>
#include <string.h>

struct order {
    const struct config *config;
    bool measure_anew;
    plan_maker *make;
};

/* ---- in the child */

static void put_findings(struct jsondoc *answer, const struct config_errors *errors) {
    struct jsondoc *findings = jsondoc_put_array(answer, "findings");
    for (int i = 0; i < errors->n; i++) {
        struct jsondoc *one = jsondoc_add_object(findings);
        jsondoc_put_int(one, "from", errors->from[i]);
        jsondoc_put_text(one, "text", errors->e[i].text);
    }
    jsondoc_put_int(answer, "more", errors->more);
}

static void carry_out(void *ctx, struct jsondoc *answer) {
    const struct order *order = ctx;
    struct plan *p = calloc(1, sizeof *p);
    struct config_errors *errors = calloc(1, sizeof *errors);
    enum status s = STATUS_NO_MEMORY;
    if (p && errors) {
        s = order->make(p, order->config, order->measure_anew, errors);
        put_findings(answer, errors);
        if (s == STATUS_OK) plan_put(jsondoc_put_object(answer, "plan"), p);
    }
    jsondoc_put_int(answer, "status", s);
}

/* ---- in this process */

static void take_findings(const struct jsondoc *answer, struct config_errors *errors) {
    const struct jsondoc *findings = jsondoc_get(answer, "findings");
    int64_t from, more;
    for (int i = 0; i < jsondoc_length(findings); i++) {
        const struct jsondoc *one = jsondoc_at(findings, i);
        const char *text = jsondoc_get_text(one, "text");
        if (text && jsondoc_get_int(one, "from", &from))
            config_error(errors, (int32_t)from, "%s", text);
    }
    if (errors && jsondoc_get_int(answer, "more", &more)) errors->more += (int)more;
}

static enum status take_answer(struct plan *out, const struct config *c,
                               const struct jsondoc *answer, struct config_errors *errors,
                               struct error *err) {
    int64_t s;
    if (!jsondoc_get_int(answer, "status", &s))
        return error_set(err, STATUS_DEVICE, "planning on the GPU gave no status");
    take_findings(answer, errors);
    const struct jsondoc *plan = jsondoc_get(answer, "plan");
    if (s == STATUS_OK) return plan_take(out, c, plan, "the plan of the GPU", err);
    return (enum status)s;
}

enum status plan_apart(struct plan *out, const struct config *c, bool measure_anew,
                       struct config_errors *errors, plan_maker *make, int limit_s) {
    struct order order = {c, measure_anew, make};
    struct jsondoc *answer;
    struct error err = {""};
    char where[PATH_MAX_BYTES + 64];
    memset(out, 0, sizeof *out);
    enum status s = isolated_run(&answer, "planning on the GPU", limit_s, carry_out, &order, &err);
    if (s == STATUS_OK) s = take_answer(out, c, answer, errors, &err);
    jsondoc_close(answer);
    if (err.text[0])
        config_error(errors, config_from(c, "engine", "device"), "%s: %s",
                     config_where(c, "engine", "device", where, sizeof where), err.text);
    return s;
}
