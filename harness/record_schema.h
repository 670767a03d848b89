/* What stands in a result file, schema 1: the columns of its tables and its attributes, each with
 * its place in a row in memory. record_write.c and record_read.c walk the same tables.
 *
 * A version of the schema only grows, and by two things: attributes (named below in
 * added_attributes) and tables, groups or columns (for which record_read.c asks before it reads). A
 * reader takes what is missing as not known and passes over what it has no name for. All else
 * raises RECORD_SCHEMA_VERSION: a name that goes or changes, another unit, meaning or type, a new
 * column without which the others of its table mean something else. */
#ifndef HARNESS_RECORD_SCHEMA_H
#define HARNESS_RECORD_SCHEMA_H

#include "harness/h5file.h"
#include "harness/record.h"

#include <string.h>

static const struct column chunk_columns[] = {
    {"repeat", SIGNED, FIELD(chunk_row, repeat), "1", "pass; measured repeats from 0"},
    {"chunk", SIGNED, FIELD(chunk_row, chunk), "1", "number of the chunk in the prompt, from 0"},
    {"start_token", SIGNED, FIELD(chunk_row, start_token), "tokens", "depth at which it begins"},
    {"n_tokens", SIGNED, FIELD(chunk_row, n_tokens), "tokens", "its length"},
    {"begin_ns", SIGNED, FIELD(chunk_row, begin_ns), "ns", "CLOCK_MONOTONIC, before its first op"},
    {"latency_ns", SIGNED, FIELD(chunk_row, latency_ns), "ns", "to the end of the slowest device"},
    {"host_ns", SIGNED, FIELD(chunk_row, host_ns), "ns", "issuing alone"},
    {"flops", SIGNED, FIELD(chunk_row, flops), "flop", "executed, all ranks"},
    {"bytes", SIGNED, FIELD(chunk_row, bytes), "bytes", "compulsory traffic, all ranks"},
    {"replayed", UNSIGNED, FIELD(chunk_row, replayed), "1", "1: from the recorded step, 0: eager"},
};

static const struct column device_columns[] = {{"device_latency_ns", SIGNED, 0, sizeof(int64_t),
                                                "ns",
                                                "[row][device]: to the end of each device's work"}};

#define USE_COLUMNS(row, use, category, text)                                                      \
    {text, SIGNED, FIELD(row, use.bytes[category]), "bytes", "accounted at the end of the chunk"}, \
        {text "_high_water", SIGNED, FIELD(row, use.high_water[category]), "bytes", "its peak"},
static const struct column memory_columns[] = {
    {"repeat", SIGNED, FIELD(memory_row, repeat), "1", "measured repeat, from 0"},
    {"chunk", SIGNED, FIELD(memory_row, chunk), "1", "number of the chunk in the prompt, from 0"},
    {"rank", SIGNED, FIELD(memory_row, rank), "1", "tensor-parallel rank; -1: shared by ranks"},
#define X(category, text) USE_COLUMNS(memory_row, use, category, text)
    MEMORY_CATEGORY_TABLE(X)
#undef X
        {"driver_before", SIGNED, FIELD(memory_row, driver_before), "bytes",
         "the system's figure for the device before the chunk"},
    {"driver_after", SIGNED, FIELD(memory_row, driver_after), "bytes",
     "the system's figure for the device after the chunk"},
    {"driver_high_water", SIGNED, FIELD(memory_row, driver_high_water), "bytes",
     "the system's peak for the device"},
    {"unaccounted", SIGNED, FIELD(memory_row, unaccounted), "bytes",
     "driver_after less everything accounted on the device"},
};

