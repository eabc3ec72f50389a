/* route_few.cuh - the router where devices have few tokens, and [R | A1] is the bulk of the bytes.
 *
 * Block: one tile. Rows of [R | A1] are used once: they go straight from memory to registers, 16 bytes a
 * lane. 8 warps share D and, where C is large, columns; their sums are added in order through shared
 * memory.
 *
 * Where the tile's tokens cannot choose all experts, or hardly (two_phases()), the router's rows come first,
 * then of A1 only those of experts that a token of the tile has chosen; h of the others is 0. Each column's
 * sum has the same terms in the same order either way. In a wave with routers that have a hidden layer all
 * columns come at once: their logits are not known yet.
 *
 * Floor, bytes a device: 4 E D + 4 H D min(1, K rows / E), and 2 D (f32: 4 D) + 4 (C + 16) a token. */
#ifndef COHORT_KERNELS_CUDA_ROUTE_FEW_CUH
#define COHORT_KERNELS_CUDA_ROUTE_FEW_CUH

#include "route_forward.cuh"

enum {
    FEW_TILES = 4, /* of 8 columns that a warp makes at a time: the bits of one word */
    FEW_GROUP = 8 * FEW_TILES,
    FEW_WORDS = (CK_MAX_EXPERTS + CK_MAX_RANK_SUM + FEW_GROUP - 1) / FEW_GROUP
};

/* ---- Which columns are wanted */

/* At 2 E / K tokens about an eighth of the experts is left to nobody. */
static __device__ __forceinline__ bool two_phases(const ck_shape *shape, int rows) {
    return shape->router_rows > shape->top_k && rows * shape->top_k <= 2 * shape->router_rows;
}

/* Columns [first, last) whose expert is among `experts` (a bit each; the router's rows belong to all), as
 * bits of words. The block comes and goes in step. */
static __device__ __forceinline__ void want_columns(shared<uint32_t> wanted, const router_rows *r, int first,
                                                    int last, uint32_t experts) {
    int rows = r->shape->router_rows, sum = r->shape->rank_sum;
    __syncthreads(); /* the words before have been read */
    for (int base = (int)(threadIdx.x & ~31u); base < FEW_WORDS * FEW_GROUP; base += ROUTE_LANES) {
        int c = base + (int)(threadIdx.x % 32), e = 0, rank = c < rows ? 0 : (c - rows) % sum;
        while (rank >= r->shape->rank_first[e + 1]) e++;
        uint32_t word =
            __ballot_sync(0xffffffffu, c >= first && c < last && (c < rows || (experts >> e & 1)));
        if (threadIdx.x % 32 == 0) wanted[base / FEW_GROUP] = word;
    }
    __syncthreads();
}

/* The experts that a row of the tile has chosen, by z [CUDA_TILE, HALF]; a row with a number that is none
 * counts as zeros, as finish_rows() will have it. The same for all lanes of the block. */
static __device__ __forceinline__ uint32_t chosen_of_tile(shared<uint32_t> by_warp, const ck_shape *shape,
                                                          shared<const float> z, int rows) {
    int warp = (int)threadIdx.x / 32, row = 2 * warp + (int)threadIdx.x % 32 / HALF,
        e = (int)threadIdx.x % HALF;
    float value = row < rows && e < shape->router_rows ? (float)z[row * HALF + e] : 0.0f;
    uint32_t bad = __ballot_sync(0xffffffffu, !(value - value == 0.0f)) >> (row % 2 * HALF) & 0xffffu;
    expert_choice c = choose_experts(bad ? 0.0f : value, shape);
    uint32_t chosen = __ballot_sync(0xffffffffu, row < rows && c.chosen);
    if (threadIdx.x % 32 == 0) by_warp[warp] = (chosen | chosen >> HALF) & 0xffffu;
    __syncthreads();
    uint32_t all = 0;
    for (int i = 0; i < ROUTE_WARPS; i++) all |= by_warp[i];
    return all;
}

/* ---- Products */

/* Steps whose loads are under way at a time: 128 bytes of weights of each of a lane's FEW_TILES rows. */
template <typename T> struct few_form {
    enum : int { STEPS = 2 / access<T>::QUADS };
};

/* d += x [R | A1]^T over the steps [step, step + STEPS) before `end`, for the wanted of FEW_GROUP columns
 * from `first` on: everything is under way before the first product. */
template <typename T, bool wide>
static __device__ __forceinline__ void multiply_steps(float d[FEW_TILES][4], const route_op<T> *op,
                                                      const router_rows *r, const cuda_tile *tile, int first,
                                                      uint32_t wanted, int step, int end) {
    constexpr int Q = access<T>::QUADS, STEPS = few_form<T>::STEPS;
    int g = fragment_g();
    uint32_t mine = wanted >> g; /* every eighth bit */
    quad<T> low[STEPS][Q], high[STEPS][Q], b[STEPS][FEW_TILES][Q];
    CK_UNROLL
    for (int k = 0; k < STEPS; k++) {
        int column = (step + k) * one_step<T>::COLUMNS + 4 * Q * fragment_t(),
            valid = step + k < end ? r->width - column : 0;
        global<const T> x = op->x.data + ((tile->first_token + g) * op->x.columns + column);
        load_quads<wide, T>(low[k], x, g < tile->rows ? valid : 0);
        load_quads<wide, T>(high[k], x + 8 * op->x.columns, g + 8 < tile->rows ? valid : 0);
        global<const float> row = r->rows + ((int64_t)(first + g) * r->width + column);
        CK_UNROLL
        for (int n = 0; n < FEW_TILES; n++)
            load_quads<wide, T>(b[k][n], row + 8 * n * r->width, mine >> 8 * n & 1 ? valid : 0);
    }
    CK_UNROLL
    for (int n = 0; n < FEW_TILES; n++) {
        CK_UNROLL
        for (int i = 0; i < STEPS * Q; i++)
            mma_quads(d[n], low[i / Q][i % Q], high[i / Q][i % Q], b[i / Q][n][i % Q]);
    }
}

