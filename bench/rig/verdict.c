#include "rig/verdict.h"

#include <math.h>
#include <stdio.h>

static const double ELEMENT_FACTOR = 5;

bool verdict_passed(const verdict *v) {
    return v->checked > 0 && v->wrong == 0 && !v->impossible;
}

static void note(verdict *v, const char *what, int64_t checked, int64_t wrong) {
    if (wrong > 0 && v->wrong == 0) snprintf(v->where, sizeof v->where, "%s", what);
    v->checked += checked;
    v->wrong += wrong;
}

void verdict_compare(verdict *v, const char *what, const float *out, const double *ref, int64_t count) {
    double square = 0, distance = 0;
    int64_t wrong = 0;
    for (int64_t i = 0; i < count; i++) square += ref[i] * ref[i];
    double rms = count ? sqrt(square / (double)count) : 0;
    for (int64_t i = 0; i < count; i++) {
        double gap = fabs((double)out[i] - ref[i]);
        distance += gap * gap;
        wrong += !(gap <= ELEMENT_FACTOR * v->tolerance * (fabs(ref[i]) + rms));
    }
    double error = square > 0 ? sqrt(distance / square) : distance > 0 ? INFINITY : 0;
    if (isnan(distance)) error = INFINITY;
    if (error > v->tolerance && wrong == 0) wrong = count;
    if (error > v->error) v->error = error;
    note(v, what, count, wrong);
}

void verdict_finite(verdict *v, const char *what, const float *out, int64_t count) {
    int64_t wrong = 0;
    for (int64_t i = 0; i < count; i++) wrong += !isfinite(out[i]);
    note(v, what, 0, wrong);
}

void verdict_exact(verdict *v, const char *what, bool right) {
    note(v, what, 1, !right);
}