static const struct column clock_columns[] = {
    {"repeat", SIGNED, FIELD(clock_row, repeat), "1", "measured repeat, from 0"},
    {"chunk", SIGNED, FIELD(clock_row, chunk), "1", "number of the chunk in the prompt, from 0"},
    {"device", SIGNED, FIELD(clock_row, device), "1", "of the run, from 0"},
    {"samples", SIGNED, FIELD(clock_row, samples), "1",
     "every 100 ms; of a shorter chunk one, at its end"},
    {"sm_clock_mhz", SIGNED, FIELD(clock_row, sm_clock_mhz), "MHz",
     "in the last sample; -1: not told"},
    {"sm_clock_mean_mhz", REAL, FIELD(clock_row, sm_clock_mean_mhz), "MHz", "over the samples"},
    {"sm_clock_min_mhz", SIGNED, FIELD(clock_row, sm_clock_min_mhz), "MHz", "of the samples"},
    {"memory_clock_mhz", SIGNED, FIELD(clock_row, memory_clock_mhz), "MHz", "in the last sample"},
    {"power_w", REAL, FIELD(clock_row, power_w), "W", "in the last sample; NaN: not told"},
    {"power_mean_w", REAL, FIELD(clock_row, power_mean_w), "W", "over the samples"},
    {"temperature_c", SIGNED, FIELD(clock_row, temperature_c), "degC", "in the last sample"},
    {"throttle_reasons", SIGNED, FIELD(clock_row, throttle_reasons), "1",
     "in the last sample: NVML's bit mask of clock event reasons; -1: not told"},
    {"throttle_reasons_seen", SIGNED, FIELD(clock_row, throttle_reasons_seen), "1",
     "in any sample"},
    {"energy_mj", SIGNED, FIELD(clock_row, energy_mj), "mJ",
     "over the chunk, by the GPU's counter; -1: not told"},
};

static const struct column decode_columns[] = {
    {"repeat", SIGNED, FIELD(decode_row, repeat), "1", "measured repeat, from 0"},
    {"step", SIGNED, FIELD(decode_row, step), "1", "generated token, from 0"},
    {"token_id", SIGNED, FIELD(decode_row, token_id), "1", "what was sampled"},
    {"latency_ns", SIGNED, FIELD(decode_row, latency_ns), "ns", "step 0: sampling alone"},
    {"logprob", REAL, FIELD(decode_row, logprob), "nat", "log softmax of the unchanged logits"},
};

/* Predicted memory has the rows of measured memory: one per rank, -1 for what they share. */
struct predicted_row {
    int32_t rank;
    int64_t bytes[MEMORY_CATEGORIES];
};
static const struct column predicted_columns[] = {
    {"rank", SIGNED, FIELD(predicted_row, rank), "1", "tensor-parallel rank; -1: shared by ranks"},
#define X(category, text)                                                                          \
    {text, SIGNED, FIELD(predicted_row, bytes[category]), "bytes", "predicted by the plan"},
    MEMORY_CATEGORY_TABLE(X)
#undef X
};

struct ttft_row {
    int32_t repeat;
    int64_t ttft_ns;
};
static const struct column ttft_columns[] = {
    {"repeat", SIGNED, FIELD(ttft_row, repeat), "1", "measured repeat, from 0"},
    {"ttft_ns", SIGNED, FIELD(ttft_row, ttft_ns), "ns", "time to the first token, raw"},
};

static const struct column top_columns[] = {
    {"id", SIGNED, FIELD(top_logprob, id), "1", "token id, most probable first"},
    {"logprob", REAL, FIELD(top_logprob, logprob), "nat", "at the first generated position"},
};

struct check_row {
    char name[16], verdict[16], detail[sizeof((struct check_result *)0)->detail];
    double worst, limit;
};
static const struct column check_columns[] = {
    {"name", TEXT, FIELD(check_row, name), "", "what was checked, one row each"},
    {"verdict", TEXT, FIELD(check_row, verdict), "", "not checked, ok, FAILED"},
    {"worst", REAL, FIELD(check_row, worst), "1", "largest deviation seen; NaN: none"},
    {"limit", REAL, FIELD(check_row, limit), "1", "what is allowed; NaN: none"},
    {"detail", TEXT, FIELD(check_row, detail), "", "why it failed or did not run"},
};

