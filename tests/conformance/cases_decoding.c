/* The whole model in several waves that go on: its logits are those that the oracle has for whole sequences.
 *
 * The sequences of a wave of the table come in STEPS waves: half of a sequence, one token, one more, the
 * rest. A sequence that has ended takes no part in the waves that follow, and neither does a device without a
 * sequence. Places in the cache are in reverse order, with one that nobody has; all of it holds NaN before.
 */
#include <stdlib.h>
#include <string.h>

#include "conformance/cases.h"
#include "conformance/whole_variants.h"
#include "model/model.h"
#include "support/kernel_problem.h"

enum { OF_VARIANTS = 1 };
enum { STEPS = 4, MOST_SEQUENCES = WAVE_MAX_DEVICES * WAVE_MAX_LENGTHS };
static const double LEAST_MARGIN = 1e-5;

/* ---- A wave of some of the tokens of each sequence ---- */

typedef struct {
    ck_wave wave;
    int64_t first_token[MOST_SEQUENCES + 1];
    int32_t first_sequence[WAVE_MAX_DEVICES + 1], first_position[MOST_SEQUENCES], slot[MOST_SEQUENCES];
    int32_t fault[WAVE_MAX_DEVICES], *tokens, *targets;
    int64_t last[MOST_SEQUENCES]; /* of each sequence's last token here, the token of the rig's wave */
    ck_wave_device devices[WAVE_MAX_DEVICES];
} part_wave;

/* Tokens of a sequence of n that steps 0 .. step have taken. */
static int64_t taken(int64_t n, int step) {
    int64_t end = step < STEPS - 1 ? (n + 1) / 2 + step : n;
    return end < n ? end : n;
}

static void add_sequence(part_wave *p, const rig *r, int s, int step) {
    int64_t first = r->first_token[s], n = r->first_token[s + 1] - first,
            begin = step > 0 ? taken(n, step - 1) : 0, end = taken(n, step);
    int at = p->wave.n_sequences;
    if (begin == end) return;
    memcpy(p->tokens + p->first_token[at], r->tokens + first + begin,
           (size_t)(end - begin) * sizeof *p->tokens);
    p->first_token[at + 1] = p->first_token[at] + end - begin;
    p->first_position[at] = (int32_t)begin;
    p->slot[at] = r->n_sequences - s;
    p->last[at] = first + end - 1;
    p->wave.n_sequences++;
}

static part_wave *part_open(const rig *r, int step) {
    part_wave *p = rig_zeros(1, sizeof *p);
    p->tokens = rig_zeros(r->n_tokens, sizeof *p->tokens);
    p->targets = rig_zeros(r->n_tokens, sizeof *p->targets);
    for (int d = 0; d < r->n_devices; d++) {
        int before = p->wave.n_sequences;
        for (int s = r->first_sequence[d]; s < r->first_sequence[d + 1]; s++) add_sequence(p, r, s, step);
        if (p->wave.n_sequences == before) continue;
        p->devices[p->wave.n_devices++] = r->devices[d];
        p->first_sequence[p->wave.n_devices] = p->wave.n_sequences;
    }
    p->wave.first_token = p->first_token, p->wave.first_sequence = p->first_sequence;
    p->wave.devices = p->devices;
    p->wave.n_shapes = r->n_shapes, p->wave.shapes = r->shapes;
    p->wave.tokens = p->tokens, p->wave.targets = p->targets;
    p->wave.first_position = p->first_position, p->wave.cache_slot = p->slot;
    p->wave.parameters = r->copies[0].packs[PACK_PARAMETERS];
    p->wave.n_variants = r->n_variants, p->wave.n_linears = r->n_linears;
    p->wave.variants = r->copies[0].variants;
    p->wave.fault = p->fault;
    return p;
}

static void part_close(part_wave *p) {
    free(p->tokens);
    free(p->targets);
    free(p);
}

/* ---- The model ---- */

static void arrays(rig *r) {
    base_shape shape = conformance_base(r);
    size_t cache = model_cache_bytes(&shape, CK_F32, r->n_sequences + 1, r->context);
    rig_buffer(r, WEIGHT, "base", INPUT, base_layout_of(&shape).total, 0);
    wave_fill_base(&shape, 9, r->buffer[WEIGHT].before);
    if (r->flags & OF_VARIANTS) whole_variants(r);
    rig_buffer(r, KEYS, "cache", OUTPUT, (int64_t)(cache / sizeof(float)), 1);
    rig_buffer(r, LOGITS, "logits", OUTPUT, (int64_t)r->n_sequences * r->vocabulary, 1);
}

