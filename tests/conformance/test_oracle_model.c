/* The oracle's whole model: gradients of every adapter tensor and of every base weight by central
 * differences, and what zero adapters, unequal neighbours and uncounted targets must not change. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/tensors.h"
#include "conformance/waves.h"
#include "oracle/oracle.h"

enum { SEQUENCES = 2, TOKENS = 9, VOCABULARY = 5 };

typedef struct {
    oracle_base base;
    oracle_batch batch;
    ck_shape shape;
    double *weights, *pack, *gradients;
    int64_t first_token[SEQUENCES + 1];
    int32_t tokens[TOKENS], targets[TOKENS];
    bool pretraining;
} setting;

/* The base that a wave of this shape and MLP has (waves.h). */
static setting *open_setting(int spec, ck_mlp mlp) {
    setting *s = calloc(1, sizeof *s);
    s->shape = wave_shape(spec, 8, 12, 2, mlp);
    s->base.shape = wave_base(&s->shape, 2, VOCABULARY, 6);
    s->base.layout = base_layout_of(&s->base.shape);
    float *weights = calloc((size_t)s->base.layout.total, sizeof *weights),
          *pack = calloc((size_t)s->shape.total, sizeof *pack);
    wave_fill_base(&s->base.shape, 3, weights);
    wave_fill_pack(&s->shape, 40 + (uint64_t)spec, pack);
    s->base.weights = s->weights = oracle_from_floats(weights, s->base.layout.total);
    s->pack = oracle_from_floats(pack, s->shape.total);
    s->gradients =
        oracle_zeros(s->base.layout.total > s->shape.total ? s->base.layout.total : s->shape.total);
    free(weights);
    free(pack);
    memcpy(s->first_token, (int64_t[]){0, 3, TOKENS}, sizeof s->first_token);
    memcpy(s->tokens, (int32_t[]){1, 0, 4, 2, 2, 3, 0, 1, 4}, sizeof s->tokens);
    memcpy(s->targets, (int32_t[]){0, 4, 2, 2, 3, -1, 1, 4, 0}, sizeof s->targets);
    s->batch = (oracle_batch){SEQUENCES, s->first_token, s->tokens, s->targets};
    return s;
}

static void close_setting(setting *s) {
    free(s->weights);
    free(s->pack);
    free(s->gradients);
    free(s);
}

static double objective(setting *s, oracle_pass *pass) {
    return s->pretraining ? oracle_pretraining(&s->base, &s->batch, pass)
                          : oracle_model(&s->base, &s->shape, s->pack, &s->batch, pass);
}

/* Relative error of the gradients of `count` values against difference quotients. */
static double quotient_error(setting *s, double *values, const double *gradients, int64_t count) {
    const double step = 1e-5;
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < count; i++) {
        double kept = values[i];
        values[i] = kept + step;
        double up = objective(s, &(oracle_pass){0});
        values[i] = kept - step;
        double down = objective(s, &(oracle_pass){0}), quotient = (up - down) / (2 * step);
        values[i] = kept;
        difference += (quotient - gradients[i]) * (quotient - gradients[i]);
        norm += quotient * quotient;
    }
    return norm > 0 ? sqrt(difference / norm) : sqrt(difference);
}

static void adapter_gradients(int spec, ck_mlp mlp) {
    setting *s = open_setting(spec, mlp);
    oracle_pass pass = {.gradients = s->gradients};
    objective(s, &pass);
    cr_assert(pass.margin > 1e-3, "shape %d: margin %g; choose another seed", spec, pass.margin);
    cr_assert(!s->shape.balanced || pass.balance > 0, "the load balance must take part");
    for (int l = 0; l < 2; l++)
        for (oracle_part part = 0; part < ORACLE_PARTS; part++) {
            oracle_range range = oracle_part_range(&s->shape, l, part);
            double error =
                quotient_error(s, s->pack + range.offset, s->gradients + range.offset, range.count);
            cr_expect(error < 1e-6, "shape %d, layer %d, d%s: relative error %g", spec, l,
                      oracle_part_name(part), error);
        }
    close_setting(s);
}

Test(oracle_model, adapter_gradients_of_one_expert) {
    adapter_gradients(SHAPE_SINGLE_ATTEND, CK_MLP_GELU);
}

Test(oracle_model, adapter_gradients_of_one_of_two) {
    adapter_gradients(SHAPE_PAIR_TOP1, CK_MLP_GELU);
}

Test(oracle_model, adapter_gradients_of_ragged_experts) {
    adapter_gradients(SHAPE_RAGGED, CK_MLP_GELU);
}

Test(oracle_model, adapter_gradients_of_equal_gates) {
    adapter_gradients(SHAPE_MEAN, CK_MLP_GELU);
}

Test(oracle_model, adapter_gradients_of_mixed_linears) {
    adapter_gradients(SHAPE_LINEAR, CK_MLP_GELU);
    adapter_gradients(SHAPE_LINEAR_TOP1, CK_MLP_GELU);
}

/* All biases and a head of its own; then groups of query heads and neither. */
Test(oracle_model, adapter_gradients_of_a_llama) {
    adapter_gradients(SHAPE_RAGGED, CK_MLP_SWIGLU);
    adapter_gradients(SHAPE_LINEAR, CK_MLP_SWIGLU);
    adapter_gradients(SHAPE_LLAMA_PLAIN, CK_MLP_SWIGLU);
    adapter_gradients(SHAPE_LLAMA_QV, CK_MLP_SWIGLU);
    adapter_gradients(SHAPE_LLAMA_TIED, CK_MLP_SWIGLU);
}