struct span_record {
    int32_t repeat, chunk, op_id;
    int16_t rank, layer;
    int64_t begin_ns, end_ns, flops, bytes;
    uint8_t device;
    struct span_counts counts;
};
static const struct column span_columns[] = {
    {"rank", SIGNED, FIELD(span_record, rank), "1", "tensor-parallel rank; -1: for all at once"},
    {"repeat", SIGNED, FIELD(span_record, repeat), "1",
     "the traced pass: the last warm-up is -1; the number of repeats: after them"},
    {"chunk", SIGNED, FIELD(span_record, chunk), "1", "number of the chunk in the prompt, from 0"},
    {"layer", SIGNED, FIELD(span_record, layer), "1", "-1: outside the layers"},
    {"op_id", SIGNED, FIELD(span_record, op_id), "1", "row of the table spans/ops"},
    {"begin_ns", SIGNED, FIELD(span_record, begin_ns), "ns", "CLOCK_MONOTONIC"},
    {"end_ns", SIGNED, FIELD(span_record, end_ns), "ns", "CLOCK_MONOTONIC"},
    {"flops", SIGNED, FIELD(span_record, flops), "flop", "executed"},
    {"bytes", SIGNED, FIELD(span_record, bytes), "bytes", "compulsory traffic"},
};
/* One more column of the spans, which older files do not have. */
static const struct column span_device_column = {"device", UNSIGNED, FIELD(span_record, device),
                                                 "1", "of the run, from 0"};
/* And three where the processor's counters were read. */
static const struct column span_count_columns[] = {
    {"cycles", SIGNED, FIELD(span_record, counts.cycles), "1",
     "of the processor in user space, all threads of the device; -1: not known"},
    {"instructions", SIGNED, FIELD(span_record, counts.instructions), "1", "the same"},
    {"llc_misses", SIGNED, FIELD(span_record, counts.llc_misses), "1",
     "the kernel's generic cache misses: of the last level on Intel's processors"},
};
/* Two tables in that of the spans, which older files do not have. */
struct buffer_record {
    int32_t buffer, device, rank;
    char category[16], name[16];
    int64_t bytes;
};
static const struct column buffer_columns[] = {
    {"buffer", SIGNED, FIELD(buffer_record, buffer), "1", "what spans/memory/buffer refers to"},
    {"device", SIGNED, FIELD(buffer_record, device), "1", "of the run, from 0"},
    {"rank", SIGNED, FIELD(buffer_record, rank), "1", "tensor-parallel rank; -1: shared by ranks"},
    {"category", TEXT, FIELD(buffer_record, category), "", "what it is accounted as"},
    {"name", TEXT, FIELD(buffer_record, name), "", "what is kept in it"},
    {"bytes", SIGNED, FIELD(buffer_record, bytes), "bytes", "reserved"},
};
static const struct column buffer_use_columns[] = {
    {"span", SIGNED, FIELD(buffer_use_row, span), "1", "row of spans; ops run in their order"},
    {"buffer", SIGNED, FIELD(buffer_use_row, buffer), "1", "row of spans/buffers"},
    {"bytes", SIGNED, FIELD(buffer_use_row, bytes), "bytes",
     "in use while this op runs and until the buffer's next row; a chunk begins with nothing said"},
};

struct op_row {
    int32_t op_id;
    char op[24], role[16], variant[32];
};
static const struct column op_columns[] = {
    {"op_id", SIGNED, FIELD(op_row, op_id), "1", "what spans/op_id refers to"},
    {"op", TEXT, FIELD(op_row, op), "", "op of the model's forward pass"},
    {"role", TEXT, FIELD(op_row, role), "", "its purpose, where one op serves several"},
    {"variant", TEXT, FIELD(op_row, variant), "", "kernel that ran it"},
};

static const struct column token_columns[] = {
    {"token_ids", SIGNED, 0, sizeof(int32_t), "1", "generated in the first measured repeat"}};
static const struct column expected_columns[] = {
    {"expected_ids", SIGNED, 0, sizeof(int32_t), "1", "the right answer; empty: not known"}};

