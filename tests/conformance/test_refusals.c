/* Descriptors that contradict themselves are refused when the program is finished, with the reason. */
#include <criterion/criterion.h>
#include <string.h>

#include "kernels.h"

enum { COLUMNS = 64 };

static const float weights[COLUMNS];

/* Records one op over activations a, b, c, d, f of COLUMNS columns. */
typedef struct {
    ck_program *program;
    ck_tensor *a, *b, *c, *d, *f;
} recording;

static void expect_refusal(void (*record)(const recording *), const char *reason) {
    ck_backend *backend;
    recording r = {0};
    ck_capacity capacity = {
        .max_sequences = 1, .max_tokens = 4, .max_sequence_tokens = 4, .base_pack = 4 * COLUMNS};
    cr_assert(ck_open("auto", 1, &backend) == CK_OK, "%s", ck_last_error(NULL));
    cr_assert(ck_program_create(backend, &capacity, &r.program) == CK_OK, "%s", ck_last_error(backend));
    ck_tensor **tensors[] = {&r.a, &r.b, &r.c, &r.d, &r.f};
    for (int i = 0; i < 5; i++) *tensors[i] = ck_activation(r.program, COLUMNS, "rows");
    record(&r);
    ck_status status = ck_program_finish(r.program);
    cr_expect(status == CK_BAD_ARGUMENT, "status %d where this was due: %s", (int)status, reason);
    cr_expect(strstr(ck_last_error(backend), reason) != NULL, "\"%s\" does not say: %s",
              ck_last_error(backend), reason);
    ck_program_destroy(r.program);
    ck_close(backend);
}

static void attend(const recording *r, int heads, int kv_heads, int head_size) {
    ck_op_attention(r->program, &(ck_attention){.qkv = r->a,
                                                .o = r->b,
                                                .lse = r->c,
                                                .heads = heads,
                                                .kv_heads = kv_heads,
                                                .head_size = head_size});
}

static void two_heads_over_four(const recording *r) {
    attend(r, 2, 4, 4);
}

static void four_heads_over_three(const recording *r) {
    attend(r, 4, 3, 4);
}

static void no_kv_heads(const recording *r) {
    attend(r, 4, 0, 4);
}

/* (5 + 2) 10 columns of q, k and v. */
static void narrow_qkv(const recording *r) {
    attend(r, 5, 1, 10);
}

static void narrow_o(const recording *r) {
    ck_op_attention_backward(r->program, &(ck_attention_backward){.qkv = r->a,
                                                                  .o = ck_activation(r->program, 31, "o"),
                                                                  .lse = r->c,
                                                                  .d_o = r->d,
                                                                  .dqkv = r->f,
                                                                  .heads = 4,
                                                                  .kv_heads = 2,
                                                                  .head_size = 8});
}

Test(refusals, heads_that_do_not_fit) {
    expect_refusal(two_heads_over_four, "2 heads of 4 columns cannot share 4 heads of keys and values");
    expect_refusal(four_heads_over_three, "4 heads of 4 columns cannot share 3 heads");
    expect_refusal(no_kv_heads, "cannot share 0 heads");
    expect_refusal(narrow_qkv, "qkv (rows) has 64 columns, needs 70");
    expect_refusal(narrow_o, "o (o) has 31 columns, needs 32");
}

static void odd_pairs(const recording *r) {
    ck_op_rope(r->program,
               &(ck_rope){.qkv = r->a, .table = weights, .heads = 1, .kv_heads = 1, .head_size = 7});
}

static void no_table(const recording *r) {
    ck_op_rope_backward(r->program,
                        &(ck_rope_backward){.dqkv = r->a, .heads = 1, .kv_heads = 1, .head_size = 8});
}

Test(refusals, positions_without_pairs_or_angles) {
    expect_refusal(odd_pairs, "a head of 7 columns has no pairs");
    expect_refusal(no_table, "table is missing");
}

static void norm(const recording *r, ck_norm_kind kind, const float *bias) {
    ck_op_norm(r->program, &(ck_norm){.x = r->a,
                                      .y = r->b,
                                      .stats = r->c,
                                      .gain = weights,
                                      .bias = bias,
                                      .width = COLUMNS,
                                      .kind = kind});
}

static void biased_rms_norm(const recording *r) {
    norm(r, CK_RMS_NORM, weights);
}

static void unbiased_layer_norm(const recording *r) {
    norm(r, CK_LAYER_NORM, NULL);
}

static void norm_backward(const recording *r, ck_norm_kind kind, int64_t gain_gradient,
                          int64_t bias_gradient) {
    ck_op_norm_backward(r->program, &(ck_norm_backward){.x = r->a,
                                                        .stats = r->c,
                                                        .dy = r->b,
                                                        .dx = r->d,
                                                        .gain = weights,
                                                        .width = COLUMNS,
                                                        .gain_gradient = gain_gradient,
                                                        .bias_gradient = bias_gradient,
                                                        .kind = kind});
}

static void rms_norm_with_a_bias_gradient(const recording *r) {
    norm_backward(r, CK_RMS_NORM, 0, COLUMNS);
}

static void layer_norm_with_a_gain_gradient_alone(const recording *r) {
    norm_backward(r, CK_LAYER_NORM, 0, -1);
}

Test(refusals, norms_with_and_without_a_bias) {
    expect_refusal(biased_rms_norm, "an RMSNorm has no bias");
    expect_refusal(unbiased_layer_norm, "bias is missing");
    expect_refusal(rms_norm_with_a_bias_gradient, "the gradient of the bias is not wanted");
    expect_refusal(layer_norm_with_a_gain_gradient_alone, "the gradient of the bias is missing");
}

static void narrow_gate(const recording *r) {
    ck_op_swiglu(r->program, &(ck_swiglu){.u = r->a, .m = r->b, .ffn = 33});
}

static void swiglu_backward_in_place(const recording *r) {
    ck_op_swiglu_backward(r->program, &(ck_swiglu_backward){.u = r->a, .dm = r->b, .du = r->a, .ffn = 32});
}

Test(refusals, gates_without_room) {
    expect_refusal(narrow_gate, "u (rows) has 64 columns, needs 66");
    expect_refusal(swiglu_backward_in_place, "du must be an activation of its own");
}

static void short_positions(const recording *r) {
    ck_op_embed_backward(r->program, &(ck_embed_backward){.dx = r->a,
                                                          .wte_gradient = 0,
                                                          .wpe_gradient = COLUMNS,
                                                          .width = COLUMNS,
                                                          .vocabulary = 1,
                                                          .positions = 3});
}

static void no_token_gradient(const recording *r) {
    ck_op_embed_backward(
        r->program,
        &(ck_embed_backward){
            .dx = r->a, .wte_gradient = -1, .wpe_gradient = -1, .width = COLUMNS, .vocabulary = 1});
}

Test(refusals, embeddings_without_gradients) {
    expect_refusal(short_positions, "sequences are longer than 3 positions");
    expect_refusal(no_token_gradient, "wte_gradient is missing");
}
