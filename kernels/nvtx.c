/* NVTX ranges, as nvtx.h promises them: the only file that sees NVIDIA's headers, which bring
 * nothing to link. Owns the domain and the stack of open ranges. Without the headers nothing ever
 * opens. */
#include "kernels/nvtx.h"

#ifdef HAVE_NVTX

#include <nvtx3/nvToolsExt.h>
#include <nvtx3/nvToolsExtPayload.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

static const struct {
    const char *name;
    enum nvtx_level level; /* from which on it is there */
} ranges[NVTX_RANGES] = {
    [NVTX_RUN] = {"run", NVTX_CASE},         [NVTX_LOAD] = {"load", NVTX_CASE},
    [NVTX_ONE_CASE] = {"case", NVTX_CASE},   [NVTX_PASS] = {"pass", NVTX_CASE},
    [NVTX_PROFILE] = {"profile", NVTX_CASE}, [NVTX_CHUNK_RANGE] = {"chunk", NVTX_CHUNK},
    [NVTX_TOKEN] = {"token", NVTX_CHUNK},    [NVTX_LAYER] = {"layer", NVTX_OP},
    [NVTX_OP_RANGE] = {"op", NVTX_OP},
};

struct nvtx {
    enum nvtx_level level;
    nvtxDomainHandle_t domain;
    nvtxStringHandle_t range_name[NVTX_RANGES];
    nvtxStringHandle_t op_name[OPS][ROLES];
    uint64_t chunk_schema;             /* 0: the tool knows no schemas */
    enum nvtx_range open[NVTX_RANGES]; /* outermost first; a kind is open once at most */
    int depth;
    int layer; /* that is open, or -1 */
};

static uint64_t register_chunk(nvtxDomainHandle_t domain) {
    static const nvtxPayloadSchemaEntry_t entries[] = {
        {.type = NVTX_PAYLOAD_ENTRY_TYPE_INT32,
         .name = "chunk",
         .offset = offsetof(struct nvtx_chunk, chunk)},
        {.type = NVTX_PAYLOAD_ENTRY_TYPE_INT32,
         .name = "start",
         .offset = offsetof(struct nvtx_chunk, start)},
        {.type = NVTX_PAYLOAD_ENTRY_TYPE_INT32,
         .name = "tokens",
         .offset = offsetof(struct nvtx_chunk, tokens)},
    };
    const nvtxPayloadSchemaAttr_t schema = {
        .fieldMask = NVTX_PAYLOAD_SCHEMA_ATTR_FIELD_NAME | NVTX_PAYLOAD_SCHEMA_ATTR_FIELD_TYPE |
                     NVTX_PAYLOAD_SCHEMA_ATTR_FIELD_ENTRIES |
                     NVTX_PAYLOAD_SCHEMA_ATTR_FIELD_NUM_ENTRIES |
                     NVTX_PAYLOAD_SCHEMA_ATTR_FIELD_STATIC_SIZE,
        .name = "chunk",
        .type = NVTX_PAYLOAD_SCHEMA_TYPE_STATIC,
        .entries = entries,
        .numEntries = sizeof entries / sizeof entries[0],
        .payloadStaticSize = sizeof(struct nvtx_chunk)};
    return nvtxPayloadSchemaRegister(domain, &schema);
}

/* A name of every op with every role: those that do not exist cost a few bytes of the tool. */
static void register_ops(struct nvtx *n) {
    char name[64];
    for (int op = 0; op < OPS; op++)
        for (int role = 0; role < ROLES; role++) {
            snprintf(name, sizeof name, "%s%s%s", op_name((enum op)op),
                     role == ROLE_NONE ? "" : " ", role_name((enum role)role));
            n->op_name[op][role] = nvtxDomainRegisterStringA(n->domain, name);
        }
}

bool nvtx_built(void) {
    return true;
}

struct nvtx *nvtx_open(enum nvtx_level level) {
    if (level == NVTX_OFF) return NULL;
    nvtxDomainHandle_t domain = nvtxDomainCreateA("bench"); /* NULL: nobody listens */
    if (!domain) return NULL;
    struct nvtx *n = calloc(1, sizeof *n);
    if (!n) {
        nvtxDomainDestroy(domain);
        return NULL;
    }
    n->level = level;
    n->domain = domain;
    n->layer = -1;
    for (int i = 0; i < NVTX_RANGES; i++)
        n->range_name[i] = nvtxDomainRegisterStringA(domain, ranges[i].name);
    if (level >= NVTX_CHUNK) n->chunk_schema = register_chunk(domain);
    if (level >= NVTX_OP) register_ops(n);
    return n;
}

