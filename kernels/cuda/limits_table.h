/* limits_table.h - what COHORT_CUDA_LIMITS can set (limits.hpp), with the values of its two presets. */
#ifndef COHORT_KERNELS_CUDA_LIMITS_TABLE_H
#define COHORT_KERNELS_CUDA_LIMITS_TABLE_H

#include <stdint.h>

enum { ATTENTION_WHOLE_WARPS = 8, ONE_PASS_MOST_WARPS = 8 /* of a block: what its registers hold */ };

/* X(name, in large, in small, least, most) */
#define CUDA_LIMITS(X)                                                                                       \
    /* Tiles of a wave from which a block takes four of them, where devices have several. */                 \
    X(segment_tiles, 1024, 3, 1, INT32_MAX)                                                                  \
    /* Mean tokens of a device from which the route's columns are all multiplied, chosen or not. */          \
    X(route_tokens, 48, 8, 0, INT32_MAX)                                                                     \
    /* Blocks that a GPU runs at a time, by which work is cut (one pass: warps). */                          \
    X(expert_blocks, 528, 6, 1, 1 << 20)                                                                     \
    X(gram_blocks, 528, 6, 1, 1 << 20)                                                                       \
    X(route_blocks, 132, 2, 1, 1 << 20)                                                                      \
    X(one_pass_warps, 1056, 16, ONE_PASS_MOST_WARPS, 1 << 20)                                                \
    /* Shared memory for fragments of the experts' activation. */                                            \
    X(expert_arena_bytes, 65536, 4096, 1, 98304)                                                             \
    /* Memory a token for parts of its backward's sums over F. */                                            \
    X(parts_bytes, 32768, 256, 1, 1 << 30)                                                                   \
    /* Warps of a block that has all of a sequence in the attention's backward, 16 tokens each. */           \
    X(attention_warps, ATTENTION_WHOLE_WARPS, 2, 0, ATTENTION_WHOLE_WARPS)                                   \
    /* Logits that exist at a time; shared memory that a row of them may take. */                            \
    X(head_bytes, 512 << 20, 256 << 10, 1, (int64_t)1 << 40)                                                 \
    X(head_row_bytes, 232448, 1024, 0, 232448)                                                               \
    /* Tokens of a part of sums over all tokens (pre-training). */                                           \
    X(slice_tokens, 256, 16, 1, 1 << 20)                                                                     \
    /* Blocks of an update. */                                                                               \
    X(update_blocks, 16384, 4, 1, 65535)

#endif
