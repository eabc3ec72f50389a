/* memory.hpp - the memory that kernels see, and the pointers that check every access to it.
 *
 * global<T> and shared<T> are plain pointers under nvcc. Here they carry their bounds, and each load and
 * store is checked: inside its allocation, aligned to its width, and not in a race. Shared memory is filled
 * with NaN bytes before a block starts.
 *
 * Races. Every 4 bytes remember who last wrote and (two of) who last read them: lane, block's barrier count
 * (epoch) and the warp's __syncwarp count (clock). Two accesses by different lanes, one of them a write, must
 * be ordered: by a barrier of the block, by a __syncwarp that both lanes took part in, or (global memory) by
 * lying in different launches. Blocks of one launch are never ordered. Shuffles and votes order nothing, as
 * on the GPU. */
#ifndef COHORT_SIMT_MEMORY_HPP
#define COHORT_SIMT_MEMORY_HPP

#include <atomic>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <type_traits>

#include "machine.hpp"

/* ---- Regions */

struct simt_record {
    std::atomic<uint64_t> epoch; /* 0: none */
    /* clock, lane, bytes of the word, whether an asynchronous copy is still under way */
    std::atomic<uint64_t> who;
};

struct simt_word {
    simt_record write, read[2];
};

struct simt_region {
    char *base;
    size_t bytes;
    const char *name;
    bool shared;
    simt_word *words;
};

/* Global memory: filled with NaN bytes, between guard zones. `name` must outlive it. */
void *simt_alloc(size_t bytes, const char *name);
/* Aborts with a message if a raw pointer wrote into a guard zone. NULL is fine. */
void simt_free(void *memory);
/* The allocation that holds the address; NULL if none does. */
simt_region *simt_find(const void *address);

simt_region *simt_shared_create(size_t bytes);
void simt_shared_begin(simt_region *shared, size_t dynamic_bytes); /* for a new block */
/* Storage of a CK_SHARED array: one for all lanes of a block that come to the same place of the source. */
char *simt_static_shared(const void *place, size_t bytes, size_t alignment, const char *name);
char *simt_dynamic_shared();

/* ---- Access */

/* the last two: asynchronous copies */
enum simt_access_kind { SIMT_READ, SIMT_WRITE, SIMT_WRITE_BEGINS, SIMT_WRITE_ENDS };

/* Looks for races, and remembers the access. */
void simt_note(simt_region *region, const char *name, const char *at, size_t bytes, simt_access_kind kind);
[[noreturn]] void simt_bad_address(const char *name, const char *low, const char *high, const char *at,
                                   size_t bytes, size_t alignment, bool write);

struct simt_global_space {};
struct simt_shared_space {};

template <typename T, typename Space> struct simt_cell;

template <typename T, typename Space> struct simt_view {
    T *at = nullptr;
    char *low = nullptr, *high = nullptr;
    simt_region *region = nullptr;
    const char *name = "a null pointer";

    typedef typename std::remove_const<T>::type value;

    simt_view() {}
    simt_view(T *pointer, char *low_, char *high_, simt_region *region_, const char *name_)
        : at(pointer), low(low_), high(high_), region(region_), name(name_) {}

    /* From a raw pointer into device memory, as host code holds it. */
    simt_view(T *pointer) : at(pointer) {
        static_assert(std::is_same<Space, simt_global_space>::value,
                      "shared memory is only reached through CK_SHARED and its like");
        region = pointer ? simt_find(pointer) : nullptr;
        if (region) low = region->base, high = region->base + region->bytes, name = region->name;
        if (pointer && !region) name = "memory that is not the device's";
    }
    simt_view(std::nullptr_t) {}

    /* T to const T. */
    template <typename U, typename = typename std::enable_if<std::is_same<const U, T>::value>::type>
    simt_view(const simt_view<U, Space> &other)
        : at(other.at), low(other.low), high(other.high), region(other.region), name(other.name) {}

    simt_view operator+(int64_t n) const {
        return simt_view(moved(n), low, high, region, name);
    }
    simt_view &operator+=(int64_t n) {
        at = moved(n);
        return *this;
    }
    simt_cell<T, Space> operator[](int64_t i) const {
        return simt_cell<T, Space>{*this + i};
    }
    explicit operator bool() const {
        return at != nullptr;
    }

    /* Integers: an address far outside, or an offset from NULL, is an error only once it is used. */
    T *moved(int64_t n) const {
        return reinterpret_cast<T *>(reinterpret_cast<uintptr_t>(at) + (uintptr_t)n * sizeof(T));
    }
    template <typename V> V *checked(bool write) const {
        const char *bytes = reinterpret_cast<const char *>(at);
        if (bytes < low || high - bytes < (ptrdiff_t)sizeof(V) ||
            reinterpret_cast<uintptr_t>(bytes) % alignof(V) != 0)
            simt_bad_address(name, low, high, bytes, sizeof(V), alignof(V), write);
        simt_note(region, name, bytes, sizeof(V), write ? SIMT_WRITE : SIMT_READ);
        return (V *)(uintptr_t)bytes;
    }
    template <typename V> V load() const {
        V v;
        memcpy(&v, checked<const V>(false), sizeof v);
        return v;
    }
    template <typename V> void store(const V &v) const {
        static_assert(!std::is_const<T>::value, "this memory is not to be written");
        memcpy(checked<V>(true), &v, sizeof v);
    }
};

