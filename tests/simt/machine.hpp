/* machine.hpp - blocks, warps and lanes on the CPU.
 *
 * A launch gives its blocks, in an order drawn from the seed, to a few threads; each runs one block at a
 * time, its lanes as fibers. A warp runs until none of its lanes can go on (all wait at the block's barrier,
 * or are done), then the next warp, in an order drawn anew at every barrier; within the warp the lanes' order
 * is drawn anew at every turn. So code that only works in one order fails for some seed.
 *
 * Lanes stop at two kinds of places: the block's barrier, and operations of a warp (shuffles, votes,
 * __syncwarp, mma, ldmatrix), where the last lane to come does the work for all. What cannot end is reported
 * instead of hanging: lanes at different barriers, a lane that returned while others wait, a warp operation
 * whose mask names a lane that will not come.
 *
 * The first failure stops the launch; lanes of its block are abandoned where they are (kernels own nothing
 * that must be destroyed). */
#ifndef COHORT_SIMT_MACHINE_HPP
#define COHORT_SIMT_MACHINE_HPP

#include <stddef.h>
#include <stdint.h>

#include "fiber.hpp"

enum { SIMT_WARP = 32, SIMT_MAX_LANES = 1024, SIMT_MAX_WARPS = SIMT_MAX_LANES / SIMT_WARP };
enum { SIMT_MAX_COPIES = 256 };

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

/* ---- Failures */

enum simt_failure {
    SIMT_FINE,
    SIMT_BAD_LAUNCH,    /* a grid, block or shared memory that no GPU takes */
    SIMT_OUT_OF_BOUNDS, /* or a pointer into no known allocation */
    SIMT_MISALIGNED,
    SIMT_RACE,       /* two lanes, the same bytes, at least one writes, no barrier between */
    SIMT_BARRIER,    /* lanes of a block at different barriers, or returned */
    SIMT_WARP_OP,    /* a warp operation that its mask's lanes do not all take part in */
    SIMT_ASYNC_COPY, /* used before, or never, waited for */
    SIMT_LIMIT       /* of this machine, not of a GPU */
};

/* Records the first failure of the launch, with kernel, block and lane, and abandons the calling lane's
 * block. */
[[noreturn]] void simt_fail(simt_failure kind, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Of the last launch. */
simt_failure simt_last_failure();

/* COHORT_SIMT_KERNELS names a file: at exit it gets a line for each kernel that was launched, its place in
 * the program as nm gives it. */
void simt_note_kernel(void (*kernel)());

/* ---- Blocks and lanes */

struct simt_region; /* memory.hpp */

/* An asynchronous copy that was issued and not waited for. */
struct simt_copy {
    char *to;
    const char *from;
    simt_region *to_region;
    int bytes, valid; /* the rest is zero-filled */
    unsigned group;
};

struct simt_lane;
struct simt_block;

/* Does a warp operation for all lanes of the mask, once all are there; lanes: the 32 of the warp. */
typedef void (*simt_complete)(simt_lane *lanes, uint32_t mask);

struct simt_site {
    const char *file;
    int line;
};

struct simt_lane {
    simt_fiber fiber;
    dim3 thread; /* threadIdx */
    int index;   /* in the block */
    simt_block *block;
    /* Where it waits. */
    simt_site site;
    const char *operation;
    uint32_t mask;
    const void *in;
    void *out;
    /* What it knows of its warp's lanes since the block's last barrier: accesses made before known[lane] are
     * ordered before its own. */
    uint32_t clock, known[SIMT_WARP];
    /* Asynchronous copies. */
    simt_copy copies[SIMT_MAX_COPIES];
    int n_copies;
    unsigned group; /* that the next copy belongs to */
};

struct simt_warp {
    uint32_t exists, ready, waiting, at_barrier; /* lanes, as bits; the rest of `exists` is done */
};

struct simt_launch_state {
    const char *kernel;
    dim3 grid, block;
    size_t shared_bytes;
    void (*body)(const void *);
    const void *closure;
    uint64_t first_epoch; /* no block of an earlier launch has this epoch or a later one */
};

struct simt_block {
    const simt_launch_state *launch;
    dim3 index; /* blockIdx */
    int n_lanes, n_warps;
    simt_warp warps[SIMT_MAX_WARPS];
    simt_lane *lanes; /* [n_lanes rounded up to whole warps] */
    simt_region *shared;
    uint64_t first_epoch, epoch; /* epoch counts barriers */
    size_t static_bytes;         /* of shared memory handed out to CK_SHARED */
    uint64_t random;
    simt_fiber scheduler;
};

/* The running lane; null in host code. Fibers never change threads. */
extern __thread simt_lane *simt_self;

/* ---- Where lanes meet */

void simt_block_barrier(simt_site site);
void simt_meet(uint32_t mask, const char *operation, simt_complete complete, const void *in, void *out,
               simt_site site);
/* __syncwarp: what the mask's lanes did so far is ordered before what they do next. */
void simt_warp_barrier(uint32_t mask, simt_site site);

/* ---- Launching */

/* threads: that blocks are given to. seed: of every order. They hold for the launches that follow; at the
 * start 2 and 1. */
void simt_configure(int threads, uint64_t seed);
/* Runs the kernel to its end; returns NULL, or what was wrong, valid until the next launch. */
const char *simt_launch(const char *kernel, dim3 grid, dim3 block, size_t shared_bytes,
                        void (*body)(const void *), const void *closure);

template <typename Body>
const char *simt_launch_body(const char *kernel, dim3 grid, dim3 block, size_t shared_bytes,
                             const Body &body) {
    return simt_launch(
        kernel, grid, block, shared_bytes,
        [](const void *closure) { (*static_cast<const Body *>(closure))(); }, &body);
}

/* Lane switches since the program began: what a benchmark divides by. */
uint64_t simt_switches();

#endif
