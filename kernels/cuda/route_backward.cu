/* route_backward.cu - gradients of the router and of the experts' first factors, and what x gets of them.
 *
 *   K >= 2:  dz_e = w_e (dw_e - sum_j w_j dw_j);  K = 1 < E:  dz_j = dw_i w_i ([i = j] - softmax(z)_j)
 *   (routers with a hidden layer: hidden_router.cuh)
 *   load balance with coefficients c:  dz_j += P_j (c_j - sum_e c_e P_e),
 *       no gradient to the unchosen where K >= 2
 *   dx (+)= [dz | p] [R | A1],  [dR | dA1] = [dz | p]^T x
 *       [T, C] with [C, D] and [T, D], C = E + H <= 528
 *
 * x, dx of type T, the rest f32; products of factors rounded to T (f32: split tf32), sums f32. With a
 * cuda_start, which has no members, dx =. Rows of R are written where the router is learned, rows of A1 where
 * the experts are.
 *
 * 1. Factors (route_factors.cuh): half a warp a token makes [dz | p] once, of type T, in the workspace,
 *   filled up with zeros to whole 16s.
 * 2. Products. Block: a device's chunk of at most `chunk` tiles, 32 columns a warp. Warps share the factors
 *   of a tile (shared memory) and nothing else. The columns of the four products that a warp makes side by
 *   side are 4 g + j: a lane's share of a row of x is one access of 8 bytes (f32: 16), and of a row of dx or
 *   of a gradient eight neighbours. Shares of x and dx come by asynchronous copies that each lane makes for
 *   itself, RING tiles ahead, and a lane's share of [R | A1] is rounded once and kept in shared memory for it
 *   alone. The gradients' sums lie in registers, 16 M rows of a weight at a time; with more rows the block
 *   walks its tiles again (only for x). A block takes the chunks that begin in its window of the list of
 *   tiles: several devices or a part of one where they have many tokens, one device where they have few and
 *   the weights are the bulk of the bytes.
 * 3. Where a device has several chunks, their sums lie in the workspace and are added in order. One owner
 *   each: no atomics.
 *
 * Floor, bytes a token in bf16 (f32: twice): 2 D of x, 4 D of dx (2 D where it starts from nothing); a
 * device: 4 C D read, 4 C D written. Beyond it: 2 C ceil(D / 256) from L2 for the factors, 8 C + 64 for
 * making them; 8 C D for each chunk of a device with several. 4 C D FLOPs a token. Workspace: 2 C T bytes and
 * 8 C D for each window that can be cut. */
#include "four_columns.cuh"
#include "route_factors.cuh"

enum { SLAB = 32 /* columns of a warp */, LEAST_CHUNK = 4 };

/* ---- 2. Products: a block's shared memory */

template <typename T> struct backward_bytes {
    enum : int {
        RIGHT = 32 * 16 * (int)sizeof(T), /* of a warp: 16 rows of [R | A1] */
        X = 32 * 16 * (int)sizeof(T),
        DX = 32 * 16 * (int)sizeof(T), /* of a warp: a tile's shares */
        SLOT = X + DX
    };
};

template <typename T> static inline __device__ __host__ int factor_stride(int depth) {
    return 16 * depth + 16 / (int)sizeof(T); /* rows begin in different banks */
}

template <typename T> static inline __device__ __host__ int warp_bytes(int depth, int ring) {
    return depth * backward_bytes<T>::RIGHT + ring * backward_bytes<T>::SLOT;
}

/* ---- 2. Products: a chunk */

typedef struct {
    router_rows weight;
    int64_t token;                /* the chunk's first */
    int tokens, tiles, index, of; /* index: its first tile within the device, of: the device's tiles */
    int low, high;                /* rows whose gradients are wanted */
    global<float> gradient;       /* [C, D] */
    int column;                   /* the warp's first */
} chunk_view;

/* Where the sums of a chunk go that does not hold all of its device: at most one whole chunk and one last,
 * smaller one begin in any `chunk` tiles of the list. */
static __device__ __forceinline__ int64_t part_of(int tile, int index, int tiles, int chunk) {
    return 2 * (int64_t)(tile / chunk) + (index > 0 && tiles < chunk ? 1 : 0);
}

/* The tile's place in its device, in tiles. */
static __device__ __forceinline__ int tile_index(const cuda_device *device, const cuda_tile *tile) {
    return (int)(tile->first_token - device->first_token) / CUDA_TILE;
}

