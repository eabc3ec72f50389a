/* heads.h - heads of attention, of which groups share keys and values. */
#ifndef COHORT_BENCH_HEADS_H
#define COHORT_BENCH_HEADS_H

#include "rig/case.h"

typedef struct {
    int heads, kv_heads, head_size;
} head_layout;

/* Of a variant of HEAD_VARIANTS its own; else as many as the wave has, each with its own keys where the
 * case's group is "transformer", and up to four that share them where it is "llama". */
head_layout heads_of(const rig *r);
int qkv_columns(head_layout h);
oracle_attention_size heads_size(const rig *r, int64_t n);

/* The sizes are not the width divided by the number of heads. */
typedef enum {
    AS_THE_WAVE,
    OWN_KEYS,
    PAIRS_SHARE,
    THREES_SHARE,
    ALL_SHARE,
    WIDE_SHARE,
    ODD_SHARE,
    BROAD_SHARE,
    HEAD_LAYOUTS
} head_layout_id;

#define HEAD_VARIANTS(op, direction)                                                                         \
    {op direction ", heads with own keys", .size = OWN_KEYS},                                                \
        {op direction ", pairs that share keys", .size = PAIRS_SHARE},                                       \
        {op direction ", threes that share keys", .size = THREES_SHARE},                                     \
        {op direction ", all share keys", .size = ALL_SHARE}, {                                              \
        op direction ", wide heads that share keys", .size = WIDE_SHARE                                      \
    }

#endif
