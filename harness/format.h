/* Numbers as people read them: one place, so that tables, messages and reasons look alike.
 * Every function writes into the buffer it is given (FORMAT_BYTES are always enough) and returns
 * it, so calls nest in printf arguments. */
#ifndef HARNESS_FORMAT_H
#define HARNESS_FORMAT_H

#include <stdint.h>

enum { FORMAT_BYTES = 40 };

/* 1048320 -> "1,048,320" */
char *format_count(char out[FORMAT_BYTES], int64_t n);
/* Powers of 1024, three digits: "512 B", "1.50 GiB", "14.0 GiB" */
char *format_bytes(char out[FORMAT_BYTES], int64_t bytes);
/* "850 ns", "3.20 ms", "12.3 s", "4 min 05 s", "2 h 10 min"; NaN or negative: "-" */
char *format_seconds(char out[FORMAT_BYTES], double s);
static inline char *format_ns(char out[FORMAT_BYTES], int64_t ns) {
    return format_seconds(out, (double)ns / 1e9);
}
/* Powers of 1000 with a unit: format_rate(b, 2.51e11, "FLOP/s") -> "251 GFLOP/s" */
char *format_rate(char out[FORMAT_BYTES], double value, const char *unit);
/* Tokens as a configuration writes them: 65536 -> "64k", 1048576 -> "1m", 1000 -> "1000" */
char *format_tokens(char out[FORMAT_BYTES], int64_t tokens);
/* A pass over the prompt: people count from 1, files from 0 and warm-ups from -warmup on: 0 ->
 * "repeat 1"; -2 of two warm-ups -> "warm-up 1" */
char *format_pass(char out[FORMAT_BYTES], int pass, int warmup);
/* "1,234" from 10 on, "3.46" below; NaN: "-" */
char *format_tok_s(char out[FORMAT_BYTES], double tok_s);

#endif