/* The chunk that the tile lies in. */
template <typename T>
static __device__ __forceinline__ chunk_view chunk_at(const route_backward_op<T> *op, int tile) {
    const cuda_tile *entry = record(op->wave.tiles + tile);
    const cuda_device *device = record(op->wave.devices + entry->device);
    chunk_view c;
    c.weight = router_rows_of(&op->wave, device, op->layer, op->wide && device->gradients % 4 == 0);
    c.of = (device->n_tokens + CUDA_TILE - 1) / CUDA_TILE;
    c.index = tile_index(device, entry);
    c.tiles =
        op->chunk - c.index % op->chunk < c.of - c.index ? op->chunk - c.index % op->chunk : c.of - c.index;
    c.token = entry->first_token;
    int left = device->n_tokens - c.index * CUDA_TILE;
    c.tokens = c.tiles * CUDA_TILE < left ? c.tiles * CUDA_TILE : left;
    c.low = device->learn & CK_LEARN_ROUTER ? 0 : c.weight.shape->router_rows;
    c.high = device->learn & CK_LEARN_EXPERTS ? c.weight.columns : c.weight.shape->router_rows;
    if (c.of > op->chunk)
        c.gradient = op->parts + part_of(tile, c.index, c.tiles, op->chunk) * op->part_floats;
    else if (c.low < c.high)
        c.gradient = op->wave.gradients +
                     (device->gradients + op->layer * c.weight.shape->layer_stride + c.weight.shape->route);
    c.column = ((int)blockIdx.y * ((int)blockDim.x / 32) + (int)threadIdx.x / 32) * SLAB;
    return c;
}

/* Tile i of the chunk: factors by the whole block, x and dx by each lane for itself. */
template <typename T>
static __device__ __forceinline__ void copy_tile(const route_backward_op<T> *op, const chunk_view *c, int i,
                                                 bool dx, shared<T> factors, shared<T> own) {
    constexpr int PIECE = 16 / (int)sizeof(T);
    int64_t token = c->token + i * CUDA_TILE;
    int rows = c->tokens - i * CUDA_TILE, pieces = (c->weight.columns + 15) / 16 * 16 / PIECE,
        stride = factor_stride<T>(op->depth);
    for (int at = (int)threadIdx.x; at < CUDA_TILE * pieces; at += (int)blockDim.x) {
        int row = at / pieces, column = at % pieces * PIECE;
        bool inside = row < rows;
        cp_async<16>(factors + (row * stride + column),
                     op->factors + (inside ? (token + row) * 16 * op->depth + column : 0), inside ? 16 : 0);
    }
    int g = fragment_g(), lane = (int)(threadIdx.x % 32), column = c->column + 4 * g;
    if (c->low < c->high) {
        CK_UNROLL
        for (int k = 0; k < 4; k++) {
            int row = right_row(k);
            copy_share<4>(own + (k * 32 + lane) * 4, op->x.data + ((token + row) * op->x.columns + column),
                          op->x.data, row < rows ? c->weight.width - column : 0, c->weight.wide);
        }
    }
    if (!dx || !op->accumulate) return;
    global<const T> old = op->dx.data;
    column = c->column + 8 * fragment_t();
    CK_UNROLL
    for (int half = 0; half < 2; half++) {
        int row = g + 8 * half;
        copy_share<8>(own + (512 + (half * 32 + lane) * 8), old + ((token + row) * op->dx.columns + column),
                      old, row < rows ? c->weight.width - column : 0, c->weight.wide);
    }
}

/* Rounds the lane's share of [R | A1] once for all tiles. DEPTH 16s of rows are under way at a time. */
template <typename T, int DEPTH>
static __device__ __forceinline__ void keep_weights(const chunk_view *c, shared<T> own) {
    int column = c->column + 4 * fragment_g();
    for (int first = 0; 16 * first < c->weight.columns; first += DEPTH) {
        float4 rows[DEPTH][4];
        CK_UNROLL
        for (int i = 0; i < 4 * DEPTH; i++) {
            int row = 16 * (first + i / 4) + right_row(i % 4);
            rows[i / 4][i % 4] =
                load_four(c->weight.rows + ((int64_t)row * c->weight.width + column),
                          row < c->weight.columns ? c->weight.width - column : 0, c->weight.wide);
        }
        CK_UNROLL
        for (int k = 0; k < DEPTH; k++) {
            right_four<T> b;
            make_right(&b, rows[k]);
            if (16 * (first + k) < c->weight.columns) put_right(own + (first + k) * 512, b);
        }
    }
}

