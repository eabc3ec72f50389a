/* route.cu - router and all experts' first factors in one product, then top-k and softmax per token, nothing
 * sorted or moved.
 *
 *   [z | h] = x [R | A1_0 .. A1_{E-1}]^T [T, C], C = E + H <= 528;  w by route.cuh;
 *       sums of w, P and choices over each sequence
 *
 * x [T, D] f32 or bf16, everything else f32. Products of factors rounded to T (f32: split tf32), sums f32. In
 * a bf16 program a logit is therefore that of a bf16 linear without its final rounding: off by about 2^-10
 * |R_e| |x| / sqrt(D), so a token whose kept and dropped logits lie closer than that may choose another
 * expert than in f32. An exact tie stays one and goes to the lower index. A row with a NaN or Inf anywhere in
 * z or h is the device's fault of this layer; its z then counts, and is stored, as 0.
 *
 * Two regimes, by the mean tokens of a device (cuda_limits.route_tokens), each right for every wave: few
 * (route_few.cuh) and many. Here a block has 8 / WN tiles of the list by 8 N WN columns, 8 warps; tiles of
 * one device are one product, a warp has 16 x 8 N sums of it. x comes by asynchronous copies that each lane
 * makes for itself, RING steps of 64 bytes a row ahead: no barrier, no bank conflict. Rows of [R | A1] pass
 * through registers, are rounded once and lie in shared memory in the order in which lanes read them,
 * double-buffered: one barrier for 128 bytes of a row (64 where WN > 1). x is read once (WN times from L2).
 *
 * Floor, bytes: 2 D (f32: 4 D) + 4 (C + 16) a token, 4 C D a device. 2 C D FLOPs a token: memory bound up to
 * C of about 140 in bf16. Statistics: one block a sequence over z and w, which lie in L2: 4 (E + 16) bytes a
 * token. */
#include "hidden_router.cuh"
#include "route_few.cuh"

/* ---- Many tokens a device */

/* N tiles of 8 columns a warp, WN warps beside each other. */
template <typename T, int N, int WN> struct many_form {
    static constexpr int ROWS = CUDA_TILE * ROUTE_WARPS / WN, COLUMNS = 8 * N * WN;
    static constexpr int STEPS = N != 9 && WN == 1 ? 2 : 1; /* that the weights in shared memory reach */
    /* steps of x under way, plus one; few warps have room for more */
    static constexpr int RING = N == 18 ? 8 : 4;
    static constexpr int BLOCKS = N == 18 ? 1 : 2; /* a multiprocessor */
    /* Each lane fetches fours of the same columns, LINES rows apart. */
    static constexpr int FOURS = STEPS * one_step<T>::COLUMNS / 4, LINES = ROUTE_LANES / FOURS,
                         LOADS = (COLUMNS + LINES - 1) / LINES;
    /* a buffer; a warp */
    static constexpr int WEIGHT_BYTES = N * WN * STEPS * 512, RING_BYTES = RING * 2 * 512;
    static constexpr int STRIDE = COLUMNS % 16 == 8 ? COLUMNS : COLUMNS + 8;
    static constexpr int SUM_BYTES = ROWS * STRIDE * 4,
                         COPY_BYTES = 2 * WEIGHT_BYTES + ROUTE_WARPS * RING_BYTES;
    static constexpr int BYTES = SUM_BYTES > COPY_BYTES ? SUM_BYTES : COPY_BYTES;
};

/* This lane's fours of the rows, from `column` on. */
template <typename Form>
static __device__ __forceinline__ void fetch_weights(float4 w[Form::LOADS], const router_rows *r,
                                                     int column) {
    int row = (int)threadIdx.x / Form::FOURS, from = column + (int)threadIdx.x % Form::FOURS * 4;
    global<const float> at = r->rows + ((int64_t)row * r->width + from);
    CK_UNROLL
    for (int i = 0; i < Form::LOADS; i++, at += Form::LINES * (int64_t)r->width) {
        w[i] = load_four(at, row + i * Form::LINES < r->columns ? r->width - from : 0, r->wide);
    }
}

static __device__ __forceinline__ void put_quad(shared<float> to, float4 v) {
    store_as(to, v);
}
static __device__ __forceinline__ void put_quad(shared<bf16> to, float4 v) {
    store_as(to, uint2{pack_bf16(v.x, v.y), pack_bf16(v.z, v.w)});
}

/* Laid out so that lane 4 g + t finds its 16 bytes of row g of tile n, step k at 16 bytes times 32 (n STEPS +
 * k) + 4 g + t. */
