/* expert_activation.cuh - what the host launches; formulas and shapes in expert_activation.cu. */
#ifndef COHORT_KERNELS_CUDA_EXPERT_ACTIVATION_CUH
#define COHORT_KERNELS_CUDA_EXPERT_ACTIVATION_CUH

#include "wave.cuh"

typedef struct {
    cuda_wave wave;
    cuda_wave_limits limits;
    int32_t ffn, layer;
    cuda_rows<const float> u, zh, gates; /* [T, F], [T, E + S], [T, CK_MAX_EXPERTS] */
    cuda_rows<float> m, g;               /* [T, F], [T, S] */
} cuda_expert_activation;

typedef struct {
    cuda_wave wave;
    cuda_wave_limits limits;
    int32_t ffn, layer;
    cuda_rows<const float> u, zh, gates, dm, q; /* dm [T, F], q [T, S] */
    cuda_rows<float> du, p, dw;                 /* [T, F], [T, S], [T, CK_MAX_EXPERTS] */
    global<float> workspace;                    /* cuda_expert_activation_workspace() floats */
} cuda_expert_activation_backward;

/* Sums over parts of F that blocks leave behind: floats for a wave of up to n_tokens. */
int64_t cuda_expert_activation_workspace(int64_t n_tokens, int32_t ffn, cuda_wave_limits limits);

/* NULL, or what was wrong, a sentence. */
const char *cuda_launch_expert_activation(const cuda_expert_activation *op, gpu_stream stream);
const char *cuda_launch_expert_activation_backward(const cuda_expert_activation_backward *op, gpu_stream stream);

#endif
