/* Relative error of vectors: norms, so that a value near zero among large ones is judged by the size of the
 * whole. */
#include "check.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void check_fail(check *c, const char *format, ...) {
    size_t used = strlen(c->message);
    va_list arguments;
    c->failures++;
    if (used + 2 >= sizeof c->message) return;
    if (used > 0) c->message[used++] = '\n';
    va_start(arguments, format);
    vsnprintf(c->message + used, sizeof c->message - used, format, arguments);
    va_end(arguments);
}

bool check_passed(const check *c) {
    return c->comparisons > 0 && c->failures == 0;
}

double check_error(const float *out, const double *ref, int64_t count) {
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < count; i++) {
        difference += ((double)out[i] - ref[i]) * ((double)out[i] - ref[i]);
        norm += ref[i] * ref[i];
    }
    if (isnan(difference)) return INFINITY;
    if (norm == 0) return difference == 0 ? 0 : INFINITY;
    return sqrt(difference / norm);
}

/* The element that is furthest off, for the message. */
static int64_t worst(const float *out, const double *ref, int64_t count) {
    int64_t at = 0;
    double most = -1;
    for (int64_t i = 0; i < count; i++) {
        double off = fabs((double)out[i] - ref[i]);
        if (isnan(off)) return i;
        if (off > most) {
            most = off;
            at = i;
        }
    }
    return at;
}

/* FNV-1a, a float at a time. */
static void add_bits(check *c, const float *out, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        uint32_t word;
        memcpy(&word, out + i, sizeof word);
        c->bits = (c->bits ^ word) * 0x100000001b3u;
    }
}

void check_near(check *c, const char *where, const float *out, const double *ref, int64_t count,
                double tolerance) {
    if (count == 0) return;
    double error = check_error(out, ref, count);
    c->comparisons++;
    add_bits(c, out, count);
    if (error <= tolerance) return;
    int64_t at = worst(out, ref, count);
    check_fail(c, "%s: relative error %.2e > %.0e; worst at %lld: expected %.9g, got %.9g", where, error,
               tolerance, (long long)at, ref[at], (double)out[at]);
}
