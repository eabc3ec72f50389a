#include "machine.hpp"

#include <atomic>
#include <mutex>
#include <set>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <thread>
#include <vector>

#include "memory.hpp"

enum : size_t { STACK_BYTES = 128 * 1024, GUARD_BYTES = 4096, STACK_STRIDE = STACK_BYTES + GUARD_BYTES };
enum : size_t { MAX_DYNAMIC_BYTES = 232448, MAX_STATIC_BYTES = 49152 }; /* a block's shared memory on sm_90 */
static const uint64_t EPOCHS_PER_BLOCK = (uint64_t)1 << 32;

/* A thread's block, and what outlives it. */
struct worker {
    simt_block block;
    simt_lane *lanes; /* [SIMT_MAX_LANES] */
    char *stacks;
};

__thread simt_lane *simt_self;

enum { SIMT_MAX_THREADS = 64 };

/* COHORT_SIMT_ORDER: the seed of the orders of blocks and lanes; 1 without it. */
static uint64_t first_seed() {
    const char *wanted = getenv("COHORT_SIMT_ORDER");
    return wanted ? strtoull(wanted, nullptr, 10) : 1;
}

static int n_threads = 2;
static uint64_t seed = first_seed();
static worker *workers[SIMT_MAX_THREADS]; /* made when first used, kept to the end */
static std::atomic<uint64_t> epochs{1}, switches{0};

/* ---- Failures */

static std::mutex failure_lock;
static std::atomic<simt_failure> failure{SIMT_FINE};
static char failure_text[1024];

simt_failure simt_last_failure() {
    return failure;
}

static void record(simt_failure kind, const char *where, const char *format, va_list arguments) {
    char text[640];
    vsnprintf(text, sizeof text, format, arguments);
    std::lock_guard<std::mutex> hold(failure_lock);
    if (failure != SIMT_FINE) return;
    snprintf(failure_text, sizeof failure_text, "%s: %s", where, text);
    failure = kind;
}

static void place_of(const simt_block *block, const simt_lane *lane, char *text, size_t size) {
    int used = snprintf(text, size, "kernel %s, block (%u, %u, %u)", block->launch->kernel, block->index.x,
                        block->index.y, block->index.z);
    if (lane && used > 0 && (size_t)used < size)
        snprintf(text + used, size - (size_t)used, ", lane %d", lane->index);
}

