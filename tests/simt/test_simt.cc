/* The machine that runs kernels on the CPU, tried on kernels that are right and on kernels that are each
 * wrong in one way. */
#include <atomic>
#include <initializer_list>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cuda/portable.cuh"
#include "expect.hpp"

static const uint32_t FULL = 0xffffffffu;

/* ---- What lanes are */

static void write_place(global<int> out) {
    unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    unsigned lane = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    unsigned i = block * (blockDim.x * blockDim.y * blockDim.z) + lane;
    out[i] = (int)i;
}

static void every_lane_of_every_block_runs_once() {
    buffer<int> out(2 * 3 * 4 * 5 * 7 * 2);
    expect_fine(CK_LAUNCH(write_place, dim3(2, 3, 4), dim3(5, 7, 2), 0, nullptr, global<int>(out.data)));
    for (int64_t i = 0; i < out.count; i++)
        TAP_CHECK(out.data[i] == i, "lane %d did not write its place", (int)i);
}

static std::atomic<int> turns;

static void take_turns(global<int> out, int rounds) {
    for (int i = 0; i < rounds; i++) {
        out[i * (int)blockDim.x + (int)threadIdx.x] = turns++;
        __syncthreads();
    }
}

/* The order in which the 64 lanes take 3 turns. */
static void record_order(uint64_t seed, int *order) {
    buffer<int> out(192);
    simt_configure(1, seed);
    turns = 0;
    expect_fine(CK_LAUNCH(take_turns, 1, 64, 0, nullptr, global<int>(out.data), 3));
    memcpy(order, out.data, 192 * sizeof *order);
    simt_configure(2, 1);
}

static void order_follows_the_seed() {
    int first[192], again[192], other[192];
    record_order(3, first);
    record_order(3, again);
    record_order(4, other);
    TAP_CHECK(memcmp(first, again, sizeof first) == 0, "the same seed gave two orders");
    TAP_CHECK(memcmp(first, other, sizeof first) != 0, "two seeds gave the same order");
    bool same = true;
    for (int i = 0; i < 64; i++) same = same && first[i] + 64 == first[64 + i];
    TAP_CHECK(!same, "the order did not change at a barrier");
}

/* ---- Shared memory and short warps */

static void short_warp(global<unsigned> out) {
    __syncwarp();
    out[(int)threadIdx.x] = __ballot_sync(0xff, 1);
    __syncthreads();
}

static void a_warp_of_eight_lanes() {
    buffer<unsigned> out(8);
    expect_fine(CK_LAUNCH(short_warp, 1, 8, 0, nullptr, global<unsigned>(out.data)));
    TAP_CHECK(out.data[7] == 0xff, "ballot of 8 lanes: %x", out.data[7]);
}

/* sum over the block; barriers: whether the two that are needed are there. */
static void block_sum(global<const float> x, global<float> out, bool first_barrier, bool second_barrier) {
    CK_SHARED(float, partial, 32);
    CK_DYNAMIC_SHARED(float, total);
    float sum = x[(int64_t)blockIdx.x * blockDim.x + threadIdx.x];
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(FULL, sum, step);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
    if (first_barrier) __syncthreads();
    if (threadIdx.x == 0) {
        float all = 0;
        for (unsigned w = 0; w < blockDim.x / 32; w++) all += partial[w];
        total[0] = all;
    }
    if (second_barrier) __syncthreads();
    if (threadIdx.x == blockDim.x - 1) out[blockIdx.x] = total[0];
}

