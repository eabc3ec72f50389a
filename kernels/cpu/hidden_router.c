/* hidden_router.c - the gate of LLaMA-MoE (Zhu et al. 2024), after Shazeer et al. 2017, sections 4 and A:
 *
 *   a = tanh(R x),  c = R2 a,  z = c + sigma n
 *   load  p_e = Phi((c_e - t_e) / sigma), t_e the K-th largest of the z of others: of a kept expert the first
 *         z that is not kept, of another the last that is
 *         dp_e = phi((c_e - t_e) / sigma) (dc_e - dt_e) / sigma
 *   dR2 = dz^T a,  d(R x) = (R2^T dz) (1 - a^2)
 */
#include "hidden_router.h"

#include <math.h>
#include <string.h>

static const float *second_matrix(const cpu_block *block, int layer) {
    return cpu_layer(block, layer) + block->shape->block[CK_BLOCK_ROUTER_OUT].offset;
}

static void normals_of(const cpu_block *block, int layer, int t, float normals[CK_MAX_EXPERTS]) {
    const ck_wave *wave = block->wave;
    int64_t first = wave->first_token[wave->first_sequence[block->device]];
    for (int e = 0; e < block->shape->n_experts; e += 2) {
        uint32_t words[4];
        ck_noise_words(&wave->devices[block->device].noise, block->first_token + t - first,
                       block->shape->n_layers, layer, e / 4, words);
        float radius = sqrtf(-2.0f * logf(ck_noise_u(words, e / 2 % 2))),
              angle = 6.28318530717958648f * ck_noise_v(words, e / 2 % 2);
        normals[e] = radius * cosf(angle);
        normals[e + 1] = radius * sinf(angle);
    }
}

void hidden_router_logits(const cpu_block *block, int layer, int t, float *z, float *a, float *clean) {
    int experts = block->shape->n_experts;
    const float *weight = second_matrix(block, layer);
    float normals[CK_MAX_EXPERTS] = {0};
    if (block->learn) normals_of(block, layer, t, normals);
    for (int e = 0; e < experts; e++) a[e] = tanhf(z[e]);
    for (int e = 0; e < experts; e++) {
        float sum = 0;
        for (int j = 0; j < experts; j++) sum += weight[e * experts + j] * a[j];
        clean[e] = sum;
        z[e] = sum + CK_NOISE_DEVIATION * normals[e];
    }
}

/* The expert whose logit expert e has to exceed. */
static int rival_of(const choice *c, int e) {
    return c->chosen >> e & 1 ? c->runner_up : c->last;
}

void hidden_router_load(const float *z, const float *clean, const choice *c, float *load) {
    if (c->runner_up < 0) return;
    for (int e = 0; e < c->experts; e++) {
        float u = (clean[e] - z[rival_of(c, e)]) / CK_NOISE_DEVIATION;
        load[e] += 0.5f * erfcf(-0.70710678f * u);
    }
}

void hidden_router_load_backward(const float *z, const float *clean, const choice *c,
                                 const float *coefficient, float *dz) {
    if (c->runner_up < 0) return;
    for (int e = 0; e < c->experts; e++) {
        int rival = rival_of(c, e);
        float u = (clean[e] - z[rival]) / CK_NOISE_DEVIATION;
        float slope = coefficient[e] * (0.39894228f / CK_NOISE_DEVIATION) * expf(-0.5f * u * u);
        dz[e] += slope;
        dz[rival] -= slope;
    }
}

void hidden_router_backward(const cpu_block *block, int layer, const float *a, float *dz,
                            float *second_gradient) {
    int experts = block->shape->n_experts;
    const float *weight = second_matrix(block, layer);
    float da[CK_MAX_EXPERTS] = {0};
    for (int e = 0; e < experts; e++) {
        for (int j = 0; j < experts; j++) da[j] += weight[e * experts + j] * dz[e];
        for (int j = 0; j < experts && second_gradient; j++) second_gradient[e * experts + j] += dz[e] * a[j];
    }
    for (int j = 0; j < experts; j++) dz[j] = da[j] * (1.0f - a[j] * a[j]);
}

void hidden_router_coefficients(const ck_shape *shape, const double *sums, float *coefficient) {
    int experts = shape->n_experts;
    double mean = 0, variance = 0;
    for (int e = 0; e < experts; e++) mean += sums[e] / experts;
    for (int e = 0; e < experts; e++) variance += (sums[e] - mean) * (sums[e] - mean) / (experts - 1);
    for (int e = 0; e < experts && mean > 0; e++)
        coefficient[e] = (float)((double)shape->balance[e] * 2 / (mean * mean) *
                                 ((sums[e] - mean) / (experts - 1) - variance / (experts * mean)));
}
