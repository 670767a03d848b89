/* SHA-256 through nettle, whose headers no other file includes. Owns nothing. */
#include "harness/sha256.h"

#include <nettle/sha2.h>
#include <stdint.h>

void sha256_hex(const void *data, size_t n, char out[65]) {
    static const char digits[] = "0123456789abcdef";
    struct sha256_ctx ctx;
    uint8_t digest[SHA256_DIGEST_SIZE];

    sha256_init(&ctx);
    if (n > 0) sha256_update(&ctx, n, data);
    sha256_digest(&ctx, sizeof digest, digest);
    for (size_t i = 0; i < sizeof digest; i++) {
        out[2 * i] = digits[digest[i] >> 4];
        out[2 * i + 1] = digits[digest[i] & 15];
    }
    out[64] = '\0';
}
