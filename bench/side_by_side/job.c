#include "side_by_side/job.h"

#include <string.h>

/* The constants of the CoMiGS runs on GPT-2: one generalist, one specialist, both of rank 8, both used by
 * every token. The learning rates are lower where the model is wider, and of Llamas: random weights are not
 * trained ones, and a loss that jumps shows rounding in its fourth digit. */
#define COMIGS_1G1S                                                                                          \
    .steps = 20, .warmup = 3, .generalists = 1, .specialists = 1, .rank = 8, .attention_rank = 8,            \
    .top_k = 2, .alpha = 16, .final_learning_rate_ratio = 0.1, .weight_decay = 0.01, .beta1 = 0.9,           \
    .beta2 = 0.95, .epsilon = 1e-8, .seed = 42

static const job JOBS[] = {
    {.name = "small",
     .base = {.layers = 4,
              .width = 128,
              .heads = 4,
              .ffn = 512,
              .vocabulary = 512,
              .context = 128,
              .epsilon = 1e-5F},
     .devices = 64,
     .batch = 1,
     .sequence = 128,
     .learning_rate = 1e-3,
     COMIGS_1G1S},
    {.name = "gpt2",
     .base = {.layers = 12,
              .width = 768,
              .heads = 12,
              .ffn = 3072,
              .vocabulary = 50257,
              .context = 1024,
              .epsilon = 1e-5F},
     .devices = 2,
     .batch = 1,
     .sequence = 128,
     .learning_rate = 2e-4,
     COMIGS_1G1S},
    {.name = "llama",
     .base = {.family = BASE_LLAMA,
              .layers = 4,
              .width = 128,
              .heads = 4,
              .kv_heads = 2,
              .ffn = 384,
              .vocabulary = 512,
              .context = 128,
              .epsilon = 1e-5F,
              .tied_head = true,
              .rope = {.theta = 10000}},
     .devices = 64,
     .batch = 1,
     .sequence = 128,
     .learning_rate = 2e-4,
     COMIGS_1G1S},
    /* SmolLM-135M's */
    {.name = "smollm",
     .base = {.family = BASE_LLAMA,
              .layers = 30,
              .width = 576,
              .heads = 9,
              .kv_heads = 3,
              .ffn = 1536,
              .vocabulary = 49152,
              .context = 2048,
              .epsilon = 1e-5F,
              .tied_head = true,
              .rope = {.theta = 10000}},
     .devices = 2,
     .batch = 1,
     .sequence = 128,
     .learning_rate = 2e-4,
     COMIGS_1G1S},
    /* A population of configs/sweep_quick.yaml. */
    {.name = "sweep",
     .base = {.layers = 2,
              .width = 64,
              .heads = 4,
              .ffn = 256,
              .vocabulary = 64,
              .context = 64,
              .epsilon = 1e-5F},
     .devices = 16,
     .batch = 1,
     .sequence = 64,
     .learning_rate = 2e-3,
     COMIGS_1G1S},
    {.name = "tiny",
     .base = {.layers = 2,
              .width = 32,
              .heads = 2,
              .ffn = 128,
              .vocabulary = 64,
              .context = 16,
              .epsilon = 1e-5F},
     .devices = 3,
     .batch = 2,
     .sequence = 16,
     .learning_rate = 2e-3,
     COMIGS_1G1S},
    {.name = "tiny_llama",
     .base = {.family = BASE_LLAMA,
              .layers = 2,
              .width = 32,
              .heads = 4,
              .kv_heads = 2,
              .ffn = 80,
              .vocabulary = 64,
              .context = 16,
              .epsilon = 1e-5F,
              .tied_head = true,
              .rope = {.theta = 10000}},
     .devices = 3,
     .batch = 2,
     .sequence = 16,
     .learning_rate = 2e-3,
     COMIGS_1G1S},
};
const char JOB_NAMES[] = "small, gpt2, llama, smollm, sweep, tiny or tiny_llama";

bool job_find(const char *name, job *out) {
    for (size_t i = 0; i < sizeof JOBS / sizeof *JOBS; i++) {
        if (strcmp(JOBS[i].name, name) != 0) continue;
        *out = JOBS[i];
        out->base = base_complete(out->base);
        return true;
    }
    return false;
}

double job_tokens_a_step(const job *j) {
    return (double)j->devices * j->batch * j->sequence;
}