template <typename T, typename Form>
static __device__ __forceinline__ void put_weights(shared<T> to, const float4 w[Form::LOADS]) {
    constexpr int Q = access<T>::QUADS;
    int first = (int)threadIdx.x / Form::FOURS, four = (int)threadIdx.x % Form::FOURS, step = four / (4 * Q),
        t = four / Q % 4;
    CK_UNROLL
    for (int i = 0; i < Form::LOADS; i++) {
        int row = first + i * Form::LINES, lane = row % 8 * 4 + t;
        if (row < Form::COLUMNS)
            put_quad(to + (((row / 8 * Form::STEPS + step) * 32 + lane) * Q + four % Q) * 4, w[i]);
    }
}

static __device__ __forceinline__ void take_quads(quad<float> q[1], shared<const float> from) {
    float4 v = load_as<float4>(from);
    make_quad(&q[0], v.x, v.y, v.z, v.w);
}
static __device__ __forceinline__ void take_quads(quad<bf16> q[2], shared<const bf16> from) {
    uint4 v = load_as<uint4>(from);
    q[0].v[0] = v.x, q[0].v[1] = v.y, q[1].v[0] = v.z, q[1].v[1] = v.w;
}

/* Rows g and g + 8 of the warp's 16, this lane's share of a step. */
template <typename T>
static __device__ __forceinline__ void copy_rows(shared<T> slot, const route_op<T> *op, int64_t token,
                                                 int rows, int width, int step, bool wide) {
    constexpr int SHARE = 4 * access<T>::QUADS;
    int column = step * one_step<T>::COLUMNS + SHARE * fragment_t();
    CK_UNROLL
    for (int half = 0; half < 2; half++) {
        int row = fragment_g() + 8 * half;
        copy_share<SHARE>(slot + half * 32 * SHARE, op->x.data + ((token + row) * op->x.columns + column),
                          op->x.data, row < rows ? width - column : 0, wide);
    }
}

/* d += x [R | A1]^T for the warp's 16 rows (`rows` of them real, none: the warp only helps with the weights)
 * and N tiles from `first` on.
 */
template <typename T, typename Form, int N>
static __device__ __forceinline__ void multiply_rows(float d[N][4], const route_op<T> *op,
                                                     const router_rows *r, int64_t token, int rows, int first,
                                                     shared<T> weights, shared<T> ring) {
    constexpr int RING = Form::RING, Q = access<T>::QUADS, SHARE = 4 * Q, SLOT = 2 * 32 * SHARE,
                  BUFFER = Form::WEIGHT_BYTES / (int)sizeof(T);
    int lane = (int)(threadIdx.x % 32), steps = (r->width + one_step<T>::COLUMNS - 1) / one_step<T>::COLUMNS;
    shared<T> own = ring + SHARE * lane;
    float4 w[Form::LOADS];
    fetch_weights<Form>(w, r, 0);
    for (int step = 0; step < RING - 1; step++) {
        if (rows > 0 && step < steps) copy_rows(own + step * SLOT, op, token, rows, r->width, step, r->wide);
        cp_async_commit();
    }
    put_weights<T, Form>(weights, w);
    __syncthreads();
    for (int chunk = 0; chunk * Form::STEPS < steps; chunk++) {
        bool more = (chunk + 1) * Form::STEPS < steps;
        if (more) fetch_weights<Form>(w, r, (chunk + 1) * Form::STEPS * one_step<T>::COLUMNS);
        shared<T> tiles = weights + (chunk % 2 * BUFFER + SHARE * lane);
        CK_UNROLL
        for (int k = 0; k < Form::STEPS; k++) {
            int step = chunk * Form::STEPS + k, ahead = step + RING - 1;
            if (rows <= 0 || step >= steps) continue;
            cp_async_wait<RING - 2>();
            quad<T> low[Q], high[Q];
            take_quads(low, own + step % RING * SLOT);
            take_quads(high, own + (step % RING * SLOT + 32 * SHARE));
            if (ahead < steps)
                copy_rows(own + ahead % RING * SLOT, op, token, rows, r->width, ahead, r->wide);
            cp_async_commit();
            CK_UNROLL
            for (int n = 0; n < N; n++) {
                if (8 * (first + n) >= r->columns) continue;
                quad<T> b[Q];
                take_quads(b, tiles + ((first + n) * Form::STEPS + k) * 32 * SHARE);
                CK_UNROLL
                for (int q = 0; q < Q; q++) mma_quads(d[n], low[q], high[q], b[q]);
            }
        }
        if (more) put_weights<T, Form>(weights + (chunk + 1) % 2 * BUFFER, w);
        __syncthreads();
    }
    cp_async_wait<0>();
}

