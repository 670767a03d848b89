/* A result as comma-separated values (RFC 4180): a line per case, or of one case a line per chunk.
 * Names of columns carry the unit; an empty cell: not measured or not known. */
#include "harness/show.h"

#include <inttypes.h>
#include <math.h>

/* A line: separators stand before all cells but the first. */
struct csv {
    FILE *out;
    bool begun;
};

static void separate(struct csv *c) {
    if (c->begun) putc(',', c->out);
    c->begun = true;
}

static void end_line(struct csv *c) {
    putc('\n', c->out);
    c->begun = false;
}

static void put_int(struct csv *c, int64_t value, bool known) {
    separate(c);
    if (known) fprintf(c->out, "%" PRId64, value);
}

static void put_real(struct csv *c, double value) {
    separate(c);
    if (isfinite(value)) fprintf(c->out, "%.9g", value);
}

/* Control characters become spaces, so that a row stays a line. */
static void put_text(struct csv *c, const char *text) {
    separate(c);
    putc('"', c->out);
    for (const char *p = text; *p; p++) {
        if (*p == '"') putc('"', c->out);
        putc((unsigned char)*p < 0x20 || *p == 0x7f ? ' ' : *p, c->out);
    }
    putc('"', c->out);
}

static void put_case(struct csv *c, const struct case_result *r) {
    static const char *const coverage[] = {"full", "sampled", "skipped"};
    struct case_summary s;
    result_summary(r, &s);
    const bool timed = r->n_ttft > 0, weighed = r->n_memory > 0;
    put_text(c, r->id);
    put_text(c, case_status_text(r->status));
    put_text(c, r->prompt);
    put_int(c, r->prompt_tokens, true);
    put_int(c, r->max_num_batched_tokens, true);
    put_int(c, r->chunk_tokens, true);
    put_text(c, r->graph ? "graph" : "eager");
    put_int(c, r->tp, true);
    put_text(c, r->device);
    put_text(c, r->dtype);
    put_text(c, show_is_known(r->attention) ? r->attention : "");
    put_text(c, show_is_known(r->linear) ? r->linear : "");
    put_text(c, coverage[r->coverage]);
    put_int(c, r->n_ttft, true);
    put_int(c, s.ttft_median_ns, timed);
    put_int(c, s.ttft_min_ns, timed);
    put_int(c, s.ttft_max_ns, timed);
    put_int(c, r->ttft_estimated, timed);
    put_real(c, timed && r->ttft_estimated ? r->ttft_error : (double)NAN);
    put_real(c, s.prefill_tok_s);
    put_real(c, s.decode_tok_s);
    put_int(c, s.peak_bytes_rank, weighed);
    put_int(c, s.peak_bytes_device, weighed);
    put_int(c, s.peak_driver_bytes, weighed);
    put_int(c, s.unaccounted_bytes, weighed);
    put_real(c, r->predicted_prefill_s);
    put_int(c, r->predicted_memory.total_bytes, r->predicted_memory.total_bytes > 0);
    put_real(c, s.energy_j);
    put_real(c, s.energy_j_per_token);
    put_text(c, s.output == VERDICT_SPOT_OK ? "spot" : verdict_text(s.output));
    put_text(c, verdict_text(s.invariance));
    put_text(c, r->reason);
    put_int(c, r->devices, true);
    put_text(c, r->exchange);
    put_int(c, r->exchange_overlap, true);
    end_line(c);
}

void show_csv(FILE *out, const struct record_run *run) {
    struct csv c = {.out = out};
    fputs("id,status,prompt,prompt_tokens,max_num_batched_tokens,chunk_tokens,mode,tp,device,dtype,"
          "attention,linear,coverage,repeats_measured,ttft_median_ns,ttft_min_ns,ttft_max_ns,"
          "ttft_estimated,ttft_relative_error,prefill_tok_s,decode_tok_s,peak_rank_bytes,"
          "peak_device_bytes,peak_driver_bytes,unaccounted_bytes,predicted_prefill_s,"
          "predicted_memory_bytes,energy_j,energy_j_per_token,output_check,invariance_check,"
          "reason,devices,exchange,exchange_overlap\n",
          out);
    for (int i = 0; i < run->n; i++) put_case(&c, &run->cases[i]);
}

void show_case_csv(FILE *out, const struct case_result *r) {
    struct csv c = {.out = out};
    fputs("repeat,chunk,start_token,n_tokens,begin_ns,latency_ns,host_ns,flops,bytes,replayed\n",
          out);
    for (int64_t i = 0; i < r->n_chunks; i++) {
        const struct chunk_row *k = &r->chunks[i];
        put_int(&c, k->repeat, true);
        put_int(&c, k->chunk, true);
        put_int(&c, k->start_token, true);
        put_int(&c, k->n_tokens, true);
        put_int(&c, k->begin_ns, true);
        put_int(&c, k->latency_ns, true);
        put_int(&c, k->host_ns, true);
        put_int(&c, k->flops, true);
        put_int(&c, k->bytes, true);
        put_int(&c, k->replayed, true);
        end_line(&c);
    }
}
