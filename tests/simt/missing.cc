#include "cuda/ops.cuh"
#define X(op) __attribute__((weak)) const char *cuda_##op(const ck_##op *, const cuda_call *) { return "op " #op " is not there yet"; }
CK_OPS(X)
#undef X
#define X(op) __attribute__((weak)) size_t cuda_##op##_workspace(const ck_##op *, const cuda_bounds *) { return 0; }
CUDA_WORKSPACES(X)
#undef X
