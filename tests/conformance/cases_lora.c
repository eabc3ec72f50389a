/* LoRA on attention's two linears, in waves where some devices have it, with different ranks, and some have
 * not. */
#include "conformance/cases.h"

static int out_columns(const rig *r, ck_site site) {
    const ck_shape *s = rig_shape(r, 0);
    return site == CK_SITE_QKV ? s->q_width + 2 * s->kv_width : s->width;
}

static int in_columns(const rig *r, ck_site site) {
    return site == CK_SITE_OUT ? rig_shape(r, 0)->q_width : r->spec->width;
}

static void lora_with(rig *r, ck_site site) {
    rig_tensor *x = rig_input(r, in_columns(r, site), "x"), *h = rig_output(r, r->max_lora_rank, "h"),
               *y = rig_input(r, out_columns(r, site), "y");
    ck_op_lora(r->program, &(ck_lora){.x = x->tensor,
                                      .h = h->tensor,
                                      .y = y->tensor,
                                      .site = site,
                                      .in = in_columns(r, site),
                                      .out = out_columns(r, site),
                                      .layer = RIG_LAYER});
    if (!rig_run(r)) return;
    for (int d = 0; d < r->spec->n_devices; d++) {
        oracle_adapter a = rig_adapter(r, d, RIG_LAYER);
        int64_t first = rig_first(r, d);
        oracle_lora(&a, site, rig_rows(r, d), rig_row(x, first), rig_row(h, first), h->columns,
                    rig_row(y, first), y->columns);
    }
    rig_compare(r, h, COLUMNS_LORA + site);
    rig_compare(r, y, COLUMNS_ALL);
}

static void lora_qkv(rig *r) {
    lora_with(r, CK_SITE_QKV);
}

static void lora_out(rig *r) {
    lora_with(r, CK_SITE_OUT);
}

static void lora_backward_with(rig *r, ck_site site, bool no_dx) {
    rig_tensor *x = rig_input(r, in_columns(r, site), "x"), *h = rig_input(r, r->max_lora_rank, "h"),
               *dx = rig_input(r, in_columns(r, site), "dx");
    rig_tensor *dy = rig_input(r, out_columns(r, site), "dy");
    rig_poison(r, h, COLUMNS_LORA + site);
    ck_op_lora_backward(r->program, &(ck_lora_backward){.x = x->tensor,
                                                        .h = h->tensor,
                                                        .dy = dy->tensor,
                                                        .dx = no_dx ? NULL : dx->tensor,
                                                        .site = site,
                                                        .in = in_columns(r, site),
                                                        .out = out_columns(r, site),
                                                        .layer = RIG_LAYER});
    if (!rig_run(r)) return;
    for (int d = 0; d < r->spec->n_devices; d++) {
        oracle_adapter a = rig_adapter(r, d, RIG_LAYER);
        int64_t first = rig_first(r, d);
        oracle_lora_backward(&a, site, rig_rows(r, d), rig_row(x, first), rig_row(h, first), h->columns,
                             rig_row(dy, first), dy->columns, no_dx ? NULL : rig_row(dx, first));
    }
    rig_compare(r, dx, COLUMNS_ALL);
    rig_compare_gradients(r, RIG_LAYER,
                          site == CK_SITE_QKV ? 1u << ORACLE_QKV_A | 1u << ORACLE_QKV_B
                                              : 1u << ORACLE_OUT_A | 1u << ORACLE_OUT_B);
}

static void lora_qkv_backward(rig *r) {
    lora_backward_with(r, CK_SITE_QKV, false);
}

static void lora_qkv_backward_parameters_only(rig *r) {
    lora_backward_with(r, CK_SITE_QKV, true);
}

static void lora_out_backward(rig *r) {
    lora_backward_with(r, CK_SITE_OUT, false);
}

static const conformance_case cases[] = {
    {.name = "lora of qkv", .run = lora_qkv},
    {.name = "lora of the output", .run = lora_out},
    {.name = "lora of qkv, backward", .run = lora_qkv_backward, .learns = true},
    {.name = "lora of qkv, backward without dx", .run = lora_qkv_backward_parameters_only, .learns = true},
    {.name = "lora of the output, backward", .run = lora_out_backward, .learns = true},
};
const conformance_group lora_group = {"lora", cases, sizeof cases / sizeof *cases};
