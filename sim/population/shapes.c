/* The ck_shape of a device: its experts, their ranks and scales, and the coefficients of its load-balance
 * term
 *
 *   balance_e = lambda E c_e / L      c_e: methods/as_released.h;  of a llama_moe router lambda / L */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "methods/as_released.h"
#include "model/family.h"
#include "population/parts.h"

static float lora_scale(const experts_settings *x, double alpha, int rank) {
    return (float)(x->scaling == SCALING_RSLORA ? alpha / sqrt(rank) : alpha / rank);
}

/* Whether a layer of the base has that linear: GPT-2's q, k and v are one, and its MLP has no gate. */
static bool has_linear(const base_shape *base, ck_site site) {
    bool gpt2 = base->family == BASE_GPT2;
    switch (site) {
    case CK_SITE_QKV:
        return gpt2;
    case CK_SITE_Q:
    case CK_SITE_K:
    case CK_SITE_V:
    case CK_SITE_GATE:
        return !gpt2;
    case CK_SITE_OUT:
    case CK_SITE_FC:
    case CK_SITE_PR:
        return true;
    case CK_SITES:
        break;
    }
    return false;
}

static void fill_loras(ck_shape *shape, const base_shape *base, const population_settings *ps) {
    for (ck_site site = 0; site < CK_SITES; site++) {
        bool together = ps->attention_rank > 0 && settings_is_of_attention(site);
        int rank = together ? ps->attention_rank : ps->lora.rank[site];
        if (rank == 0 || !has_linear(base, site)) continue;
        shape->lora_rank[site] = rank;
        shape->lora_scale[site] = lora_scale(&ps->experts, ps->lora.alpha[site], rank);
    }
}

/* What all layers share; the enum of the setting is the kernels'. */
static void fill_tied(ck_shape *shape, const base_shape *base, const population_settings *ps) {
    for (ck_site site = 0; site < CK_SITES; site++) {
        if (!has_linear(base, site) || !settings_names_linear(ps->tied.linears, site)) continue;
        shape->tied_rank[site] = ps->tied.rank;
        if (ps->tied.rank > 0)
            shape->tied_scale[site] = lora_scale(&ps->experts, ps->tied.alpha, ps->tied.rank);
        shape->vector[site] = (ck_vector_form)ps->tied.vector;
    }
}

/* A LoRA on a linear that bases of this family do not have. */
static exit_code check_linears(const base_shape *base, const population_settings *ps, problems *list) {
    char there[128] = "";
    size_t used = 0;
    for (ck_site site = 0; site < CK_SITES; site++)
        if (has_linear(base, site))
            used += (size_t)snprintf(there + used, sizeof there - used, "%s%s", used ? ", " : "",
                                     settings_linear(site));
    bool some = ps->tied.rank > 0 || ps->tied.vector != CK_NO_VECTOR,
         all = strcmp(ps->tied.linears, "all") == 0;
    for (ck_site site = 0; site < CK_SITES; site++) {
        bool lora = ps->lora.rank[site] > 0,
             tied = some && !all && settings_names_linear(ps->tied.linears, site);
        if ((lora || tied) && !has_linear(base, site))
            return problem(list, EXIT_INPUT,
                           "population '%s': %s%s: a layer of this base has no such linear; it has %s",
                           ps->name, lora ? "lora." : "tied.linears: ", settings_linear(site), there);
    }
    return EXIT_OK;
}

static void fill_given(ck_shape *shape, const base_shape *base, const population *p, const device *d) {
    const population_settings *ps = p->settings;
    memset(shape, 0, sizeof *shape);
    shape->n_layers = base->layers;
    shape->width = base->width;
    shape->ffn = base->ffn;
    shape->q_width = base_q_width(base);
    shape->kv_width = base_kv_width(base);
    shape->mlp = model_family_of(base)->mlp;
    shape->n_experts = device_experts(d) > 0 ? device_experts(d) : 1; /* of rank 0: the MLP of the base */
    shape->top_k = ps->experts.top_k;
    shape->gates = p->method->gates;
    shape->mix = ps->experts.mix == MIX_MLP ? CK_MIX_MLP : CK_MIX_LINEAR;
    fill_loras(shape, base, ps);
    fill_tied(shape, base, ps);
    bool routed = p->method->gates == CK_GATES_TOP_K && shape->n_experts > 1;
    if (routed) shape->router = (ck_router)ps->experts.router;
    for (int e = 0; e < device_experts(d) && e < CK_MAX_EXPERTS; e++) {
        double share = shape->router == CK_ROUTER_LLAMA_MOE
                           ? 1.0 / shape->n_experts
                           : released_balance(ps->as_released, ps->experts.balance_importance, d->generalists,
                                              d->specialists, e);
        shape->rank[e] = d->rank;
        shape->scale[e] = lora_scale(&ps->experts, ps->experts.alpha, d->rank);
        shape->balance[e] =
            routed ? (float)(ps->experts.balance * shape->n_experts * share / base->layers) : 0.0F;
    }
}

static bool same_shape(const ck_shape *a, const ck_shape *b) {
    return a->n_experts == b->n_experts && memcmp(a->rank, b->rank, sizeof a->rank) == 0 &&
           memcmp(a->scale, b->scale, sizeof a->scale) == 0 && a->top_k == b->top_k && a->gates == b->gates &&
           a->router == b->router && a->mix == b->mix &&
           memcmp(a->lora_rank, b->lora_rank, sizeof a->lora_rank) == 0 &&
           memcmp(a->lora_scale, b->lora_scale, sizeof a->lora_scale) == 0 &&
           memcmp(a->tied_rank, b->tied_rank, sizeof a->tied_rank) == 0 &&
           memcmp(a->tied_scale, b->tied_scale, sizeof a->tied_scale) == 0 &&
           memcmp(a->vector, b->vector, sizeof a->vector) == 0 &&
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
        scaled = scaled && (shape->lora_rank[site] == 0 || shape->lora_scale[site] > 0.0F) &&
                 (shape->tied_rank[site] == 0 || shape->tied_scale[site] > 0.0F);
    for (int e = 0; e < shape->n_experts; e++) {
        scaled = scaled && (shape->rank[e] == 0 || shape->scale[e] > 0.0F);
        balanced =
            balanced && isfinite(shape->balance[e]) && (shape->balance[e] > 0.0F || !has_balance(shape, x));
    }
    if (!scaled)
        return problem(list, EXIT_INPUT,
                       "population '%s': experts.alpha %g, divided for the rank, is 0 in single precision; "
                       "make it, or the lora.alpha or tied.alpha that is written, larger",
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
    exit_code checked = check_linears(base, p->settings, list);
    if (checked != EXIT_OK) return checked;
    fill_given(&made, base, p, d);
    if (made.n_experts > CK_MAX_EXPERTS)
        return problem(list, EXIT_INPUT, "population '%s': device %d has %d experts; at most %d are possible",
                       p->settings->name, d->index, made.n_experts, CK_MAX_EXPERTS);
    checked = check_coefficients(&made, p, list);
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

void shape_count_parameters(const population *p, const device *d, const ck_shape *shape, int64_t *shared,
                            int64_t *private_) {
    *shared = *private_ = 0;
    for (int32_t i = 0; i < ck_part_count(shape); i++) {
        ck_part part = ck_part_at(shape, i);
        *(population_shares(p, d, &part) ? shared : private_) += (int64_t)part.rows * part.columns;
    }
}
