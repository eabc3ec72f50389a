/* rig_point.c - the wave of a microbenchmark. */
#include <stdlib.h>

#include "rig/case.h"

enum { HEAD_COLUMNS = 64 };

static int heads_of(int width) {
    return width % HEAD_COLUMNS == 0                 ? width / HEAD_COLUMNS
           : width % 16 == 0 && width < HEAD_COLUMNS ? width / 16
                                                     : 1;
}

static exit_code lay_shape(rig *r, unsigned axes, problems *list) {
    const int *v = r->at.value;
    ck_shape *s = r->shapes = rig_zeros(1, sizeof *s);
    bool tied = (r->which->needs & NEED_TIED) != 0, lora = !tied && (axes >> AXIS_ATTENTION_RANK & 1) != 0,
         routed = (axes >> AXIS_EXPERTS & 1) != 0;
    *s = (ck_shape){.n_layers = r->layers,
                    .width = r->width,
                    .ffn = r->ffn,
                    .n_experts = routed ? v[AXIS_EXPERTS] : 1,
                    .top_k = routed ? v[AXIS_TOP_K] : 1,
                    .rank = {1},
                    .scale = {1}};
    s->lora_rank[CK_SITE_QKV] = s->lora_rank[CK_SITE_OUT] = lora ? v[AXIS_ATTENTION_RANK] : 0;
    s->lora_scale[CK_SITE_QKV] = s->lora_scale[CK_SITE_OUT] = 1;
    if (tied) {
        s->tied_rank[CK_SITE_QKV] = v[AXIS_ATTENTION_RANK], s->tied_scale[CK_SITE_QKV] = 1;
        s->vector[CK_SITE_QKV] = CK_COLUMN_BIAS;
    }
    if (axes >> AXIS_MLP & 1) s->mlp = (ck_mlp)v[AXIS_MLP];
    for (int e = 0; e < s->n_experts && routed; e++) {
        s->rank[e] = v[AXIS_RANK] == RANK_MIXED ? r->at.mixed[e % r->at.n_mixed] : v[AXIS_RANK];
        s->scale[e] = 1;
    }
    const char *why = NULL;
    return ck_shape_init(s, &why) == CK_OK ? EXIT_OK
                                           : problem(list, EXIT_INPUT, "%s: %s", r->which->name, why);
}

/* Each device's tokens in sequences of at most the axis' length. */
static void lay_sequences(rig *r) {
    int most = r->at.value[AXIS_SEQUENCE], *tokens = rig_zeros(r->n_devices, sizeof *tokens);
    point_tokens(&r->at, tokens);
    for (int d = 0; d < r->n_devices; d++) r->n_sequences += (tokens[d] + most - 1) / most;
    r->first_token = rig_zeros(r->n_sequences + 1, sizeof *r->first_token);
    r->first_sequence = rig_zeros(r->n_devices + 1, sizeof *r->first_sequence);
    for (int d = 0, s = 0; d < r->n_devices; d++) {
        for (int left = tokens[d]; left > 0; left -= most, s++)
            r->first_token[s + 1] = r->first_token[s] + (left < most ? left : most);
        r->first_sequence[d + 1] = s;
    }
    free(tokens);
}

exit_code rig_lay_point(rig *r, const void *source, problems *list) {
    r->at = *(const point *)source;
    unsigned axes = r->which->axes;
    const int *v = r->at.value;
    r->precision = (ck_precision)v[AXIS_PRECISION];
    r->width = v[AXIS_WIDTH];
    r->ffn = 4 * r->width;
    r->heads = heads_of(r->width);
    r->vocabulary = v[AXIS_VOCABULARY];
    r->context = v[AXIS_SEQUENCE];
    r->layers = axes >> AXIS_LAYERS & 1 ? v[AXIS_LAYERS] : 1;
    r->n_shapes = 1;
    /* A case that knows no devices has one; one that knows no tokens has one a device. */
    if (!(axes >> AXIS_DEVICES & 1)) r->at.value[AXIS_DEVICES] = 1;
    r->n_devices = r->at.value[AXIS_DEVICES];
    if (!(axes >> AXIS_TOKENS & 1)) r->at.value[AXIS_TOKENS] = r->n_devices;
    exit_code code = lay_shape(r, axes, list);
    if (code != EXIT_OK) return code;
    lay_sequences(r);
    r->devices = rig_zeros(r->n_devices, sizeof *r->devices);
    for (int d = 0; d < r->n_devices; d++) r->devices[d].learn = CK_LEARN_EXPERTS | CK_LEARN_ROUTER;
    return EXIT_OK;
}