static void sum_blocks(bool first, bool second, simt_failure expected, const char *text) {
    for (uint64_t seed = 1; seed <= 8; seed++) {
        buffer<float> x(20 * 128), out(20);
        for (int64_t i = 0; i < x.count; i++) x.data[i] = (float)(i % 13);
        simt_configure(2, seed);
        const char *problem = CK_LAUNCH(block_sum, 20, 128, sizeof(float), nullptr,
                                        global<const float>(x.data), global<float>(out.data), first, second);
        simt_configure(2, 1);
        if (expected != SIMT_FINE) {
            expect_failure(problem, expected, text, "kernel block_sum", "lane ");
            continue;
        }
        expect_fine(problem);
        for (int b = 0; b < 20; b++) {
            float sum = 0;
            for (int i = 0; i < 128; i++) sum += x.data[128 * b + i];
            TAP_CHECK(out.data[b] == sum, "seed %d, block %d: %g instead of %g", (int)seed, b, out.data[b],
                      sum);
        }
    }
}

static void blocks_reduce_through_shared_memory() {
    sum_blocks(true, true, SIMT_FINE, "");
}

static void a_missing_barrier_is_caught() {
    sum_blocks(false, true, SIMT_RACE, "partial");
    sum_blocks(true, false, SIMT_RACE, "total");
}

static void read_unwritten(global<float> out) {
    CK_SHARED(float, fixed, 8);
    CK_DYNAMIC_SHARED(float, sized);
    out[2 * (int)threadIdx.x] = fixed[(int)threadIdx.x];
    out[2 * (int)threadIdx.x + 1] = sized[(int)threadIdx.x];
    __syncthreads();
    fixed[(int)threadIdx.x] = 1;
    sized[(int)threadIdx.x] = 1;
}

static void shared_memory_starts_as_nan() {
    buffer<float> out(16);
    for (int i = 0; i < 2; i++) { /* the second launch must not see what the first left */
        expect_fine(CK_LAUNCH(read_unwritten, 1, 8, 32, nullptr, global<float>(out.data)));
        TAP_CHECK(isnan(out.data[0]) && isnan(out.data[1]), "unwritten shared memory holds %g and %g",
                  out.data[0], out.data[1]);
    }
}

/* ---- Bounds */

static void touch(global<float> p, int64_t at, bool write) {
    if (threadIdx.x != 3) return;
    if (write)
        p[at] = 1;
    else
        p[0] = p[at];
}

static void an_index_out_of_bounds_is_caught() {
    buffer<float> p(10);
    expect_fine(CK_LAUNCH(touch, 1, 4, 0, nullptr, global<float>(p.data), 9, true));
    expect_failure(CK_LAUNCH(touch, 1, 4, 0, nullptr, global<float>(p.data), 10, true), SIMT_OUT_OF_BOUNDS,
                   "writes 4 bytes at byte 40 of buffer", "which has 40", "block (0, 0, 0), lane 3");
    expect_failure(CK_LAUNCH(touch, 1, 4, 0, nullptr, global<float>(p.data), -1, false), SIMT_OUT_OF_BOUNDS,
                   "reads 4 bytes at byte -4");
    expect_failure(CK_LAUNCH(touch, 1, 4, 0, nullptr, global<float>(nullptr), 0, false), SIMT_OUT_OF_BOUNDS,
                   "null pointer");
    float host[4];
    expect_failure(CK_LAUNCH(touch, 1, 4, 0, nullptr, global<float>(host), 0, true), SIMT_OUT_OF_BOUNDS,
                   "not the device's");
}

static void touch_shared(int at, int in_part) {
    CK_SHARED(float, row, 6);
    shared<float> half = part(row + 2, 2);
    if (in_part >= 0)
        half[in_part] = 1;
    else
        row[at] = 1;
}

static void shared_arrays_and_parts_have_ends() {
    expect_fine(CK_LAUNCH(touch_shared, 1, 1, 0, nullptr, 5, -1));
    expect_fine(CK_LAUNCH(touch_shared, 1, 1, 0, nullptr, 0, 1));
    expect_failure(CK_LAUNCH(touch_shared, 1, 1, 0, nullptr, 6, -1), SIMT_OUT_OF_BOUNDS,
                   "of row, which has 24");
    expect_failure(CK_LAUNCH(touch_shared, 1, 1, 0, nullptr, 0, 2), SIMT_OUT_OF_BOUNDS,
                   "of row, which has 8");
}

