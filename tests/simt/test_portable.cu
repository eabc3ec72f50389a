/* The wrappers of kernels/cuda/portable.cuh, each against plain loops. Kernels are tested on the CPU through
 * the wrappers' CPU bodies; this file shows that both bodies mean the same: it runs on the CPU, and on a GPU
 * when nvcc compiles it. */
#include <math.h>

#include "device.hpp"
#include "tap.hpp"

static const uint32_t FULL = 0xffffffffu;

static bool ran(const char *problem) {
    if (!problem) problem = device_finish();
    TAP_CHECK(!problem, "%s", problem);
    return !problem;
}

static float number(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return (float)(int32_t)*state * 0x1p-31f;
}

static float round_to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits = (bits + 0x7fffu + (bits >> 16 & 1)) & 0xffff0000u;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* ---- Lanes, shuffles, votes */

static __global__ void write_place(global<int> out) {
    unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    unsigned lane = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    unsigned i = block * (blockDim.x * blockDim.y * blockDim.z) + lane;
    out[i] = (int)i;
}

static void every_lane_of_every_block_runs_once() {
    device_buffer<int> out(2 * 3 * 4 * 5 * 7 * 2, "out");
    out.poison();
    if (!ran(CK_LAUNCH(write_place, dim3(2, 3, 4), dim3(5, 7, 2), 0, nullptr, global<int>(out.device))))
        return;
    out.get();
    for (size_t i = 0; i < out.host.size(); i++)
        TAP_CHECK(out.host[i] == (int)i, "lane %d did not write its place", (int)i);
}

static __global__ void warp_sums(global<const float> x, global<float> out, int n) {
    float sum = (int)threadIdx.x < n ? (float)x[(int)threadIdx.x] : 0.0f, down = sum;
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(FULL, sum, step);
    for (int step = 16; step > 0; step /= 2) down += __shfl_down_sync(FULL, down, step);
    out[2 * (int)threadIdx.x] = sum;
    out[2 * (int)threadIdx.x + 1] = down;
}

static void shuffles_reduce() {
    device_buffer<float> x(96, "x"), out(192, "out");
    for (int i = 0; i < 96; i++) x.host[(size_t)i] = (float)(i * i % 17);
    x.put();
    if (!ran(CK_LAUNCH(warp_sums, 1, 96, 0, nullptr, global<const float>(x.device), global<float>(out.device),
                       81)))
        return;
    out.get();
    for (size_t w = 0; w < 3; w++) {
        float sum = 0;
        for (size_t i = 32 * w; i < 32 * (w + 1) && i < 81; i++) sum += x.host[i];
        for (size_t l = 0; l < 32; l++)
            TAP_CHECK(out.host[2 * (32 * w + l)] == sum, "warp %d lane %d has another sum", (int)w, (int)l);
        TAP_CHECK(out.host[64 * w + 1] == sum, "shuffles down reduce to another sum");
    }
}

static __global__ void shuffle_kinds(global<int> out) {
    int lane = (int)threadIdx.x;
    out[lane] = __shfl_sync(FULL, lane, lane + 5, 8);
    out[32 + lane] = __shfl_up_sync(FULL, lane, 3, 16);
    out[64 + lane] = __shfl_down_sync(FULL, lane, 3, 16);
    out[96 + lane] = __shfl_xor_sync(FULL, lane, 9, 8);
    out[128 + lane] = (int)(__shfl_sync(FULL, lane * 0x1p300, 7) * 0x1p-300);
}

static void shuffles_of_every_kind_and_width() {
    device_buffer<int> out(160, "out");
    if (!ran(CK_LAUNCH(shuffle_kinds, 1, 32, 0, nullptr, global<int>(out.device)))) return;
    out.get();
    const int *got = out.host.data();
    for (int l = 0; l < 32; l++) {
        int other = l ^ 9, group = l / 8 * 8;
        TAP_CHECK(got[l] == group + (l + 5) % 8, "__shfl_sync, lane %d: %d", l, got[l]);
        TAP_CHECK(got[32 + l] == (l % 16 < 3 ? l : l - 3), "__shfl_up_sync, lane %d: %d", l, got[32 + l]);
        TAP_CHECK(got[64 + l] == (l % 16 > 12 ? l : l + 3), "__shfl_down_sync, lane %d: %d", l, got[64 + l]);
        TAP_CHECK(got[96 + l] == (other >= group + 8 ? l : other), "__shfl_xor_sync, lane %d: %d", l,
                  got[96 + l]);
        TAP_CHECK(got[128 + l] == 7, "8 bytes, lane %d", l);
    }
}