/* One case as a row of /cases, and as attributes of its group. */
struct case_row {
    char id[sizeof((struct case_result *)0)->id];
    char name[160];
    char prompt[NAME_MAX_BYTES], prompt_sha256[65], mode[8], device[96], dtype[16];
    char attention[32], linear[32], coverage[16], status[16];
    char reason[sizeof((struct case_result *)0)->reason];
    char output_check[16], invariance_check[16];
    int32_t prompt_tokens, chunk_tokens, tp, devices, memories, repeats;
    uint8_t ttft_estimated, prune_last_layer, dual_chunk;
    int64_t max_num_batched_tokens, ttft_median_ns, ttft_min_ns, ttft_max_ns;
    double ttft_error, prefill_tok_s, decode_tok_s, predicted_prefill_s;
    int64_t peak_rank_bytes, peak_device_bytes, peak_driver_bytes, unaccounted_bytes;
    int64_t predicted_total_bytes;
    double energy_j, energy_j_per_token, sm_clock_mean_mhz, power_mean_w;
    char exchange[32], attention_note[200];
    uint8_t exchange_overlap;
};
#define CASE_TEXT(field)                                                                           \
    { #field, TEXT, FIELD(case_row, field), "", "" }
#define CASE_INT(field)                                                                            \
    { #field, SIGNED, FIELD(case_row, field), "", "" }
#define CASE_FLAG(field)                                                                           \
    { #field, UNSIGNED, FIELD(case_row, field), "", "" }
#define CASE_REAL(field)                                                                           \
    { #field, REAL, FIELD(case_row, field), "", "" }
static const struct column case_columns[] = {
    CASE_TEXT(id),
    CASE_TEXT(name),
    CASE_TEXT(prompt),
    CASE_INT(prompt_tokens),
    CASE_INT(chunk_tokens),
    CASE_INT(max_num_batched_tokens),
    CASE_TEXT(mode),
    CASE_INT(tp),
    CASE_TEXT(device),
    CASE_INT(devices),
    CASE_INT(memories),
    CASE_TEXT(dtype),
    CASE_TEXT(attention),
    CASE_TEXT(linear),
    CASE_FLAG(prune_last_layer),
    CASE_FLAG(dual_chunk),
    CASE_INT(repeats),
    CASE_TEXT(coverage),
    CASE_TEXT(status),
    CASE_TEXT(reason),
    CASE_INT(ttft_median_ns),
    CASE_INT(ttft_min_ns),
    CASE_INT(ttft_max_ns),
    CASE_FLAG(ttft_estimated),
    CASE_REAL(ttft_error),
    CASE_REAL(prefill_tok_s),
    CASE_REAL(decode_tok_s),
    CASE_INT(peak_rank_bytes),
    CASE_INT(peak_device_bytes),
    CASE_INT(peak_driver_bytes),
    CASE_INT(unaccounted_bytes),
    CASE_REAL(predicted_prefill_s),
    CASE_INT(predicted_total_bytes),
    CASE_REAL(energy_j),
    CASE_REAL(energy_j_per_token),
    CASE_REAL(sm_clock_mean_mhz),
    CASE_REAL(power_mean_w),
    CASE_TEXT(output_check),
    CASE_TEXT(invariance_check),
    CASE_TEXT(prompt_sha256),
    CASE_TEXT(exchange),
    CASE_TEXT(attention_note),
    CASE_FLAG(exchange_overlap),
};

/* Attributes of a case or of the run that the first files of schema 1 do not have. */
static const char *const added_attributes[] = {
    "max_num_batched_tokens",
    "memories",
    "energy_j",
    "energy_j_per_token",
    "sm_clock_mean_mhz",
    "power_mean_w",
    "graph_upload_ns",
    "measured_linear_flops",
    "measured_attention_flops",
    "measured_copy_bytes_per_s",
    "measured_roof_flops",
    "measured_op_overhead_ns",
    "kernel_exchange",
    "exchange",
    "attention_note",
    "exchange_overlap",
    "counters_note",
    "graph_chunk_nodes",
};

/* What a case's group says beside its row. */
#define FACT(field_name, kind, field)                                                              \
    { field_name, kind, FIELD(case_result, field), "", "" }
static const struct column case_facts[] = {
    FACT("load_ns", SIGNED, load_ns),
    FACT("session_ns", SIGNED, session_ns),
    FACT("step_allocations", SIGNED, step_allocations),
    FACT("fit_base_ns", REAL, fit.base_ns),
    FACT("fit_slope_ns_per_token", REAL, fit.slope_ns_per_token),
    FACT("fit_rms_relative", REAL, fit.rms_relative),
    FACT("fit_points", SIGNED, fit.n),
    FACT("graphs", SIGNED, graph_info.graphs),
    FACT("graph_nodes", SIGNED, graph_info.nodes),
    FACT("graph_chunk_nodes", SIGNED, graph_info.chunk_nodes),
    FACT("graph_bytes", SIGNED, graph_info.bytes),
    FACT("graph_capture_ns", SIGNED, graph_info.capture_ns),
    FACT("graph_instantiate_ns", SIGNED, graph_info.instantiate_ns),
    FACT("graph_upload_ns", SIGNED, graph_info.upload_ns),
    FACT("measured_linear_flops", REAL, rates.linear_flops),
    FACT("measured_attention_flops", REAL, rates.attention_flops),
    FACT("measured_copy_bytes_per_s", REAL, rates.copy_bytes),
    FACT("measured_roof_flops", REAL, rates.roof_flops),
    FACT("measured_op_overhead_ns", REAL, rates.op_overhead_ns),
};
static const struct column prompt_facts[] = {
    FACT("url", TEXT, prompt_url),
    FACT("file_sha256", TEXT, prompt_file_sha256),
};
static const struct column status_facts[] = {
    FACT("reason", TEXT, reason),
    FACT("exit_signal", SIGNED, exit_signal),
};
static const struct column output_facts[] = {FACT("logits_xxh64", UNSIGNED, logits_hash)};
static const struct column span_facts[] = {FACT("dropped_records", SIGNED, dropped_spans),
                                           FACT("counters_note", TEXT, counters_note)};
static const struct column predicted_facts[] = {
    FACT("total_bytes", SIGNED, predicted_memory.total_bytes),
    FACT("available_bytes", SIGNED, predicted_memory.available_bytes),
};

#define RUN(field_name, kind, field)                                                               \
    { field_name, kind, FIELD(run_facts, field), "", "" }
static const struct column run_columns[] = {
    RUN("config_sha256", TEXT, config_sha256),
    RUN("git_commit", TEXT, git_commit),
    RUN("git_dirty", UNSIGNED, git_dirty),
    RUN("binary_sha256", TEXT, binary_sha256),
    RUN("libraries", TEXT, libraries),
    RUN("host", TEXT, hostname),
    RUN("cpu_model", TEXT, cpu_model),
    RUN("cpu_isa", TEXT, isa),
    RUN("cores", SIGNED, cores),
    RUN("numa_nodes", SIGNED, numa_nodes),
    RUN("memory_bytes", SIGNED, memory_bytes),
    RUN("kernel", TEXT, kernel),
    RUN("governor", TEXT, governor),
    RUN("realtime_ns", SIGNED, realtime_ns),
    RUN("monotonic_ns", SIGNED, monotonic_ns),
    RUN("device_name", TEXT, device.name),
    RUN("device_isa", TEXT, device.isa),
    RUN("device_threads", SIGNED, device.threads),
    RUN("device_memory_bytes", SIGNED, device.memory_bytes),
    RUN("device_available_bytes", SIGNED, device.available_bytes),
    RUN("measured_linear_flops", REAL, rates.linear_flops),
    RUN("measured_attention_flops", REAL, rates.attention_flops),
    RUN("measured_copy_bytes_per_s", REAL, rates.copy_bytes),
    RUN("measured_roof_flops", REAL, rates.roof_flops),
    RUN("measured_op_overhead_ns", REAL, rates.op_overhead_ns),
};
static const struct column gpu_columns[] = {
    {"name", TEXT, FIELD(gpu_row, gpu.name), "", ""},
    {"uuid", TEXT, FIELD(gpu_row, gpu.uuid), "", ""},
    {"pci_bus_id", TEXT, FIELD(gpu_row, gpu.bus_id), "", ""},
    {"driver", TEXT, FIELD(gpu_row, driver), "", "version of the NVIDIA driver"},
    {"cuda_version", SIGNED, FIELD(gpu_row, cuda_version), "1",
     "that the driver serves: 1000 * major + 10 * minor; -1: not told"},
    {"capability", SIGNED, FIELD(gpu_row, gpu.capability), "1", "ten times it"},
    {"visible", UNSIGNED, FIELD(gpu_row, visible), "1", "1: by CUDA_VISIBLE_DEVICES"},
    {"used", UNSIGNED, FIELD(gpu_row, used), "1", "1: the run's device"},
    {"memory_bytes", SIGNED, FIELD(gpu_row, gpu.memory_bytes), "bytes", "-1: not told"},
    {"memory_used_bytes", SIGNED, FIELD(gpu_row, gpu.memory_used_bytes), "bytes",
     "by everybody, when the run began"},
    {"power_limit_w", REAL, FIELD(gpu_row, gpu.power_limit_w), "W", "enforced; NaN: not told"},
    {"sm_clock_max_mhz", SIGNED, FIELD(gpu_row, gpu.sm_clock_max_mhz), "MHz", "-1: not told"},
    {"memory_clock_max_mhz", SIGNED, FIELD(gpu_row, gpu.memory_clock_max_mhz), "MHz", ""},
    {"persistence_mode", SIGNED, FIELD(gpu_row, gpu.persistence), "1", "-1: not told"},
    {"mig_mode", SIGNED, FIELD(gpu_row, gpu.mig), "1", "-1: not told"},
    {"ecc_mode", SIGNED, FIELD(gpu_row, gpu.ecc), "1", "-1: not told"},
    {"nvlinks", SIGNED, FIELD(gpu_row, gpu.nvlinks), "1", "active ones; -1: not told"},
    {"pcie_generation", SIGNED, FIELD(gpu_row, gpu.pcie_generation), "1", "most"},
    {"pcie_width", SIGNED, FIELD(gpu_row, gpu.pcie_width), "lanes", "most"},
};
static const struct column root_columns[] = {
    RUN("created_utc", TEXT, created_utc),
    RUN("tool_version", TEXT, tool_version),
};

/* Names of the enums that are stored as text. */
#define X(name, text) text,
static const char *const status_names[] = {CASE_STATUS_TABLE(X)};
static const char *const check_names[] = {CHECK_TABLE(X)};
static const char *const op_names[] = {OP_TABLE(X)};
static const char *const role_names[] = {ROLE_TABLE(X)};
static const char *const category_names[] = {MEMORY_CATEGORY_TABLE(X)};
#undef X
static const char *const verdict_names[] = {"not checked", "ok", "FAILED"};
static const char *const coverage_names[] = {"full", "sampled", "skipped"};

/* Copies at most size - 1 bytes and fills the rest with zeros: no stale bytes reach a file. */
static inline void record_copy_text(char *out, size_t size, const char *text) {
    size_t n = strnlen(text, size - 1);
    memcpy(out, text, n);
    memset(out + n, 0, size - n);
}

/* Numbers the (op, role, variant) triples in the order in which they appear. */
struct op_numbers {
    int16_t id[OPS][ROLES][256]; /* number + 1, or 0 */
    struct op_row row[OPS * ROLES * 4];
    int n;
};
int record_op_number(struct h5 *h, struct op_numbers *ops, const struct case_result *r,
                     const struct span *s);
/* What each op_id of the table `ops` of a group stands for, malloc'd; NULL: failed. */
struct span *record_read_ops(struct h5 *h, h5_id at, struct case_result *r, int64_t *n);

/* record_trace.c: the group of a case that has what CUPTI recorded; there is none where nobody
 * asked. Without tables its facts alone are read. */
#define TRACE_GROUP "trace"
void record_write_trace(struct h5 *h, h5_id at, const struct case_result *r);
void record_read_trace(struct h5 *h, h5_id at, struct case_result *r, bool with_tables);

/* DIR/case-ID.h5 */
enum status record_fragment_path(char out[PATH_MAX_BYTES], const char *dir, const char *id,
                                 struct error *err);

#endif
