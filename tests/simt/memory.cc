#include "memory.hpp"

#include <map>
#include <mutex>
#include <stdio.h>
#include <stdlib.h>

enum : size_t { GUARD_BYTES = 256, STATIC_BYTES = 49152, MAX_STATIC_ARRAYS = 64 };
enum : unsigned char { POISON = 0xff };

/* ---- Regions */

static std::mutex regions_lock;
static std::map<const char *, simt_region *> regions; /* by first address */

static simt_region *region_create(char *base, size_t bytes, const char *name, bool is_shared) {
    simt_region *region = new simt_region{base, bytes, name, is_shared, nullptr};
    region->words = static_cast<simt_word *>(calloc((bytes + 3) / 4, sizeof(simt_word)));
    if (!region->words && bytes > 0) abort();
    return region;
}

void *simt_alloc(size_t bytes, const char *name) {
    size_t whole = (bytes + 255) / 256 * 256 + 2 * GUARD_BYTES;
    char *memory = static_cast<char *>(aligned_alloc(256, whole));
    if (!memory) abort();
    memset(memory, POISON, whole);
    std::lock_guard<std::mutex> hold(regions_lock);
    regions[memory + GUARD_BYTES] = region_create(memory + GUARD_BYTES, bytes, name, false);
    return memory + GUARD_BYTES;
}

static bool guards_intact(const simt_region *region) {
    const char *end = region->base + (region->bytes + 255) / 256 * 256 + GUARD_BYTES;
    for (const char *p = region->base - GUARD_BYTES; p < end; p++) {
        if ((p < region->base || p >= region->base + region->bytes) && (unsigned char)*p != POISON)
            return false;
    }
    return true;
}

void simt_free(void *memory) {
    if (!memory) return;
    std::lock_guard<std::mutex> hold(regions_lock);
    auto found = regions.find(static_cast<char *>(memory));
    if (found == regions.end() || !guards_intact(found->second)) {
        fprintf(stderr, "simt: %s\n",
                found == regions.end() ? "freed what simt_alloc() did not give" : found->second->name);
        fprintf(stderr, "simt: not an allocation, or something wrote past its ends\n");
        abort();
    }
    free(found->second->base - GUARD_BYTES);
    free(found->second->words);
    delete found->second;
    regions.erase(found);
}

simt_region *simt_find(const void *address) {
    const char *at = static_cast<const char *>(address);
    std::lock_guard<std::mutex> hold(regions_lock);
    auto after = regions.upper_bound(at);
    if (after == regions.begin()) return nullptr;
    simt_region *region = std::prev(after)->second;
    return at <= region->base + region->bytes ? region : nullptr;
}

/* ---- Shared memory: a part for CK_SHARED arrays, then the dynamic part */

struct static_array {
    const void *place;
    char *memory;
};

struct shared_memory : simt_region {
    static_array arrays[MAX_STATIC_ARRAYS];
    int n_arrays;
};

simt_region *simt_shared_create(size_t bytes) {
    shared_memory *memory = new shared_memory();
    simt_region *plain =
        region_create(static_cast<char *>(aligned_alloc(256, bytes)), bytes, "shared memory", true);
    static_cast<simt_region &>(*memory) = *plain;
    delete plain;
    return memory;
}

void simt_shared_begin(simt_region *region, size_t dynamic_bytes) {
    static_cast<shared_memory *>(region)->n_arrays = 0;
    memset(region->base + STATIC_BYTES, POISON, dynamic_bytes);
}

char *simt_static_shared(const void *place, size_t bytes, size_t alignment, const char *name) {
    simt_block *block = simt_self->block;
    shared_memory *memory = static_cast<shared_memory *>(block->shared);
    for (int i = 0; i < memory->n_arrays; i++) {
        if (memory->arrays[i].place == place) return memory->arrays[i].memory;
    }
    size_t offset = (block->static_bytes + alignment - 1) / alignment * alignment;
    if (offset + bytes > STATIC_BYTES)
        simt_fail(SIMT_BAD_LAUNCH, "%s does not fit: a block has 49152 bytes of static shared memory", name);
    if (memory->n_arrays == MAX_STATIC_ARRAYS)
        simt_fail(SIMT_LIMIT, "more than %d arrays in shared memory", (int)MAX_STATIC_ARRAYS);
    block->static_bytes = offset + bytes;
    memset(memory->base + offset, POISON, bytes);
    memory->arrays[memory->n_arrays++] = static_array{place, memory->base + offset};
    return memory->base + offset;
}