/* The warp's slice of D, and its groups of columns: sums [slices, CUDA_TILE, stride]; what is not wanted is
 * nothing, or 0. */
template <typename T, bool wide>
static __device__ __forceinline__ void multiply_slices(const route_op<T> *op, const router_rows *r,
                                                       const cuda_tile *tile, shared<const uint32_t> wanted,
                                                       shared<float> sums) {
    int warp = (int)threadIdx.x / 32, slice = warp % op->slices, g = fragment_g(), t = fragment_t();
    int steps = (r->width + one_step<T>::COLUMNS - 1) / one_step<T>::COLUMNS,
        each = (steps + op->slices - 1) / op->slices;
    int begin = slice * each, end = begin + each < steps ? begin + each : steps;
    for (int first = warp / op->slices * FEW_GROUP; first < r->columns;
         first += ROUTE_WARPS / op->slices * FEW_GROUP) {
        uint32_t word = wanted[first / FEW_GROUP];
        if (word == 0) continue;
        float d[FEW_TILES][4] = {};
        for (int step = begin; step < end; step += few_form<T>::STEPS)
            multiply_steps<T, wide>(d, op, r, tile, first, word, step, end);
        CK_UNROLL
        for (int n = 0; n < FEW_TILES; n++) {
            shared<float> to = sums + ((slice * CUDA_TILE + g) * op->stride + first + 8 * n + 2 * t);
            store_as(to, make_float2(d[n][0], d[n][1]));
            store_as(to + 8 * op->stride, make_float2(d[n][2], d[n][3]));
        }
    }
}

template <typename T>
static __device__ __forceinline__ void multiply_wanted(const route_op<T> *op, const router_rows *r,
                                                       const cuda_tile *tile, shared<const uint32_t> wanted,
                                                       shared<float> sums) {
    if (r->wide)
        multiply_slices<T, true>(op, r, tile, wanted, sums);
    else
        multiply_slices<T, false>(op, r, tile, wanted, sums);
    __syncthreads();
}

template <typename T>
static __device__ __forceinline__ float sum_slices(const route_op<T> *op, shared<const float> sums, int row,
                                                   int c) {
    int at = row * op->stride + c;
    float sum = sums[at];
    for (int slice = 1; slice < op->slices; slice++) sum += sums[slice * CUDA_TILE * op->stride + at];
    return sum;
}

/* ---- The kernel */

template <typename T> static __global__ void __launch_bounds__(ROUTE_LANES, 2) route_few(route_op<T> op) {
    CK_DYNAMIC_SHARED(float, sums);
    CK_SHARED(float, z, CUDA_TILE *HALF);
    CK_SHARED(uint32_t, wanted, FEW_WORDS);
    CK_SHARED(uint32_t, by_warp, ROUTE_WARPS);
    const cuda_tile *tile = record(op.wave.tiles + blockIdx.x);
    if (tile->rows == 0) return;
    router_rows r = router_rows_of(&op.wave, record(op.wave.devices + tile->device), op.layer, op.wide);
    /* columns that come first */
    int routed = !op.at_once && two_phases(r.shape, tile->rows) ? r.shape->router_rows : 0;
    uint32_t experts = ~0u;
    CK_ROLL
    for (int first = 0, last = routed > 0 ? routed : r.columns; first < r.columns;
         first = last, last = r.columns) {
        want_columns(wanted, &r, first, last, experts);
        multiply_wanted(&op, &r, tile, wanted, sums);
        if (last == r.columns) break;
        int row = (int)threadIdx.x / HALF, e = (int)threadIdx.x % HALF;
        z[threadIdx.x] = row < tile->rows && e < routed ? sum_slices(&op, sums, row, e) : 0.0f;
        __syncthreads();
        experts = chosen_of_tile(by_warp, r.shape, z, tile->rows);
    }
    for (int i = (int)threadIdx.x; i < tile->rows * r.columns; i += ROUTE_LANES) {
        int row = i / r.columns, c = i % r.columns;
        float sum = c < routed                                     ? (float)z[row * HALF + c]
                    : wanted[c / FEW_GROUP] >> (c % FEW_GROUP) & 1 ? sum_slices(&op, sums, row, c)
                                                                   : 0.0f;
        sums[row * op.stride + c] = sum;
    }
    __syncthreads();
    segment s = {tile->first_token, tile->rows, tile->device, 1};
    finish_rows(&op, &r, &s, sums, op.stride);
}

/* columns: the most of the wave's devices. */
template <typename T> static const char *launch_few(route_op<T> op, int columns, gpu_stream stream) {
    op.slices = columns <= 144 ? 8 : columns <= 288 ? 4 : 2;
    op.stride = (columns + FEW_GROUP - 1) / FEW_GROUP * FEW_GROUP + 8;
    size_t bytes = (size_t)(op.slices * CUDA_TILE * op.stride) * sizeof(float);
    return CK_LAUNCH(route_few<T>, dim3((unsigned)op.wave.n_tiles), dim3(ROUTE_LANES), bytes, stream, op);
}

#endif
