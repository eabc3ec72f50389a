/* attention.cu - causal attention, forward, without the score matrix in memory; query heads in groups that
 * share a head of keys and values.
 *
 *   S = Q K^T / sqrt(d),  P = softmax over keys <= query,  O = P V;
 *       lse = log sum exp of S keeps what backward needs
 *
 * qkv [T, (H + 2 G) d], o [T, H d] in f32 or bf16, of H query heads and G of keys and values; lse [T, heads]
 * f32. Online softmax (Milakov and Gimelshein 2018) over tiles of keys (FlashAttention-2, Dao 2023): with m
 * the row's largest score so far, l <- l exp(m - m') + sum_j exp(s_j - m'), O likewise.
 *
 * Block: 64 query rows of one head of one sequence (fewer where no sequence is so long), 16 a warp; keys and
 * values come through shared memory 64 at a time (32 where they are large), the next while these are used. A
 * warp leaves out the keys that none of its rows may see. Scores, sums and O are f32 in registers; P is
 * rounded to T for P V.
 *
 * Bytes a token, with D = H d = G d: reads 3 D, writes D, in bf16 8 D; 2 D more for every further 64 rows of
 * the sequence, from L2. Where G < H keys and values are read from memory once and from L2 by the group's
 * other heads: 4 (H + G) d in bf16. FLOPs a token: 2 D (n + 1) in a sequence of n. The bound at the full
 * rate of products: memory up to n of about 700.
 */
#include "attention_tile.cuh"

template <typename T> struct attention_op {
    attention_size size;
    cuda_rows<const T> qkv;
    cuda_rows<T> o;
    cuda_rows<float> lse;
};

template <typename T, int DIM>
static __device__ __forceinline__ void finish_softmax(const attention_op<T> *op, softmax_state<DIM> &state,
                                                      const attention_place *place, int row, shared<T> own) {
    float factor[2];
    CK_UNROLL
    for (int half = 0; half < 2; half++) {
        int query = row + fragment_g() + 8 * half;
        float sum = quad_sum(state.sum[half]);
        factor[half] = 1.0f / sum;
        if (fragment_t() == 0 && query < place->n_tokens) {
            op->lse.data[(place->token + query) * op->lse.columns + place->head] =
                LN_2 * (op->size.scale2 * state.largest[half] + log2f(sum));
        }
    }
    store_rows<T, DIM>(head_of(op->o, &op->size, place, place->head), row, place->n_tokens, state.o, factor,
                       own);
}

template <typename T, int DIM>
static __global__ void __launch_bounds__(32 * ATTENTION_WARPS, attention_blocks<T, DIM>)
    attention_kernel(attention_op<T> op) {
    CK_DYNAMIC_SHARED(T, arena);
    constexpr int STRIDE = tile_stride<DIM>, KEYS = passing_rows<T, DIM>;
    attention_place place = find_place(&op.size, op.size.heads, false);
    int warp = (int)threadIdx.x / 32, rows = (int)blockDim.x / 2, row = place.first + 16 * warp;
    if (place.first >= place.n_tokens) return;
    /* of the keys that the block sees */
    int end = place.first + rows < place.n_tokens ? place.first + rows : place.n_tokens;
    int kv_head = kv_head_of(&op.size, place.head);
    head_rows<const T> q = head_of(op.qkv, &op.size, &place, place.head),
                       k = head_of(op.qkv, &op.size, &place, keys_of(&op.size, kv_head)),
                       v = head_of(op.qkv, &op.size, &place, values_of(&op.size, kv_head));
    shared<T> queries = part(arena, rows * STRIDE), passing = part(arena + rows * STRIDE, 4 * KEYS * STRIDE);
    softmax_state<DIM> state;
    query_factor<T, DIM> factor;
    begin_softmax(state);
    load_rows<T, DIM>(queries, q, place.first, 16 * whole_units(end - place.first), end);
    bring_two<T, DIM>(passing, k, v, 0, end);
    for (int key = 0, turn = 0; key < end; key += KEYS, turn ^= 1) {
        cp_async_wait<0>();
        __syncthreads(); /* these keys are here, and the others have been used by all warps */
        if (key + KEYS < end)
            bring_two<T, DIM>(passing + 2 * (turn ^ 1) * KEYS * STRIDE, k, v, key + KEYS, end);
        if (row >= end || key > row) continue;
        if (key == 0) factor = factor_of<T, DIM, room_to_hold<T, DIM>>(queries + 16 * warp * STRIDE);
        shared<const T> keys = passing + 2 * turn * KEYS * STRIDE;
        if (key + KEYS <= row) {
            attend<T, DIM, true>(state, factor, keys, row, key, KEYS / 16, op.size.scale2);
        } else {
            /* row and key are multiples of 16 */
            attend<T, DIM, false>(state, factor, keys, row, key, (row - key) / 16 + 1, op.size.scale2);
        }
    }
    if (row < end) finish_softmax<T, DIM>(&op, state, &place, row, queries + 16 * warp * STRIDE);
}

/* ---- Host */

template <typename T, int DIM>
static const char *launch(const attention_op<T> *op, int warps, gpu_stream stream) {
    int rows = 16 * warps + 4 * passing_rows<T, DIM>;
    size_t bytes = (size_t)rows * tile_stride<DIM> * sizeof(T);
    return CK_LAUNCH((attention_kernel<T, DIM>), attention_grid(&op->size, op->size.heads),
                     dim3((unsigned)warps * 32), bytes, stream, *op);
}

template <typename T> static const char *run(const ck_attention *d, const cuda_call *call) {
    int dim = d->head_size,
        warps = attention_warps(d->qkv->program->capacity.max_sequence_tokens, ATTENTION_WARPS);
    attention_op<T> op = {attention_size_of(call, d->qkv, d->heads, d->kv_heads, dim, 16 * warps),
                          cuda_rows_of<const T>(d->qkv), cuda_rows_of<T>(d->o), cuda_rows_of<float>(d->lse)};
    op.size.wide = attention_is_wide(d->qkv, dim, sizeof(T)) && attention_is_wide(d->o, dim, sizeof(T));
    if (dim <= 16) return launch<T, 16>(&op, warps, call->stream);
    if (dim <= 32) return launch<T, 32>(&op, warps, call->stream);
    if (dim <= 64) return launch<T, 64>(&op, warps, call->stream);
    if (dim <= 128) return launch<T, 128>(&op, warps, call->stream);
    return "attention on a GPU needs heads of at most 128 columns";
}

CUDA_NO_WORKSPACE(attention)

const char *cuda_attention(const ck_attention *d, const cuda_call *call) {
    return call->half ? run<bf16>(d, call) : run<float>(d, call);
}