static exit_code create(const rig *r, rig_copy *c, problems *list) {
    model_base base = {.shape = conformance_base(r), .weights = c->buffer[WEIGHT]};
    base.layout = base_layout_of(&base.shape);
    const ck_capacity capacity = rig_capacity(r);
    const model_decoding places = {.cache = c->buffer[KEYS],
                                   .slots = r->n_sequences + 1,
                                   .positions = r->context,
                                   .logits = c->buffer[LOGITS]};
    return model_record_decoding(r->backend, &base, r->shapes, r->n_shapes, &capacity, &places, &c->program,
                                 list);
}

/* [n_tokens, vocabulary] of whole sequences; free() it. */
static double *expected_logits(const rig *r, verdict *v) {
    double *logits = oracle_zeros(r->n_tokens * r->vocabulary), *buffer[BUFFERS] = {0};
    buffer[WEIGHT] = oracle_from_floats(r->buffer[WEIGHT].before, r->buffer[WEIGHT].count);
    if (r->flags & OF_VARIANTS)
        buffer[OTHER_WEIGHTS] =
            oracle_from_floats(r->buffer[OTHER_WEIGHTS].before, r->buffer[OTHER_WEIGHTS].count);
    for (int d = 0; d < r->n_devices; d++) {
        int first = r->first_sequence[d];
        int64_t token = rig_first(r, d);
        oracle_batch batch = {r->first_sequence[d + 1] - first, r->first_token + first, r->tokens + token,
                              r->targets + token, NULL};
        oracle_pass pass = {.logits = logits + token * r->vocabulary};
        oracle_base base = whole_reference(r, buffer, d);
        ck_shape shape = *rig_shape(r, d);
        double *pack = rig_pack(r, PACK_PARAMETERS, d);
        shape.balanced = false;
        oracle_model(&base, &shape, pack, &batch, &pass);
        rig_context(r, v, d);
        if (pass.margin < LEAST_MARGIN) verdict_fail(v, "a margin of %g", pass.margin);
        free(pack);
    }
    rig_context(r, v, -1);
    free(buffer[WEIGHT]);
    free(buffer[OTHER_WEIGHTS]);
    return logits;
}

static ck_status run_part(rig *r, const part_wave *p) {
    rig_copy *c = &r->copies[0];
    buffer_array *logits = &r->buffer[LOGITS];
    size_t bytes = (size_t)(p->wave.n_sequences * r->vocabulary) * sizeof(float);
    ck_status status = ck_run(c->program, r->stream, &p->wave);
    if (!status) status = ck_download(r->stream, logits->after, c->buffer[LOGITS], bytes);
    ck_status waited = ck_wait(r->stream);
    return status ? status : waited;
}

static void judge_part(const rig *r, verdict *v, const part_wave *p, const double *expected) {
    for (int s = 0; s < p->wave.n_sequences; s++)
        verdict_compare(v, "logits", r->buffer[LOGITS].after + (int64_t)s * r->vocabulary,
                        expected + p->last[s] * r->vocabulary, r->vocabulary);
    for (int d = 0; d < p->wave.n_devices; d++) {
        verdict_exact(v, "fault", p->fault[d] == -1);
        if (p->fault[d] != -1) verdict_fail(v, "fault %d of device %d of a part", p->fault[d], d);
    }
}

static void decode(rig *r, verdict *v) {
    problems *list = problems_create();
    exit_code code = rig_copy_add(r, true, list);
    if (code == EXIT_OK) code = rig_reset(r, &r->copies[0], list);
    double *expected = code == EXIT_OK ? expected_logits(r, v) : NULL;
    for (int step = 0; step < STEPS && code == EXIT_OK; step++) {
        part_wave *p = part_open(r, step);
        if (p->wave.n_sequences > 0) {
            code = kernel_problem(list, r->backend, run_part(r, p), "decoding");
            if (code == EXIT_OK) judge_part(r, v, p, expected);
        }
        part_close(p);
    }
    for (int i = 0; i < problems_count(list); i++) verdict_fail(v, "%s", problems_message(list, i));
    problems_destroy(list);
    free(expected);
}

static const op_case model = {.group = "decoding",
                              .name = "model decoding",
                              .needs = NEED_PACKS,
                              .rows = ROWS_DEVICE,
                              .arrays = arrays,
                              .create = create};

const conformance_case decoding_cases[] = {
    {"decoding", {.name = "model decoding", .exact = true}, .op = &model, .run = decode, .whole = true},
    {"decoding",
     {.name = "model decoding of variants", .flags = OF_VARIANTS, .exact = true},
     .op = &model,
     .run = decode,
     .whole = true},
    {0}};
