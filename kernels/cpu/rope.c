/* rope.c - rotary position embedding, in place on the query and key heads, which lie side by side in qkv.
 *
 *   (a, b) <- (a cos - b sin, b cos + a sin);  backward: by the opposite angle, sin -> -sin
 *
 * With H query heads and G of keys, d columns each: bytes a token 8 (H + G) d from cache, FLOPs 3 (H + G) d.
 * The bound: loads and stores.
 */
#include "cpu.h"

/* One head; direction 1 or -1. */
static void turn(float *restrict a, float *restrict b, const float *restrict table, int half,
                 float direction) {
    for (int i = 0; i < half; i++) {
        float cosine = table[2 * i], sine = direction * table[2 * i + 1], first = a[i], second = b[i];
        a[i] = first * cosine - second * sine;
        b[i] = second * cosine + first * sine;
    }
}

static void turn_rows(float *rows, int stride, const float *table, int heads, int head_size, int n_tokens,
                      float direction) {
    int half = head_size / 2;
    for (int t = 0; t < n_tokens; t++) {
        float *row = rows + (int64_t)t * stride;
        for (int head = 0; head < heads; head++, row += head_size)
            turn(row, row + half, table + (int64_t)t * head_size, half, direction);
    }
}

void cpu_rope(const void *descriptor, const cpu_block *block) {
    const ck_rope *d = descriptor;
    int64_t first = ck_first_position(block->wave, block->sequence);
    turn_rows(cpu_rows(d->qkv, block), d->qkv->columns, d->table + first * d->head_size,
              d->heads + d->kv_heads, d->head_size, block->n_tokens, 1);
}

void cpu_rope_backward(const void *descriptor, const cpu_block *block) {
    const ck_rope_backward *d = descriptor;
    turn_rows(cpu_rows(d->dqkv, block), d->dqkv->columns, d->table, d->heads + d->kv_heads, d->head_size,
              block->n_tokens, -1);
}
