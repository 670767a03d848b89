/* Numbers as text. See format.h. */
#include "harness/format.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

char *format_count(char out[FORMAT_BYTES], int64_t n) {
    char digits[24];
    int length = snprintf(digits, sizeof digits, "%" PRIu64, n < 0 ? -(uint64_t)n : (uint64_t)n);
    char *to = out;
    if (n < 0) *to++ = '-';
    for (int i = 0; i < length; i++) {
        if (i && (length - i) % 3 == 0) *to++ = ',';
        *to++ = digits[i];
    }
    *to = 0;
    return out;
}

/* Three significant digits below 1000, none lost above: 1.50, 12.3, 850, 1,234. */
static void format_three(char *out, double value) {
    const double size = fabs(value);
    if (size < 9.995)
        snprintf(out, FORMAT_BYTES, "%.2f", value);
    else if (size < 99.95)
        snprintf(out, FORMAT_BYTES, "%.1f", value);
    else if (size < 1e15)
        format_count(out, llround(value));
    else
        snprintf(out, FORMAT_BYTES, "%.3g", value);
}

static char *format_with_unit(char *out, double value, const char *prefix, const char *unit) {
    char number[FORMAT_BYTES];
    format_three(number, value);
    snprintf(out, FORMAT_BYTES, "%.22s %.1s%.14s", number, prefix, unit);
    return out;
}

char *format_bytes(char out[FORMAT_BYTES], int64_t bytes) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double value = (double)bytes;
    int i = 0;
    while (i < 6 && fabs(value) >= 1023.5) {
        value /= 1024;
        i++;
    }
    if (i == 0) {
        snprintf(out, FORMAT_BYTES, "%" PRId64 " B", bytes);
        return out;
    }
    return format_with_unit(out, value, "", units[i]);
}

char *format_seconds(char out[FORMAT_BYTES], double s) {
    if (!(s >= 0) || s > 1e15) {
        snprintf(out, FORMAT_BYTES, "-");
        return out;
    }
    if (s == 0) {
        snprintf(out, FORMAT_BYTES, "0 s");
        return out;
    }
    if (s < 999.5e-9) return format_with_unit(out, s * 1e9, "n", "s");
    if (s < 999.5e-6) return format_with_unit(out, s * 1e6, "u", "s");
    if (s < 999.5e-3) return format_with_unit(out, s * 1e3, "m", "s");
    if (s < 119.5) return format_with_unit(out, s, "", "s");
    const int64_t whole = llround(s);
    if (s < 2 * 3600 - 0.5) {
        snprintf(out, FORMAT_BYTES, "%" PRId64 " min %02d s", whole / 60, (int)(whole % 60));
        return out;
    }
    const int64_t minutes = llround(s / 60);
    snprintf(out, FORMAT_BYTES, "%" PRId64 " h %02d min", minutes / 60, (int)(minutes % 60));
    return out;
}

char *format_rate(char out[FORMAT_BYTES], double value, const char *unit) {
    static const char *const prefixes[] = {"", "k", "M", "G", "T", "P", "E"};
    if (!isfinite(value)) {
        snprintf(out, FORMAT_BYTES, "-");
        return out;
    }
    int i = 0;
    while (i < 6 && fabs(value) >= 999.5) {
        value /= 1000;
        i++;
    }
    return format_with_unit(out, value, prefixes[i], unit);
}

char *format_tokens(char out[FORMAT_BYTES], int64_t tokens) {
    const int64_t k = 1024, m = k * k;
    if (tokens && tokens % m == 0)
        snprintf(out, FORMAT_BYTES, "%" PRId64 "m", tokens / m);
    else if (tokens && tokens % k == 0)
        snprintf(out, FORMAT_BYTES, "%" PRId64 "k", tokens / k);
    else
        snprintf(out, FORMAT_BYTES, "%" PRId64, tokens);
    return out;
}

char *format_tok_s(char out[FORMAT_BYTES], double tok_s) {
    if (!isfinite(tok_s))
        snprintf(out, FORMAT_BYTES, "-");
    else if (fabs(tok_s) >= 9.995)
        format_count(out, llround(tok_s));
    else
        snprintf(out, FORMAT_BYTES, "%.2f", tok_s);
    return out;
}

char *format_pass(char out[FORMAT_BYTES], int pass, int warmup) {
    if (pass < 0)
        snprintf(out, FORMAT_BYTES, "warm-up %d", pass + warmup + 1);
    else
        snprintf(out, FORMAT_BYTES, "repeat %d", pass + 1);
    return out;
}