static __device__ __forceinline__ void load_eight(float v[8], shared<const float> p) {
    float4 low = load_as<float4>(p), high = load_as<float4>(p + 4);
    v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w, v[4] = high.x, v[5] = high.y, v[6] = high.z,
    v[7] = high.w;
}
static __device__ __forceinline__ void load_eight(float v[8], shared<const bf16> p) {
    uint4 x = load_as<uint4>(p);
    float2 a = unpack_bf16(x.x), b = unpack_bf16(x.y), c = unpack_bf16(x.z), d = unpack_bf16(x.w);
    v[0] = a.x, v[1] = a.y, v[2] = b.x, v[3] = b.y, v[4] = c.x, v[5] = c.y, v[6] = d.x, v[7] = d.y;
}

/* A tile of dx (+)= [dz | p] [R | A1]; old: the lane's share of what dx is. */
template <typename T>
static __device__ __forceinline__ void write_dx(const route_backward_op<T> *op, const chunk_view *c, int i,
                                                shared<const T> factors, shared<const T> kept,
                                                shared<const T> old) {
    float d[4][4] = {};
    int stride = factor_stride<T>(op->depth), column = c->column + 8 * fragment_t(),
        valid = c->weight.width - column;
    for (int k = 0; 16 * k < c->weight.columns; k++) {
        left<T> a;
        right_four<T> b;
        load_left(&a, factors + 16 * k, stride);
        get_right(&b, kept + k * 512);
        multiply_four(d, a, b);
    }
    CK_UNROLL
    for (int half = 0; half < 2; half++) {
        int row = fragment_g() + 8 * half;
        int64_t token = c->token + i * CUDA_TILE + row;
        float v[8] = {};
        if (row >= c->tokens - i * CUDA_TILE) continue;
        if (op->accumulate) load_eight(v, old + half * 256);
        CK_UNROLL
        for (int j = 0; j < 8; j++) v[j] += d[j % 4][2 * half + j / 4];
        global<T> to = op->dx.data + (token * op->dx.columns + column);
        if (c->weight.wide)
            store_some<true, 8>(to, v, valid);
        else
            store_some<false, 8>(to, v, valid);
    }
}

template <int M>
static __device__ __forceinline__ void write_gradient(const chunk_view *c, const float d[M][4][4],
                                                      int first) {
    int column = c->column + 8 * fragment_t();
    CK_UNROLL
    for (int i = 0; i < 2 * M; i++) {
        int row = first + 8 * i + fragment_g();
        float v[8];
        CK_UNROLL
        for (int j = 0; j < 8; j++) v[j] = d[i / 2][j % 4][i % 2 * 2 + j / 4];
        if (row < c->low || row >= c->high) continue;
        global<float> to = c->gradient + ((int64_t)row * c->weight.width + column);
        if (c->weight.wide)
            store_some<true, 8>(to, v, c->weight.width - column);
        else
            store_some<false, 8>(to, v, c->weight.width - column);
    }
}

/* All tiles of a chunk, for the gradients of rows [first, first + 16 M) and, where wanted, dx. */
template <typename T, int M, int RING>
static __device__ __forceinline__ void walk_chunk(const route_backward_op<T> *op, const chunk_view *c,
                                                  int first, bool dx, shared<T> factors, shared<T> kept,
                                                  shared<T> slots) {
    constexpr int SLOT = backward_bytes<T>::SLOT / (int)sizeof(T);
    int stride = factor_stride<T>(op->depth), lane = (int)(threadIdx.x % 32);
    bool learns = c->low < c->high;
    float d[M][4][4] = {};
    __syncthreads(); /* the last walk's factors have been read */
    for (int i = 0; i < RING - 1; i++) {
        if (i < c->tiles) copy_tile(op, c, i, dx, factors + i * CUDA_TILE * stride, slots + i * SLOT);
        cp_async_commit();
    }
    if (dx) keep_weights<T, M == 2 ? 2 : 3>(c, kept);
    for (int i = 0; i < c->tiles; i++) {
        cp_async_wait<RING - 2>();
        __syncthreads(); /* the factors are there, and those of the tile before have been read */
        int ahead = i + RING - 1;
        if (ahead < c->tiles)
            copy_tile(op, c, ahead, dx, factors + ahead % RING * CUDA_TILE * stride,
                      slots + ahead % RING * SLOT);
        cp_async_commit();
        shared<const T> rows = factors + i % RING * CUDA_TILE * stride, own = slots + i % RING * SLOT;
        if (dx) write_dx<T>(op, c, i, rows, kept, own + (512 + lane * 8));
        if (!learns) continue;
        right_four<T> b;
        take_right(&b, own + lane * 4);
        CK_UNROLL
        for (int m = 0; m < M; m++) {
            if (first + 16 * m >= c->weight.columns) continue;
            left<T> a;
            load_left_turned(&a, rows + (first + 16 * m), stride);
            multiply_four(d[m], a, b);
        }
    }
    cp_async_wait<0>();
    if (learns) write_gradient<M>(c, d, first);
}

