/* run.cu - a wave: its tables go to the GPU in one copy, then the ops follow, replayed as a graph where this
 * wave's sizes were seen before.
 *
 * A graph holds sizes and addresses, never content: which devices, tokens, packs and gradients a wave has
 * lies in the tables. */
#include "driver.hpp"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Tables ---- */

static int32_t count_targets(const ck_wave *wave, int64_t first, int64_t last) {
    int32_t counted = 0;
    for (int64_t t = first; t < last; t++) counted += wave->targets[t] >= 0;
    return counted;
}

static void list_sequences(const ck_wave *wave, cuda_sequence *sequences, int32_t *sequence_of) {
    int32_t whole = wave->n_devices ? 0 : count_targets(wave, 0, wave->first_token[wave->n_sequences]);
    for (int32_t s = 0; s < wave->n_sequences; s++) {
        int64_t first = wave->first_token[s], end = wave->first_token[s + 1];
        sequences[s] = cuda_sequence{first,
                                     (int32_t)(end - first),
                                     -1,
                                     ck_first_position(wave, s),
                                     wave->cache_slot ? wave->cache_slot[s] : 0,
                                     whole};
        for (int64_t t = first; t < end; t++) sequence_of[t] = s;
    }
    for (int32_t d = 0; d < wave->n_devices; d++) {
        int32_t first = wave->first_sequence[d], end = wave->first_sequence[d + 1];
        int32_t counted = count_targets(wave, wave->first_token[first], wave->first_token[end]);
        for (int32_t s = first; s < end; s++) sequences[s].device = d, sequences[s].counted = counted;
    }
}

/* Writes the image of the tables; returns the number of tiles. */
static int32_t fill_tables(const cuda_program *p, const ck_wave *wave, char *image) {
    const cuda_tables *at = &p->layout;
    cuda_device *devices = reinterpret_cast<cuda_device *>(image + at->devices);
    size_t n_tokens = (size_t)wave->first_token[wave->n_sequences];
    cuda_list_devices(wave, devices);
    list_sequences(wave, reinterpret_cast<cuda_sequence *>(image + at->sequences),
                   reinterpret_cast<int32_t *>(image + at->sequence_of));
    memcpy(image + at->tokens, wave->tokens, n_tokens * sizeof(int32_t));
    memcpy(image + at->targets, wave->targets, n_tokens * sizeof(int32_t));
    int32_t *faults = reinterpret_cast<int32_t *>(image + at->faults);
    for (int32_t d = 0; d < wave->n_devices; d++) faults[d] = CUDA_NO_FAULT;
    if (wave->n_shapes > 0)
        memcpy(image + at->shapes, wave->shapes, (size_t)wave->n_shapes * sizeof(ck_shape));
    return cuda_list_tiles(devices, wave->n_devices, reinterpret_cast<cuda_tile *>(image + at->tiles));
}

static cuda_wave view_of(const cuda_program *p, const cuda_graph_key *key) {
    const cuda_tables *at = &p->layout;
    cuda_wave w = {};
    w.devices = reinterpret_cast<const cuda_device *>(p->tables + at->devices);
    w.tiles = reinterpret_cast<const cuda_tile *>(p->tables + at->tiles);
    w.sequences = reinterpret_cast<const cuda_sequence *>(p->tables + at->sequences);
    w.sequence_of = reinterpret_cast<const int32_t *>(p->tables + at->sequence_of);
    w.tokens = reinterpret_cast<const int32_t *>(p->tables + at->tokens);
    w.targets = reinterpret_cast<const int32_t *>(p->tables + at->targets);
    w.faults = reinterpret_cast<int32_t *>(p->tables + at->faults);
    w.shapes = reinterpret_cast<const ck_shape *>(p->tables + at->shapes);
    w.parameters = key->parameters;
    w.gradients = key->gradients;
    w.base_gradients = key->base_gradients;
    w.n_devices = key->n_devices;
    w.n_tiles = key->n_tiles;
    w.n_sequences = key->n_sequences;
    w.n_tokens = key->n_tokens;
    return w;
}

/* ---- Ops ---- */

static const char *issue_step(const cuda_step *step, const cuda_call *call) {
    if (step->starts && step->op.kind == CK_OP_linear) return cuda_linear_onto(&step->op.as.linear, call);
    switch (step->op.kind) {
#define X(name)                                                                                              \
    case CK_OP_##name:                                                                                       \
        return cuda_##name(&step->op.as.name, call);
        CK_OPS(X)
#undef X
    case CK_OP_COUNT:
        break;
    }
    return "an op that this backend does not know";
}

static bool base_product(ck_op_kind kind) {
    return kind == CK_OP_linear || kind == CK_OP_linear_backward;
}

