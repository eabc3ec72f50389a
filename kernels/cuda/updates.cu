/* updates.cu - parameter updates outside programs, over packs of many devices at once.
 *
 *   AdamW      m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, p = (1 - lr decay) p - rate m / (correction
 *              sqrt(v) + eps) rate = lr / (1 - b1^t), correction = 1 / sqrt(1 - b2^t) (Loshchilov & Hutter,
 *              ICLR 2019, Algorithm 2)
 *   carry      the classes in learn: g += c, c = 0; the others: c += g
 *   sum        packed_j = sum over members of weight_m p_(m, j), in their order;
 *       spread: p_(m, j) = packed_j
 *   proximal   g_(m, j) += weight_m (p_(m, j) - packed_j)
 *
 * A span is a range of floats that lies at the same place in every layer of a pack, or once in what all
 * layers share (ck_learn_spans). The host lists the spans that an update touches, so that devices of any
 * shapes, and plain ranges, are one launch. Elements belong to blocks by groups of four at multiples of 16
 * bytes; a group that lies inside the span is one access, at its ends elements are taken one by one. Bytes:
 * AdamW 28 a parameter (reads p, m, v, g, writes p, m, v), carry 16 where g collects (reads g, c, writes
 * both), else 12; a member and value of a sum 4, of a spread 4, of a proximal term 12. The bound is memory in all of them;
 * a grid has cuda_limits.update_blocks blocks or more where there is so much to do, few devices being cut
 * into more pieces.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ops.cuh"
#include "wide.cuh"

enum { UPDATE_LANES = 256, UPDATE_CHUNK = 4 * UPDATE_LANES };

/* ---- Spans */

typedef struct {
    int64_t at, other;     /* its first float in p (in c), and in g */
    int64_t moments;       /* in m and v */
    int64_t count, stride; /* floats in a layer, and from a layer's to the next's */
    int32_t layers;
    uint32_t learned;                              /* of a carry: it is collected */
    float keep, rate, correction, b1, b2, epsilon; /* of AdamW */
} cuda_span;

/* Chunks of a layer: the first begins at the last multiple of four before the span. */
static __device__ __host__ __forceinline__ int64_t chunks_of(const cuda_span *span) {
    return (span->count + 3 + UPDATE_CHUNK - 1) / UPDATE_CHUNK;
}

/* What a lane does with four neighbours, or with one element. */
struct adamw_rule {
    global<float> p, m, v;
    global<const float> g;

    template <int W> __device__ __forceinline__ void apply(const cuda_span *s, int64_t first) const {
        float p_[W], m_[W], v_[W], g_[W];
        int64_t at = s->at + first, moments = s->moments + first;
        load_wide<W>(p_, p + at);
        load_wide<W>(m_, m + moments);
        load_wide<W>(v_, v + moments);
        load_wide<W>(g_, g + (s->other + first));
        CK_UNROLL
        for (int i = 0; i < W; i++) {
            m_[i] = s->b1 * m_[i] + (1.0f - s->b1) * g_[i];
            v_[i] = s->b2 * v_[i] + (1.0f - s->b2) * g_[i] * g_[i];
            p_[i] = s->keep * p_[i] - s->rate * m_[i] / (sqrtf(v_[i]) * s->correction + s->epsilon);
        }
        store_wide<W>(p + at, p_);
        store_wide<W>(m + moments, m_);
        store_wide<W>(v + moments, v_);
    }
};

struct carry_rule {
    global<float> c, g;

    template <int W> __device__ __forceinline__ void apply(const cuda_span *s, int64_t first) const {
        float c_[W], g_[W], zero[W] = {};
        int64_t at = s->at + first, other = s->other + first;
        load_wide<W>(c_, c + at);
        load_wide<W>(g_, g + other);
        CK_UNROLL
        for (int i = 0; i < W; i++) g_[i] += c_[i];
        if (s->learned) {
            store_wide<W>(g + other, g_);
            store_wide<W>(c + at, zero);
        } else {
            store_wide<W>(c + at, g_);
        }
    }
};

/* Grid: spans, blocks that share the chunks of one. wide: a span's places are equal modulo four, strides
 * multiples of it. */
