/* attention_backward.cu - gradients of causal attention, P recomputed from S and its log-sum-exp; query
 * heads in groups that share a head of keys and values.
 *
 *   P = exp(Q K^T / sqrt(d) - lse),  delta = <dO, O> of each row and head
 *   dP = dO V^T,  dS = P (dP - delta),  dQ = dS K / sqrt(d),  dK = dS^T Q / sqrt(d),  dV = P^T dO
 *
 * qkv, dqkv [T, (H + 2 G) d], o, d_o [T, H d] in f32 or bf16, lse [T, H] f32, of H query heads and G of keys
 * and values; dK and dV are sums over the query heads of a group. Every result has one warp that sums it in a
 * fixed order.
 *
 * A warp owns 16 rows and multiplies them with 16 or 32 of the others at a time: as queries it sums dQ over
 * the keys before them, as keys it sums dK and dV over the queries after them, with the transposed products K
 * Q^T and V dO^T, so that no matrix changes its layout. P and dS are rounded to T as factors.
 *
 * Short sequences (up to 128 tokens where shared memory has room): block = one head of keys and values of
 * one sequence, everything of it and of one query head in shared memory, each warp is queries, for each
 * query head of the group, and then keys, for each again. Longer ones: a kernel of query tiles, which also
 * writes (lse log2(e), delta) of every row and head to the workspace, [heads, T], then a kernel of key
 * tiles; the other side's rows pass through shared memory 64 at a time (32 where they are large), the next
 * while these are used.
 *
 * Bytes a token, with D = H d = G d: short reads 5 D and writes 3 D, in bf16 16 D; long reads 9 D and writes
 * 3 D, 24 D, and 4 D more for every further 64 rows of the sequence, from L2. Where G < H, short: (8 H + 8
 * G) d in bf16, and q and do of all but one head of a group again from L2. FLOPs a token: 7 D (n + 1) in a
 * sequence of n. The bound at the full rate of products: memory up to n of about 400.
 */
#include "attention.cuh"

/* Units of 16 keys that a warp's queries are multiplied with at a time. */
template <typename T, int DIM> constexpr int step_units = (int)sizeof(T) * DIM > 256 ? 1 : 2;

template <typename T> struct attention_backward_op {
    attention_size size;
    cuda_rows<const T> qkv, o, d_o;
    cuda_rows<const float> lse;
    cuda_rows<T> dqkv;
    /* [heads, n_tokens] (lse log2(e), delta); not used by the kernel of short sequences */
    global<float2> rows;
    int64_t n_tokens;
};

/* What a query row is known by: x = lse log2(e), y = delta, of rows g and g + 8 of the warp's 16. Rows behind
 * the sequence: 0. */
template <typename T, int DIM>
static __device__ __forceinline__ void describe_rows(float2 known[2], const attention_backward_op<T> *op,
                                                     const attention_place *place, int head, int row,
                                                     shared<const T> o, shared<const T> d_o) {
    CK_UNROLL
    for (int half = 0; half < 2; half++) {
        int r = fragment_g() + 8 * half;
        int64_t token = place->token + row + r;
        float delta = 0;
        CK_UNROLL
        for (int n = 0; n < DIM / 8; n++) {
            int at = r * tile_stride<DIM> + 8 * n + 2 * fragment_t();
            float2 x = load_two(o + at), y = load_two(d_o + at);
            delta += x.x * y.x + x.y * y.y;
        }
        known[half].x =
            row + r < place->n_tokens ? LOG2_E * op->lse.data[token * op->lse.columns + head] : 0.0f;
        known[half].y = quad_sum(delta);
    }
}

/* s = a b^T and ds = da db^T: 16 rows against U times 16 rows at b and db. */
template <typename T, int DIM, int U, typename Factor>
static __device__ __forceinline__ void score_both(float s[2 * U][4], float ds[2 * U][4], const Factor &a,
                                                  const Factor &da, shared<const T> b, shared<const T> db) {
    constexpr int STRIDE = tile_stride<DIM>;
    CK_UNROLL
    for (int i = 0; i < DIM / 16; i++) {
        left_factor<T> left = factor_part(a, i), d_left = factor_part(da, i);
        CK_UNROLL
        for (int u = 0; u < U; u++) {
            multiply_two(s + 2 * u, left, load_right<STRIDE>(b + (16 * u * STRIDE + 16 * i)));
            multiply_two(ds + 2 * u, d_left, load_right<STRIDE>(db + (16 * u * STRIDE + 16 * i)));
        }
    }
}

