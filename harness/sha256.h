/* SHA-256 of bytes in memory, as text: names prompts, configurations and binaries. */
#ifndef HARNESS_SHA256_H
#define HARNESS_SHA256_H

#include <stddef.h>

/* 64 lower-case hex digits and a NUL. data may be NULL when n is 0. */
void sha256_hex(const void *data, size_t n, char out[65]);

#endif
