#include "decode/sample.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

static int32_t largest_of(const float *z, int32_t n) {
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++)
        if (z[i] > z[best]) best = i;
    return best;
}

static void swap(float *a, float *b) {
    float c = *a;
    *a = *b;
    *b = c;
}

/* The k-th largest of n numbers, 1 <= k <= n, none of them NaN; their order changes (Hoare's selection). */
static float kth_largest(float *z, int32_t n, int32_t k) {
    int32_t first = 0, last = n - 1, at = k - 1;
    while (first < last) {
        float pivot = z[first + (last - first) / 2];
        int32_t i = first, j = last;
        while (i <= j) {
            while (z[i] > pivot) i++;
            while (z[j] < pivot) j--;
            if (i <= j) swap(&z[i++], &z[j--]);
        }
        if (at <= j)
            last = j;
        else if (at >= i)
            first = i;
        else
            break;
    }
    return z[at];
}

/* The logit from which tokens are kept, and how many of those that have just this one. */
static float least_kept(const float *z, int32_t n, int32_t k, float *scratch, int32_t *of_it) {
    memcpy(scratch, z, (size_t)n * sizeof *z);
    float least = kth_largest(scratch, n, k);
    *of_it = k;
    for (int32_t i = 0; i < n; i++) *of_it -= z[i] > least;
    return least;
}

static bool all_finite(const float *z, int32_t n) {
    bool finite = true;
    for (int32_t i = 0; i < n; i++) finite &= z[i] - z[i] == 0.0F;
    return finite;
}

int32_t sample_token(const sample_rule *rule, const float *logits, int32_t vocabulary, const rng_key *key,
                     uint64_t index, float *scratch) {
    if (!all_finite(logits, vocabulary)) return -1;
    int32_t best = largest_of(logits, vocabulary), left = vocabulary, last = best;
    if (!(rule->temperature > 0)) return best;
    float least = -INFINITY;
    if (rule->top_k > 0 && rule->top_k < vocabulary)
        least = least_kept(logits, vocabulary, rule->top_k, scratch, &left);
    double sum = 0;
    for (int32_t i = 0; i < vocabulary; i++) {
        bool kept = logits[i] > least || (logits[i] == least && left-- > 0);
        scratch[i] = kept ? (float)exp(((double)logits[i] - (double)logits[best]) / rule->temperature) : 0.0F;
        sum += (double)scratch[i];
    }
    double point = rng_open_unit(key, index) * sum;
    for (int32_t i = 0; i < vocabulary; i++) {
        point -= (double)scratch[i];
        if (scratch[i] > 0) last = i;
        if (point < 0) return i;
    }
    return last; /* the sum was rounded */
}
