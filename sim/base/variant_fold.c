/* The values of a variant: read, folded, compared with the base. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/variant_parts.h"

void base_fold_factors(float *w, int64_t rows, int64_t in, int rank, float scale, const float *a,
                       const float *b) {
    for (int64_t o = 0; o < rows; o++)
        for (int j = 0; j < rank; j++) {
            float factor = scale * b[j * rows + o];
            for (int64_t i = 0; i < in; i++) w[o * in + i] = fmaf(factor, a[j * in + i], w[o * in + i]);
        }
}

static exit_code no_memory(const base_variant *v, problems *list) {
    return problem(list, EXIT_ENVIRONMENT, "%s: no memory to read it", v->path_owned);
}

/* Reads the pair's factors; *out [rank, in] and behind it [rank, out] is the caller's to free. */
static exit_code read_pair(const base_variant *v, const peft_pair *pair, float **out, problems *list) {
    *out = malloc((size_t)(pair->rank * (pair->in + pair->out)) * sizeof **out);
    if (!*out) return no_memory(v, list);
    return peft_lora_read(&v->lora, pair, *out, *out + pair->rank * pair->in, list);
}

static exit_code fold_part(const base_variant *v, const variant_part *part, float *weight, float *bias,
                           problems *list) {
    if (part->pair < 0) return shards_read(&v->files, &part->tensor, 1, part->bias ? bias : weight, list);
    const peft_pair *pair = &v->lora.pairs_owned[part->pair];
    float *factors = NULL;
    exit_code code = read_pair(v, pair, &factors, list);
    if (code == EXIT_OK)
        base_fold_factors(weight + part->tensor.offset, pair->out, pair->in, pair->rank, pair->scale, factors,
                          factors + pair->rank * pair->in);
    free(factors);
    return code;
}

/* Factors that are finite may sum to what is not. */
static exit_code check_finite(const base_variant *v, int linear, const float *weight, int64_t count,
                              problems *list) {
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(weight[i]))
            return problem(list, EXIT_INPUT,
                           "%s: folded into the base it makes a weight of layer %d that is not finite",
                           v->path_owned, linear / BASE_LAYER_LINEARS);
    return EXIT_OK;
}

exit_code base_variant_fold(const base_variant *v, const base_model *base, int linear, float *weight,
                            float *bias, problems *list) {
    base_linear l = base_linear_at(&v->shape, &v->layout, linear);
    size_t count = (size_t)l.in * (size_t)l.out;
    exit_code code = EXIT_OK;
    if (v->places[linear].weight >= 0) memcpy(weight, base->weights + l.weight, count * sizeof *weight);
    if (v->places[linear].bias >= 0 && l.bias >= 0)
        memcpy(bias, base->weights + l.bias, (size_t)l.out * sizeof *bias);
    else if (v->places[linear].bias >= 0)
        memset(bias, 0, (size_t)l.out * sizeof *bias);
    for (int i = 0; i < v->n_parts; i++) {
        if (v->parts[i].linear != linear) continue;
        exit_code one = fold_part(v, &v->parts[i], weight, bias, list);
        if (one != EXIT_OK) code = one;
    }
    if (code != EXIT_OK || v->places[linear].weight < 0) return code;
    return check_finite(v, linear, weight, (int64_t)count, list);
}

/* ---- What is no linear ---- */

static exit_code compare_part(const base_variant *v, const variant_part *part, const base_model *base,
                              problems *list) {
    const packed_tensor *t = &part->tensor;
    int64_t count = t->n_dims == 1 ? t->dims[0] : t->dims[0] * t->dims[1];
    packed_tensor own = *t;
    own.offset = 0;
    float *values = malloc((size_t)count * sizeof *values);
    if (!values) return no_memory(v, list);
    exit_code code = shards_read(&v->files, &own, 1, values, list);
    if (code == EXIT_OK && memcmp(values, base->weights + t->offset, (size_t)count * sizeof *values) != 0)
        code = problem(list, EXIT_INPUT,
                       "%s: tensor \"%s\" differs from the base's; a variant replaces linears alone",
                       v->path_owned, t->name);
    free(values);
    return code;
}

exit_code base_variant_compare(const base_variant *v, const base_model *base, problems *list) {
    exit_code code = EXIT_OK;
    for (int i = 0; i < v->n_parts; i++) {
        if (v->parts[i].linear >= 0) continue;
        exit_code one = compare_part(v, &v->parts[i], base, list);
        if (one != EXIT_OK) code = one;
    }
    return code;
}

exit_code base_variant_check(const base_variant *v, const base_model *base, problems *list) {
    exit_code code = base_variant_compare(v, base, list);
    float *room = malloc((size_t)(base_variant_largest(v) + 1) * sizeof *room);
    if (!room) return no_memory(v, list);
    for (int i = 0; i < v->n_linears; i++) {
        base_linear l = base_linear_at(&v->shape, &v->layout, i);
        variant_place at = v->places[i];
        if (at.weight < 0 && at.bias < 0) continue;
        float *bias = at.weight >= 0 ? room + (int64_t)l.in * l.out : room;
        exit_code one = base_variant_fold(v, base, i, room, bias, list);
        if (one != EXIT_OK) code = one;
    }
    free(room);
    return code;
}