char *simt_dynamic_shared() {
    return simt_self->block->shared->base + STATIC_BYTES;
}

/* ---- Addresses */

void simt_bad_address(const char *name, const char *low, const char *high, const char *at, size_t bytes,
                      size_t alignment, bool write) {
    const char *verb = write ? "writes" : "reads";
    if (!low) simt_fail(SIMT_OUT_OF_BOUNDS, "%s through %s", verb, name);
    if (at >= low && high - at >= (ptrdiff_t)bytes)
        simt_fail(SIMT_MISALIGNED, "%s %zu bytes of %s at byte %lld, which must be a multiple of %zu", verb,
                  bytes, name, (long long)(at - low), alignment);
    simt_fail(SIMT_OUT_OF_BOUNDS, "%s %zu bytes at byte %lld of %s, which has %lld", verb, bytes,
              (long long)(at - low), name, (long long)(high - low));
}

/* ---- Races */

/* The second word of a record. */
static uint64_t pack(uint32_t clock, int lane, unsigned bytes, bool pending) {
    return (uint64_t)clock << 32 | (uint64_t)(unsigned)lane << 16 | (uint64_t)bytes << 8 | (uint64_t)pending;
}

struct access {
    uint64_t epoch;
    uint32_t clock;
    int lane;
    unsigned bytes; /* of the 4, as bits */
    bool pending;
};

static access unpack(const simt_record *record) {
    uint64_t who = record->who.load(std::memory_order_relaxed);
    return access{record->epoch.load(std::memory_order_relaxed), (uint32_t)(who >> 32),
                  (int)(who >> 16 & 0xffff), (unsigned)(who >> 8 & 0xff), (who & 1) != 0};
}

static void store(simt_record *record, uint64_t epoch, uint64_t who) {
    record->epoch.store(epoch, std::memory_order_relaxed);
    record->who.store(who, std::memory_order_relaxed);
}

static bool own_block(const access *a) {
    const simt_block *block = simt_self->block;
    return a->epoch >= block->first_epoch && a->epoch <= block->epoch;
}

/* Whether the access came before what the running lane does now. */
static bool ordered(const simt_region *region, const access *a) {
    const simt_lane *lane = simt_self;
    const simt_block *block = lane->block;
    if (a->epoch == block->epoch) {
        if (a->lane == lane->index) return true;
        return a->lane / SIMT_WARP == lane->index / SIMT_WARP && a->clock < lane->known[a->lane % SIMT_WARP];
    }
    return region->shared || own_block(a) || a->epoch < block->launch->first_epoch;
}

static void report_race(const simt_region *region, const char *name, size_t byte, const access *other,
                        const char *did, const char *does) {
    char who[64];
    const char *space = region->shared ? "shared memory" : "global memory";
    if (region->shared && byte >= STATIC_BYTES) byte -= STATIC_BYTES; /* as CK_DYNAMIC_SHARED counts */
    if (own_block(other))
        snprintf(who, sizeof who, "lane %d", other->lane);
    else
        snprintf(who, sizeof who, "lane %d of another block", other->lane);
    simt_fail(SIMT_RACE, "%s %s (%s, byte %zu), which %s %s with no barrier between", does, name, space, byte,
              who, did);
}

static void check(const simt_region *region, const char *name, size_t byte, const simt_record *record,
                  unsigned bytes, const char *did, const char *does) {
    access other = unpack(record);
    if (other.epoch == 0 || !(other.bytes & bytes) || ordered(region, &other)) return;
    report_race(region, name, byte, &other, did, does);
}

