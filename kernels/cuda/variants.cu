/* variants.cu - variants of the base: which part of a wave goes through which weights.
 *
 * Neighbouring devices of one variant are a run. An op that reads a linear's weight or bias is issued once
 * for each part of the wave: neighbouring runs that have the same memory for that linear. All of it is known
 * on the host, so a graph holds it: the runs and the table of weights are part of what graphs are found by.
 */
#include "driver.hpp"

#include <stdlib.h>
#include <string.h>

static int32_t variant_of(const ck_wave *wave, int32_t device) {
    return wave->n_variants > 0 ? wave->devices[device].variant : 0;
}

/* Fills runs [n_devices]; returns how many there are. */
static int32_t list_runs(const ck_wave *wave, const cuda_device *devices, cuda_variant_run *runs) {
    int32_t n = 0, tile = 0;
    for (int32_t d = 0; d < wave->n_devices; d++) {
        int32_t variant = variant_of(wave, d), tiles = (devices[d].n_tokens + CUDA_TILE - 1) / CUDA_TILE;
        if (n == 0 || runs[n - 1].variant != variant)
            runs[n++] = cuda_variant_run{devices[d].first_token, 0, tile, 0, 0, variant};
        runs[n - 1].n_tokens += devices[d].n_tokens;
        runs[n - 1].n_tiles += tiles;
        runs[n - 1].n_devices++;
        tile += tiles;
    }
    return n;
}

static bool any_variant(const ck_wave *wave) {
    for (int32_t d = 0; d < wave->n_devices; d++)
        if (variant_of(wave, d) > 0) return true;
    return false;
}

static bool make_room(cuda_program *p, size_t bytes) {
    if (p->variants_room >= bytes) return true;
    void *larger = realloc(p->variants_image, bytes);
    if (!larger) return false;
    p->variants_image = static_cast<char *>(larger);
    p->variants_room = bytes;
    return true;
}

const char *cuda_list_variants(cuda_program *p, const ck_wave *wave, const cuda_device *devices) {
    p->variants = cuda_variants{nullptr, 0, 0, nullptr};
    p->variants_bytes = 0;
    if (!any_variant(wave)) return nullptr;
    size_t runs = (size_t)wave->n_devices * sizeof(cuda_variant_run),
           table = (size_t)wave->n_variants * (size_t)wave->n_linears * sizeof(ck_replacement);
    if (!make_room(p, runs + table)) return "no memory for the variants of a wave";
    memset(p->variants_image, 0, runs);
    cuda_variant_run *list = reinterpret_cast<cuda_variant_run *>(p->variants_image);
    memcpy(p->variants_image + runs, wave->variants, table);
    p->variants = cuda_variants{list, list_runs(wave, devices, list), wave->n_linears,
                                reinterpret_cast<const ck_replacement *>(p->variants_image + runs)};
    p->variants_bytes = runs + table;
    return nullptr;
}

/* ---- Parts */

static ck_replacement weights_of(const cuda_variants *v, int32_t run, int32_t linear,
                                 ck_replacement recorded) {
    if (linear < 0 || v->runs[run].variant == 0) return recorded;
    const ck_replacement *own = &v->table[(int64_t)(v->runs[run].variant - 1) * v->n_linears + linear];
    return ck_replacement{own->weight ? own->weight : recorded.weight, own->bias ? own->bias : recorded.bias};
}

bool cuda_next_part(const cuda_call *call, int32_t linear, ck_replacement recorded, int32_t *at,
                    cuda_part *part) {
    const cuda_variants *v = call->variants;
    if (!v) {
        *part = cuda_part{0, call->wave.n_tokens, 0, call->wave.n_tiles, call->wave.n_devices, recorded};
        return (*at)++ == 0;
    }
    if (*at >= v->n_runs) return false;
    const cuda_variant_run *first = &v->runs[*at];
    *part = cuda_part{first->first_token, 0, first->first_tile, 0, 0, weights_of(v, *at, linear, recorded)};
    for (; *at < v->n_runs; ++*at) {
        ck_replacement w = weights_of(v, *at, linear, recorded);
        if (w.weight != part->weights.weight || w.bias != part->weights.bias) break;
        part->n_tokens += v->runs[*at].n_tokens;
        part->n_tiles += v->runs[*at].n_tiles;
        part->n_devices += v->runs[*at].n_devices;
    }
    return true;
}

cuda_call cuda_call_on(const cuda_call *call, const cuda_part *part) {
    cuda_call some = *call;
    some.wave.tiles = call->wave.tiles + part->first_tile;
    some.wave.n_tiles = part->n_tiles;
    some.wave.n_devices = part->n_devices;
    return some;
}
