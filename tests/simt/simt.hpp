/* simt.hpp - what kernels/cuda/portable.cuh includes where there is no CUDA compiler: the same names, with
 * bodies that run on the CPU.
 *
 *   machine.hpp   blocks over threads, lanes as fibers, barriers, launches, failures
 *   memory.hpp    checked pointers, races, shared memory, asynchronous copies
 *   warp.hpp      shuffles, votes, mma, ldmatrix
 *   types.hpp     vector types, bfloat16
 *   stream.hpp    streams and events: when launches run
 *
 * What it does not show: anything about speed, memory order weaker than barriers, and the PTX in portable.cuh
 * itself. */
#ifndef COHORT_SIMT_HPP
#define COHORT_SIMT_HPP

#include <math.h>

#include "machine.hpp"
#include "memory.hpp"
#include "stream.hpp"
#include "types.hpp"
#include "warp.hpp"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

#define threadIdx (simt_self->thread)
#define blockIdx  (simt_self->block->index)
#define blockDim  (simt_self->block->launch->block)
#define gridDim   (simt_self->block->launch->grid)

#define CK_UNROLL
#define CK_ROLL

static inline void forget(int &) {}

typedef void *gpu_stream;

static inline float fast_exp(float x) {
    return expf(x);
}
static inline float fast_exp2(float x) {
    return exp2f(x);
}
static inline float fast_divide(float a, float b) {
    return a / b;
}
static inline float fast_tanh(float x) {
    return tanhf(x);
}
static inline int __popc(unsigned bits) {
    return __builtin_popcount(bits);
}

template <typename T> struct simt_same { typedef T type; };

/* Arguments are copied when the kernel is launched, as on the GPU: what they pointed to on the host may be
 * gone when it runs. Static, because two files may have different types of one name. */
template <typename... P>
static const char *simt_issue_kernel(gpu_stream stream, const char *name, dim3 grid, dim3 block,
                                     size_t shared_bytes, void (*kernel)(P...),
                                     typename simt_same<P>::type... arguments) {
    simt_note_kernel(reinterpret_cast<void (*)()>(kernel));
    return simt_issue(static_cast<simt_stream *>(stream), [=] {
        return simt_launch_body(name, grid, block, shared_bytes, [&] { kernel(arguments...); });
    });
}

static inline size_t ck_shared_limit() {
    return 232448; /* of sm_90 */
}

#define CK_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                            \
    simt_issue_kernel(stream, #kernel, grid, block, shared_bytes, kernel, __VA_ARGS__)

#endif