/* ---- A warp's rows as queries: dQ sqrt(d) += dS K for U times 16 keys, of which the last may be hidden in
 * part */

template <typename T, int DIM, int U, typename Factor>
static __device__ __forceinline__ void query_step(float dq[DIM / 8][4], const Factor &q, const Factor &d_o,
                                                  const float2 known[2], shared<const T> k, shared<const T> v,
                                                  int row, int key, float scale2) {
    float s[2 * U][4] = {}, ds[2 * U][4] = {};
    score_both<T, DIM, U>(s, ds, q, d_o, k, v);
    if (key + 16 * U > row) mask_scores<2 * U>(s, row, key);
    CK_UNROLL
    for (int i = 0; i < 8 * U; i++) {
        float2 of_row = known[i % 4 / 2];
        ds[i / 4][i % 4] =
            fast_exp2(fmaf(scale2, s[i / 4][i % 4], -of_row.x)) * (ds[i / 4][i % 4] - of_row.y);
    }
    CK_UNROLL
    for (int u = 0; u < U; u++)
        add_rows<T, DIM>(dq, left_of<T>(ds[2 * u], ds[2 * u + 1]), k + 16 * u * tile_stride<DIM>);
}

template <typename T, int DIM, int U, typename Factor>
static __device__ __forceinline__ void
query_steps(float dq[DIM / 8][4], const Factor &q, const Factor &d_o, const float2 known[2],
            shared<const T> k, shared<const T> v, int row, int key, int units, float scale2) {
    constexpr int STRIDE = 16 * tile_stride<DIM>;
    int u = 0;
    for (; u + U <= units; u += U)
        query_step<T, DIM, U>(dq, q, d_o, known, k + u * STRIDE, v + u * STRIDE, row, key + 16 * u, scale2);
    if (U > 1 && u < units)
        query_step<T, DIM, 1>(dq, q, d_o, known, k + u * STRIDE, v + u * STRIDE, row, key + 16 * u, scale2);
}

/* ---- A warp's rows as keys: dV += P^T dO, dK sqrt(d) += dS^T Q for U times 16 queries, of which the first
 * may not see all */

template <typename T> struct passing_queries {
    shared<const T> q, d_o;
    shared<const float2> known;
};

template <typename T, int DIM, int U, typename Factor>
static __device__ __forceinline__ void key_step(float dk[DIM / 8][4], float dv[DIM / 8][4], const Factor &k,
                                                const Factor &v, const passing_queries<T> &from, int first,
                                                int row, int query, float scale2) {
    constexpr int STRIDE = tile_stride<DIM>;
    float p[2 * U][4] = {}, ds[2 * U][4] = {};
    shared<const T> q = from.q + first * STRIDE, d_o = from.d_o + first * STRIDE;
    score_both<T, DIM, U>(p, ds, k, v, q, d_o);
    CK_UNROLL
    for (int n = 0; n < 2 * U; n++) {
        int column = 8 * n + 2 * fragment_t();
        float4 two = load_as<float4>(from.known + (first + column));
        const float shift[2] = {two.x, two.z}, delta[2] = {two.y, two.w};
        CK_UNROLL
        for (int i = 0; i < 4; i++) {
            bool seen = row + fragment_g() + i / 2 * 8 <= query + column + i % 2;
            p[n][i] = seen ? fast_exp2(fmaf(scale2, p[n][i], -shift[i % 2])) : 0.0f;
            ds[n][i] = p[n][i] * (ds[n][i] - delta[i % 2]);
        }
    }
    CK_UNROLL
    for (int u = 0; u < U; u++) {
        add_rows<T, DIM>(dv, left_of<T>(p[2 * u], p[2 * u + 1]), d_o + 16 * u * STRIDE);
        add_rows<T, DIM>(dk, left_of<T>(ds[2 * u], ds[2 * u + 1]), q + 16 * u * STRIDE);
    }
}