template <typename T, int N, int WN>
static __global__ void __launch_bounds__(ROUTE_LANES, (many_form<T, N, WN>::BLOCKS))
    route_many(route_op<T> op) {
    typedef many_form<T, N, WN> form;
    CK_DYNAMIC_SHARED(unsigned char, arena);
    const int tiles = form::ROWS / CUDA_TILE;
    int warp = (int)threadIdx.x / 32, row = CUDA_TILE * (warp % tiles), first = N * (warp / tiles),
        g = fragment_g(), t = fragment_t();
    int tile = (int)blockIdx.x * tiles, end = tile + tiles < op.wave.n_tiles ? tile + tiles : op.wave.n_tiles;
    shared<float> sums = retype<float>(arena);
    shared<T> ring = retype<T>(arena + (2 * form::WEIGHT_BYTES + warp * form::RING_BYTES));
    while (tile < end) {
        segment s = segment_at(&op.wave, tile, end);
        if (s.tiles == 0) return;
        router_rows r = router_rows_of(&op.wave, record(op.wave.devices + s.device), op.layer, op.wide);
        float d[N][4] = {};
        multiply_rows<T, form, N>(d, &op, &r, s.token + row, s.rows - row, first, retype<T>(arena), ring);
        __syncthreads(); /* the sums lie where the copies were */
        CK_UNROLL
        for (int n = 0; n < N; n++) {
            shared<float> to = sums + ((row + g) * form::STRIDE + 8 * (first + n) + 2 * t);
            store_as(to, make_float2(d[n][0], d[n][1]));
            store_as(to + 8 * form::STRIDE, make_float2(d[n][2], d[n][3]));
        }
        __syncthreads();
        finish_rows(&op, &r, &s, sums, form::STRIDE);
        __syncthreads();
        tile += s.tiles;
    }
}

/* ---- Devices without router and ranks, whose faults show in x itself. Grid: tiles */

template <typename T>
static __global__ void __launch_bounds__(ROUTE_LANES) route_plain_faults(route_op<T> op) {
    const cuda_tile *tile = record(op.wave.tiles + blockIdx.x);
    if (tile->rows == 0) return;
    const ck_shape *shape = record(op.wave.shapes + record(op.wave.devices + tile->device)->shape);
    if (shape->router_rows + shape->h_ranks > 0) return;
    for (int row = (int)threadIdx.x / 32; row < tile->rows; row += ROUTE_WARPS) {
        bool finite = true;
        for (int c = (int)(threadIdx.x % 32); c < shape->width; c += 32) {
            float v = load_one(op.x.data + ((tile->first_token + row) * op.x.columns + c));
            finite &= v - v == 0.0f;
        }
        if (__ballot_sync(0xffffffffu, !finite) != 0 && threadIdx.x % 32 == 0)
            atomic_min(op.wave.faults + tile->device, op.layer);
    }
}

/* ---- Statistics: one sequence a block */

typedef struct {
    cuda_wave wave;
    cuda_rows<const float> zh, gates, hidden;
    global<float> gate_sum, top1_count, top_k_count, load_sum; /* NULL: not wanted */
    int layer, n_layers;
} statistics_op;

enum { STATISTICS = 4, STATISTICS_ROWS = ROUTE_LANES / HALF };

/* Adds the lane's expert of one token. */
static __device__ __forceinline__ void count_token(float sums[STATISTICS], const statistics_op *op,
                                                   const cuda_device *device, const ck_shape *shape,
                                                   int64_t token, bool inside) {
    int e = (int)threadIdx.x % HALF;
    float w = inside && e < shape->n_experts ? (float)op->gates.data[token * op->gates.columns + e] : 0.0f;
    if (shape->router_rows == 0) { /* equal gates: the lower index */
        sums[0] += w;
        sums[1] += inside && e == 0 ? 1.0f : 0.0f;
        sums[2] += inside && e < shape->n_experts ? 1.0f : 0.0f;
        return;
    }
    float z = inside && e < shape->router_rows ? (float)op->zh.data[token * op->zh.columns + e] : 0.0f;
    expert_choice c = choose_experts(z, shape);
    sums[0] += w;
    sums[1] += inside && c.best ? 1.0f : 0.0f;
    sums[2] += inside && c.chosen ? 1.0f : 0.0f;
    if (!op->load_sum || !has_load(device, shape)) return;
    bool exists = inside && c.exists;
    float clean = exists ? (float)op->hidden.data[token * op->hidden.columns + shape->router_rows + e] : 0.0f;
    float u = excess_of(z, clean, c);
    sums[3] += exists ? 0.5f * erfcf(-0.70710678f * u) : 0.0f;
}

