/* expert_backward_swiglu_bf16.cu - forms of the expert activation's backward (expert_backward_kernel.cuh). */
#include "expert_backward_kernel.cuh"

template const char *expert_backward_launch<swiglu_mlp, bf16>(const expert_backward<bf16> *,
                                                              const backward_plan *, bool, unsigned,
                                                              gpu_stream);