static void fail_block(const simt_block *block, simt_failure kind, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void fail_block(const simt_block *block, simt_failure kind, const char *format, ...) {
    char where[256];
    va_list arguments;
    place_of(block, nullptr, where, sizeof where);
    va_start(arguments, format);
    record(kind, where, format, arguments);
    va_end(arguments);
}

void simt_fail(simt_failure kind, const char *format, ...) {
    char where[256] = "host code";
    va_list arguments;
    va_start(arguments, format);
    if (simt_self) place_of(simt_self->block, simt_self, where, sizeof where);
    record(kind, where, format, arguments);
    va_end(arguments);
    if (!simt_self) {
        fprintf(stderr, "simt: %s\n", failure_text);
        abort();
    }
    simt_lane *lane = simt_self;
    simt_fiber_switch(&lane->fiber, &lane->block->scheduler);
    abort(); /* an abandoned lane is never continued */
}

/* ---- Random orders: splitmix64 */

static uint64_t draw(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void shuffle(int *items, int count, uint64_t *state) {
    for (int i = count - 1; i > 0; i--) {
        int j = (int)(draw(state) % (uint64_t)(i + 1)), kept = items[i];
        items[i] = items[j];
        items[j] = kept;
    }
}

/* ---- Lanes */

static simt_warp *warp_of(const simt_lane *lane) {
    return &lane->block->warps[lane->index / SIMT_WARP];
}

static uint32_t bit_of(const simt_lane *lane) {
    return (uint32_t)1 << lane->index % SIMT_WARP;
}

static void leave() {
    simt_lane *lane = simt_self;
    simt_fiber_switch(&lane->fiber, &lane->block->scheduler);
}

static void lane_main(void *argument) {
    simt_lane *lane = static_cast<simt_lane *>(argument);
    simt_fiber_begin(&lane->block->scheduler);
    lane->block->launch->body(lane->block->launch->closure);
    if (lane->n_copies > 0)
        simt_fail(SIMT_ASYNC_COPY, "returned with %d asynchronous copies that it never waited for",
                  lane->n_copies);
    warp_of(lane)->ready &= ~bit_of(lane);
    leave();
}

static void prepare_lane(worker *w, int index) {
    simt_block *block = &w->block;
    simt_lane *lane = &w->lanes[index];
    dim3 size = block->launch->block;
    unsigned i = (unsigned)index;
    lane->thread = dim3(i % size.x, i / size.x % size.y, i / (size.x * size.y));
    lane->index = index;
    lane->block = block;
    lane->clock = 1;
    memset(lane->known, 0, sizeof lane->known);
    lane->n_copies = 0;
    lane->group = 0;
    /* Stacks of equal alignment would share the same few sets of the cache. */
    size_t color = (size_t)index * 576 % 4096 / 64 * 64;
    char *low = w->stacks + (size_t)index * STACK_STRIDE + GUARD_BYTES;
    simt_fiber_prepare(&lane->fiber, low, STACK_BYTES - color, lane_main, lane);
}

/* ---- Meeting */

static const char *file_name(simt_site site) {
    const char *slash = strrchr(site.file, '/');
    return slash ? slash + 1 : site.file;
}

void simt_block_barrier(simt_site site) {
    simt_lane *lane = simt_self;
    simt_warp *warp = warp_of(lane);
    lane->site = site;
    warp->ready &= ~bit_of(lane);
    warp->at_barrier |= bit_of(lane);
    leave();
}

static void check_company(const simt_lane *lane, const simt_lane *lanes) {
    for (int l = 0; l < SIMT_WARP; l++) {
        const simt_lane *other = &lanes[l];
        if (!(lane->mask >> l & 1) ||
            (other->mask == lane->mask && strcmp(other->operation, lane->operation) == 0))
            continue;
        simt_fail(SIMT_WARP_OP,
                  "is at %s of mask %08x (%s:%d), but lane %d of that mask is at %s of mask %08x (%s:%d)",
                  lane->operation, lane->mask, file_name(lane->site), lane->site.line, other->index,
                  other->operation, other->mask, file_name(other->site), other->site.line);
    }
}

void simt_meet(uint32_t mask, const char *operation, simt_complete complete, const void *in, void *out,
               simt_site site) {
    simt_lane *lane = simt_self, *lanes = lane - lane->index % SIMT_WARP;
    simt_warp *warp = warp_of(lane);
    uint32_t bit = bit_of(lane);
    lane->site = site;
    lane->operation = operation;
    lane->mask = mask;
    lane->in = in;
    lane->out = out;
    if (!(mask & bit))
        simt_fail(SIMT_WARP_OP, "calls %s with mask %08x, which leaves itself out (%s:%d)", operation, mask,
                  file_name(site), site.line);
    if (mask & ~warp->exists)
        simt_fail(SIMT_WARP_OP, "calls %s with mask %08x, but its warp has only lanes %08x (%s:%d)",
                  operation, mask, warp->exists, file_name(site), site.line);
    warp->ready &= ~bit;
    warp->waiting |= bit;
    if (mask & ~warp->waiting) {
        leave();
        return;
    }
    check_company(lane, lanes);
    complete(lanes, mask);
    warp->waiting &= ~mask;
    warp->ready |= mask;
}

static void order_lanes(simt_lane *lanes, uint32_t mask) {
    uint32_t known[SIMT_WARP] = {0};
    for (int l = 0; l < SIMT_WARP; l++) {
        if (!(mask >> l & 1)) continue;
        for (int k = 0; k < SIMT_WARP; k++)
            known[k] = lanes[l].known[k] > known[k] ? lanes[l].known[k] : known[k];
    }
    for (int l = 0; l < SIMT_WARP; l++) {
        if (mask >> l & 1) known[l] = ++lanes[l].clock;
    }
    for (int l = 0; l < SIMT_WARP; l++) {
        if (mask >> l & 1) memcpy(lanes[l].known, known, sizeof known);
    }
}

void simt_warp_barrier(uint32_t mask, simt_site site) {
    simt_meet(mask, "__syncwarp", order_lanes, nullptr, nullptr, site);
}

/* ---- A block */

static bool stopped() {
    return failure.load(std::memory_order_relaxed) != SIMT_FINE;
}

/* Gives its lanes turns until none can go on. */
static void run_warp(simt_block *block, int w) {
    simt_warp *warp = &block->warps[w];
    uint64_t turns = 0;
    while (warp->ready && !stopped()) {
        unsigned order = (unsigned)draw(&block->random), start = order & 31, stride = (order >> 5 & 31) | 1;
        for (unsigned i = 0; i < SIMT_WARP; i++) {
            unsigned l = (start + i * stride) % SIMT_WARP;
            if (!(warp->ready >> l & 1)) continue;
            simt_self = &block->lanes[w * SIMT_WARP + (int)l];
            simt_fiber_switch(&block->scheduler, &simt_self->fiber);
            turns++;
            if (stopped()) break;
        }
    }
    simt_self = nullptr;
    switches += turns;
}

static int first_lane(const simt_block *block, uint32_t (*select)(const simt_warp *)) {
    for (int w = 0; w < block->n_warps; w++) {
        uint32_t bits = select(&block->warps[w]);
        if (bits) return w * SIMT_WARP + __builtin_ctz(bits);
    }
    return -1;
}

static uint32_t waiting_lanes(const simt_warp *w) {
    return w->waiting;
}

static uint32_t barrier_lanes(const simt_warp *w) {
    return w->at_barrier;
}

static uint32_t done_lanes(const simt_warp *w) {
    return w->exists & ~(w->ready | w->waiting | w->at_barrier);
}

static void report_warp_stuck(const simt_block *block, int waits) {
    const simt_lane *lane = &block->lanes[waits];
    const simt_warp *warp = warp_of(lane);
    uint32_t missing = lane->mask & ~warp->waiting, returned = missing & done_lanes(warp);
    fail_block(block, SIMT_WARP_OP, "lane %d waits at %s of mask %08x (%s:%d) for lanes %08x, which %s",
               waits, lane->operation, lane->mask, file_name(lane->site), lane->site.line, missing,
               returned == missing ? "have returned" : "are at the block's barrier");
}

/* No lane can go on: either all stand at one barrier, which then opens, or the kernel is wrong. Returns false
 * at the block's end. */
static bool open_barrier(simt_block *block) {
    int waits = first_lane(block, waiting_lanes), at_barrier = first_lane(block, barrier_lanes),
        done = first_lane(block, done_lanes);
    if (waits >= 0) report_warp_stuck(block, waits);
    if (waits >= 0 || at_barrier < 0) return false;
    simt_site site = block->lanes[at_barrier].site;
    if (done >= 0) {
        fail_block(block, SIMT_BARRIER, "lane %d returned while lane %d waits at the barrier of %s:%d", done,
                   at_barrier, file_name(site), site.line);
        return false;
    }
    for (int l = 0; l < block->n_lanes; l++) {
        simt_site other = block->lanes[l].site;
        if (other.line == site.line && strcmp(other.file, site.file) == 0) continue;
        fail_block(block, SIMT_BARRIER,
                   "lanes wait at different barriers: lane %d at %s:%d, lane %d at %s:%d", at_barrier,
                   file_name(site), site.line, l, file_name(other), other.line);
        return false;
    }
    for (int w = 0; w < block->n_warps; w++) {
        block->warps[w].ready = block->warps[w].exists;
        block->warps[w].at_barrier = 0;
    }
    block->epoch++;
    for (int l = 0; l < block->n_lanes; l++) {
        block->lanes[l].clock = 1;
        memset(block->lanes[l].known, 0, sizeof block->lanes[l].known);
    }
    return true;
}

static void begin_block(worker *w, const simt_launch_state *launch, unsigned linear) {
    simt_block *block = &w->block;
    dim3 grid = launch->grid;
    block->launch = launch;
    block->index = dim3(linear % grid.x, linear / grid.x % grid.y, linear / grid.x / grid.y);
    block->n_lanes = (int)(launch->block.x * launch->block.y * launch->block.z);
    block->n_warps = (block->n_lanes + SIMT_WARP - 1) / SIMT_WARP;
    block->lanes = w->lanes;
    block->first_epoch = block->epoch = epochs.fetch_add(EPOCHS_PER_BLOCK);
    block->static_bytes = 0;
    block->random = seed * 0x2545f4914f6cdd1du + linear;
    for (int i = 0; i < block->n_warps; i++) {
        int lanes = block->n_lanes - i * SIMT_WARP;
        uint32_t exists = lanes >= SIMT_WARP ? 0xffffffffu : ((uint32_t)1 << lanes) - 1;
        block->warps[i] = simt_warp{exists, exists, 0, 0};
    }
    simt_shared_begin(block->shared, launch->shared_bytes);
    for (int i = 0; i < block->n_lanes; i++) prepare_lane(w, i);
}

static void run_block(worker *w, const simt_launch_state *launch, unsigned linear) {
    int order[SIMT_MAX_WARPS];
    begin_block(w, launch, linear);
    simt_block *block = &w->block;
    for (int i = 0; i < block->n_warps; i++) order[i] = i;
    do {
        shuffle(order, block->n_warps, &block->random);
        for (int i = 0; i < block->n_warps && !stopped(); i++) run_warp(block, order[i]);
    } while (!stopped() && open_barrier(block));
}

/* ---- Which kernels were launched */

extern "C" char __executable_start; /* the linker's */

static std::mutex noted_lock;
static std::set<uintptr_t> *noted; /* kept to the end: it is written after the destructors */

static void write_noted() {
    FILE *file = fopen(getenv("COHORT_SIMT_KERNELS"), "w");
    if (!file) return;
    for (uintptr_t kernel : *noted) fprintf(file, "%016llx\n", (unsigned long long)kernel);
    fclose(file);
}

void simt_note_kernel(void (*kernel)()) {
    static const bool wanted = getenv("COHORT_SIMT_KERNELS") != nullptr;
    if (!wanted) return;
    std::lock_guard<std::mutex> hold(noted_lock);
    if (!noted) noted = new std::set<uintptr_t>, atexit(write_noted);
    noted->insert(reinterpret_cast<uintptr_t>(kernel) - reinterpret_cast<uintptr_t>(&__executable_start));
}

/* ---- Launching */

static worker *worker_create() {
    worker *w = new worker();
    size_t bytes = SIMT_MAX_LANES * STACK_STRIDE;
    void *stacks =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stacks == MAP_FAILED) abort();
    w->stacks = static_cast<char *>(stacks);
    for (int l = 0; l < SIMT_MAX_LANES; l++)
        mprotect(w->stacks + (size_t)l * STACK_STRIDE, GUARD_BYTES, PROT_NONE);
    w->lanes = new simt_lane[SIMT_MAX_LANES]();
    w->block.shared = simt_shared_create(MAX_STATIC_BYTES + MAX_DYNAMIC_BYTES);
    return w;
}

void simt_configure(int threads, uint64_t new_seed) {
    n_threads = threads < 1 ? 1 : threads > SIMT_MAX_THREADS ? (int)SIMT_MAX_THREADS : threads;
    seed = new_seed;
}

uint64_t simt_switches() {
    return switches;
}

static const char *refuse_launch(const simt_launch_state *launch) {
    uint64_t lanes = (uint64_t)launch->block.x * launch->block.y * launch->block.z;
    uint64_t blocks = (uint64_t)launch->grid.x * launch->grid.y * launch->grid.z;
    if (lanes < 1 || lanes > SIMT_MAX_LANES || launch->block.z > 64)
        return "a block has 1 to 1024 lanes, at most 64 along z";
    if (blocks < 1 || launch->grid.x > 0x7fffffffu || launch->grid.y > 65535 || launch->grid.z > 65535)
        return "a grid has at least one block, at most 2^31 - 1 along x and 65535 along y and z";
    if (blocks > 0x7fffffffu) return "this machine runs at most 2^31 - 1 blocks";
    if (launch->shared_bytes > MAX_DYNAMIC_BYTES)
        return "a block has at most 232448 bytes of dynamic shared memory";
    return nullptr;
}

const char *simt_launch(const char *kernel, dim3 grid, dim3 block, size_t shared_bytes,
                        void (*body)(const void *), const void *closure) {
    simt_launch_state launch = {kernel, grid, block, shared_bytes, body, closure, epochs};
    failure = SIMT_FINE;
    if (const char *reason = refuse_launch(&launch)) {
        snprintf(failure_text, sizeof failure_text, "kernel %s: %s", kernel, reason);
        failure = SIMT_BAD_LAUNCH;
        return failure_text;
    }
    unsigned blocks = grid.x * grid.y * grid.z;
    int threads = (unsigned)n_threads < blocks ? n_threads : (int)blocks;
    for (int w = 0; w < threads; w++) workers[w] = workers[w] ? workers[w] : worker_create();
    std::vector<int> order(blocks);
    uint64_t random = seed;
    for (unsigned i = 0; i < blocks; i++) order[i] = (int)i;
    shuffle(order.data(), (int)blocks, &random);
    std::atomic<unsigned> next{0};
    auto work = [&](int w) {
        for (unsigned i; !stopped() && (i = next++) < blocks;)
            run_block(workers[w], &launch, (unsigned)order[i]);
    };
    std::vector<std::thread> helpers;
    for (int w = 1; w < threads; w++) helpers.emplace_back(work, w);
    work(0);
    for (std::thread &helper : helpers) helper.join();
    return failure == SIMT_FINE ? nullptr : failure_text;
}