static __global__ void __launch_bounds__(ROUTE_LANES) route_statistics(statistics_op op) {
    CK_SHARED(float, parts, STATISTICS *ROUTE_LANES);
    const cuda_sequence *sequence = record(op.wave.sequences + blockIdx.x);
    if (sequence->n_tokens == 0 || sequence->device < 0) return;
    const cuda_device *device = record(op.wave.devices + sequence->device);
    const ck_shape *shape = record(op.wave.shapes + device->shape);
    int lane = (int)threadIdx.x;
    float sums[STATISTICS] = {0, 0, 0, 0};
    for (int first = 0; first < sequence->n_tokens; first += STATISTICS_ROWS) {
        int row = first + lane / HALF;
        count_token(sums, &op, device, shape, sequence->first_token + row, row < sequence->n_tokens);
    }
    CK_UNROLL
    for (int i = 0; i < STATISTICS; i++) parts[i * ROUTE_LANES + lane] = sums[i];
    __syncthreads();
    if (lane >= STATISTICS * HALF) return;
    int which = lane / HALF;
    global<float> table = which == 0   ? op.gate_sum
                          : which == 1 ? op.top1_count
                          : which == 2 ? op.top_k_count
                                       : op.load_sum;
    if (!table) return;
    float sum = 0;
    for (int row = 0; row < STATISTICS_ROWS; row++)
        sum += parts[which * ROUTE_LANES + row * HALF + lane % HALF];
    table[((int64_t)blockIdx.x * op.n_layers + op.layer) * CK_MAX_EXPERTS + lane % HALF] = sum;
}

/* ---- Host */

template <typename T, int N, int WN>
static const char *launch_many(const route_op<T> &op, gpu_stream stream) {
    typedef many_form<T, N, WN> form;
    const int tiles = form::ROWS / CUDA_TILE;
    dim3 grid((unsigned)((op.wave.n_tiles + tiles - 1) / tiles));
    return CK_LAUNCH((route_many<T, N, WN>), grid, dim3(ROUTE_LANES), form::BYTES, stream, op);
}

/* The narrowest form that has room for the columns. */
template <typename T> static const char *launch_route(const ck_route *d, const cuda_call *call) {
    route_op<T> op = {};
    op.wave = call->wave;
    op.x = cuda_rows_of<const T>(d->x), op.zh = cuda_rows_of<float>(d->zh),
    op.gates = cuda_rows_of<float>(d->gates);
    op.gate_record = d->gate_record;
    if (d->bias_factor) op.bias_factor = static_cast<float *>(d->bias_factor->data);
    op.layer = d->layer, op.n_layers = d->n_layers;
    op.wide = cuda_is_wide<T>(d->x), op.at_once = call->limits.hidden != 0;
    int columns = call->limits.experts + call->limits.h_ranks;
    if (columns > d->zh->columns) columns = d->zh->columns;
    const char *problem = call->limits.plain
                              ? CK_LAUNCH((route_plain_faults<T>), dim3((unsigned)op.wave.n_tiles),
                                          dim3(ROUTE_LANES), 0, call->stream, op)
                              : nullptr;
    if (problem) return problem;
    if (call->wave.n_tokens < cuda_limits.route_tokens * call->wave.n_devices)
        return launch_few(op, columns, call->stream);
    if (columns <= 24) return launch_many<T, 3, 1>(op, call->stream);
    if (columns <= 72) return launch_many<T, 9, 1>(op, call->stream);
    if (columns <= 144) return launch_many<T, 18, 1>(op, call->stream);
    if (columns <= 288) return launch_many<T, 18, 2>(op, call->stream);
    return launch_many<T, 18, 4>(op, call->stream);
}

CUDA_NO_WORKSPACE(route)

const char *cuda_route(const ck_route *d, const cuda_call *call) {
    if (call->wave.n_devices == 0) return nullptr;
    const char *problem = call->half ? launch_route<bf16>(d, call) : launch_route<float>(d, call);
    if (!problem && call->limits.hidden) problem = launch_hidden_router(d, call);
    if (problem || !(d->gate_sum || d->top1_count || d->top_k_count || d->load_sum)) return problem;
    statistics_op op = {};
    op.wave = call->wave;
    op.zh = cuda_rows_of<const float>(d->zh), op.gates = cuda_rows_of<const float>(d->gates);
    op.gate_sum = d->gate_sum, op.top1_count = d->top1_count, op.top_k_count = d->top_k_count;
    op.load_sum = d->load_sum;
    if (d->hidden) op.hidden = cuda_rows_of<const float>(d->hidden);
    op.layer = d->layer, op.n_layers = d->n_layers;
    return CK_LAUNCH(route_statistics, dim3((unsigned)call->wave.n_sequences), dim3(ROUTE_LANES), 0,
                     call->stream, op);
}