/* An op that begins y with the bias of a linear: for each part of the wave that has the same. */
static const char *issue_starting(const cuda_step *step, const cuda_call *call) {
    const char *problem = nullptr;
    cuda_start start = step->start;
    ck_replacement recorded = {nullptr, step->start.bias};
    cuda_part part;
    for (int32_t at = 0; !problem && cuda_next_part(call, start.linear, recorded, &at, &part);) {
        cuda_call some = cuda_call_on(call, &part);
        start.bias = part.weights.bias;
        some.start = &start;
        problem = issue_step(step, &some);
    }
    return problem;
}

/* waits: after each op, so that it is named if it fails. */
static const char *issue(const cuda_program *p, const cuda_graph_key *key, gpu_stream stream,
                         bool waits = false) {
    cuda_call call = {};
    const char *problem = nullptr;
    static char named[448];
    char op[96];
    call.wave = view_of(p, key);
    call.limits = key->limits;
    call.half = p->bounds.half;
    call.base_gradients = key->base_gradients;
    call.workspace = p->workspace;
    call.copies = p->copies;
    call.variants = p->variants.n_runs > 0 ? &p->variants : nullptr;
    call.stream = stream;
    for (int i = 0; i < p->n_steps && !problem; i++) {
        const cuda_step *step = &p->steps[i];
        bool starting = step->starts && !base_product(step->op.kind);
        problem = starting ? issue_starting(step, &call) : issue_step(step, &call);
        if (!problem && waits) problem = gpu_wait(stream);
        if (!problem) continue;
        snprintf(named, sizeof named, "%s: %s", cuda_describe_op(p, i, op, sizeof op), problem);
        problem = named;
    }
    return problem;
}

/* ---- Graphs ---- */

static bool same_key(const cuda_graph_key *a, const cuda_graph_key *b) {
    return a->n_tokens == b->n_tokens && a->n_sequences == b->n_sequences && a->n_devices == b->n_devices &&
           a->n_tiles == b->n_tiles && a->limits.experts == b->limits.experts &&
           a->limits.rank_sum == b->limits.rank_sum && a->limits.h_ranks == b->limits.h_ranks &&
           a->limits.rank_tiles == b->limits.rank_tiles && a->limits.expert_tiles == b->limits.expert_tiles &&
           a->limits.width == b->limits.width && a->limits.plain == b->limits.plain &&
           a->parameters == b->parameters && a->gradients == b->gradients &&
           a->base_gradients == b->base_gradients;
}

static bool same_variants(const cuda_program *p, int graph) {
    size_t bytes = p->variants_bytes;
    return p->graphs[graph].variants_bytes == bytes &&
           (bytes == 0 || memcmp(p->graphs[graph].variants_image, p->variants_image, bytes) == 0);
}

/* Without memory for it the entry is one that no wave is found by. */
static void keep_variants(cuda_program *p, int graph) {
    size_t bytes = p->variants_bytes;
    free(p->graphs[graph].variants_image);
    p->graphs[graph].variants_bytes = bytes;
    p->graphs[graph].variants_image = static_cast<char *>(bytes ? malloc(bytes) : nullptr);
    if (p->graphs[graph].variants_image)
        memcpy(p->graphs[graph].variants_image, p->variants_image, bytes);
    else if (bytes)
        p->graphs[graph].variants_bytes = SIZE_MAX;
}

/* The entry with the key; -1: these sizes are new, and the entry that was not used for the longest time is
 * theirs now. */
static int find_graph(cuda_program *p, const cuda_graph_key *key) {
    int oldest = 0;
    for (int i = 0; i < CUDA_GRAPHS; i++) {
        if (p->graphs[i].used > 0 && same_key(&p->graphs[i].key, key) && same_variants(p, i)) {
            p->graphs[i].used = ++p->clock;
            return i;
        }
        if (p->graphs[i].used < p->graphs[oldest].used) oldest = i;
    }
    gpu_graph_destroy(p->graphs[oldest].graph);
    p->graphs[oldest].graph = nullptr;
    p->graphs[oldest].key = *key;
    keep_variants(p, oldest);
    p->graphs[oldest].used = ++p->clock;
    return -1;
}

static const char *capture(const cuda_program *p, const cuda_graph_key *key, gpu_stream stream,
                           gpu_graph **out) {
    const char *problem = gpu_capture_begin(stream);
    if (problem) return problem;
    problem = issue(p, key, stream);
    const char *ended = gpu_capture_end(stream, out);
    if (!problem) return ended;
    gpu_graph_destroy(*out);
    *out = nullptr;
    return problem;
}

/* Sizes that are seen for the first time run as they are: kernels are loaded, the library chooses its
 * algorithms, and a wave that never comes again costs no graph. */
static const char *replay(cuda_program *p, const cuda_graph_key *key, gpu_stream stream) {
    int i = find_graph(p, key);
    if (i < 0) return issue(p, key, stream);
    const char *problem = p->graphs[i].graph ? nullptr : capture(p, key, stream, &p->graphs[i].graph);
    return problem ? problem : gpu_graph_launch(stream, p->graphs[i].graph);
}

/* ---- A run ---- */

