/* Relative error of vectors: norms, so that a value near zero among large ones is judged by the size of the
 * whole. */
#include "rig/verdict.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const double ELEMENT_FACTOR = 5;

bool verdict_passed(const verdict *v) {
    return v->checked > 0 && v->wrong == 0 && v->failures == 0 && !v->impossible;
}

static void note(verdict *v, const char *what, int64_t checked, int64_t wrong) {
    if (wrong > 0 && v->wrong == 0) snprintf(v->where, sizeof v->where, "%s", what);
    v->checked += checked;
    v->wrong += wrong;
    v->comparisons++;
}

void verdict_fail(verdict *v, const char *format, ...) {
    size_t used = strlen(v->message);
    va_list arguments;
    v->failures++;
    if (used + 2 >= sizeof v->message) return;
    if (used > 0) v->message[used++] = '\n';
    used += (size_t)snprintf(v->message + used, sizeof v->message - used, "%s%s", v->context,
                             v->context[0] ? ": " : "");
    if (used >= sizeof v->message) return;
    va_start(arguments, format);
    vsnprintf(v->message + used, sizeof v->message - used, format, arguments);
    va_end(arguments);
}

double verdict_error(const float *out, const double *ref, int64_t count) {
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
static void add_bits(verdict *v, const float *out, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        uint32_t word;
        memcpy(&word, out + i, sizeof word);
        v->bits = (v->bits ^ word) * 0x100000001b3u;
    }
}

static int64_t wrong_elements(const float *out, const double *ref, int64_t count, double tolerance) {
    double square = 0;
    int64_t wrong = 0;
    for (int64_t i = 0; i < count; i++) square += ref[i] * ref[i];
    double rms = sqrt(square / (double)count);
    for (int64_t i = 0; i < count; i++)
        wrong += !(fabs((double)out[i] - ref[i]) <= ELEMENT_FACTOR * tolerance * (fabs(ref[i]) + rms));
    return wrong;
}

void verdict_near(verdict *v, const char *what, const float *out, const double *ref, int64_t count,
                  double tolerance) {
    if (count == 0) return;
    double error = verdict_error(out, ref, count);
    int64_t wrong = wrong_elements(out, ref, count, tolerance);
    if (error > tolerance && wrong == 0) wrong = count;
    if (error > v->error) v->error = error;
    add_bits(v, out, count);
    note(v, what, count, wrong);
    if (wrong == 0) return;
    int64_t at = worst(out, ref, count);
    verdict_fail(v,
                 "%s: relative error %.2e, tolerance %.0e, %lld of %lld are wrong; worst at %lld: expected "
                 "%.9g, got %.9g",
                 what, error, tolerance, (long long)wrong, (long long)count, (long long)at, ref[at],
                 (double)out[at]);
}

void verdict_compare(verdict *v, const char *what, const float *out, const double *ref, int64_t count) {
    verdict_near(v, what, out, ref, count, v->tolerance);
}

void verdict_finite(verdict *v, const char *what, const float *out, int64_t count) {
    int64_t wrong = 0;
    for (int64_t i = 0; i < count; i++) wrong += !isfinite(out[i]);
    note(v, what, 0, wrong);
    if (wrong > 0) verdict_fail(v, "%s: %lld values are not finite", what, (long long)wrong);
}

void verdict_exact(verdict *v, const char *what, bool right) {
    note(v, what, 1, !right);
    if (!right) verdict_fail(v, "%s: is not exactly what it must be", what);
}
