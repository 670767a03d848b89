/* A tool for NVTX, as NVTX_INJECTION64_PATH loads one: writes what it is told to the file
 * NVTX_RECORDER_FILE.PID, a line each and flushed, so that a crash loses none:
 *
 *   domain HANDLE NAME    destroy HANDLE    schema ID NAME BYTES FIELD:OFFSET:IS_INT32 ...
 *   push THREAD DOMAIN NAME PAYLOAD    pop THREAD DOMAIN
 *
 * The words of push and pop are parted by tabs; a payload is a number or "schema ID: INT32 ...".
 * NVTX_RECORDER_PLAIN=1: a tool without the extension for payloads. */
#include <inttypes.h>
#include <nvtx3/nvToolsExt.h>
#include <nvtx3/nvToolsExtPayload.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STRINGS = 1024, FIRST_SCHEMA = 77 };

static struct {
    FILE *file;
    char *string[STRINGS];
    int strings, domains;
} recorder;

static int thread_id(void) {
    return (int)gettid();
}

static nvtxDomainHandle_t NVTX_API domain_create(const char *name) {
    const intptr_t handle = ++recorder.domains;
    fprintf(recorder.file, "domain %d %s\n", (int)handle, name);
    return (nvtxDomainHandle_t)handle;
}

static void NVTX_API domain_destroy(nvtxDomainHandle_t domain) {
    fprintf(recorder.file, "destroy %d\n", (int)(intptr_t)domain);
}

static nvtxStringHandle_t NVTX_API register_string(nvtxDomainHandle_t domain, const char *text) {
    (void)domain;
    if (recorder.strings == STRINGS - 1) abort();
    recorder.string[++recorder.strings] = strdup(text);
    return (nvtxStringHandle_t)(intptr_t)recorder.strings;
}

static void print_payload(const nvtxEventAttributes_t *e) {
    if (e->payloadType == NVTX_PAYLOAD_TYPE_INT64)
        fprintf(recorder.file, "\t%" PRId64 "\n", e->payload.llValue);
    else if (e->payloadType == NVTX_PAYLOAD_TYPE_EXT && e->reserved0 == 1) {
        const nvtxPayloadData_t *data = (const void *)(uintptr_t)e->payload.ullValue;
        const int32_t *v = data->payload;
        fprintf(recorder.file, "\tschema %d:", (int)data->schemaId);
        for (size_t i = 0; i < data->size / sizeof *v; i++) fprintf(recorder.file, " %d", v[i]);
        fputc('\n', recorder.file);
    } else
        fprintf(recorder.file, "\tunknown payload\n");
}

static int NVTX_API push(nvtxDomainHandle_t domain, const nvtxEventAttributes_t *e) {
    const bool known = e->messageType == NVTX_MESSAGE_TYPE_REGISTERED &&
                       e->version == NVTX_VERSION && e->size == NVTX_EVENT_ATTRIB_STRUCT_SIZE;
    const intptr_t name = known ? (intptr_t)e->message.registered : 0;
    fprintf(recorder.file, "push\t%d\t%d\t%s", thread_id(), (int)(intptr_t)domain,
            name ? recorder.string[name] : "NOT REGISTERED");
    print_payload(e);
    return 0;
}

static int NVTX_API pop(nvtxDomainHandle_t domain) {
    fprintf(recorder.file, "pop\t%d\t%d\n", thread_id(), (int)(intptr_t)domain);
    return 0;
}

static uint64_t NVTX_API schema_register(nvtxDomainHandle_t domain,
                                         const nvtxPayloadSchemaAttr_t *schema) {
    (void)domain;
    fprintf(recorder.file, "schema %d %s %zu", FIRST_SCHEMA, schema->name,
            schema->payloadStaticSize);
    for (size_t i = 0; i < schema->numEntries; i++)
        fprintf(recorder.file, " %s:%d:%d", schema->entries[i].name, (int)schema->entries[i].offset,
                schema->entries[i].type == NVTX_PAYLOAD_ENTRY_TYPE_INT32);
    fputc('\n', recorder.file);
    return FIRST_SCHEMA;
}

/* ---- what NVTX calls */

static int open_file(void) {
    char path[4096];
    const char *base = getenv("NVTX_RECORDER_FILE");
    if (!base) return 0;
    snprintf(path, sizeof path, "%s.%d", base, (int)getpid());
    recorder.file = fopen(path, "w");
    if (recorder.file) setvbuf(recorder.file, NULL, _IOLBF, 0);
    return recorder.file != NULL;
}

int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_table);
int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_table) {
    const NvtxExportTableCallbacks *callbacks = get_table(NVTX_ETID_CALLBACKS);
    NvtxFunctionTable table;
    unsigned size;
    if (!open_file() || !callbacks ||
        !callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &table, &size) ||
        size <= NVTX_CBID_CORE2_DomainDestroy)
        return 0;
    *table[NVTX_CBID_CORE2_DomainCreateA] = (NvtxFunctionPointer)domain_create;
    *table[NVTX_CBID_CORE2_DomainDestroy] = (NvtxFunctionPointer)domain_destroy;
    *table[NVTX_CBID_CORE2_DomainRegisterStringA] = (NvtxFunctionPointer)register_string;
    *table[NVTX_CBID_CORE2_DomainRangePushEx] = (NvtxFunctionPointer)push;
    *table[NVTX_CBID_CORE2_DomainRangePop] = (NvtxFunctionPointer)pop;
    return 1;
}

int InitializeInjectionNvtxExtension(nvtxExtModuleInfo_t *module);
int InitializeInjectionNvtxExtension(nvtxExtModuleInfo_t *module) {
    if (getenv("NVTX_RECORDER_PLAIN") || module->moduleId != NVTX_EXT_PAYLOAD_MODULEID) return 0;
    module->segments[0].functionSlots[NVTX3EXT_CBID_nvtxPayloadSchemaRegister] =
        (intptr_t)schema_register;
    return 1;
}
