/* decoding.c - what a wave of a decoding program must be. */
#include "backend.h"

size_t ck_keys_bytes(ck_precision precision, int32_t slots, int32_t kv_heads, int32_t positions,
                     int32_t head_size) {
    size_t element = precision == CK_BF16 ? 2 : sizeof(float);
    return (size_t)slots * (size_t)kv_heads * (size_t)positions * (size_t)head_size * element;
}

static ck_status cache_problem(const ck_program *program, const ck_wave *wave, const ck_attention_cached *d) {
    for (int s = 0; s < wave->n_sequences; s++) {
        int64_t first = wave->first_position[s], tokens = wave->first_token[s + 1] - wave->first_token[s];
        if (wave->cache_slot[s] < 0 || wave->cache_slot[s] >= d->slots)
            return ck_fail(program->backend, CK_BAD_ARGUMENT, "sequence %d has place %d of a cache of %d", s,
                           wave->cache_slot[s], d->slots);
        if (first < 0 || first + tokens > d->positions)
            return ck_fail(program->backend, CK_BAD_ARGUMENT,
                           "sequence %d has %lld tokens from position %lld on; its cache has %d positions", s,
                           (long long)tokens, (long long)first, d->positions);
    }
    return CK_OK;
}

ck_status ck_wave_check_decoding(const ck_program *program, const ck_wave *wave) {
    if (!wave->first_position || !wave->cache_slot)
        return ck_fail(program->backend, CK_BAD_ARGUMENT,
                       "a wave of a decoding program needs first positions and places in the caches");
    for (int d = 0; d < wave->n_devices; d++)
        if (wave->devices[d].learn)
            return ck_fail(program->backend, CK_BAD_ARGUMENT,
                           "device %d of the wave learns, which no decoding program can", d);
    ck_status status = CK_OK;
    for (int o = 0; o < program->n_ops && !status; o++)
        if (program->ops[o].kind == CK_OP_attention_cached)
            status = cache_problem(program, wave, &program->ops[o].as.attention_cached);
    return status;
}