/* Queries [query + 16 from, query + 16 to), of which the first unit lies at `passing`. */
template <typename T, int DIM, int U, typename Factor>
static __device__ __forceinline__ void key_steps(float dk[DIM / 8][4], float dv[DIM / 8][4], const Factor &k,
                                                 const Factor &v, const passing_queries<T> &passing, int row,
                                                 int query, int from, int to, float scale2) {
    int u = from;
    for (; u + U <= to; u += U)
        key_step<T, DIM, U>(dk, dv, k, v, passing, 16 * u, row, query + 16 * u, scale2);
    if (U > 1 && u < to) key_step<T, DIM, 1>(dk, dv, k, v, passing, 16 * u, row, query + 16 * u, scale2);
}

/* ---- Short sequences: all of one head of keys and values */

static __device__ __forceinline__ void await_rows() {
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
}

/* grouped: query heads share keys and values; else there is one, and no loop over them. */
template <typename T, int DIM, bool grouped>
static __global__ void __launch_bounds__(32 * ATTENTION_WHOLE_WARPS, room_to_hold<T, DIM> ? 2 : 1)
    attention_backward_whole_kernel(attention_backward_op<T> op) {
    CK_DYNAMIC_SHARED(T, arena);
    constexpr int STRIDE = tile_stride<DIM>;
    int rows = (int)(blockDim.x / 2), tile = rows * STRIDE, row = (int)threadIdx.x / 32 * 16;
    attention_place place = find_place(&op.size, op.size.kv_heads, false);
    int n = place.n_tokens, units = whole_units(n), group = grouped ? group_size(&op.size) : 1,
        first = place.head * group;
    if (n == 0) return;
    shared<T> q = arena, k = arena + tile, v = arena + 2 * tile, d_o = arena + 3 * tile, o = arena + 4 * tile;
    shared<T> own = o + row * STRIDE;                        /* o, once it has been read */
    shared<float2> known = retype<float2>(arena + 5 * tile); /* [group, rows] */
    head_rows<const T> keys = head_of(op.qkv, &op.size, &place, keys_of(&op.size, place.head)),
                       values = head_of(op.qkv, &op.size, &place, values_of(&op.size, place.head));
    const float one[2] = {1, 1}, scale[2] = {op.size.scale, op.size.scale};
    load_rows<T, DIM>(k, keys, 0, 16 * units, n);
    load_rows<T, DIM>(v, values, 0, 16 * units, n);
    for (int member = 0; member < group; member++) {
        int head = first + member;
        float2 of_rows[2];
        if (member > 0) __syncthreads(); /* the tiles have been used by all warps */
        load_rows<T, DIM>(q, head_of(op.qkv, &op.size, &place, head), 0, 16 * units, n);
        load_rows<T, DIM>(d_o, head_of(op.d_o, &op.size, &place, head), 0, 16 * units, n);
        load_rows<T, DIM>(o, head_of(op.o, &op.size, &place, head), 0, 16 * units, n);
        await_rows();
        if (row >= n) continue;
        describe_rows<T, DIM>(of_rows, &op, &place, head, row, own, d_o + row * STRIDE);
        if (fragment_t() < 2)
            known[member * rows + row + fragment_g() + 8 * fragment_t()] =
                fragment_t() == 0 ? of_rows[0] : of_rows[1];
        float dq[DIM / 8][4] = {};
        row_factor<T, DIM, false> a = factor_of<T, DIM, false>(q + row * STRIDE),
                                  b = factor_of<T, DIM, false>(d_o + row * STRIDE);
        query_steps<T, DIM, 1>(dq, a, b, of_rows, k, v, row, 0, row / 16 + 1, op.size.scale2);
        store_rows<T, DIM>(head_of(op.dqkv, &op.size, &place, head), row, n, dq, scale, own);
    }
    float dk[DIM / 8][4] = {}, dv[DIM / 8][4] = {};
    row_factor<T, DIM, false> a = factor_of<T, DIM, false>(k + row * STRIDE),
                              b = factor_of<T, DIM, false>(v + row * STRIDE);
    for (int member = group - 1; member >= 0; member--) { /* the last one's rows are here */
        __syncthreads();
        if (member < group - 1) {
            load_rows<T, DIM>(q, head_of(op.qkv, &op.size, &place, first + member), 0, 16 * units, n);
            load_rows<T, DIM>(d_o, head_of(op.d_o, &op.size, &place, first + member), 0, 16 * units, n);
            await_rows();
        }
        if (row < n)
            key_steps<T, DIM, 1>(dk, dv, a, b, passing_queries<T>{q, d_o, known + member * rows}, row, 0,
                                 row / 16, units, op.size.scale2);
    }
    if (row >= n) return;
    store_rows<T, DIM>(head_of(op.dqkv, &op.size, &place, keys_of(&op.size, place.head)), row, n, dk, scale,
                       own);
    store_rows<T, DIM>(head_of(op.dqkv, &op.size, &place, values_of(&op.size, place.head)), row, n, dv, one,
                       own);
}

