#include "rig/case.h"

const bench_case *const BENCH_CASES[] = {
    &route_forward,       &route_backward,  &activation_forward,
    &activation_backward, &expand_forward,  &expand_backward,
    &lora_forward,        &lora_backward,   &attention_forward,
    &attention_backward,  &norm_forward,    &norm_backward,
    &linear_forward,      &linear_backward, &head_step,
    &adamw_update,        &group_sum,       &group_spread,
    &layer_step,          &model_step,      NULL,
};