static __global__ void votes(global<unsigned> out) {
    int lane = (int)threadIdx.x;
    if (lane < 12) {
        out[lane] = __ballot_sync(0xfff, lane % 3 == 0);
    } else {
        int any = __any_sync(0xfffff000u, lane == 31), none = __any_sync(0xfffff000u, 0);
        int all = __all_sync(0xfffff000u, lane >= 12), some = __all_sync(0xfffff000u, lane > 12);
        out[lane] = (unsigned)((any != 0) | (none != 0) << 1 | (all != 0) << 2 | (some != 0) << 3);
    }
}

static void votes_within_masks() {
    device_buffer<unsigned> out(32, "out");
    if (!ran(CK_LAUNCH(votes, 1, 32, 0, nullptr, global<unsigned>(out.device)))) return;
    out.get();
    for (size_t l = 0; l < 32; l++)
        TAP_CHECK(out.host[l] == (l < 12 ? 0x249u : 5u), "lane %d: %x", (int)l, out.host[l]);
}

/* ---- Shared memory */

/* Reverses 256 floats per block through static shared memory, back through dynamic, four at a time, and
 * doubles them. */
static __global__ void reverse_twice(global<const float> x, global<float> out) {
    CK_SHARED(float, fixed, 256);
    CK_DYNAMIC_SHARED(float, arena);
    shared<float> sized = part(arena + 4, 256);
    int lane = (int)threadIdx.x, at = (int)blockIdx.x * 256 + 4 * lane;
    float4 v = load_as<float4>(x + at);
    store_as(fixed + 4 * lane, make_float4(v.w, v.z, v.y, v.x));
    __syncthreads();
    v = load_as<float4>(fixed + (252 - 4 * lane));
    store_as(sized + 4 * lane, make_float4(v.w, v.z, v.y, v.x));
    __syncthreads();
    for (int i = 0; i < 4; i++) out[at + i] = 2.0f * sized[252 - 4 * lane + i];
}

static void both_kinds_of_shared_memory() {
    device_buffer<float> x(5 * 256, "x"), out(5 * 256, "out");
    for (size_t i = 0; i < x.host.size(); i++) x.host[i] = (float)i;
    x.put();
    if (!ran(CK_LAUNCH(reverse_twice, 5, 64, 260 * sizeof(float), nullptr, global<const float>(x.device),
                       global<float>(out.device))))
        return;
    out.get();
    for (size_t i = 0; i < x.host.size(); i++)
        TAP_CHECK(out.host[i] == 2 * x.host[i], "element %d: %g", (int)i, out.host[i]);
}

static __global__ void use_much(global<float> out, int n) {
    CK_DYNAMIC_SHARED(float, arena);
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x) arena[i] = (float)i;
    __syncthreads();
    out[(int)threadIdx.x] = arena[n - 1 - (int)threadIdx.x];
}

static void more_shared_memory_than_48_kib() {
    device_buffer<float> out(128, "out");
    int n = 40000;
    if (!ran(CK_LAUNCH(use_much, 1, 128, (size_t)n * sizeof(float), nullptr, global<float>(out.device), n)))
        return;
    out.get();
    for (int i = 0; i < 128; i++) TAP_CHECK(out.host[(size_t)i] == (float)(n - 1 - i), "element %d", i);
}

/* ---- Asynchronous copies: three groups of 16, 8 and 4 bytes a lane; `valid` bytes of each */

static __global__ void copy_groups(global<const float> in, global<float> out, int valid) {
    CK_SHARED(float, rows, 7 * 32);
    int lane = (int)threadIdx.x;
    cp_async<16>(rows + 4 * lane, in + 4 * lane, valid);
    cp_async_commit();
    cp_async<8>(rows + (128 + 2 * lane), in + (128 + 2 * lane), valid < 8 ? valid : 8);
    cp_async_commit();
    cp_async<4>(rows + (192 + lane), in + (192 + lane), valid < 4 ? valid : 4);
    cp_async_commit();
    cp_async_wait<2>();
    __syncthreads();
    for (int i = 0; i < 4; i++) out[4 * lane + i] = rows[127 - (4 * lane + i)];
    cp_async_wait<0>();
    __syncthreads();
    for (int i = 0; i < 3; i++) out[128 + 3 * lane + i] = rows[223 - (3 * lane + i)];
}

static void copies_arrive_when_waited_for() {
    device_buffer<float> in(224, "in"), out(224, "out");
    for (size_t i = 0; i < 224; i++) in.host[i] = (float)(i + 1);
    in.put();
    for (int valid : {16, 8, 4, 0}) {
        out.poison();
        if (!ran(CK_LAUNCH(copy_groups, 1, 32, 0, nullptr, global<const float>(in.device),
                           global<float>(out.device), valid)))
            return;
        out.get();
        for (int i = 0; i < 224; i++) {
            int from = i < 128 ? 127 - i : 351 - i, width = from < 128 ? 4 : from < 192 ? 2 : 1;
            float expected = from % width * 4 < valid ? (float)(from + 1) : 0.0f;
            TAP_CHECK(out.host[(size_t)i] == expected, "%d valid bytes, element %d: %g, not %g", valid, from,
                      out.host[(size_t)i], expected);
        }
    }
}

