/* gpt2.c - GPT-2: learned positions, LayerNorm, GELU, biases everywhere, a head tied to the embedding. Its
 * linears are Conv1D: y = x W + b with W [in, out]. */
#include <stdio.h>
#include <string.h>

#include "base/family.h"

static const char prefix[] = "transformer.";

static const base_tensor_row before[] = {
    {"wte.weight", BASE_VOCABULARY, BASE_WIDTH, BASE_EMBEDDING, .offset = offsetof(base_layout, wte)},
    {"wpe.weight", BASE_CONTEXT, BASE_WIDTH, BASE_EMBEDDING, .offset = offsetof(base_layout, wpe)},
};
static const base_tensor_row in_layer[] = {
    {"ln_1.weight", BASE_WIDTH, BASE_ONE, BASE_GAIN, .offset = offsetof(base_layer, ln1_gain)},
    {"ln_1.bias", BASE_WIDTH, BASE_ONE, BASE_BIAS, .offset = offsetof(base_layer, ln1_bias)},
    {"attn.c_attn.weight", BASE_WIDTH, BASE_Q_K_AND_V, BASE_LINEAR, .offset = offsetof(base_layer, qkv_w)},
    {"attn.c_attn.bias", BASE_Q_K_AND_V, BASE_ONE, BASE_BIAS, .offset = offsetof(base_layer, qkv_b)},
    {"attn.c_proj.weight", BASE_Q, BASE_WIDTH, BASE_RESIDUAL_LINEAR, .offset = offsetof(base_layer, out_w)},
    {"attn.c_proj.bias", BASE_WIDTH, BASE_ONE, BASE_BIAS, .offset = offsetof(base_layer, out_b)},
    {"ln_2.weight", BASE_WIDTH, BASE_ONE, BASE_GAIN, .offset = offsetof(base_layer, ln2_gain)},
    {"ln_2.bias", BASE_WIDTH, BASE_ONE, BASE_BIAS, .offset = offsetof(base_layer, ln2_bias)},
    {"mlp.c_fc.weight", BASE_WIDTH, BASE_FFN, BASE_LINEAR, .offset = offsetof(base_layer, fc_w)},
    {"mlp.c_fc.bias", BASE_FFN, BASE_ONE, BASE_BIAS, .offset = offsetof(base_layer, fc_b)},
    {"mlp.c_proj.weight", BASE_FFN, BASE_WIDTH, BASE_RESIDUAL_LINEAR, .offset = offsetof(base_layer, pr_w)},
    {"mlp.c_proj.bias", BASE_WIDTH, BASE_ONE, BASE_BIAS, .offset = offsetof(base_layer, pr_b)},
};
static const base_tensor_row after[] = {
    {"ln_f.weight", BASE_WIDTH, BASE_ONE, BASE_GAIN, .offset = offsetof(base_layout, lnf_gain)},
    {"ln_f.bias", BASE_WIDTH, BASE_ONE, BASE_BIAS, .offset = offsetof(base_layout, lnf_bias)},
};

static const config_size sizes[] = {
    {"n_layer", offsetof(base_shape, layers), 1024},
    {"n_embd", offsetof(base_shape, width), CONFIG_MAX_WIDTH},
    {"n_head", offsetof(base_shape, heads), CONFIG_MAX_WIDTH},
    {"vocab_size", offsetof(base_shape, vocabulary), CONFIG_MAX_IDS},
    {"n_positions", offsetof(base_shape, context), CONFIG_MAX_IDS},
};
enum { SIZES = sizeof sizes / sizeof *sizes };

/* Switches of the architecture: an absent key means `supported`, as in transformers. */
static const struct {
    const char *key;
    bool supported;
    const char *why;
} switches[] = {
    {"scale_attn_weights", true, "scores are divided by the square root of the head's width"},
    {"scale_attn_by_inverse_layer_idx", false, "scores are not divided by the layer's number"},
    {"add_cross_attention", false, "there is no encoder to attend to"},
    {"tie_word_embeddings", true, "the output matrix is the token embedding"},
};

static void read_sizes(base_config *config, base_shape *shape) {
    if (!config_sizes(config, sizes, SIZES, shape)) return;
    shape->ffn = 4 * shape->width;
    if (config_has(config, "n_inner")) config_int(config, "n_inner", CONFIG_MAX_FFN, &shape->ffn);
    if (shape->width % shape->heads)
        problem(config->list, EXIT_INPUT, "%s: n_embd (%d) must be a multiple of n_head (%d)", config->path,
                shape->width, shape->heads);
}

static void read_config(base_config *config, base_shape *shape) {
    config_word(config, "activation_function", "gelu_new");
    read_sizes(config, shape);
    config_epsilon(config, "layer_norm_epsilon", 1e-5, &shape->epsilon);
    for (size_t i = 0; i < sizeof switches / sizeof *switches; i++)
        config_must_be(config, switches[i].key, switches[i].supported, switches[i].why);
    json_t *pruned = json_object_get(config->json, "pruned_heads");
    if (json_object_size(pruned) + json_array_size(pruned) > 0)
        problem(config->list, EXIT_INPUT,
                "%s: pruned_heads must be empty: all heads of a layer have one width", config->path);
    config_refuse_quantized(config);
}

/* Dropouts are 0 because the base is trained without; no token of a byte vocabulary begins or ends a text. */
static json_t *write_config(const base_shape *shape) {
    json_t *config = json_pack("{s:[s], s:s, s:s, s:f, s:n, s:n, s:f, s:f, s:f, s:b, s:s}", "architectures",
                               "GPT2LMHeadModel", "model_type", "gpt2", "activation_function", "gelu_new",
                               "layer_norm_epsilon", config_shortest(shape->epsilon), "bos_token_id",
                               "eos_token_id", "resid_pdrop", 0.0, "embd_pdrop", 0.0, "attn_pdrop", 0.0,
                               "tie_word_embeddings", 1, "torch_dtype", "float32");
    for (int i = 0; config && i < SIZES; i++)
        json_object_set_new(config, sizes[i].key,
                            json_integer(*(const int *)((const char *)shape + sizes[i].offset)));
    if (config) json_object_set_new(config, "n_inner", json_integer(shape->ffn));
    return config;
}

/* The tied head, and causal masks that old checkpoints carry as buffers ("h.3.attn.bias"). */
static bool may_be_there(const char *name) {
    int layer, end = -1;
    if (!strcmp(name, "lm_head.weight")) return true;
    if (!strncmp(name, prefix, sizeof prefix - 1)) name += sizeof prefix - 1;
    if (sscanf(name, "h.%d.attn.%n", &layer, &end) < 1 || end < 0) return false;
    return !strcmp(name + end, "bias") || !strcmp(name + end, "masked_bias");
}

const base_family base_family_gpt2 = {
    .name = "gpt2",
    .model_types = (const char *const[]){"gpt2", NULL},
    .prefix = prefix,
    .layers = "h",
    .context_key = "n_positions",
    .transposed = true,
    .before = before,
    .in_layer = in_layer,
    .after = after,
    .n_before = sizeof before / sizeof *before,
    .n_in_layer = sizeof in_layer / sizeof *in_layer,
    .n_after = sizeof after / sizeof *after,
    .read = read_config,
    .write = write_config,
    .may_be_there = may_be_there,
};
