/* wave.cuh - what kernels read of a wave: tables in global memory, made on the host from ck_wave.
 *
 * A tile is up to CUDA_TILE consecutive tokens of one simulated device, the rows of one matrix instruction.
 * Tiles are listed device by device, so their number is known on the host and a grid over them needs no
 * sorting; a graph is replayed only with as many tiles as it was captured with. An entry without rows ends a
 * list before that number. */
#ifndef COHORT_KERNELS_CUDA_WAVE_CUH
#define COHORT_KERNELS_CUDA_WAVE_CUH

#include "../kernels.h"
#include "portable.cuh"

enum { CUDA_TILE = 16 };

typedef struct {
    int64_t first_token;
    int64_t parameters, gradients; /* offsets in floats, as in ck_wave_device */
    int32_t n_tokens, shape;
    uint32_t learn;
} cuda_device;

typedef struct {
    int64_t first_token;
    int32_t rows, device;
} cuda_tile;

typedef struct {
    int64_t first_token;
    int32_t n_tokens, device;           /* device: -1 without devices */
    int32_t first_position, cache_slot; /* as in ck_wave */
    /* targets >= 0 of the loss mean it belongs to: its device's, or the wave's without devices */
    int32_t counted;
} cuda_sequence;

typedef struct {
    global<const cuda_device> devices;     /* [n_devices] */
    global<const cuda_tile> tiles;         /* [n_tiles] */
    global<const cuda_sequence> sequences; /* [n_sequences] */
    global<const int32_t> sequence_of;     /* [n_tokens] */
    global<const int32_t> tokens, targets; /* [n_tokens] */
    global<const ck_shape> shapes;
    global<const float> parameters;
    global<float> gradients, base_gradients; /* base_gradients: NULL unless pre-training */
    /* [n_devices]: the smallest layer with a fault; begins as CUDA_NO_FAULT */
    global<int32_t> faults;
    int32_t n_devices, n_tiles, n_sequences, n_tokens;
} cuda_wave;

enum { CUDA_NO_FAULT = 0x7fffffff };

/* Rows of an activation, one per token of the wave. */
template <typename T> struct cuda_rows {
    global<T> data;
    int64_t columns; /* from a row to the next */
};

/* The largest of each over the wave's shapes: what shared memory and workspaces are planned for. */
typedef struct {
    int32_t experts, rank_sum, h_ranks;
    /* of ceil(r_e / 8): the sum over experts, the largest; at least 1 each */
    int32_t rank_tiles, expert_tiles;
    int32_t width;
    int32_t plain; /* 1: some device has neither router nor ranks of experts */
} cuda_wave_limits;

/* Over the shapes that devices of the wave have. */
static inline cuda_wave_limits cuda_limits_of(const ck_wave *wave) {
    cuda_wave_limits limits = {0, 0, 0, 1, 1, 0, 0};
    for (int32_t d = 0; d < wave->n_devices; d++) {
        const ck_shape *shape = &wave->shapes[wave->devices[d].shape];
        if (d > 0 && wave->devices[d].shape == wave->devices[d - 1].shape) continue;
        int32_t sum = 0;
        for (int e = 0; e < shape->n_experts; e++) {
            int32_t tiles = (shape->rank[e] + 7) / 8;
            sum += tiles;
            if (tiles > limits.expert_tiles) limits.expert_tiles = tiles;
        }
        if (shape->n_experts > limits.experts) limits.experts = shape->n_experts;
        if (shape->rank_sum > limits.rank_sum) limits.rank_sum = shape->rank_sum;
        if (shape->h_ranks > limits.h_ranks) limits.h_ranks = shape->h_ranks;
        if (sum > limits.rank_tiles) limits.rank_tiles = sum;
        if (shape->width > limits.width) limits.width = shape->width;
        if (shape->router_rows + shape->h_ranks == 0) limits.plain = 1;
    }
    return limits;
}

/* Fills the table of devices, in host memory, to be copied to the GPU. */
static inline void cuda_list_devices(const ck_wave *wave, cuda_device *devices) {
    for (int32_t d = 0; d < wave->n_devices; d++) {
        const ck_wave_device *from = &wave->devices[d];
        int64_t first = wave->first_token[wave->first_sequence[d]],
                end = wave->first_token[wave->first_sequence[d + 1]];
        cuda_device device = {first,       from->parameters, from->gradients, (int32_t)(end - first),
                              from->shape, from->learn};
        devices[d] = device;
    }
}

/* Fills the table of tiles (NULL: only counts them); returns how many there are. */
static inline int32_t cuda_list_tiles(const cuda_device *devices, int32_t n_devices, cuda_tile *tiles) {
    int32_t n = 0;
    for (int32_t d = 0; d < n_devices; d++) {
        for (int32_t first = 0; first < devices[d].n_tokens; first += CUDA_TILE, n++) {
            int32_t left = devices[d].n_tokens - first;
            cuda_tile tile = {devices[d].first_token + first, left < CUDA_TILE ? left : (int32_t)CUDA_TILE,
                              d};
            if (tiles) tiles[n] = tile;
        }
    }
    return n;
}

#endif