/* ---- Longer sequences: tiles of queries, then tiles of keys */

template <typename T, int DIM>
static __global__ void __launch_bounds__(32 * ATTENTION_WARPS, attention_blocks<T, DIM>)
    attention_backward_query_kernel(attention_backward_op<T> op) {
    CK_DYNAMIC_SHARED(T, arena);
    constexpr int STRIDE = tile_stride<DIM>, KEYS = passing_rows<T, DIM>, TILE = ATTENTION_TILE * STRIDE;
    attention_place place = find_place(&op.size, op.size.heads, false);
    int own_row = (int)threadIdx.x / 32 * 16, row = place.first + own_row;
    if (place.first >= place.n_tokens) return;
    int end = place.n_tokens - place.first < ATTENTION_TILE ? place.n_tokens : place.first + ATTENTION_TILE;
    int count = 16 * whole_units(end - place.first);
    shared<T> q = part(arena, TILE), d_o = part(arena + TILE, TILE),
              passing = part(arena + 2 * TILE, 4 * KEYS * STRIDE);
    shared<T> o = passing + 2 * KEYS * STRIDE; /* for a moment: the next keys come later */
    int kv_head = kv_head_of(&op.size, place.head);
    head_rows<const T> k = head_of(op.qkv, &op.size, &place, keys_of(&op.size, kv_head)),
                       v = head_of(op.qkv, &op.size, &place, values_of(&op.size, kv_head));
    load_rows<T, DIM>(q, head_of(op.qkv, &op.size, &place, place.head), place.first, count, end);
    load_rows<T, DIM>(d_o, head_of(op.d_o, &op.size, &place, place.head), place.first, count, end);
    load_rows<T, DIM>(o, head_of(op.o, &op.size, &place, place.head), place.first, count, end);
    bring_two<T, DIM>(passing, k, v, 0, end);
    cp_async_wait<0>();
    __syncthreads();
    float dq[DIM / 8][4] = {};
    float2 known[2];
    row_factor<T, DIM, room_to_hold<T, DIM>> a, b;
    if (row < end) {
        a = factor_of<T, DIM, room_to_hold<T, DIM>>(q + own_row * STRIDE);
        b = factor_of<T, DIM, room_to_hold<T, DIM>>(d_o + own_row * STRIDE);
        describe_rows<T, DIM>(known, &op, &place, place.head, row, o + own_row * STRIDE,
                              d_o + own_row * STRIDE);
        int r = row + fragment_g() + 8 * fragment_t();
        if (fragment_t() < 2 && r < end)
            op.rows[place.head * op.n_tokens + place.token + r] = fragment_t() == 0 ? known[0] : known[1];
    }
    for (int key = 0, turn = 0; key < end; key += KEYS, turn ^= 1) {
        cp_async_wait<0>();
        __syncthreads();
        if (key + KEYS < end)
            bring_two<T, DIM>(passing + 2 * (turn ^ 1) * KEYS * STRIDE, k, v, key + KEYS, end);
        if (row >= end || key > row) continue;
        int units = (row - key) / 16 + 1;
        shared<const T> keys = passing + 2 * turn * KEYS * STRIDE;
        query_steps<T, DIM, step_units<T, DIM>>(dq, a, b, known, keys, keys + KEYS * STRIDE, row, key,
                                                units < KEYS / 16 ? units : KEYS / 16, op.size.scale2);
    }
    const float scale[2] = {op.size.scale, op.size.scale};
    if (row < end)
        store_rows<T, DIM>(head_of(op.dqkv, &op.size, &place, place.head), row, end, dq, scale,
                           q + own_row * STRIDE);
}

/* (lse log2(e), delta) of rows [row, row + passing_rows); those from `end` on become 0. In the caller's next
 * group of copies. */