template <bool wide, typename Rule>
static __global__ void __launch_bounds__(UPDATE_LANES)
    update_kernel(Rule rule, global<const cuda_span> spans) {
    const cuda_span span = *record(spans + blockIdx.x);
    int64_t chunks = chunks_of(&span);
    for (int64_t i = blockIdx.y; i < chunks * span.layers; i += gridDim.y) {
        int64_t layer = i / chunks, before = span.at % 4, end = layer * span.stride + span.count;
        /* from the span's begin */
        int64_t first = layer * span.stride - before + (i - layer * chunks) * UPDATE_CHUNK + 4 * threadIdx.x;
        if (wide && first >= layer * span.stride && first + 4 <= end) {
            rule.template apply<4>(&span, first);
            continue;
        }
        for (int64_t j = first; j < first + 4; j++) {
            if (j >= layer * span.stride && j < end) rule.template apply<1>(&span, j);
        }
    }
}

typedef struct {
    cuda_span *list;
    int32_t n;
    int64_t most; /* chunks of the largest */
    bool wide;
} span_list;

static void add_span(span_list *spans, cuda_span span) {
    if (span.count == 0 || span.layers == 0) return;
    int64_t chunks = chunks_of(&span) * span.layers;
    spans->wide &= (span.at - span.other) % 4 == 0 && span.stride % 4 == 0;
    spans->most = chunks > spans->most ? chunks : spans->most;
    spans->list[spans->n++] = span;
}

/* Of n things with many parts each: how many blocks a thing's parts are assigned to. */
static unsigned blocks_each(int64_t n, int64_t parts) {
    int64_t wanted = (cuda_limits.update_blocks + n - 1) / n;
    int64_t blocks = parts < wanted ? parts : wanted;
    return (unsigned)(blocks > 65535 ? 65535 : blocks < 1 ? 1 : blocks);
}

template <typename Rule>
static const char *update(ck_stream *stream, const Rule &rule, const span_list *spans) {
    if (spans->n == 0) return nullptr;
    global<const cuda_span> table = static_cast<const cuda_span *>(
        cuda_stage(stream, spans->list, (size_t)spans->n * sizeof *spans->list));
    if (!table) return "no memory for the table of an update";
    dim3 grid((unsigned)spans->n, blocks_each(spans->n, spans->most));
    if (spans->wide)
        return CK_LAUNCH((update_kernel<true, Rule>), grid, UPDATE_LANES, 0, cuda_stream_of(stream), rule,
                         table);
    return CK_LAUNCH((update_kernel<false, Rule>), grid, UPDATE_LANES, 0, cuda_stream_of(stream), rule,
                     table);
}

/* A list with room for n; NULL list: no memory. */
static span_list span_list_create(int64_t n, bool wide) {
    span_list spans = {static_cast<cuda_span *>(calloc(n > 0 ? (size_t)n : 1, sizeof(cuda_span))), 0, 0,
                       wide};
    return spans;
}

static const char no_memory[] = "no memory to list what an update touches";

static cuda_span span_in(const ck_shape *shape, const ck_span *in_layer, int64_t at, int64_t other) {
    cuda_span span = {};
    span.at = at + in_layer->offset;
    span.other = other + in_layer->offset;
    span.count = in_layer->count;
    span.stride = shape->layer_stride;
    span.layers = in_layer->layers;
    return span;
}

/* ---- AdamW */

static void set_hyper(cuda_span *span, const ck_adamw_hyper *hyper, float weight_decay) {
    span->keep = 1.0f - hyper->learning_rate * weight_decay;
    span->rate = (float)(hyper->learning_rate / (1.0 - pow(hyper->beta1, hyper->step)));
    span->correction = (float)(1.0 / sqrt(1.0 - pow(hyper->beta2, hyper->step)));
    span->b1 = hyper->beta1;
    span->b2 = hyper->beta2;
    span->epsilon = hyper->epsilon;
}

static adamw_rule rule_of(float *parameters, float *moment1, float *moment2, const float *gradients) {
    adamw_rule rule = {parameters, moment1, moment2, gradients};
    return rule;
}

static bool begins_wide(const void *a, const void *b, const void *c, const void *d) {
    return cuda_is_wide(a, 0) && cuda_is_wide(b, 0) && cuda_is_wide(c, 0) && cuda_is_wide(d, 0);
}