Test(oracle_model, adapter_gradients_without_experts_and_beside_them) {
    adapter_gradients(SHAPE_PLAIN, CK_MLP_GELU);
    adapter_gradients(SHAPE_PLAIN_PR, CK_MLP_GELU);
    adapter_gradients(SHAPE_BESIDE, CK_MLP_GELU);
    adapter_gradients(SHAPE_WITH_ZERO, CK_MLP_GELU);
    adapter_gradients(SHAPE_LINEAR_ZERO, CK_MLP_GELU);
}

Test(oracle_model, adapter_gradients_of_what_all_layers_share) {
    adapter_gradients(SHAPE_TIED, CK_MLP_GELU);
    adapter_gradients(SHAPE_TIED_BESIDE, CK_MLP_GELU);
    adapter_gradients(SHAPE_LLAMA_TIED, CK_MLP_SWIGLU);
    adapter_gradients(SHAPE_LLAMA_BESIDE, CK_MLP_SWIGLU);
}

static void pretraining_gradients(int spec, ck_mlp mlp) {
    setting *s = open_setting(spec, mlp);
    const base_shape *shape = &s->base.shape;
    s->pretraining = true;
    objective(s, &(oracle_pass){.gradients = s->gradients});
    for (int i = 0; i < base_tensor_count(shape); i++) {
        packed_tensor t = base_tensor(shape, &s->base.layout, "", i, NULL);
        int64_t count = t.n_dims == 2 ? t.dims[0] * t.dims[1] : t.dims[0];
        double error = quotient_error(s, s->weights + t.offset, s->gradients + t.offset, count);
        cr_expect(error < 1e-6, "%s: relative error %g", t.name, error);
    }
    close_setting(s);
}

Test(oracle_model, pretraining_gradients_of_every_weight) {
    pretraining_gradients(SHAPE_SINGLE, CK_MLP_GELU);
    pretraining_gradients(SHAPE_SINGLE, CK_MLP_SWIGLU);
    pretraining_gradients(SHAPE_LLAMA_QV, CK_MLP_SWIGLU);
}

Test(oracle_model, zero_initialised_B_changes_no_logit) {
    /* One of many keeps its probability over all, so with MLP outputs mixed even a zero adapter scales the
     * layer: not in this list. */
    const int specs[] = {SHAPE_SINGLE_ATTEND, SHAPE_PAIR_BOTH,   SHAPE_RAGGED,
                         SHAPE_MEAN,          SHAPE_LINEAR_TOP1, SHAPE_MANY};
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        setting *s = open_setting(specs[i], CK_MLP_GELU);
        double plain[TOKENS * VOCABULARY], adapted[TOKENS * VOCABULARY], moved[TOKENS * VOCABULARY];
        objective(s, &(oracle_pass){.logits = moved});
        for (int l = 0; l < 2; l++)
            for (oracle_part part = 0; part < ORACLE_PARTS; part++) {
                oracle_range range = oracle_part_range(&s->shape, l, part);
                bool b =
                    part == ORACLE_QKV_B || part == ORACLE_OUT_B || part == ORACLE_B1 || part == ORACLE_B2;
                if (b) memset(s->pack + range.offset, 0, (size_t)range.count * sizeof(double));
            }
        objective(s, &(oracle_pass){.logits = adapted});
        s->pretraining = true;
        objective(s, &(oracle_pass){.logits = plain});
        double most = 0, least = 0;
        for (int j = 0; j < TOKENS * VOCABULARY; j++) {
            most = fmax(most, fabs(plain[j] - adapted[j]));
            least = fmax(least, fabs(plain[j] - moved[j]));
        }
        cr_expect(most < 1e-12, "shape %d: a logit moved by %g", specs[i], most);
        cr_expect(least > 1e-3, "shape %d: the adapter as filled must matter", specs[i]);
        close_setting(s);
    }
}

Test(oracle_model, sequences_do_not_see_each_other) {
    setting *s = open_setting(SHAPE_RAGGED, CK_MLP_GELU);
    double both[SEQUENCES], alone;
    objective(s, &(oracle_pass){.loss = both});
    s->batch = (oracle_batch){1, s->first_token + 1, s->tokens + 3, s->targets + 3};
    objective(s, &(oracle_pass){.loss = &alone});
    cr_expect(fabs(alone - both[1]) < 1e-12, "the second sequence alone: %.15g, beside the first: %.15g",
              alone, both[1]);
    close_setting(s);
}

Test(oracle_model, a_later_token_does_not_change_an_earlier_loss) {
    setting *s = open_setting(SHAPE_RAGGED, CK_MLP_GELU);
    double logits[TOKENS * VOCABULARY], changed[TOKENS * VOCABULARY];
    objective(s, &(oracle_pass){.logits = logits});
    s->tokens[TOKENS - 1] = (s->tokens[TOKENS - 1] + 1) % VOCABULARY;
    objective(s, &(oracle_pass){.logits = changed});
    cr_expect(memcmp(logits, changed, (TOKENS - 1) * VOCABULARY * sizeof(double)) == 0,
              "an earlier token saw a later one");
    cr_expect(memcmp(logits, changed, sizeof logits) != 0, "the changed token must matter to itself");
    close_setting(s);
}

Test(oracle_model, nothing_counted_gives_no_gradient) {
    setting *s = open_setting(SHAPE_MEAN, CK_MLP_GELU);
    for (int t = 0; t < TOKENS; t++) s->targets[t] = -1;
    double value = objective(s, &(oracle_pass){.gradients = s->gradients});
    cr_expect(value == 0);
    for (int64_t i = 0; i < s->shape.total; i++)
        cr_assert(s->gradients[i] == 0, "gradient %lld", (long long)i);
    close_setting(s);
}