template <typename T, int M, int RING>
static __global__ void __launch_bounds__(256, M > 2 ? 1 : 2) route_products(route_backward_op<T> op) {
    CK_DYNAMIC_SHARED(unsigned char, arena);
    int warp = (int)threadIdx.x / 32, warps = (int)blockDim.x / 32, lane = (int)(threadIdx.x % 32);
    int bytes = warp_bytes<T>(op.depth, RING), tile = (int)blockIdx.x * op.window, end = tile + op.window;
    shared<T> factors = retype<T>(arena + warps * bytes);
    shared<T> kept = retype<T>(arena + (warp * bytes + 16 * lane)),
              slots = retype<T>(arena + (warp * bytes + op.depth * backward_bytes<T>::RIGHT));
    while (tile < end && tile < op.wave.n_tiles && record(op.wave.tiles + tile)->rows > 0) {
        chunk_view c = chunk_at(&op, tile);
        tile += c.tiles;
        if (c.index % op.chunk != 0) continue; /* it began in the window before */
        bool dx = (bool)op.dx.data;
        /* without rows there is still a dx, of zeros */
        for (int first = 0; (first < c.weight.columns && c.low < c.high) || dx; first += 16 * M, dx = false) {
            walk_chunk<T, M, RING>(&op, &c, first, dx, factors, kept, slots);
        }
    }
}

/* ---- 3. Devices of several chunks. Grid: windows of `chunk` tiles, in each of which at most one such device
 * begins; slices of [C, D]. */

enum { SUM_FLOATS = 8 * ROUTE_LANES };

template <typename T>
static __global__ void __launch_bounds__(ROUTE_LANES) route_sum_chunks(route_backward_op<T> op) {
    CK_SHARED(int, found, 1);
    int begin = (int)blockIdx.x * op.chunk,
        end = begin + op.chunk < op.wave.n_tiles ? begin + op.chunk : op.wave.n_tiles;
    if (threadIdx.x == 0) found[0] = -1;
    __syncthreads();
    for (int tile = begin + (int)threadIdx.x; tile < end; tile += ROUTE_LANES) {
        const cuda_tile *entry = record(op.wave.tiles + tile);
        if (entry->rows == 0) break;
        const cuda_device *device = record(op.wave.devices + entry->device);
        if (tile_index(device, entry) == 0 && device->n_tokens > op.chunk * CUDA_TILE) found[0] = tile;
    }
    __syncthreads();
    int tile = found[0];
    if (tile < 0) return;
    const cuda_device *device = record(op.wave.devices + record(op.wave.tiles + tile)->device);
    const ck_shape *shape = record(op.wave.shapes + device->shape);
    int tiles = (device->n_tokens + CUDA_TILE - 1) / CUDA_TILE, rows = shape->router_rows,
        width = shape->width;
    int64_t low = device->learn & CK_LEARN_ROUTER ? 0 : (int64_t)rows * width;
    int64_t high = (int64_t)(device->learn & CK_LEARN_EXPERTS ? rows + shape->h_ranks : rows) * width;
    global<float> gradient =
        op.wave.gradients + (device->gradients + op.layer * shape->layer_stride + shape->route);
    for (int i = (int)threadIdx.x; i < SUM_FLOATS; i += ROUTE_LANES) {
        int64_t at = (int64_t)blockIdx.y * SUM_FLOATS + i;
        if (at < low || at >= high) continue;
        float sum = 0;
        for (int index = 0; index < tiles; index += op.chunk) {
            int left = tiles - index < op.chunk ? tiles - index : op.chunk;
            sum += op.parts[part_of(tile + index, index, left, op.chunk) * op.part_floats + at];
        }
        gradient[at] = sum;
    }
}

