/* portable.cuh - the language of the kernels: CUDA, less what only nvcc understands, plus thin wrappers. The
 * same .cu files compile with nvcc for a GPU and with any C++17 compiler for the CPU, where tests/simt runs
 * and checks them.
 *
 *   global<T>, shared<T>            pointers into global and shared memory; T * under nvcc, checked on the
 *                                   CPU. p + n, p[i].
 *   part(p, n)                      the same pointer, good for n elements only
 *   retype<U>(p)                    the same memory as elements of another type
 *   element_of<P>                   the type of what a pointer of type P points to, without const
 *   load_as<V>(p), store_as(p, v)   one wide access, e.g. V = float4; p must be aligned to it
 *   record(p)                       const T * to a structure
 *   CK_SHARED(type, name, count)    an array in shared memory, known size
 *   CK_DYNAMIC_SHARED(type, name)   the launch's shared_bytes; retype and part cut it up
 *   cp_async<bytes>(to, from, valid), cp_async_commit(), cp_async_wait<pending>()
 *   atomic_min(p, value)            of int32_t in global memory: any order of lanes leaves the same
 *   mma_f32, mma_bf16               d [16, 8] += a [16, 16] b [16, 8], one call per warp. Fragments: lane 4 g
 *                                   + t holds
 *                                     a: (g, 2t) (g, 2t+1) (g+8, 2t) (g+8, 2t+1) (g, 2t+8) (g, 2t+9) (g+8,
 *                                         2t+8) (g+8, 2t+9)
 *                                     b: (2t, g) (2t+1, g) (2t+8, g) (2t+9, g)      d: (g, 2t) (g,
 *                                         2t+1) (g+8, 2t) (g+8, 2t+1)
 *                                   So two neighbouring d are the a of the next product,
 *                                       and b of a transposed matrix is pairs of its rows.
 *                                   bf16: pairs share a register. f32: three tf32 products of split factors,
 *                                       about 2^-21 relative.
 *   ldmatrix_x2, _x4, _trans        8 x 8 matrices of bf16 from shared memory
 *   to_bf16, to_float, pack_bf16, unpack_bf16
 *   fast_exp, fast_divide           within 3e-6 relative for |x| <= 16
 *   fast_exp2                       2^x, one instruction: within 2e-7 relative, 0 where the result is below
 *                                   2^-126
 *   fast_tanh                       within 2^-10.9 relative: for results that are rounded to bf16
 *   CK_UNROLL, CK_ROLL              before a loop that must be unrolled, or must not (registers)
 *   ck_shared_limit()               bytes of shared memory that a block may have; host
 *   CK_LAUNCH(kernel, grid, block, shared_bytes, stream, arguments...)   NULL, or what was wrong, a sentence
 * and CUDA's own threadIdx, blockIdx, __syncthreads, __syncwarp, __shfl_*_sync, __ballot_sync, __any_sync,
 * __all_sync, __popc. */
#ifndef COHORT_KERNELS_CUDA_PORTABLE_CUH
#define COHORT_KERNELS_CUDA_PORTABLE_CUH

#ifndef __CUDACC__

#include "simt.hpp"

#else

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <map>
#include <mutex>
#include <stdint.h>
#include <type_traits>

#define CK_UNROLL _Pragma("unroll")
#define CK_ROLL   _Pragma("unroll 1")

/* What was derived from x is to be computed again, not kept in registers. */
__device__ __forceinline__ void forget(int &x) {
    asm volatile("" : "+r"(x));
}

typedef cudaStream_t gpu_stream;
typedef __nv_bfloat16 bf16;

/* ---- Memory */

template <typename T> using global = T *;
template <typename T> using shared = T *;

template <typename T> __device__ __forceinline__ T *part(T *p, int64_t) {
    return p;
}
template <typename U, typename T> __device__ __forceinline__ U *retype(T *p) {
    return reinterpret_cast<U *>(p);
}
template <typename P>
using element_of = typename std::remove_const<typename std::remove_pointer<P>::type>::type;
template <typename V, typename T> __device__ __forceinline__ V load_as(const T *p) {
    return *reinterpret_cast<const V *>(p);
}
template <typename V, typename T> __device__ __forceinline__ void store_as(T *p, const V &v) {
    *reinterpret_cast<V *>(p) = v;
}
template <typename T> __device__ __forceinline__ const T *record(const T *p) {
    return p;
}

#define CK_SHARED(type, name, count) __shared__ __align__(16) type name[count]
#define CK_DYNAMIC_SHARED(type, name)                                                                        \
    extern __shared__ __align__(16) unsigned char ck_dynamic_shared[];                                       \
    type *const name = reinterpret_cast<type *>(ck_dynamic_shared)

