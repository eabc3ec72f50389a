/* expert_backward_gelu_f32.cu - forms of the expert activation's backward (expert_backward_kernel.cuh). */
#include "expert_backward_kernel.cuh"

template const char *expert_backward_launch<gelu_mlp, float>(const expert_backward<float> *,
                                                             const backward_plan *, bool, unsigned,
                                                             gpu_stream);