const char *cuda_adamw_devices(ck_stream *stream, float *parameters, float *moment1, float *moment2,
                               const float *gradients, const ck_shape *shapes, int32_t,
                               const ck_adamw_device *devices, int32_t n_devices) {
    span_list spans = span_list_create(CK_BLOCKS * (int64_t)n_devices,
                                       begins_wide(parameters, moment1, moment2, gradients));
    if (!spans.list) return no_memory;
    for (int32_t d = 0; d < n_devices; d++) {
        const ck_adamw_device *device = &devices[d];
        const ck_shape *shape = &shapes[device->shape];
        ck_span in_layer[CK_BLOCKS];
        int n = ck_learn_spans(shape, device->learn, in_layer);
        spans.wide &= (device->moments - device->parameters) % 4 == 0;
        for (int i = 0; i < n; i++) {
            const ck_adamw_hyper *hyper = &device->hyper[in_layer[i].router ? 1 : 0];
            if (!in_layer[i].learned) continue;
            cuda_span span = span_in(shape, &in_layer[i], device->parameters, device->gradients);
            span.moments = span.at - device->parameters + device->moments;
            set_hyper(&span, hyper, hyper->weight_decay);
            add_span(&spans, span);
        }
    }
    const char *problem = update(stream, rule_of(parameters, moment1, moment2, gradients), &spans);
    free(spans.list);
    return problem;
}

const char *cuda_adamw_ranges(ck_stream *stream, float *parameters, float *moment1, float *moment2,
                              const float *gradients, const ck_range *ranges, int32_t n_ranges,
                              const ck_adamw_hyper *hyper) {
    span_list spans = span_list_create(n_ranges, begins_wide(parameters, moment1, moment2, gradients));
    if (!spans.list) return no_memory;
    for (int32_t r = 0; r < n_ranges; r++) {
        cuda_span span = {};
        span.at = span.other = span.moments = ranges[r].offset;
        span.count = ranges[r].count;
        span.layers = 1;
        set_hyper(&span, hyper, ranges[r].weight_decay);
        add_span(&spans, span);
    }
    const char *problem = update(stream, rule_of(parameters, moment1, moment2, gradients), &spans);
    free(spans.list);
    return problem;
}

/* ---- Gradients carried from step to step */

const char *cuda_carry_devices(ck_stream *stream, float *carried, float *gradients, const ck_shape *shapes,
                               int32_t, const ck_carry_device *devices, int32_t n_devices) {
    span_list spans =
        span_list_create(CK_BLOCKS * (int64_t)n_devices, begins_wide(carried, gradients, carried, gradients));
    if (!spans.list) return no_memory;
    for (int32_t d = 0; d < n_devices; d++) {
        const ck_carry_device *device = &devices[d];
        const ck_shape *shape = &shapes[device->shape];
        ck_span in_layer[CK_BLOCKS];
        int n = ck_learn_spans(shape, device->learn, in_layer);
        for (int i = 0; i < n; i++) {
            cuda_span span = span_in(shape, &in_layer[i], device->carried, device->gradients);
            span.learned = in_layer[i].learned;
            add_span(&spans, span);
        }
    }
    carry_rule rule = {carried, gradients};
    const char *problem = update(stream, rule, &spans);
    free(spans.list);
    return problem;
}

/* ---- Aggregation */

typedef struct {
    int64_t at, gradients; /* of its packs */
    float weight;
    int32_t layout;
} cuda_member;

/* One range of one group. */
typedef struct {
    int64_t packed, count;
    int32_t first_member, n_members;
    int64_t first_offset; /* of offsets: this range in each layout of the group */
    int32_t offset_stride;
} cuda_group_range;

typedef struct {
    global<const cuda_group_range> ranges;
    global<const cuda_member> members;
    global<const int64_t> offsets;
} cuda_group_table;

/* Grid: ranges, blocks that share the elements of one. A lane fetches the place of one member for all: 32
 * reads of the members' values may be under way at once. */