/* What view[i] is: a load where a value is wanted, a store where it is assigned to. */
template <typename T, typename Space> struct simt_cell {
    simt_view<T, Space> place;
    typedef typename simt_view<T, Space>::value value;

    operator value() const {
        return place.template load<value>();
    }
    const simt_cell &operator=(const value &v) const {
        place.template store<value>(v);
        return *this;
    }
    const simt_cell &operator=(const simt_cell &other) const {
        return *this = (value)other;
    }
    const simt_cell &operator+=(const value &v) const {
        return *this = (value)(*this) + v;
    }
};

/* ---- The names that kernels use (kernels/cuda/portable.cuh) */

template <typename T> using global = simt_view<T, simt_global_space>;
template <typename T> using shared = simt_view<T, simt_shared_space>;

/* The first `count` elements only: what lies behind is out of bounds for this pointer. */
template <typename T, typename S> simt_view<T, S> part(simt_view<T, S> view, int64_t count) {
    char *low = (char *)(uintptr_t)view.at, *high = low + count * (int64_t)sizeof(T);
    if (low < view.low || high > view.high)
        simt_bad_address(view.name, view.low, view.high, low, (size_t)(high - low), 1, false);
    return simt_view<T, S>(view.at, low, high, view.region, view.name);
}

template <typename U, typename T, typename S> simt_view<U, S> retype(simt_view<T, S> view) {
    return simt_view<U, S>(reinterpret_cast<U *>(view.at), view.low, view.high, view.region, view.name);
}

template <typename P> using element_of = typename P::value;

template <typename V, typename T, typename S> V load_as(simt_view<T, S> view) {
    return view.template load<V>();
}

template <typename V, typename T, typename S> void store_as(simt_view<T, S> view, const V &v) {
    view.template store<V>(v);
}

/* Whatever the order of lanes and blocks, the same is left: no race. */
static inline void atomic_min(global<int32_t> view, int32_t value) {
    char *bytes = reinterpret_cast<char *>(view.at);
    if (bytes < view.low || view.high - bytes < 4 || reinterpret_cast<uintptr_t>(bytes) % 4 != 0)
        simt_bad_address(view.name, view.low, view.high, bytes, 4, 4, true);
    int32_t old = __atomic_load_n(view.at, __ATOMIC_RELAXED);
    while (value < old &&
           !__atomic_compare_exchange_n(view.at, &old, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}

/* A structure in global memory, read field by field. */
template <typename T> const T *record(global<const T> view) {
    return view.template checked<const T>(false);
}

#define CK_SHARED(type, name, count)                                                                         \
    static const char name##_place = 0;                                                                      \
    const shared<type> name(simt_shared_array<type>(&name##_place, count, #name))
#define CK_DYNAMIC_SHARED(type, name) const shared<type> name(simt_dynamic_array<type>(#name))

template <typename T> shared<T> simt_shared_array(const void *place, size_t count, const char *name) {
    char *low = simt_static_shared(place, count * sizeof(T), alignof(T) < 16 ? 16 : alignof(T), name);
    return shared<T>(reinterpret_cast<T *>(low), low, low + count * sizeof(T), simt_self->block->shared,
                     name);
}

template <typename T> shared<T> simt_dynamic_array(const char *name) {
    char *low = simt_dynamic_shared();
    return shared<T>(reinterpret_cast<T *>(low), low, low + simt_self->block->launch->shared_bytes,
                     simt_self->block->shared, name);
}

/* ---- Asynchronous copies. The bytes arrive when they are waited for, and not before: until then the
 * destination holds NaN bytes. */

void simt_copy_begin(char *to, simt_region *to_region, const char *to_name, const char *from,
                     simt_region *from_region, const char *from_name, int bytes, int valid);
void cp_async_commit();
void simt_copy_wait(unsigned groups);

/* bytes: 4, 8 or 16, both sides aligned to it; `valid` of them are read, the rest of the destination becomes
 * zero. */
template <int bytes, typename T, typename U> void cp_async(shared<T> to, global<U> from, int valid = bytes) {
    static_assert(bytes == 4 || bytes == 8 || bytes == 16, "cp.async copies 4, 8 or 16 bytes");
    const char *source = reinterpret_cast<const char *>(from.at);
    char *target = reinterpret_cast<char *>(to.at);
    if (target < to.low || target + bytes > to.high || reinterpret_cast<uintptr_t>(target) % bytes != 0)
        simt_bad_address(to.name, to.low, to.high, target, bytes, bytes, true);
    if (valid > 0 &&
        (source < from.low || source + valid > from.high || reinterpret_cast<uintptr_t>(source) % bytes != 0))
        simt_bad_address(from.name, from.low, from.high, source, (size_t)valid, bytes, false);
    simt_copy_begin(target, to.region, to.name, source, from.region, from.name, bytes, valid);
}

/* Until at most `pending` of the newest groups are under way. */
template <int pending> void cp_async_wait() {
    simt_copy_wait(pending);
}

#endif