static cuda_graph_key key_of(const ck_wave *wave, int32_t n_tiles) {
    cuda_graph_key key = {};
    key.n_tokens = (int32_t)wave->first_token[wave->n_sequences];
    key.n_sequences = wave->n_sequences;
    key.n_devices = wave->n_devices;
    key.n_tiles = n_tiles;
    key.limits = cuda_limits_of(wave);
    key.parameters = wave->parameters;
    key.gradients = wave->gradients;
    key.base_gradients = wave->base_gradients;
    return key;
}

/* The bf16 copies of frozen weights, where these have changed. */
static const char *refresh_copies(cuda_program *p, const cuda_stream *stream) {
    const char *problem = nullptr;
    for (cuda_copies *c = p->copies; c && !problem; c = c->next) {
        if (c->version == c->block->version) continue;
        problem = cuda_to_half(c->from, c->to, c->count, stream->stream);
        c->version = c->block->version;
    }
    return problem;
}

const char *cuda_captured_refresh(cuda_captured *list, const cuda_stream *stream) {
    const char *problem = nullptr;
    for (cuda_captured *c = list; c && !problem; c = c->next) {
        problem = refresh_copies(c->program, stream);
        if (problem || (!c->always && c->program->tables_of == c)) continue;
        problem = gpu_upload(stream->stream, c->program->tables, c->tables, c->program->layout.end);
        c->program->tables_of = c->always ? nullptr : c;
    }
    return problem;
}

static bool routes(const cuda_program *p) {
    for (int i = 0; i < p->n_steps; i++)
        if (p->steps[i].op.kind == CK_OP_route) return true;
    return false;
}

/* Within a capture: the tables are no part of the graph, so that it can be timed without them, but for
 * faults, which routing writes. A second run of the program in one graph has to bring its own. */
static const char *capture_tables(cuda_program *p, cuda_stream *stream, const char *host, int32_t n_devices) {
    for (cuda_captured *c = stream->programs; c; c = c->next) {
        if (c->program != p) continue;
        c->always = true;
        return gpu_upload(stream->stream, p->tables, host, p->layout.end);
    }
    cuda_captured *c = static_cast<cuda_captured *>(malloc(sizeof *c));
    if (!c) return "no memory";
    *c = cuda_captured{p, host, false, stream->programs};
    stream->programs = c;
    size_t faults = routes(p) ? (size_t)n_devices * sizeof(int32_t) : 0;
    return faults ? gpu_upload(stream->stream, p->tables + p->layout.faults, host + p->layout.faults, faults)
                  : nullptr;
}

static const char *bring_tables(cuda_program *p, cuda_stream *stream, const char *host, int32_t n_devices) {
    if (stream->capturing) return capture_tables(p, stream, host, n_devices);
    p->tables_of = nullptr;
    const char *problem = gpu_upload(stream->stream, p->tables, host, p->layout.end);
    const char *ended = cuda_stage_end(stream);
    if (!problem) problem = ended;
    return problem ? problem : refresh_copies(p, stream);
}

static const char *run(cuda_program *p, cuda_stream *stream, const ck_wave *wave) {
    void *image = nullptr;
    const char *problem = cuda_stage_begin(stream);
    if (problem) return problem;
    char *host = static_cast<char *>(cuda_stage_take(stream, p->layout.end, &image));
    if (!host) return "no memory for the tables of a wave";
    cuda_graph_key key = key_of(wave, fill_tables(p, wave, host));
    problem = cuda_list_variants(p, wave, reinterpret_cast<const cuda_device *>(host + p->layout.devices));
    if (!problem) problem = cuda_copy_variants(stream->base.backend, p);
    const char *brought = bring_tables(p, stream, host, wave->n_devices);
    if (!problem) problem = brought;
    bool waits = cuda_waits_for_each_op() && !stream->capturing;
    bool graphs = reinterpret_cast<const cuda_backend *>(stream->base.backend)->gpu.graphs &&
                  !stream->capturing && !waits;
    if (!problem) cuda_note_run(stream, p);
    if (!problem) problem = graphs ? replay(p, &key, stream->stream) : issue(p, &key, stream->stream, waits);
    if (problem || !wave->fault || wave->n_devices == 0 || stream->capturing) return problem;
    return cuda_land(stream, wave->fault, p->tables + p->layout.faults,
                     (size_t)wave->n_devices * sizeof(int32_t), true);
}

ck_status cuda_run(ck_program *program, ck_stream *stream, const ck_wave *wave) {
    cuda_program *p = static_cast<cuda_program *>(program->private_data);
    if (wave->n_shapes > p->max_shapes)
        return ck_fail(program->backend, CK_BAD_ARGUMENT, "a wave can name %d shapes, not %d", p->max_shapes,
                       wave->n_shapes);
    return cuda_status(program->backend, CK_FAILED, "a wave",
                       run(p, reinterpret_cast<cuda_stream *>(stream), wave));
}