static __global__ void __launch_bounds__(UPDATE_LANES)
    group_sum_kernel(cuda_group_table table, global<const float> parameters, global<float> packed) {
    const cuda_group_range range = *record(table.ranges + blockIdx.x);
    int lane = (int)(threadIdx.x % 32);
    for (int64_t first = (int64_t)blockIdx.y * UPDATE_LANES; first < range.count;
         first += (int64_t)gridDim.y * UPDATE_LANES) {
        int64_t i = first + threadIdx.x;
        float sum = 0;
        for (int32_t m = 0; m < range.n_members; m += 32) {
            int64_t from = 0;
            float weight = 0;
            if (m + lane < range.n_members) {
                const cuda_member *member = record(table.members + (range.first_member + m + lane));
                from = member->at +
                       table.offsets[range.first_offset + (int64_t)member->layout * range.offset_stride];
                weight = member->weight;
            }
            int left = range.n_members - m < 32 ? range.n_members - m : 32;
            for (int j = 0; j < left; j++) {
                int64_t at = __shfl_sync(0xffffffffu, from, j);
                float w = __shfl_sync(0xffffffffu, weight, j);
                if (i < range.count) sum += w * parameters[at + i];
            }
        }
        if (i < range.count) packed[range.packed + i] = sum;
    }
}

/* What becomes of a member's element at `offset` of its pack, given the packed value. */
struct spread_rule {
    global<float> parameters;

    __device__ __forceinline__ void apply(const cuda_member *member, int64_t offset, float value) const {
        parameters[member->at + offset] = value;
    }
};

struct proximal_rule {
    global<const float> parameters;
    global<float> gradients;

    __device__ __forceinline__ void apply(const cuda_member *member, int64_t offset, float value) const {
        gradients[member->gradients + offset] += member->weight * (parameters[member->at + offset] - value);
    }
};

/* Grid: ranges, blocks that share the members of one, blocks that share its elements. */
template <typename Rule>
static __global__ void __launch_bounds__(UPDATE_LANES)
    group_members_kernel(cuda_group_table table, Rule rule, global<const float> packed) {
    const cuda_group_range range = *record(table.ranges + blockIdx.x);
    for (int64_t i = (int64_t)blockIdx.z * UPDATE_LANES + threadIdx.x; i < range.count;
         i += (int64_t)gridDim.z * UPDATE_LANES) {
        float value = packed[range.packed + i];
        for (int32_t m = (int32_t)blockIdx.y; m < range.n_members; m += (int32_t)gridDim.y) {
            const cuda_member *member = record(table.members + (range.first_member + m));
            int64_t of_layout = range.first_offset + (int64_t)member->layout * range.offset_stride;
            rule.apply(member, table.offsets[of_layout] + i, value);
        }
    }
}

/* The groups' arrays, one behind the other, as the host lists them. */
typedef struct {
    cuda_group_range *ranges;
    cuda_member *members;
    int64_t *offsets;
    int64_t n_ranges, n_members, n_offsets;
    int64_t most_elements, most_members; /* of the largest range */
} group_lists;

static int32_t layouts_of(const ck_group *group) {
    int32_t n = 0;
    for (int32_t m = 0; m < group->n_members; m++) n = group->layout[m] >= n ? group->layout[m] + 1 : n;
    return n;
}

static void list_group(group_lists *lists, const ck_group *group) {
    int64_t packed = group->packed, n_offsets = (int64_t)layouts_of(group) * group->n_ranges;
    for (int32_t r = 0; r < group->n_ranges; r++) {
        cuda_group_range range = {packed,           group->count[r],      (int32_t)lists->n_members,
                                  group->n_members, lists->n_offsets + r, group->n_ranges};
        packed += group->count[r];
        if (group->count[r] > lists->most_elements) lists->most_elements = group->count[r];
        if (group->count[r] > 0) lists->ranges[lists->n_ranges++] = range;
    }
    for (int32_t m = 0; m < group->n_members; m++) {
        cuda_member member = {group->members[m], group->gradients ? group->gradients[m] : 0,
                              group->weights[m], group->layout[m]};
        lists->members[lists->n_members++] = member;
    }
    memcpy(lists->offsets + lists->n_offsets, group->offset, (size_t)n_offsets * sizeof(int64_t));
    lists->n_offsets += n_offsets;
    if (group->n_members > lists->most_members) lists->most_members = group->n_members;
}