/* ---- Tensor cores */

static __global__ void multiply(global<const float> a, global<const float> b, global<float> d, int as_bf16) {
    int g = (int)threadIdx.x / 4, t = (int)threadIdx.x % 4;
    float fa[8], fb[4], fd[4];
    CK_UNROLL
    for (int i = 0; i < 8; i++) fa[i] = a[(g + i / 2 % 2 * 8) * 16 + 2 * t + i % 2 + i / 4 * 8];
    CK_UNROLL
    for (int i = 0; i < 4; i++) {
        fb[i] = b[(2 * t + i % 2 + i / 2 * 8) * 8 + g];
        fd[i] = d[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
    }
    if (as_bf16) {
        const uint32_t pa[4] = {pack_bf16(fa[0], fa[1]), pack_bf16(fa[2], fa[3]), pack_bf16(fa[4], fa[5]),
                                pack_bf16(fa[6], fa[7])};
        const uint32_t pb[2] = {pack_bf16(fb[0], fb[1]), pack_bf16(fb[2], fb[3])};
        mma_bf16(fd, pa, pb);
    } else {
        mma_f32(fd, fa, fb);
    }
    CK_UNROLL
    for (int i = 0; i < 4; i++) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = fd[i];
}

static void multiply_and_compare(bool as_bf16, double tolerance) {
    device_buffer<float> a(256, "a"), b(128, "b"), d(128, "d");
    double expected[128], off = 0, norm = 0;
    uint32_t state = 7;
    for (float &v : a.host) v = as_bf16 ? round_to_bf16(number(&state)) : number(&state);
    for (float &v : b.host) v = as_bf16 ? round_to_bf16(number(&state)) : number(&state);
    for (size_t i = 0; i < 128; i++) {
        expected[i] = d.host[i] = number(&state);
        for (size_t k = 0; k < 16; k++) expected[i] += (double)a.host[i / 8 * 16 + k] * b.host[k * 8 + i % 8];
    }
    a.put(), b.put(), d.put();
    if (!ran(CK_LAUNCH(multiply, 1, 32, 0, nullptr, global<const float>(a.device),
                       global<const float>(b.device), global<float>(d.device), as_bf16)))
        return;
    d.get();
    for (size_t i = 0; i < 128; i++)
        off += pow(d.host[i] - expected[i], 2), norm += expected[i] * expected[i];
    TAP_CHECK(sqrt(off / norm) <= tolerance, "relative error %.2e", sqrt(off / norm));
}

static void products_of_bf16() {
    multiply_and_compare(true, 5e-7);
}

/* A single tf32 product would be wrong by 1e-4. */
static void products_of_f32() {
    multiply_and_compare(false, 1e-6);
}

/* Row-major 16 x 16 in shared memory, rows of 24, as fragments of every kind. */
static __global__ void load_matrices(global<unsigned> out) {
    CK_SHARED(bf16, tile, 16 * 24);
    int lane = (int)threadIdx.x;
    uint32_t x4[4], x2[2], x4_turned[4], x2_turned[2];
    for (int i = lane; i < 256; i += 32) tile[i / 16 * 24 + i % 16] = to_bf16((float)i);
    __syncwarp();
    ldmatrix_x4(x4, tile + (lane % 16 * 24 + lane / 16 * 8));
    ldmatrix_x4_trans(x4_turned, tile + (lane % 16 * 24 + lane / 16 * 8));
    ldmatrix_x2(x2, tile + lane % 16 * 24);
    ldmatrix_x2_trans(x2_turned, tile + lane % 16 * 24);
    CK_UNROLL
    for (int i = 0; i < 4; i++) {
        out[12 * lane + i] = x4[i];
        out[12 * lane + 4 + i] = x4_turned[i];
    }
    CK_UNROLL
    for (int i = 0; i < 2; i++) {
        out[12 * lane + 8 + i] = x2[i];
        out[12 * lane + 10 + i] = x2_turned[i];
    }
}

static void ldmatrix_gives_fragments() {
    device_buffer<unsigned> out(384, "out");
    if (!ran(CK_LAUNCH(load_matrices, 1, 32, 0, nullptr, global<unsigned>(out.device)))) return;
    out.get();
    for (int i = 0; i < 384; i++) {
        int g = i / 12 / 4, t = i / 12 % 4 * 2, of_lane = i % 12,
            matrix = of_lane < 8 ? of_lane % 4 : of_lane % 2;
        bool turned = of_lane < 8 ? of_lane >= 4 : of_lane >= 10;
        int corner = matrix % 2 * 8 * 16 + matrix / 2 * 8,
            first = corner + (turned ? t * 16 + g : g * 16 + t);
        float values[2] = {(float)first, (float)(first + (turned ? 16 : 1))};
        unsigned expected[2];
        memcpy(expected, values, sizeof expected);
        unsigned pair = expected[0] >> 16 | (expected[1] & 0xffff0000u);
        TAP_CHECK(out.host[(size_t)i] == pair, "lane %d, register %d: %08x, not %08x", i / 12, of_lane,
                  out.host[(size_t)i], pair);
    }
}

/* ---- Numbers */

static __global__ void convert(global<const float> x, global<float> out) {
    int i = (int)threadIdx.x;
    bf16 rounded = to_bf16(x[i]);
    float2 pair = unpack_bf16(pack_bf16(x[i], -x[i]));
    out[3 * i] = to_float(rounded);
    out[3 * i + 1] = pair.x;
    out[3 * i + 2] = pair.y;
}

static void bf16_rounds_to_nearest_even() {
    static const uint32_t table[][2] = {{0x3f800000u, 0x3f80}, {0x3f808000u, 0x3f80}, {0x3f808001u, 0x3f81},
                                        {0x3f818000u, 0x3f82}, {0x3f817fffu, 0x3f81}, {0xbf808001u, 0xbf81},
                                        {0x7f7fffffu, 0x7f80}, {0x7f800000u, 0x7f80}, {0x80000000u, 0x8000},
                                        {0x00800000u, 0x0080}};
    const int n = sizeof table / sizeof *table;
    device_buffer<float> x(n + 1, "x"), out(3 * (n + 1), "out");
    for (int i = 0; i < n; i++) memcpy(&x.host[(size_t)i], &table[i][0], 4);
    x.host[n] = NAN;
    x.put();
    if (!ran(CK_LAUNCH(convert, 1, n + 1, 0, nullptr, global<const float>(x.device),
                       global<float>(out.device))))
        return;
    out.get();
    for (int i = 0; i < n; i++) {
        uint32_t got[3], expected = table[i][1] << 16;
        memcpy(got, &out.host[3 * (size_t)i], sizeof got);
        TAP_CHECK(got[0] == expected && got[1] == expected && got[2] == (expected ^ 0x80000000u),
                  "%08x became %08x, %08x and %08x", table[i][0], got[0], got[1], got[2]);
    }
    for (int i = 0; i < 3; i++) TAP_CHECK(isnan(out.host[3 * n + (size_t)i]), "NaN did not stay NaN");
}

static __global__ void fast_functions(global<const float> x, global<float> out) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    out[2 * i] = fast_exp(x[i]);
    out[2 * i + 1] = fast_divide(1.0f, 1.0f + fast_exp(-x[i]));
}