static void check_pending(const simt_region *region, const char *name, const simt_word *word, unsigned bytes,
                          const char *does) {
    access other = unpack(&word->write);
    if (!region->shared || !other.pending || !(other.bytes & bytes) || !own_block(&other)) return;
    simt_fail(SIMT_ASYNC_COPY, "%s %s while an asynchronous copy by lane %d is under way", does, name,
              other.lane);
}

/* Keeps the newest reader, and one more: preferably of another warp or block, whom only the block's barrier
 * orders. */
static void note_read(const simt_region *region, simt_word *word, uint64_t epoch, uint64_t who) {
    access newest = unpack(&word->read[0]), other = unpack(&word->read[1]);
    const simt_lane *lane = simt_self;
    bool foreign = other.epoch != 0 && !ordered(region, &other) &&
                   (other.epoch != epoch || other.lane / SIMT_WARP != lane->index / SIMT_WARP);
    bool same = newest.epoch == epoch && newest.lane == lane->index;
    if (!foreign && !same)
        store(&word->read[1], newest.epoch, word->read[0].who.load(std::memory_order_relaxed));
    store(&word->read[0], epoch, who);
}

void simt_note(simt_region *region, const char *name, const char *at, size_t bytes, simt_access_kind kind) {
    const simt_lane *lane = simt_self;
    if (!lane) return; /* host code of a test looks at device memory between launches */
    size_t first = (size_t)(at - region->base), end = first + bytes;
    const char *does = kind == SIMT_READ ? "reads" : "writes";
    for (size_t byte = first; byte < end; byte = (byte / 4 + 1) * 4) {
        simt_word *word = &region->words[byte / 4];
        size_t last = end < (byte / 4 + 1) * 4 ? end : (byte / 4 + 1) * 4;
        unsigned touched = (1u << (last - byte / 4 * 4)) - (1u << byte % 4);
        uint64_t who = pack(lane->clock, lane->index, touched, kind == SIMT_WRITE_BEGINS);
        if (kind != SIMT_WRITE_ENDS) check_pending(region, name, word, touched, does);
        check(region, name, byte, &word->write, touched, "wrote", does);
        if (kind == SIMT_READ) {
            note_read(region, word, lane->block->epoch, who);
            continue;
        }
        check(region, name, byte, &word->read[0], touched, "read", does);
        check(region, name, byte, &word->read[1], touched, "read", does);
        store(&word->write, lane->block->epoch, who);
    }
}

/* ---- Asynchronous copies */

void simt_copy_begin(char *to, simt_region *to_region, const char *to_name, const char *from,
                     simt_region *from_region, const char *from_name, int bytes, int valid) {
    simt_lane *lane = simt_self;
    if (lane->n_copies == SIMT_MAX_COPIES)
        simt_fail(SIMT_LIMIT, "more than %d asynchronous copies at once", (int)SIMT_MAX_COPIES);
    if (valid > 0) simt_note(from_region, from_name, from, (size_t)valid, SIMT_READ);
    simt_note(to_region, to_name, to, (size_t)bytes, SIMT_WRITE_BEGINS);
    memset(to, POISON, (size_t)bytes);
    lane->copies[lane->n_copies++] = simt_copy{to, from, to_region, bytes, valid, lane->group};
}

void cp_async_commit() {
    simt_self->group++;
}

static void finish_copy(const simt_copy *copy) {
    simt_note(copy->to_region, "shared memory", copy->to, (size_t)copy->bytes, SIMT_WRITE_ENDS);
    if (copy->valid > 0) memcpy(copy->to, copy->from, (size_t)copy->valid);
    memset(copy->to + copy->valid, 0, (size_t)(copy->bytes - copy->valid));
}

/* A copy that was never committed belongs to no group and is not waited for. */
void simt_copy_wait(unsigned groups) {
    simt_lane *lane = simt_self;
    int kept = 0;
    for (int i = 0; i < lane->n_copies; i++) {
        if (lane->copies[i].group + groups < lane->group)
            finish_copy(&lane->copies[i]);
        else
            lane->copies[kept++] = lane->copies[i];
    }
    lane->n_copies = kept;
}
