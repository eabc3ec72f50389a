/* The ck_shape of a device: its experts, their ranks and scales, and the coefficients of its load-balance
 * term
 *
 *   balance_e = lambda E c_e / L      c_e: methods/as_released.h */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "methods/as_released.h"
#include "model/family.h"
#include "population/parts.h"

static float lora_scale(const experts_settings *x, int rank) {
    return (float)(x->scaling == SCALING_RSLORA ? x->alpha / sqrt(rank) : x->alpha / rank);
}

/* Linears of attention: GPT-2 has q, k and v as one. */
static const ck_site gpt2_attention[] = {CK_SITE_QKV, CK_SITE_OUT, CK_NO_SITE},
                     llama_attention[] = {CK_SITE_Q, CK_SITE_K, CK_SITE_V, CK_SITE_OUT, CK_NO_SITE};

static void fill_given(ck_shape *shape, const base_shape *base, const population *p, const device *d) {
    const population_settings *ps = p->settings;
    memset(shape, 0, sizeof *shape);
    shape->n_layers = base->layers;
    shape->width = base->width;
    shape->ffn = base->ffn;
    shape->q_width = base_q_width(base);
    shape->kv_width = base_kv_width(base);
    shape->mlp = model_family_of(base)->mlp;
    shape->n_experts = d->generalists + d->specialists;
    shape->top_k = ps->experts.top_k;
    shape->gates = p->method->gates;
    shape->mix = ps->experts.mix == MIX_MLP ? CK_MIX_MLP : CK_MIX_LINEAR;
    const ck_site *site = base->family == BASE_LLAMA ? llama_attention : gpt2_attention;
    for (; *site != CK_NO_SITE && ps->attention_rank > 0; site++) {
        shape->lora_rank[*site] = ps->attention_rank;
        shape->lora_scale[*site] = lora_scale(&ps->experts, ps->attention_rank);
    }
    bool routed = p->method->gates == CK_GATES_TOP_K && shape->n_experts > 1;
    for (int e = 0; e < shape->n_experts && e < CK_MAX_EXPERTS; e++) {
        double share = released_balance(ps->as_released, ps->experts.balance_importance, d->generalists,
                                        d->specialists, e);
        shape->rank[e] = ps->rank;
        shape->scale[e] = lora_scale(&ps->experts, ps->rank);
        shape->balance[e] =
            routed ? (float)(ps->experts.balance * shape->n_experts * share / base->layers) : 0.0F;
    }
}

static bool same_shape(const ck_shape *a, const ck_shape *b) {
    return a->n_experts == b->n_experts && memcmp(a->rank, b->rank, sizeof a->rank) == 0 &&
           memcmp(a->scale, b->scale, sizeof a->scale) == 0 && a->top_k == b->top_k && a->gates == b->gates &&
           a->mix == b->mix && memcmp(a->lora_rank, b->lora_rank, sizeof a->lora_rank) == 0 &&
           memcmp(a->lora_scale, b->lora_scale, sizeof a->lora_scale) == 0 &&
           memcmp(a->balance, b->balance, sizeof a->balance) == 0;
}

static bool has_balance(const ck_shape *shape, const experts_settings *x) {
    return shape->gates == CK_GATES_TOP_K && shape->n_experts > 1 && x->balance > 0.0;
}

/* Products of numbers that are fine in themselves. */
static exit_code check_coefficients(const ck_shape *shape, const population *p, problems *list) {
    const experts_settings *x = &p->settings->experts;
    bool scaled = true, balanced = true;
    for (int site = 0; site < CK_SITES; site++)
        scaled = scaled && (shape->lora_rank[site] == 0 || shape->lora_scale[site] > 0.0F);
    for (int e = 0; e < shape->n_experts; e++) {
        scaled = scaled && shape->scale[e] > 0.0F;
        balanced =
            balanced && isfinite(shape->balance[e]) && (shape->balance[e] > 0.0F || !has_balance(shape, x));
    }
    if (!scaled)
        return problem(list, EXIT_INPUT,
                       "population '%s': experts.alpha %g, divided for the rank, is 0 in single precision; "
                       "make it larger",
                       p->settings->name, x->alpha);
    if (balanced) return EXIT_OK;
    return problem(list, EXIT_INPUT,
                   "population '%s': experts.balance %g with experts.balance_importance %g gives a "
                   "load-balance term that single precision "
                   "cannot hold; bring the importance nearer to 0.5, or make the balance 0",
                   p->settings->name, x->balance, x->balance_importance);
}

exit_code shape_of_device(fleet *f, const base_shape *base, const population *p, const device *d, int *shape,
                          problems *list) {
    ck_shape made;
    fill_given(&made, base, p, d);
    if (made.n_experts > CK_MAX_EXPERTS)
        return problem(list, EXIT_INPUT, "population '%s': device %d has %d experts; at most %d are possible",
                       p->settings->name, d->index, made.n_experts, CK_MAX_EXPERTS);
    exit_code checked = check_coefficients(&made, p, list);
    if (checked != EXIT_OK) return checked;
    for (*shape = 0; *shape < f->n_shapes; ++*shape)
        if (same_shape(&f->shapes[*shape], &made)) return EXIT_OK;
    const char *why = NULL;
    if (ck_shape_init(&made, &why) != CK_OK)
        return problem(list, EXIT_INPUT, "population '%s': %s", p->settings->name, why);
    ck_shape *grown = realloc(f->shapes, (size_t)(f->n_shapes + 1) * sizeof *grown);
    if (!grown) return problem(list, EXIT_ENVIRONMENT, "out of memory for the devices' shapes");
    f->shapes = grown;
    f->shapes[f->n_shapes++] = made;
    return EXIT_OK;
}

void shape_count_parameters(const population *p, const ck_shape *shape, int64_t *shared, int64_t *private_) {
    *shared = *private_ = 0;
    for (int32_t i = 0; i < ck_part_count(shape); i++) {
        ck_part part = ck_part_at(shape, i);
        *(population_shares(p, &part) ? shared : private_) += (int64_t)part.rows * part.columns;
    }
}