/* ---- the stack */

static void pop(struct nvtx *n) {
    nvtxDomainRangePop(n->domain);
    if (n->open[--n->depth] == NVTX_LAYER) n->layer = -1;
}

static bool is_open(const struct nvtx *n, enum nvtx_range range) {
    for (int i = 0; i < n->depth; i++)
        if (n->open[i] == range) return true;
    return false;
}

/* What stands in the way of a range: those of its own kind and of kinds further in. */
static void make_way(struct nvtx *n, enum nvtx_range range) {
    while (n->depth > 0 && n->open[n->depth - 1] >= range) pop(n);
}

static void push(struct nvtx *n, enum nvtx_range range, const nvtxEventAttributes_t *event) {
    nvtxDomainRangePushEx(n->domain, event);
    n->open[n->depth++] = range;
}

static nvtxEventAttributes_t event_of(nvtxStringHandle_t name, int64_t payload) {
    return (nvtxEventAttributes_t){.version = NVTX_VERSION,
                                   .size = NVTX_EVENT_ATTRIB_STRUCT_SIZE,
                                   .payloadType = NVTX_PAYLOAD_TYPE_INT64,
                                   .payload = {.llValue = payload},
                                   .messageType = NVTX_MESSAGE_TYPE_REGISTERED,
                                   .message = {.registered = name}};
}

/* ---- ranges */

void nvtx_close(struct nvtx *n) {
    if (!n) return;
    while (n->depth > 0) pop(n);
    nvtxDomainDestroy(n->domain);
    free(n);
}

void nvtx_begin(struct nvtx *n, enum nvtx_range range, const char *name, int64_t payload) {
    if (!n || n->level < ranges[range].level) return;
    const nvtxStringHandle_t registered =
        name ? nvtxDomainRegisterStringA(n->domain, name) : n->range_name[range];
    const nvtxEventAttributes_t event = event_of(registered, payload);
    make_way(n, range);
    push(n, range, &event);
}

void nvtx_begin_chunk(struct nvtx *n, const struct nvtx_chunk *chunk) {
    if (!n || n->level < NVTX_CHUNK) return;
    nvtxEventAttributes_t event = event_of(n->range_name[NVTX_CHUNK_RANGE], chunk->chunk);
    const nvtxPayloadData_t data = {n->chunk_schema, sizeof *chunk, chunk};
    if (n->chunk_schema) { /* by hand: the header's own macro does not compile as C */
        event.payloadType = NVTX_PAYLOAD_TYPE_EXT;
        event.reserved0 = 1; /* payloads */
        event.payload.ullValue = (uintptr_t)&data;
    }
    make_way(n, NVTX_CHUNK_RANGE);
    push(n, NVTX_CHUNK_RANGE, &event);
}

void nvtx_end(struct nvtx *n, enum nvtx_range range) {
    if (!n || !is_open(n, range)) return;
    make_way(n, range);
}

void nvtx_begin_op(struct nvtx *n, const struct op_call *call) {
    if (!n || n->level < NVTX_OP) return;
    const nvtxEventAttributes_t event = event_of(n->op_name[call->op][call->role], call->rank);
    if (call->layer != n->layer) {
        make_way(n, NVTX_LAYER);
        if (call->layer >= 0) nvtx_begin(n, NVTX_LAYER, NULL, call->layer);
        n->layer = call->layer;
    }
    push(n, NVTX_OP_RANGE, &event);
}

void nvtx_end_op(struct nvtx *n) {
    if (n && n->level >= NVTX_OP) nvtx_end(n, NVTX_OP_RANGE);
}

#else

bool nvtx_built(void) {
    return false;
}

struct nvtx *nvtx_open(enum nvtx_level level) {
    (void)level;
    return NULL;
}

void nvtx_close(struct nvtx *n) {
    (void)n;
}

void nvtx_begin(struct nvtx *n, enum nvtx_range range, const char *name, int64_t payload) {
    (void)n, (void)range, (void)name, (void)payload;
}

void nvtx_begin_chunk(struct nvtx *n, const struct nvtx_chunk *chunk) {
    (void)n, (void)chunk;
}

void nvtx_end(struct nvtx *n, enum nvtx_range range) {
    (void)n, (void)range;
}

void nvtx_begin_op(struct nvtx *n, const struct op_call *call) {
    (void)n, (void)call;
}

void nvtx_end_op(struct nvtx *n) {
    (void)n;
}

#endif