/* ---- Host */

/* M and RING of the form that has room for the columns, and how many of its blocks a multiprocessor runs at a
 * time. */
typedef struct {
    int columns, m, ring, each;
} products_form;
static const products_form forms[] = {
    {32, 2, 4, 2}, {80, 5, 4, 1}, {144, 9, 4, 1}, {CK_MAX_RANK_SUM + CK_MAX_EXPERTS, 9, 2, 1}};

static int64_t blocks_at_a_time(const products_form *form) {
    return form->each * cuda_limits.route_blocks;
}

typedef struct {
    const products_form *form;
    int columns, depth, warps, blocks; /* blocks over D */
    size_t shared_bytes;
} products_plan;

template <typename T> static products_plan plan_products(int columns, int width) {
    products_plan plan = {};
    plan.form = forms;
    while (plan.form->columns < columns) plan.form++;
    plan.columns = columns;
    plan.depth = (columns + 15) / 16;
    int wanted = (width + SLAB - 1) / SLAB;
    for (plan.warps = wanted < ROUTE_WARPS ? wanted : (int)ROUTE_WARPS;; plan.warps--) {
        plan.shared_bytes = (size_t)plan.warps * (size_t)warp_bytes<T>(plan.depth, plan.form->ring) +
                            (size_t)(plan.form->ring * CUDA_TILE * factor_stride<T>(plan.depth)) * sizeof(T);
        if (plan.shared_bytes <= ROUTE_SHARED || plan.warps == 1) break;
    }
    plan.blocks = (wanted + plan.warps - 1) / plan.warps;
    return plan;
}

