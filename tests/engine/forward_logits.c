/* Runs a prompt through the engine and prints logits, for test_forward_numpy.py.
 *
 *   forward_logits MODEL SEED TP CHUNK bf16|f32 eager|graph dense|dual DECODE < NUMBERS
 *
 * NUMBERS: int32 count and prompt ids, then int32 count and positions whose logits are wanted.
 * Output, f32: a row of logits for each position, the row after the prompt, and for each of DECODE
 * greedy tokens its id and the row that follows it. */
#include "engine/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(enum status s, const struct error *err) {
    if (s == STATUS_OK) return;
    fprintf(stderr, "forward_logits: %s\n", err->text);
    exit(status_exit_code(s));
}

static int32_t *read_list(int32_t *n) {
    if (fread(n, sizeof *n, 1, stdin) != 1 || *n < 0) exit(2);
    int32_t *list = malloc(((size_t)*n + 1) * sizeof *list);
    if (!list || fread(list, sizeof *list, (size_t)*n, stdin) != (size_t)*n) exit(2);
    return list;
}

static void print_row(const float *row, int32_t V) {
    if (fwrite(row, sizeof *row, (size_t)V, stdout) != (size_t)V) exit(6);
}

int main(int argc, char **argv) {
    struct error err = {""};
    if (argc != 9) return 2;
    struct engine_opts eo = engine_opts_defaults();
    eo.model = argv[1];
    eo.seed = strtoull(argv[2], NULL, 10);
    eo.tensor_parallel_size = atoi(argv[3]);
    eo.dtype = strcmp(argv[5], "f32") == 0 ? DTYPE_F32 : DTYPE_BF16;
    eo.dual_chunk_attention = strcmp(argv[7], "dual") == 0;
    eo.block_rows = 96;
    eo.threads = 1; /* tiny work */

    struct session_opts so = session_opts_defaults();
    int32_t *ids = read_list(&so.prompt_tokens), *positions = read_list(&so.logits_at_count);
    const int decode = atoi(argv[8]);
    so.logits_at = positions;
    so.chunk_tokens = atoi(argv[4]);
    so.graph = strcmp(argv[6], "graph") == 0;
    so.max_tokens = decode + 1;
    so.sampling = (struct sampling_opts){.temperature = 0, .top_p = 1, .repetition_penalty = 1};

    struct engine *e;
    struct session *s;
    must(engine_open(&e, &eo, &err), &err);
    must(session_open(&s, e, &so, &err), &err);
    const int32_t V = engine_info(e)->model.V;
    float *row = malloc((size_t)V * sizeof *row);
    if (!row) return 5;
    for (int32_t at = 0; at < so.prompt_tokens;) {
        const int32_t left = so.prompt_tokens - at;
        const int32_t n = left < so.chunk_tokens ? left : so.chunk_tokens;
        struct chunk_result r;
        must(session_prefill(s, ids + at, n, &r, &err), &err);
        at += n;
    }
    for (int32_t i = 0; i < so.logits_at_count; i++) {
        must(session_logits_at(s, i, row, &err), &err);
        print_row(row, V);
    }
    must(session_logits(s, row, &err), &err);
    print_row(row, V);
    for (int i = 0; i <= decode; i++) {
        struct token_result t;
        must(session_generate(s, &t, &err), &err);
        if (i > 0) {
            must(session_logits(s, row, &err), &err);
            print_row(row, V);
        }
        const float id = (float)t.id;
        if (i < decode) print_row(&id, 1);
    }
    session_close(s);
    engine_close(e);
    free(row);
    free(ids);
    free(positions);
    return 0;
}