template <typename T, int DIM>
static __device__ __forceinline__ void bring_known(shared<float2> to, global<const float2> from, int row,
                                                   int end) {
    int i = (int)threadIdx.x;
    if (i < passing_rows<T, DIM>)
        cp_async<8>(to + i, from + (row + i < end ? row + i : row), row + i < end ? 8 : 0);
}

/* Rows [query, query + passing_rows) of a query head's q and d_o to two tiles side by side, and what they are
 * known by; one group of copies. */
template <typename T, int DIM>
static __device__ __forceinline__ void bring_queries(shared<T> tiles, shared<float2> known,
                                                     const attention_backward_op<T> *op,
                                                     const attention_place *place, int head, int query) {
    global<const float2> rows = op->rows + (head * op->n_tokens + place->token);
    bring_known<T, DIM>(known, rows, query, place->n_tokens);
    bring_two<T, DIM>(tiles, head_of(op->qkv, &op->size, place, head),
                      head_of(op->d_o, &op->size, place, head), query, place->n_tokens);
}

template <typename T, int DIM>
static __global__ void __launch_bounds__(32 * ATTENTION_WARPS, attention_blocks<T, DIM>)
    attention_backward_key_kernel(attention_backward_op<T> op) {
    CK_DYNAMIC_SHARED(T, arena);
    constexpr int STRIDE = tile_stride<DIM>, QUERIES = passing_rows<T, DIM>, TILE = ATTENTION_TILE * STRIDE;
    attention_place place = find_place(&op.size, op.size.kv_heads, true);
    int own_row = (int)threadIdx.x / 32 * 16, row = place.first + own_row, n = place.n_tokens;
    if (place.first >= n) return;
    int end = n - place.first < ATTENTION_TILE ? n : place.first + ATTENTION_TILE,
        count = 16 * whole_units(end - place.first);
    int head = place.head * group_size(&op.size), heads_end = head + group_size(&op.size);
    shared<T> k = part(arena, TILE), v = part(arena + TILE, TILE),
              passing = part(arena + 2 * TILE, 4 * QUERIES * STRIDE);
    shared<float2> known = retype<float2>(arena + (2 * TILE + 4 * QUERIES * STRIDE));
    load_rows<T, DIM>(k, head_of(op.qkv, &op.size, &place, keys_of(&op.size, place.head)), place.first, count,
                      end);
    load_rows<T, DIM>(v, head_of(op.qkv, &op.size, &place, values_of(&op.size, place.head)), place.first,
                      count, end);
    bring_queries<T, DIM>(passing, known, &op, &place, head, place.first);
    float dk[DIM / 8][4] = {}, dv[DIM / 8][4] = {};
    row_factor<T, DIM, room_to_hold<T, DIM>> a, b;
    for (int query = place.first, turn = 0, begun = 0; head < heads_end; turn ^= 1) {
        /* after the last queries of a head come the first of the next */
        int next = query + QUERIES < n ? query + QUERIES : place.first;
        if (next == place.first) head++;
        cp_async_wait<0>();
        __syncthreads();
        if (head < heads_end)
            bring_queries<T, DIM>(passing + 2 * (turn ^ 1) * QUERIES * STRIDE, known + (turn ^ 1) * QUERIES,
                                  &op, &place, head, next);
        int from = row > query ? (row - query) / 16 : 0,
            to = n - query < QUERIES ? whole_units(n - query) : QUERIES / 16;
        if (row < end) {
            if (!begun) {
                a = factor_of<T, DIM, room_to_hold<T, DIM>>(k + own_row * STRIDE);
                b = factor_of<T, DIM, room_to_hold<T, DIM>>(v + own_row * STRIDE);
                begun = 1;
            }
            shared<const T> queries = passing + 2 * turn * QUERIES * STRIDE;
            passing_queries<T> now = {queries, queries + QUERIES * STRIDE, known + turn * QUERIES};
            key_steps<T, DIM, 1>(dk, dv, a, b, now, row, query, from, to, op.size.scale2);
        }
        query = next;
    }
    const float one[2] = {1, 1}, scale[2] = {op.size.scale, op.size.scale};
    if (row >= end) return;
    store_rows<T, DIM>(head_of(op.dqkv, &op.size, &place, keys_of(&op.size, place.head)), row, end, dk, scale,
                       k + own_row * STRIDE);
    store_rows<T, DIM>(head_of(op.dqkv, &op.size, &place, values_of(&op.size, place.head)), row, end, dv, one,
                       v + own_row * STRIDE);
}