static void fast_functions_are_close() {
    device_buffer<float> x(4096, "x"), out(8192, "out");
    for (size_t i = 0; i < 4096; i++) x.host[i] = ((float)i - 2048.0f) / 128.0f;
    x.put();
    if (!ran(CK_LAUNCH(fast_functions, 32, 128, 0, nullptr, global<const float>(x.device),
                       global<float>(out.device))))
        return;
    out.get();
    for (size_t i = 0; i < 4096; i++) {
        double e = exp((double)x.host[i]), s = 1 / (1 + exp(-(double)x.host[i]));
        TAP_CHECK(fabs(out.host[2 * i] - e) <= 3e-6 * e, "exp(%g) = %.9g", x.host[i], out.host[2 * i]);
        TAP_CHECK(fabs(out.host[2 * i + 1] - s) <= 3e-6 * s, "1 / (1 + exp(-%g)) = %.9g", x.host[i],
                  out.host[2 * i + 1]);
    }
}

#define TEST(name)                                                                                           \
    { #name, name }
static const tap_test tests[] = {
    TEST(every_lane_of_every_block_runs_once),
    TEST(shuffles_reduce),
    TEST(shuffles_of_every_kind_and_width),
    TEST(votes_within_masks),
    TEST(both_kinds_of_shared_memory),
    TEST(more_shared_memory_than_48_kib),
    TEST(copies_arrive_when_waited_for),
    TEST(products_of_bf16),
    TEST(products_of_f32),
    TEST(ldmatrix_gives_fragments),
    TEST(bf16_rounds_to_nearest_even),
    TEST(fast_functions_are_close),
};

int main(int argc, char **argv) {
    return tap_main(argc, argv, "cuda_portable", tests, (int)(sizeof tests / sizeof *tests));
}