static void load_wide(global<float> p, int at) {
    store_as(p, load_as<float4>(p + at));
}

static void a_wide_access_must_be_aligned() {
    buffer<float> p(12);
    expect_fine(CK_LAUNCH(load_wide, 1, 1, 0, nullptr, global<float>(p.data), 8));
    expect_failure(CK_LAUNCH(load_wide, 1, 1, 0, nullptr, global<float>(p.data), 2), SIMT_MISALIGNED,
                   "multiple of 16");
    expect_failure(CK_LAUNCH(load_wide, 1, 1, 0, nullptr, global<float>(p.data), 12), SIMT_OUT_OF_BOUNDS,
                   "reads 16 bytes");
}

static void write_behind_the_checks(global<float> p) {
    const float *raw = record(global<const float>(p));
    const_cast<float *>(raw)[4] = 1;
}

static void guard_zones_catch_raw_pointers() {
    pid_t child = fork();
    if (child == 0) {
        if (!freopen("/dev/null", "w", stderr)) _exit(3);
        buffer<float> p(4);
        simt_configure(1, 1);
        CK_LAUNCH(write_behind_the_checks, 1, 1, 0, nullptr, global<float>(p.data));
        simt_free(p.data);
        _exit(0);
    }
    int status = 0;
    TAP_CHECK(child > 0 && waitpid(child, &status, 0) == child, "fork failed");
    TAP_CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT, "a write past the end went unnoticed");
}

/* ---- Races */

enum race {
    BOTH_WRITE,
    READ_THEN_WRITE,
    AFTER_BARRIER,
    AFTER_WARP_BARRIER,
    AFTER_HALF_WARP_BARRIER,
    AFTER_SHUFFLE,
    OWN_BYTES
};

/* Lane 0 and lane 5 at the same place (and, for OWN_BYTES, at neighbouring halves of one word). */
static void meet_at_one_place(race kind) {
    CK_SHARED(float, place, 1);
    CK_SHARED(bf16, halves, 2);
    int lane = (int)threadIdx.x;
    if (kind == OWN_BYTES) {
        if (lane < 2) halves[lane] = to_bf16(1);
        return;
    }
    if (lane == 0 && kind == READ_THEN_WRITE)
        (void)(float)place[0];
    else if (lane == 0)
        place[0] = 1;
    if (kind == AFTER_BARRIER) __syncthreads();
    if (kind == AFTER_WARP_BARRIER) __syncwarp();
    if (kind == AFTER_HALF_WARP_BARRIER) __syncwarp(lane < 4 ? 0xfu : 0xfffffff0u);
    if (kind == AFTER_SHUFFLE) __shfl_sync(FULL, lane, 0);
    if (lane == 5) place[0] = 2;
}

static void a_race_in_shared_memory_is_caught() {
    for (uint64_t seed = 1; seed <= 6; seed++) {
        simt_configure(2, seed);
        for (race kind : {AFTER_BARRIER, AFTER_WARP_BARRIER, OWN_BYTES})
            expect_fine(CK_LAUNCH(meet_at_one_place, 1, 32, 0, nullptr, kind));
        for (race kind : {BOTH_WRITE, READ_THEN_WRITE, AFTER_HALF_WARP_BARRIER, AFTER_SHUFFLE})
            expect_failure(CK_LAUNCH(meet_at_one_place, 1, 32, 0, nullptr, kind), SIMT_RACE, "place",
                           "no barrier between");
    }
    simt_configure(2, 1);
}

static void warps_of_a_block(bool same_warp) {
    CK_SHARED(float, place, 1);
    if (threadIdx.x == 0) place[0] = 1;
    __syncwarp();
    if (threadIdx.x == (same_warp ? 31 : 32)) place[0] = 2;
}

