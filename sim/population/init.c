/* Initial adapters: A ~ U(-1/sqrt(in), 1/sqrt(in)) (Kaiming-uniform with a = sqrt 5), B = 0, R ~ N(0,
 * 0.02^2), and R2 like R.
 *
 * A tensor's key is what it is, not where it stands: the n-th generalist, the n-th specialist, a layer's
 * LoRA at a site. So a further expert, another rank or another population changes no other tensor.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "methods/as_released.h"
#include "population/parts.h"
#include "support/kernel_problem.h"
#include "support/rng.h"

enum { TENSORS_A_LAYER = 64, SECOND_MATRIX = 1 << 20 };

static const float ROUTER_SIGMA = 0.02F;

/* Equal on all devices of all populations of a seed. */
static bool starts_equal(const population *p, const device *d, const ck_part *part) {
    if (population_shares(p, d, part)) return true;
    if (ck_is_of_router(part->factor)) return false;
    return part->expert < d->generalists ||
           released_start_is_shared(p->method, p->settings->as_released, part->expert);
}

/* Which tensor of its layer a factor A is: its number is part of its key. Experts are counted among their
 * kind. */
static int tensor_number(const ck_part *part, int expert) {
    static const int expert_0[CK_SITES] = {[CK_SITE_GATE] = 34, [CK_SITE_FC] = 2, [CK_SITE_PR] = 3};
    static const int lora[CK_SITES] = {
        [CK_SITE_QKV] = 0, [CK_SITE_OUT] = 1,   [CK_SITE_Q] = 50,  [CK_SITE_K] = 51,
        [CK_SITE_V] = 52,  [CK_SITE_GATE] = 53, [CK_SITE_FC] = 54, [CK_SITE_PR] = 55};
    if (part->adapter == CK_LORA) return lora[part->site];
    if (part->adapter == CK_TIED) return 56 + (int)part->site;
    return expert_0[part->site] + (part->site == CK_SITE_GATE ? 1 : 2) * expert;
}

static void init_a(const population *p, const device *d, const ck_part *part, float *a) {
    bool equal = starts_equal(p, d, part);
    int tensor = tensor_number(part, equal ? part->expert : part->expert - d->generalists);
    rng_key key = {.seed = p->settings->seed,
                   .device = equal ? RNG_SHARED : d->index,
                   .purpose = RNG_ADAPTER_INIT,
                   .step = (uint64_t)((part->layer < 0 ? 0 : part->layer) * TENSORS_A_LAYER + tensor)};
    rng_fill_uniform(&key, 1.0F / sqrtf((float)part->columns), a, (int64_t)part->rows * part->columns);
}

static void init_router(const population *p, const device *d, const ck_part *part, float *router) {
    rng_key key = {.seed = p->settings->seed,
                   .device = starts_equal(p, d, part) ? RNG_SHARED : d->index,
                   .purpose = RNG_ROUTER_INIT,
                   .step =
                       (uint64_t)part->layer + (part->factor == CK_FACTOR_ROUTER_OUT ? SECOND_MATRIX : 0)};
    rng_fill_normal(&key, ROUTER_SIGMA, router, (int64_t)part->rows * part->columns);
}

void fleet_init_pack(const population *p, const device *d, const ck_shape *s, float *pack) {
    memset(pack, 0, (size_t)s->total * sizeof *pack);
    for (int32_t i = 0; i < ck_part_count(s); i++) {
        ck_part part = ck_part_at(s, i);
        if (part.factor == CK_FACTOR_A) init_a(p, d, &part, pack + part.offset);
        if (ck_is_of_router(part.factor)) init_router(p, d, &part, pack + part.offset);
    }
}

exit_code fleet_initial_pack(const fleet *f, const device *d, float *pack, problems *list) {
    fleet_init_pack(&f->populations[d->population], d, &f->shapes[d->shape], pack);
    return given_pack_read(f, d, pack, list);
}

/* Packs of a process's neighbouring devices are neighbours in its memory, so a chunk of them is one upload.
 */
static exit_code init_chunk(fleet *f, int first, int end, float *host, problems *list) {
    int64_t origin = f->devices[f->local[first]].pack;
    exit_code code = EXIT_OK;
#pragma omp parallel for num_threads(ck_threads(f->backend))
    for (int i = first; i < end; i++) {
        const device *d = &f->devices[f->local[i]];
        fleet_init_pack(&f->populations[d->population], d, &f->shapes[d->shape], host + d->pack - origin);
    }
    for (int i = first; i < end && code == EXIT_OK; i++) {
        const device *d = &f->devices[f->local[i]];
        code = given_pack_read(f, d, host + d->pack - origin, list);
    }
    if (code != EXIT_OK) return code;
    const device *last = &f->devices[f->local[end - 1]];
    size_t bytes = (size_t)(last->pack + f->shapes[last->shape].total - origin) * sizeof *host;
    ck_status status = ck_upload(f->stream, f->parameters + origin, host, bytes);
    THEN(status, ck_wait(f->stream));
    return kernel_problem(list, f->backend, status, "initial adapters");
}

/* A thread makes one at a time. */
static int packs_at_once(const fleet *f, int threads) {
    return f->n_local < threads ? f->n_local : threads;
}

size_t fleet_initial_bytes(const fleet *f, int threads) {
    return (size_t)fleet_largest_pack(f) * (size_t)packs_at_once(f, threads) * sizeof(float);
}

exit_code packs_init(fleet *f, problems *list) {
    int chunk = packs_at_once(f, ck_threads(f->backend));
    float *host = calloc(fleet_initial_bytes(f, ck_threads(f->backend)) + 1, 1);
    if (!host) return problem(list, EXIT_ENVIRONMENT, "out of memory for initial adapters");
    exit_code code = EXIT_OK;
    for (int i = 0; i < f->n_local && code == EXIT_OK; i += chunk)
        code = init_chunk(f, i, i + chunk < f->n_local ? i + chunk : f->n_local, host, list);
    free(host);
    return code;
}
