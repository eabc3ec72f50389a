/* device.hpp - memory for tests whose kernels run on the CPU (tests/simt) or, compiled by nvcc, on a GPU. */
#ifndef COHORT_SIMT_DEVICE_HPP
#define COHORT_SIMT_DEVICE_HPP

#include <string.h>
#include <vector>

#include "cuda/portable.cuh"

#ifdef __CUDACC__

static inline void *device_alloc(size_t bytes, const char *) {
    void *memory = nullptr;
    return cudaMalloc(&memory, bytes > 0 ? bytes : 1) == cudaSuccess ? memory : nullptr;
}
static inline void device_free(void *memory) {
    cudaFree(memory);
}
static inline void device_copy(void *to, const void *from, size_t bytes) {
    cudaMemcpy(to, from, bytes, cudaMemcpyDefault);
}
/* NULL, or what went wrong on the GPU since. */
static inline const char *device_finish() {
    cudaError_t error = cudaDeviceSynchronize();
    return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}
/* Another order of lanes and blocks: the GPU has its own. */
static inline void device_order(uint64_t) {}

#else

static inline void *device_alloc(size_t bytes, const char *name) {
    return simt_alloc(bytes, name);
}
static inline void device_free(void *memory) {
    simt_free(memory);
}
static inline void device_copy(void *to, const void *from, size_t bytes) {
    if (bytes > 0) memcpy(to, from, bytes);
}
static inline const char *device_finish() {
    return nullptr;
}
static inline void device_order(uint64_t seed) {
    simt_configure(seed % 2 ? 2 : 1, seed);
}

#endif

/* An array on both sides; put() and get() copy it across. */
template <typename T> struct device_buffer {
    std::vector<T> host;
    T *device;

    device_buffer(int64_t n, const char *name)
        : host((size_t)n), device(static_cast<T *>(device_alloc((size_t)n * sizeof(T), name))) {}
    ~device_buffer() {
        device_free(device);
    }
    device_buffer(const device_buffer &) = delete;
    device_buffer &operator=(const device_buffer &) = delete;

    size_t bytes() const {
        return host.size() * sizeof(T);
    }
    void put() {
        device_copy(device, host.data(), bytes());
    }
    void get() {
        device_copy(host.data(), device, bytes());
    }
    /* NaN bytes everywhere: what a kernel does not write shows. */
    void poison() {
        if (!host.empty()) memset((void *)host.data(), 0xff, bytes());
        put();
    }
};

#endif