static void a_warp_barrier_orders_its_own_warp_only() {
    expect_fine(CK_LAUNCH(warps_of_a_block, 1, 64, 0, nullptr, true));
    expect_failure(CK_LAUNCH(warps_of_a_block, 1, 64, 0, nullptr, false), SIMT_RACE, "place");
}

static void write_global(global<float> p, int stride) {
    p[(int64_t)blockIdx.x * stride] = 1;
}

static void read_after_writes(global<float> p) {
    float seen = p[0];
    __syncthreads();
    if (blockIdx.x == 0) p[0] = seen;
}

static void blocks_are_never_ordered_within_a_launch() {
    buffer<float> p(40);
    expect_fine(CK_LAUNCH(write_global, 40, 1, 0, nullptr, global<float>(p.data), 1));
    expect_fine(CK_LAUNCH(write_global, 40, 1, 0, nullptr, global<float>(p.data), 1)); /* launches are */
    expect_failure(CK_LAUNCH(write_global, 40, 1, 0, nullptr, global<float>(p.data), 0), SIMT_RACE,
                   "of another block wrote", "global memory");
    expect_failure(CK_LAUNCH(read_after_writes, 8, 1, 0, nullptr, global<float>(p.data)), SIMT_RACE,
                   "of another block");
}

/* ---- Lanes that do not meet */

static void barriers(int kind) {
    unsigned lane = threadIdx.x;
    switch (kind) {
    case 0:
        if (lane == 40) return;
        __syncthreads();
        break;
    case 1:
        if (lane < 40)
            __syncthreads();
        else
            __syncthreads();
        break;
    case 2:
        if (lane == 40) __syncthreads();
        break;
    default:
        if (lane == 40)
            __syncthreads();
        else
            __syncwarp(lane < 32 ? FULL : ~(1u << 8));
        __syncthreads();
    }
}

static void a_barrier_in_divergent_code_is_caught() {
    expect_failure(CK_LAUNCH(barriers, 3, 64, 0, nullptr, 0), SIMT_BARRIER,
                   "lane 40 returned while lane 0 waits", "test_simt.cc:", "kernel barriers");
    expect_failure(CK_LAUNCH(barriers, 3, 64, 0, nullptr, 1), SIMT_BARRIER,
                   "lanes wait at different barriers", "lane 40");
    expect_failure(CK_LAUNCH(barriers, 3, 64, 0, nullptr, 2), SIMT_BARRIER, "returned while lane 40 waits");
    expect_failure(CK_LAUNCH(barriers, 3, 64, 0, nullptr, 3), SIMT_BARRIER,
                   "lanes wait at different barriers", "lane 40");
}

static void warp_operations(int kind) {
    int lane = (int)threadIdx.x;
    switch (kind) {
    case 0:
        if (lane != 9) __shfl_xor_sync(FULL, lane, 1);
        break;
    case 1:
        if (lane == 9)
            __syncthreads();
        else
            __syncwarp();
        break;
    case 2:
        if (lane < 16)
            __ballot_sync(FULL, 1);
        else
            __shfl_sync(FULL, 1, 0);
        break;
    case 3:
        __ballot_sync(lane < 16 ? 0xfffffff0u | (lane < 4 ? FULL : 0) : FULL, 1);
        break;
    case 4:
        if (lane >= 16) __ballot_sync(0xffffu, 1);
        break;
    case 5:
        if (lane < 16) __shfl_sync(0xffffu, lane, 20);
        break;
    default:
        __ballot_sync(FULL, 1);
    }
}

