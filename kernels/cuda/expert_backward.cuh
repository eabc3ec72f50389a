/* expert_backward.cuh - what the files of the expert activation's backward share: the operation as its
 * kernels see it, and the kernels that follow the first one. */
#ifndef COHORT_KERNELS_CUDA_EXPERT_BACKWARD_CUH
#define COHORT_KERNELS_CUDA_EXPERT_BACKWARD_CUH

#include "expert_segment.cuh"

template <typename T> struct expert_backward {
    cuda_wave wave;
    int32_t ffn, layer, tiles, splits;
    int32_t first_block; /* of F, in this round */
    int32_t branches;    /* of the activation: I */
    /* of experts, one a launch: its number, and how many tiles of 8 ranks it has at most */
    int32_t group, group_tiles;
    int32_t parts_columns, max_ranks; /* the largest I S + E and S of the wave */
    int32_t own_floats, parts_floats; /* shared memory of a warp: what it keeps, and its parts of p and dw */
    cuda_rows<const T> u, dm;
    cuda_rows<const float> zh, gates, q;
    cuda_rows<T> du;
    cuda_rows<float> p, dw;
    global<float> parts; /* [T, blocks over F, parts_columns] */
    global<float> sums;  /* [devices, splits, I of dB1 and dA2, max_ranks, F], where there are splits */
};

/* p and dw from the parts of the `blocks` over F that have just run. */
const char *expert_finish(const expert_backward<float> &op, int blocks, gpu_stream stream);
const char *expert_finish(const expert_backward<bf16> &op, int blocks, gpu_stream stream);

/* dB1 and dA2 from the sums of the splits. */
const char *expert_add_splits(const expert_backward<float> &op, gpu_stream stream);
const char *expert_add_splits(const expert_backward<bf16> &op, gpu_stream stream);

#endif