static int64_t divided(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

/* More windows of parts than this many are not worth their memory. */
static int64_t most_windows(const products_form *form, int tiles, int blocks) {
    int64_t fill = 2 * blocks_at_a_time(form) / blocks + 1, short_ones = divided(tiles, LEAST_CHUNK);
    return fill < short_ones ? fill : short_ones;
}

/* Tiles of a chunk. A device of mean length is cut into as many equal ones as end soonest, in rounds of
 * blocks that run at a time; a chunk of several costs about C / 12 tiles more, for the sums that it leaves.
 * Where that is one, only a device of more than twice the mean is cut. */
static int chunk_tiles(const products_plan *plan, int tiles, int devices) {
    int64_t mean = divided(tiles, devices),
            least = divided((int64_t)tiles * plan->blocks, 2 * blocks_at_a_time(plan->form)), best = 0,
            cuts = 1;
    if (least < LEAST_CHUNK) least = LEAST_CHUNK;
    for (int64_t k = 1; k == 1 || divided(mean, k) >= least; k++) {
        int64_t rounds = divided(devices * k * plan->blocks, blocks_at_a_time(plan->form));
        int64_t cost = rounds * (divided(mean, k) + (k > 1 ? plan->columns / 12 : 0));
        if (k == 1 || cost < best) best = cost, cuts = k;
    }
    int64_t chunk = cuts == 1 ? 2 * mean : divided(mean, cuts);
    return (int)(chunk < least ? least : chunk);
}

static int64_t part_floats(int columns, int width) {
    return ((int64_t)columns * width + 3) / 4 * 4;
}

static size_t factor_bytes(int64_t n_tokens, int columns, bool half) {
    size_t bytes =
        (size_t)n_tokens * (size_t)((columns + 15) / 16 * 16) * (half ? sizeof(bf16) : sizeof(float));
    return (bytes + 255) / 256 * 256;
}

/* Behind the factors, of routers with a hidden layer. */
static size_t dz_bytes(int64_t n_tokens) {
    return (size_t)n_tokens * HALF * sizeof(float);
}

/* Over the forms that a wave may need; blocks over D are no fewer than with all warps. */
size_t cuda_route_backward_workspace(const ck_route_backward *d, const cuda_bounds *bounds) {
    int64_t floats = 0;
    int least = (d->x->columns + SLAB * ROUTE_WARPS - 1) / (SLAB * ROUTE_WARPS), before = 0;
    for (const products_form &form : forms) {
        if (before >= d->zh->columns) break;
        int columns = d->zh->columns < form.columns ? d->zh->columns : form.columns;
        int64_t need =
            2 * most_windows(&form, bounds->max_tiles, least) * part_floats(columns, d->x->columns);
        if (need > floats) floats = need;
        before = form.columns;
    }
    return factor_bytes(bounds->max_tokens, d->zh->columns, bounds->half) + (size_t)floats * sizeof(float) +
           (d->hidden ? dz_bytes(bounds->max_tokens) : 0);
}

/* dz, where the wave has routers with a hidden layer, then the parts. */
static float *behind_factors(const cuda_call *call, const products_plan *plan) {
    return reinterpret_cast<float *>(static_cast<char *>(call->workspace) +
                                     factor_bytes(call->wave.n_tokens, plan->columns, call->half));
}

template <typename T>
static route_backward_op<T> describe(const ck_route_backward *d, const cuda_call *call,
                                     const products_plan *plan) {
    route_backward_op<T> op = {};
    op.wave = call->wave;
    op.x = cuda_rows_of<const T>(d->x);
    if (d->dx) op.dx = cuda_rows_of<T>(d->dx);
    op.zh = cuda_rows_of<const float>(d->zh), op.gates = cuda_rows_of<const float>(d->gates);
    op.dw = cuda_rows_of<const float>(d->dw), op.p = cuda_rows_of<const float>(d->p);
    op.balance = d->balance;
    op.factors = static_cast<T *>(call->workspace);
    op.load_balance = d->load_balance;
    op.parts = behind_factors(call, plan) + (call->limits.hidden ? (int64_t)call->wave.n_tokens * HALF : 0);
    if (call->limits.hidden) {
        op.hidden = cuda_rows_of<const float>(d->hidden);
        op.dz = behind_factors(call, plan);
    }
    op.part_floats = part_floats(plan->columns, d->x->columns);
    op.depth = plan->depth;
    op.layer = d->layer, op.n_layers = d->n_layers;
    op.chunk = chunk_tiles(plan, call->wave.n_tiles, call->wave.n_devices);
    op.window = call->wave.n_tokens < cuda_limits.route_tokens * call->wave.n_devices || op.chunk < 8
                    ? 1
                    : op.chunk / 8;
    op.accumulate = d->accumulate && !call->start;
    op.wide = cuda_is_wide<T>(d->x) && (!d->dx || cuda_is_wide<T>(d->dx));
    return op;
}

template <typename T, int M, int RING>
static const char *launch_products(const route_backward_op<T> &op, const products_plan *plan,
                                   gpu_stream stream) {
    dim3 grid((unsigned)divided(op.wave.n_tiles, op.window), (unsigned)plan->blocks);
    return CK_LAUNCH((route_products<T, M, RING>), grid, dim3((unsigned)plan->warps * 32), plan->shared_bytes,
                     stream, op);
}

template <typename T> static const char *launch_backward(const ck_route_backward *d, const cuda_call *call) {
    int columns = call->limits.experts + call->limits.h_ranks, width = d->x->columns;
    products_plan plan = plan_products<T>(columns < d->zh->columns ? columns : d->zh->columns, width);
    route_backward_op<T> op = describe<T>(d, call, &plan);
    const char *problem =
        CK_LAUNCH(route_factors<T>, dim3((unsigned)op.wave.n_tiles), dim3(ROUTE_LANES), 0, call->stream, op);
    if (!problem && call->limits.hidden)
        problem = launch_second_gradient(d, call, behind_factors(call, &plan));
    if (problem) return problem;
    if (plan.form->m == 2)
        problem = launch_products<T, 2, 4>(op, &plan, call->stream);
    else if (plan.form->m == 5)
        problem = launch_products<T, 5, 4>(op, &plan, call->stream);
    else if (plan.form->ring == 4)
        problem = launch_products<T, 9, 4>(op, &plan, call->stream);
    else
        problem = launch_products<T, 9, 2>(op, &plan, call->stream);
    if (problem || op.wave.n_tiles <= op.chunk) return problem;
    dim3 grid((unsigned)divided(op.wave.n_tiles, op.chunk), (unsigned)divided(op.part_floats, SUM_FLOATS));
    return CK_LAUNCH(route_sum_chunks<T>, grid, dim3(ROUTE_LANES), 0, call->stream, op);
}

const char *cuda_route_backward(const ck_route_backward *d, const cuda_call *call) {
    const cuda_start *start = call->start;
    if (start && (start->residual || start->bias)) return "route_backward: dx begins with nothing";
    if (call->wave.n_devices == 0) return start ? "route_backward: the wave has no devices" : nullptr;
    return call->half ? launch_backward<bf16>(d, call) : launch_backward<float>(d, call);
}