__device__ __forceinline__ uint32_t shared_address(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* ---- Asynchronous copies */

template <int bytes> __device__ __forceinline__ void cp_async(void *to, const void *from, int valid = bytes) {
    static_assert(bytes == 4 || bytes == 8 || bytes == 16, "cp.async copies 4, 8 or 16 bytes");
    if constexpr (bytes == 16) { /* past L1: each byte is wanted once */
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                     "r"(valid)
                     : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)), "l"(from),
                     "n"(bytes), "r"(valid)
                     : "memory");
    }
}
__device__ __forceinline__ void cp_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int pending> __device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

/* ---- Atomics */

__device__ __forceinline__ void atomic_min(int32_t *p, int32_t value) {
    atomicMin(p, value);
}

/* ---- Numbers */

__device__ __forceinline__ bf16 to_bf16(float value) {
    return __float2bfloat16_rn(value);
}
__device__ __forceinline__ float to_float(bf16 value) {
    return __bfloat162float(value);
}
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
__device__ __forceinline__ float2 unpack_bf16(uint32_t pair) {
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}
__device__ __forceinline__ float fast_exp2(float x) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
}
__device__ __forceinline__ float fast_exp(float x) {
    return fast_exp2(1.44269504f * x);
}
__device__ __forceinline__ float fast_divide(float a, float b) {
    return __fdividef(a, b);
}
__device__ __forceinline__ float fast_tanh(float x) {
    float y;
    asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* ---- Matrix products of a warp */

__device__ __forceinline__ void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                 "{%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ uint32_t to_tf32(float value) {
    uint32_t bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return bits;
}

__device__ __forceinline__ void split_tf32(float value, uint32_t *high, uint32_t *low) {
    *high = to_tf32(value);
    *low = to_tf32(value - __uint_as_float(*high));
}

__device__ __forceinline__ void mma_tf32(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                 "{%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* The order of the summed index is free: the instruction's columns t and t + 4 stand for columns 2t and 2t +
 * 1 of the fragment. */
__device__ __forceinline__ void mma_f32(float d[4], const float a[8], const float b[4]) {
    CK_UNROLL
    for (int half = 0; half < 2; half++) {
        const int from_a[4] = {0, 2, 1, 3};
        uint32_t a_high[4], a_low[4], b_high[2], b_low[2];
        CK_UNROLL
        for (int i = 0; i < 4; i++) split_tf32(a[4 * half + from_a[i]], &a_high[i], &a_low[i]);
        CK_UNROLL
        for (int i = 0; i < 2; i++) split_tf32(b[2 * half + i], &b_high[i], &b_low[i]);
        mma_tf32(d, a_low, b_high);
        mma_tf32(d, a_high, b_low);
        mma_tf32(d, a_high, b_high);
    }
}

__device__ __forceinline__ void ldmatrix_x2(uint32_t d[2], const bf16 *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(d[0]), "=r"(d[1])
                 : "r"(shared_address(row))
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x4(uint32_t d[4], const bf16 *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(shared_address(row))
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x2_trans(uint32_t d[2], const bf16 *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(d[0]), "=r"(d[1])
                 : "r"(shared_address(row))
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t d[4], const bf16 *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/* ---- Launching */

static inline const char *ck_launch_result() {
    cudaError_t error = cudaGetLastError();
    return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

/* Bytes of shared memory that a block may have, arrays of known size and all. */
inline size_t ck_shared_limit() {
    static const size_t limit = [] {
        int device = 0, bytes = 0;
        if (cudaGetDevice(&device) != cudaSuccess) return (size_t)0;
        return cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) == cudaSuccess
                   ? (size_t)bytes
                   : (size_t)0;
    }();
    return limit;
}

/* More than 48 KiB must be asked for, by each kernel: once, all that it can have, so that no launch takes
 * from another what it was allowed. `bytes` leaves out arrays of known size: up to 16 KiB. False: a block of
 * this GPU cannot have as many; other errors show again at the launch. */
inline bool ck_allow_shared(const void *kernel, size_t bytes) {
    static std::mutex lock;
    static std::map<const void *, size_t> allowed;
    if (bytes <= 32768) return true;
    std::lock_guard<std::mutex> guard(lock);
    auto known = allowed.find(kernel);
    if (known == allowed.end()) {
        cudaFuncAttributes attributes;
        if (cudaFuncGetAttributes(&attributes, kernel) != cudaSuccess) return true;
        size_t most = ck_shared_limit() > attributes.sharedSizeBytes
                          ? ck_shared_limit() - attributes.sharedSizeBytes
                          : 0;
        if (cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)most) !=
            cudaSuccess)
            return true;
        known = allowed.emplace(kernel, most).first;
    }
    return bytes <= known->second;
}

#define CK_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                            \
    (!ck_allow_shared(reinterpret_cast<const void *>(kernel), shared_bytes)                                  \
         ? "these shapes need more shared memory a block than this GPU has (163 KiB on an A100)"             \
         : (kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__), ck_launch_result()))

#endif
#endif