static void a_warp_operation_without_all_its_lanes_is_caught() {
    expect_failure(CK_LAUNCH(warp_operations, 1, 32, 0, nullptr, 0), SIMT_WARP_OP, "waits at __shfl_xor_sync",
                   "for lanes 00000200, which have returned");
    expect_failure(CK_LAUNCH(warp_operations, 1, 32, 0, nullptr, 1), SIMT_WARP_OP, "waits at __syncwarp",
                   "00000200, which are at the block's barrier");
    expect_failure(CK_LAUNCH(warp_operations, 1, 32, 0, nullptr, 2), SIMT_WARP_OP, "is at", "__ballot_sync",
                   "__shfl_sync");
    expect_failure(CK_LAUNCH(warp_operations, 1, 32, 0, nullptr, 3), SIMT_WARP_OP, "mask fffffff0",
                   "mask ffffffff");
    expect_failure(CK_LAUNCH(warp_operations, 1, 32, 0, nullptr, 4), SIMT_WARP_OP, "leaves itself out");
    expect_failure(CK_LAUNCH(warp_operations, 1, 32, 0, nullptr, 5), SIMT_WARP_OP,
                   "asks for the value of lane 20");
    expect_failure(CK_LAUNCH(warp_operations, 1, 20, 0, nullptr, 6), SIMT_WARP_OP, "has only lanes 000fffff");
}

static void a_launch_that_no_gpu_takes_is_refused() {
    expect_failure(CK_LAUNCH(barriers, 1, 1025, 0, nullptr, 9), SIMT_BAD_LAUNCH, "1 to 1024 lanes");
    expect_failure(CK_LAUNCH(barriers, 0, 32, 0, nullptr, 9), SIMT_BAD_LAUNCH, "at least one block");
    expect_failure(CK_LAUNCH(barriers, dim3(1, 65536), 32, 0, nullptr, 9), SIMT_BAD_LAUNCH, "65535");
    expect_failure(CK_LAUNCH(barriers, 1, 32, 232449, nullptr, 9), SIMT_BAD_LAUNCH, "232448 bytes");
}

static void a_failed_launch_leaves_nothing_behind() {
    for (int i = 0; i < 20; i++) {
        expect_failure(CK_LAUNCH(barriers, 7, 1024, 0, nullptr, 0), SIMT_BARRIER, "lane 40");
        sum_blocks(true, true, SIMT_FINE, "");
    }
}

/* ---- Cost */

static void only_barriers(int count) {
    for (int i = 0; i < count; i++) __syncthreads();
}

static double seconds() {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void switching_lanes_is_cheap() {
    simt_configure(1, 1);
    expect_fine(CK_LAUNCH(only_barriers, 20, 256, 0, nullptr, 10));
    uint64_t before = simt_switches();
    double begin = seconds();
    expect_fine(CK_LAUNCH(only_barriers, 200, 256, 0, nullptr, 20));
    double each = (seconds() - begin) / (double)(simt_switches() - before) * 1e9;
    simt_configure(2, 1);
    printf("# %.0f ns per turn of a lane (two switches, a barrier's share), 256 lanes a block\n", each);
    TAP_CHECK(each < 5000, "%.0f ns a turn", each);
}

#define TEST(name)                                                                                           \
    { #name, name }
static const tap_test tests[] = {
    TEST(every_lane_of_every_block_runs_once),
    TEST(order_follows_the_seed),
    TEST(a_warp_of_eight_lanes),
    TEST(blocks_reduce_through_shared_memory),
    TEST(a_missing_barrier_is_caught),
    TEST(shared_memory_starts_as_nan),
    TEST(an_index_out_of_bounds_is_caught),
    TEST(shared_arrays_and_parts_have_ends),
    TEST(a_wide_access_must_be_aligned),
    TEST(guard_zones_catch_raw_pointers),
    TEST(a_race_in_shared_memory_is_caught),
    TEST(a_warp_barrier_orders_its_own_warp_only),
    TEST(blocks_are_never_ordered_within_a_launch),
    TEST(a_barrier_in_divergent_code_is_caught),
    TEST(a_warp_operation_without_all_its_lanes_is_caught),
    TEST(a_launch_that_no_gpu_takes_is_refused),
    TEST(a_failed_launch_leaves_nothing_behind),
    TEST(switching_lanes_is_cheap),
};

int main(int argc, char **argv) {
    return tap_main(argc, argv, "simt", tests, (int)(sizeof tests / sizeof *tests));
}