/* ---- Host */

static int padded_dim(int dim) {
    return dim <= 16 ? 16 : dim <= 32 ? 32 : dim <= 64 ? 64 : 128;
}

static size_t whole_bytes(int warps, int dim, int group, size_t element_bytes) {
    return (size_t)warps * 16 *
           (5 * (size_t)(padded_dim(dim) + 8) * element_bytes + (size_t)group * sizeof(float2));
}

/* Warps of a block that has all of a sequence; 0: there is no such block. */
static int whole_warps(int max_sequence_tokens, const ck_attention_backward *d, bool half) {
    int warps = (max_sequence_tokens + 15) / 16;
    return warps <= cuda_limits.attention_warps &&
                   whole_bytes(warps, d->head_size, d->heads / d->kv_heads, half ? 2 : 4) <= ATTENTION_SHARED
               ? warps
               : 0;
}

template <typename T, int DIM>
static const char *launch(const attention_backward_op<T> *op, int whole, gpu_stream stream) {
    dim3 query_grid = attention_grid(&op->size, op->size.heads),
         key_grid = attention_grid(&op->size, op->size.kv_heads), block(32 * ATTENTION_WARPS);
    if (whole > 0) {
        int group = op->size.heads / op->size.kv_heads;
        size_t bytes = whole_bytes(whole, DIM, group, sizeof(T));
        if (group == 1)
            return CK_LAUNCH((attention_backward_whole_kernel<T, DIM, false>), key_grid,
                             dim3((unsigned)whole * 32), bytes, stream, *op);
        return CK_LAUNCH((attention_backward_whole_kernel<T, DIM, true>), key_grid,
                         dim3((unsigned)whole * 32), bytes, stream, *op);
    }
    size_t bytes = (size_t)(2 * ATTENTION_TILE + 4 * passing_rows<T, DIM>)*tile_stride<DIM> * sizeof(T);
    const char *problem =
        CK_LAUNCH((attention_backward_query_kernel<T, DIM>), query_grid, block, bytes, stream, *op);
    if (problem) return problem;
    bytes += 2 * passing_rows<T, DIM> * sizeof(float2);
    return CK_LAUNCH((attention_backward_key_kernel<T, DIM>), key_grid, block, bytes, stream, *op);
}

template <typename T> static const char *run(const ck_attention_backward *d, const cuda_call *call) {
    int dim = d->head_size,
        whole = whole_warps(d->qkv->program->capacity.max_sequence_tokens, d, sizeof(T) == 2);
    attention_backward_op<T> op = {attention_size_of(call, d->qkv, d->heads, d->kv_heads, dim,
                                                     whole > 0 ? 16 * whole : (int)ATTENTION_TILE),
                                   cuda_rows_of<const T>(d->qkv),
                                   cuda_rows_of<const T>(d->o),
                                   cuda_rows_of<const T>(d->d_o),
                                   cuda_rows_of<const float>(d->lse),
                                   cuda_rows_of<T>(d->dqkv),
                                   static_cast<float2 *>(call->workspace),
                                   call->wave.n_tokens};
    op.size.wide = attention_is_wide(d->qkv, dim, sizeof(T)) && attention_is_wide(d->o, dim, sizeof(T)) &&
                   attention_is_wide(d->d_o, dim, sizeof(T)) && attention_is_wide(d->dqkv, dim, sizeof(T));
    if (dim <= 16) return launch<T, 16>(&op, whole, call->stream);
    if (dim <= 32) return launch<T, 32>(&op, whole, call->stream);
    if (dim <= 64) return launch<T, 64>(&op, whole, call->stream);
    if (dim <= 128) return launch<T, 128>(&op, whole, call->stream);
    return "attention on a GPU needs heads of at most 128 columns";
}

size_t cuda_attention_backward_workspace(const ck_attention_backward *d, const cuda_bounds *bounds) {
    if (whole_warps(bounds->max_sequence_tokens, d, bounds->half) > 0) return 0;
    return (size_t)bounds->max_tokens * (size_t)d->heads * sizeof(float2);
}

const char *cuda_attention_backward(const ck_attention_backward *d, const cuda_call *call) {
    return call->half ? run<bf16>(d, call) : run<float>(d, call);
}
