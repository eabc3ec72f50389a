/* Routers with a hidden layer: LLaMA-MoE's gate (sim/methods/README.md), after Shazeer et al. 2017.
 *
 *   a = tanh(R x),  c = R2 a,  z = c + sigma n,  sigma = softplus(0) + 0.01,  n normal by noise.h
 *   load p_e = Phi((c_e - t_e) / sigma), t_e the K-th largest z of the others; 0 where all experts are kept,
 *       or
 *       without noise
 *   balance (CV^2(sums of w) + CV^2(sums of p)), CV^2(v) = var(v) / mean(v)^2, var with E - 1
 *   backward: dR2 += dz a^T,  d(R x)_j = sum_e R2_ej dz_e (1 - a_j^2) */
#include <Random123/philox.h>
#include <math.h>
#include <string.h>

#include "oracle.h"

static double deviation(void) {
    return log(2) + 0.01;
}

double oracle_noise(const ck_noise *noise, int64_t position, int layers, int layer, int expert) {
    const double two_pi = 8 * atan(1);
    uint64_t block = 4 * (uint64_t)(position * layers + layer) + (uint64_t)(expert / 4);
    philox4x32_key_t key = {{noise->key[0], noise->key[1]}};
    philox4x32_ctr_t counter = {{noise->counter[0] | (uint32_t)block,
                                 noise->counter[1] | (uint32_t)(block >> 32), noise->counter[2],
                                 noise->counter[3]}};
    philox4x32_ctr_t words = philox4x32(counter, key);
    int pair = expert % 4 / 2;
    double u = ((double)(words.v[2 * pair] >> 8) + 1) / 16777216,
           angle = two_pi * (double)(words.v[2 * pair + 1] >> 8) / 16777216;
    return sqrt(-2 * log(u)) * (expert % 2 == 0 ? cos(angle) : sin(angle));
}

bool oracle_has_hidden_layer(const ck_shape *shape) {
    return shape->router_rows > 0 && shape->router == CK_ROUTER_LLAMA_MOE;
}

static const double *second_matrix(const oracle_adapter *a) {
    return a->parameters + oracle_part_range(a->shape, a->layer, ORACLE_ROUTER_OUT).offset;
}

void oracle_hidden_logits(const oracle_adapter *a, int64_t row, double *z, double *hidden) {
    const ck_shape *s = a->shape;
    int experts = s->n_experts;
    int64_t position = a->position ? a->position[row] : row;
    for (int e = 0; e < experts; e++) hidden[e] = tanh(z[e]);
    for (int e = 0; e < experts; e++) {
        hidden[experts + e] = oracle_dot(second_matrix(a) + e * experts, hidden, experts);
        z[e] = hidden[experts + e];
        if (a->noise) z[e] += deviation() * oracle_noise(a->noise, position, s->n_layers, a->layer, e);
    }
}

/* The expert with the K-th largest logit among all but e. */
static int rival_of(const ck_shape *s, const double *z, int e) {
    bool taken[CK_MAX_EXPERTS] = {false};
    int rival = -1;
    taken[e] = true;
    for (int k = 0; k < oracle_chosen_count(s); k++) {
        rival = -1;
        for (int other = 0; other < s->n_experts; other++)
            if (!taken[other] && (rival < 0 || z[other] > z[rival])) rival = other;
        taken[rival] = true;
    }
    return rival;
}

static bool has_load(const oracle_adapter *a) {
    return a->noise && oracle_has_hidden_layer(a->shape) &&
           oracle_chosen_count(a->shape) < a->shape->n_experts;
}

void oracle_load(const oracle_adapter *a, const double *z, const double *hidden, double *p) {
    const ck_shape *s = a->shape;
    memset(p, 0, CK_MAX_EXPERTS * sizeof *p);
    for (int e = 0; e < s->n_experts && has_load(a); e++) {
        double t = z[rival_of(s, z, e)];
        p[e] = 0.5 * erfc(-(hidden[s->n_experts + e] - t) / (deviation() * sqrt(2)));
    }
}

void oracle_load_backward(const oracle_adapter *a, const double *z, const double *hidden,
                          const double *coefficient, double *dz) {
    const ck_shape *s = a->shape;
    for (int e = 0; e < s->n_experts && has_load(a); e++) {
        int rival = rival_of(s, z, e);
        double u = (hidden[s->n_experts + e] - z[rival]) / deviation();
        double slope = coefficient[e] * exp(-u * u / 2) / sqrt(8 * atan(1)) / deviation();
        dz[e] += slope;
        dz[rival] -= slope;
    }
}

void oracle_hidden_backward(const oracle_adapter *a, const double *hidden, double *dz) {
    int experts = a->shape->n_experts;
    double *gradient = a->gradients + oracle_part_range(a->shape, a->layer, ORACLE_ROUTER_OUT).offset;
    double da[CK_MAX_EXPERTS] = {0};
    for (int e = 0; e < experts; e++)
        for (int j = 0; j < experts; j++) {
            da[j] += second_matrix(a)[e * experts + j] * dz[e];
            gradient[e * experts + j] += dz[e] * hidden[j];
        }
    for (int j = 0; j < experts; j++) dz[j] = da[j] * (1 - hidden[j] * hidden[j]);
}

/* CV^2 and its derivative, both times the balance. */
static double squared_variation(const ck_shape *s, const double *sums, double *coefficient) {
    double experts = s->n_experts, balance = (double)s->balance[0], mean = 0, variance = 0;
    for (int e = 0; e < s->n_experts; e++) mean += sums[e] / experts;
    for (int e = 0; e < s->n_experts; e++) variance += (sums[e] - mean) * (sums[e] - mean) / (experts - 1);
    for (int e = 0; e < s->n_experts; e++)
        coefficient[e] = balance * (2 * (sums[e] - mean) / (experts - 1) / (mean * mean) -
                                    2 * variance / (mean * mean * mean) / experts);
    return balance * variance / (mean * mean);
}

double oracle_gate_balance(const ck_shape *shape, const double *gate_sum, const double *load_sum,
                           double *coefficient) {
    bool load = oracle_chosen_count(shape) < shape->n_experts;
    double value = squared_variation(shape, gate_sum, coefficient);
    memset(coefficient + CK_MAX_EXPERTS, 0, CK_MAX_EXPERTS * sizeof *coefficient);
    return load ? value + squared_variation(shape, load_sum, coefficient + CK_MAX_EXPERTS) : value;
}
