/* Initial adapters: A ~ U(-1/sqrt(in), 1/sqrt(in)) (Kaiming-uniform with a = sqrt 5), B = 0, R ~ N(0, 0.02^2).
 *
 * A tensor's key is what it is, not where it stands: the n-th generalist, the n-th specialist, a layer's attention LoRA. So a
 * further expert, another rank or another population changes no other tensor.
 *
 * As released, a device's first act is to copy what its run's strategy lists from the server: in `local` all experts, in a CoMiGS run of
 * specialists alone the first of them. These start equal on all devices, and part from there. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/adapters.h"
#include "kernel_problem.h"
#include "population/parts.h"
#include "rng.h"

enum { TENSOR_QKV, TENSOR_OUT, TENSOR_EXPERTS, TENSORS_A_LAYER = 64, MOST_BAD_FILES = 8 };

static const float ROUTER_SIGMA = 0.02F;

static void init_a(uint64_t seed, int64_t owner, int layer, int tensor, int rank, int in, float *a) {
    rng_key key = {.seed = seed, .device = owner, .purpose = RNG_ADAPTER_INIT, .step = (uint64_t)(layer * TENSORS_A_LAYER + tensor)};
    rng_fill_uniform(&key, 1.0F / sqrtf((float)in), a, (int64_t)rank * in);
}

static bool starts_as_the_servers(const population *p, int e) {
    return p->settings->as_released && (p->method->router == ROUTER_ABSENT || e == 0);
}

static void init_experts(const population *p, const device *d, const ck_shape *s, int layer, float *pack) {
    uint64_t seed = p->settings->seed;
    for (int e = 0; e < s->n_experts; e++) {
        bool private_ = e >= d->generalists && !p->shares.specialists && !starts_as_the_servers(p, e);
        int tensor = TENSOR_EXPERTS + 2 * (private_ ? e - d->generalists : e);
        int64_t owner = private_ ? d->index : RNG_SHARED, row = s->rank_first[e];
        init_a(seed, owner, layer, tensor, s->rank[e], s->width, pack + s->route + (s->router_rows + row) * s->width);
        init_a(seed, owner, layer, tensor + 1, s->rank[e], s->ffn, pack + s->a2 + row * s->ffn);
    }
}

void fleet_init_pack(const population *p, const device *d, const ck_shape *s, float *pack) {
    uint64_t seed = p->settings->seed;
    memset(pack, 0, (size_t)s->total * sizeof *pack);
    for (int l = 0; l < s->n_layers; l++) {
        float *layer = pack + l * s->layer_stride;
        init_a(seed, RNG_SHARED, l, TENSOR_QKV, s->attention_rank, s->width, layer + s->qkv_a);
        init_a(seed, RNG_SHARED, l, TENSOR_OUT, s->attention_rank, s->width, layer + s->out_a);
        rng_key router = {
            .seed = seed, .device = p->shares.router ? RNG_SHARED : d->index, .purpose = RNG_ROUTER_INIT, .step = (uint64_t)l};
        rng_fill_normal(&router, ROUTER_SIGMA, layer + s->route, (int64_t)s->router_rows * s->width);
        init_experts(p, d, s, l, layer);
    }
}

static exit_code read_pack(const fleet *f, const device *d, float *pack, problems *list) {
    const ck_shape *shape = &f->shapes[d->shape];
    char *path = adapters_path(f->adapters, d->population, d->index);
    if (!path) return problem(list, EXIT_ENVIRONMENT, "out of memory for initial adapters");
    exit_code code = adapters_read(path, shape, pack, list);
    free(path);
    return code;
}

/* After a few bad files the rest would say the same. Each is read into the same place: what is in it counts, too. */
exit_code packs_check(const fleet *f, problems *list) {
    float *pack = malloc((size_t)fleet_largest_pack(f) * sizeof *pack + 1);
    exit_code code = pack ? EXIT_OK : problem(list, EXIT_ENVIRONMENT, "out of memory for initial adapters");
    for (int i = 0, bad = 0; pack && i < f->n_mine && bad < MOST_BAD_FILES; i++) {
        exit_code one = read_pack(f, &f->devices[f->mine[i]], pack, list);
        if (one != EXIT_OK) code = one;
        bad += one != EXIT_OK;
    }
    free(pack);
    return code;
}

static exit_code read_chunk(const fleet *f, int first, int end, float *host, problems *list) {
    exit_code code = EXIT_OK;
    for (int i = first; i < end && code == EXIT_OK; i++) {
        const device *d = &f->devices[f->mine[i]];
        code = read_pack(f, d, host + d->pack - f->devices[f->mine[first]].pack, list);
    }
    return code;
}

/* Packs of a process's neighbouring devices are neighbours in its memory, so a chunk of them is one upload. */
static exit_code init_chunk(fleet *f, int first, int end, float *host, problems *list) {
    int64_t origin = f->devices[f->mine[first]].pack;
    exit_code code = f->adapters ? read_chunk(f, first, end, host, list) : EXIT_OK;
    if (code != EXIT_OK) return code;
#pragma omp parallel for num_threads(ck_threads(f->backend))
    for (int i = first; i < end; i++) {
        const device *d = &f->devices[f->mine[i]];
        if (!f->adapters) fleet_init_pack(&f->populations[d->population], d, &f->shapes[d->shape], host + d->pack - origin);
    }
    const device *last = &f->devices[f->mine[end - 1]];
    size_t bytes = (size_t)(last->pack + f->shapes[last->shape].total - origin) * sizeof *host;
    ck_status status = ck_upload(f->stream, f->parameters + origin, host, bytes);
    if (status == CK_OK) status = ck_wait(f->stream);
    return kernel_problem(list, f->backend, status, "initial adapters");
}

/* A thread makes one at a time. */
static int packs_at_once(const fleet *f, int threads) {
    return f->n_mine < threads ? f->n_mine : threads;
}

size_t fleet_initial_bytes(const fleet *f, int threads) {
    return (size_t)fleet_largest_pack(f) * (size_t)packs_at_once(f, threads) * sizeof(float);
}

exit_code packs_init(fleet *f, problems *list) {
    int chunk = packs_at_once(f, ck_threads(f->backend));
    float *host = calloc(fleet_initial_bytes(f, ck_threads(f->backend)) + 1, 1);
    if (!host) return problem(list, EXIT_ENVIRONMENT, "out of memory for initial adapters");
    exit_code code = EXIT_OK;
    for (int i = 0; i < f->n_mine && code == EXIT_OK; i += chunk)
        code = init_chunk(f, i, i + chunk < f->n_mine ? i + chunk : f->n_mine, host, list);
    free(host);
    return code;
}