static void group_lists_destroy(group_lists *lists) {
    free(lists->ranges);
    free(lists->members);
    free(lists->offsets);
}

static bool group_lists_create(group_lists *lists, const ck_group *groups, int32_t n_groups) {
    int64_t ranges = 1, members = 1, offsets = 1;
    for (int32_t g = 0; g < n_groups; g++) {
        ranges += groups[g].n_ranges;
        members += groups[g].n_members;
        offsets += (int64_t)layouts_of(&groups[g]) * groups[g].n_ranges;
    }
    *lists = {};
    lists->ranges = static_cast<cuda_group_range *>(calloc((size_t)ranges, sizeof(cuda_group_range)));
    lists->members = static_cast<cuda_member *>(calloc((size_t)members, sizeof(cuda_member)));
    lists->offsets = static_cast<int64_t *>(calloc((size_t)offsets, sizeof(int64_t)));
    bool good = lists->ranges && lists->members && lists->offsets;
    for (int32_t g = 0; g < n_groups && good; g++) list_group(lists, &groups[g]);
    return good;
}

template <typename T> static global<const T> stage(ck_stream *stream, const T *list, int64_t n) {
    return static_cast<const T *>(cuda_stage(stream, list, (size_t)n * sizeof *list));
}

/* NULL, or what was wrong. A group without members sums to zeros. */
static const char *stage_groups(ck_stream *stream, const group_lists *lists, cuda_group_table *table) {
    table->ranges = stage(stream, lists->ranges, lists->n_ranges);
    if (lists->n_members > 0) table->members = stage(stream, lists->members, lists->n_members);
    if (lists->n_members > 0) table->offsets = stage(stream, lists->offsets, lists->n_offsets);
    bool good = table->ranges && (lists->n_members == 0 || (table->members && table->offsets));
    return good ? nullptr : "no memory for the table of an aggregation";
}

const char *cuda_group_sum(ck_stream *stream, const float *parameters, const ck_group *groups,
                           int32_t n_groups, float *packed) {
    group_lists lists;
    cuda_group_table table = {};
    global<const float> from = parameters;
    global<float> to = packed;
    const char *problem = group_lists_create(&lists, groups, n_groups) ? nullptr : no_memory;
    if (!problem && lists.n_ranges > 0) {
        problem = stage_groups(stream, &lists, &table);
        dim3 grid((unsigned)lists.n_ranges,
                  blocks_each(lists.n_ranges, (lists.most_elements + UPDATE_LANES - 1) / UPDATE_LANES));
        if (!problem)
            problem =
                CK_LAUNCH(group_sum_kernel, grid, UPDATE_LANES, 0, cuda_stream_of(stream), table, from, to);
    }
    group_lists_destroy(&lists);
    return problem;
}

template <typename Rule>
static const char *each_member(ck_stream *stream, const Rule &rule, const ck_group *groups, int32_t n_groups,
                               const float *packed) {
    group_lists lists;
    cuda_group_table table = {};
    global<const float> from = packed;
    const char *problem = group_lists_create(&lists, groups, n_groups) ? nullptr : no_memory;
    if (!problem && lists.n_ranges > 0 && lists.n_members > 0) {
        problem = stage_groups(stream, &lists, &table);
        unsigned elements =
            blocks_each(lists.n_ranges, (lists.most_elements + UPDATE_LANES - 1) / UPDATE_LANES);
        dim3 grid((unsigned)lists.n_ranges, blocks_each(lists.n_ranges * elements, lists.most_members),
                  elements);
        if (!problem)
            problem = CK_LAUNCH((group_members_kernel<Rule>), grid, UPDATE_LANES, 0, cuda_stream_of(stream),
                                table, rule, from);
    }
    group_lists_destroy(&lists);
    return problem;
}

const char *cuda_group_spread(ck_stream *stream, float *parameters, const ck_group *groups, int32_t n_groups,
                              const float *packed) {
    spread_rule rule = {parameters};
    return each_member(stream, rule, groups, n_groups, packed);
}

const char *cuda_group_proximal(ck_stream *stream, const float *parameters, const ck_group *groups,
                                int32_t n_groups, const float *packed, float *gradients) {
    proximal_rule rule = {parameters, gradients};
    return each_member(stream, rule, groups, n_groups, packed);
}
