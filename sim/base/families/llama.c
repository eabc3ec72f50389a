/* llama.c - the Llama family: Llama 2 and 3, SmolLM, TinyLlama (model_type "llama"), Qwen2 and 2.5 ("qwen2").
 * Rotary positions, RMSNorm, SwiGLU, grouped-query attention; a head that is tied or not.
 *
 * A checkpoint has q, k, v and gate, up as matrices of their own; they are row ranges of one packed matrix.
 */
#include <stdio.h>
#include <string.h>

#include "base/family.h"
#include "base/safetensors.h"

static const char prefix[] = "model.";

static const base_tensor_row before[] = {
    {"embed_tokens.weight", BASE_VOCABULARY, BASE_WIDTH, BASE_EMBEDDING,
     .offset = offsetof(base_layout, wte)},
};
#define IN_LAYER(member) .offset = offsetof(base_layer, member)
static const base_tensor_row in_layer[] = {
    {"input_layernorm.weight", BASE_WIDTH, BASE_ONE, BASE_GAIN, IN_LAYER(ln1_gain)},
    {"self_attn.q_proj.weight", BASE_Q, BASE_WIDTH, BASE_LINEAR, IN_LAYER(qkv_w)},
    {"self_attn.q_proj.bias", BASE_Q, BASE_ONE, BASE_BIAS, IN_LAYER(qkv_b)},
    {"self_attn.k_proj.weight", BASE_KV, BASE_WIDTH, BASE_LINEAR, IN_LAYER(qkv_w), .first = BASE_Q},
    {"self_attn.k_proj.bias", BASE_KV, BASE_ONE, BASE_BIAS, IN_LAYER(qkv_b), .first = BASE_Q},
    {"self_attn.v_proj.weight", BASE_KV, BASE_WIDTH, BASE_LINEAR, IN_LAYER(qkv_w), .first = BASE_Q_AND_K},
    {"self_attn.v_proj.bias", BASE_KV, BASE_ONE, BASE_BIAS, IN_LAYER(qkv_b), .first = BASE_Q_AND_K},
    {"self_attn.o_proj.weight", BASE_WIDTH, BASE_Q, BASE_RESIDUAL_LINEAR, IN_LAYER(out_w)},
    {"self_attn.o_proj.bias", BASE_WIDTH, BASE_ONE, BASE_BIAS, IN_LAYER(out_b)},
    {"post_attention_layernorm.weight", BASE_WIDTH, BASE_ONE, BASE_GAIN, IN_LAYER(ln2_gain)},
    {"mlp.gate_proj.weight", BASE_FFN, BASE_WIDTH, BASE_LINEAR, IN_LAYER(fc_w)},
    {"mlp.gate_proj.bias", BASE_FFN, BASE_ONE, BASE_BIAS, IN_LAYER(fc_b)},
    {"mlp.up_proj.weight", BASE_FFN, BASE_WIDTH, BASE_LINEAR, IN_LAYER(fc_w), .first = BASE_FFN},
    {"mlp.up_proj.bias", BASE_FFN, BASE_ONE, BASE_BIAS, IN_LAYER(fc_b), .first = BASE_FFN},
    {"mlp.down_proj.weight", BASE_WIDTH, BASE_FFN, BASE_RESIDUAL_LINEAR, IN_LAYER(pr_w)},
    {"mlp.down_proj.bias", BASE_WIDTH, BASE_ONE, BASE_BIAS, IN_LAYER(pr_b)},
};
static const base_tensor_row after[] = {
    {"norm.weight", BASE_WIDTH, BASE_ONE, BASE_GAIN, .offset = offsetof(base_layout, lnf_gain)},
    {"lm_head.weight", BASE_VOCABULARY, BASE_WIDTH, BASE_LINEAR, .offset = offsetof(base_layout, head),
     .alone = true},
};

static const config_size sizes[] = {
    {"num_hidden_layers", offsetof(base_shape, layers), 1024},
    {"hidden_size", offsetof(base_shape, width), CONFIG_MAX_WIDTH},
    {"num_attention_heads", offsetof(base_shape, heads), CONFIG_MAX_WIDTH},
    {"intermediate_size", offsetof(base_shape, ffn), CONFIG_MAX_FFN},
    {"vocab_size", offsetof(base_shape, vocabulary), CONFIG_MAX_IDS},
    {"max_position_embeddings", offsetof(base_shape, context), CONFIG_MAX_IDS},
};
enum { SIZES = sizeof sizes / sizeof *sizes };

static const float default_theta = 10000.0f;

/* Whether it is a Qwen2, which has biases on q, k and v and no others. */
static bool is_qwen2(const base_config *config) {
    return !strcmp(json_string_value(json_object_get(config->json, "model_type")), "qwen2");
}

static void read_heads(const base_config *config, base_shape *s) {
    if (config_has(config, "num_key_value_heads"))
        config_int(config, "num_key_value_heads", CONFIG_MAX_WIDTH, &s->kv_heads);
    if (config_has(config, "head_dim")) config_int(config, "head_dim", CONFIG_MAX_WIDTH, &s->head_size);
    if (!s->kv_heads) s->kv_heads = s->heads;
    if (s->heads % s->kv_heads)
        problem(config->list, EXIT_INPUT,
                "%s: num_attention_heads (%d) must be a multiple of num_key_value_heads (%d)", config->path,
                s->heads, s->kv_heads);
    if (!s->head_size && s->width % s->heads)
        problem(config->list, EXIT_INPUT,
                "%s: hidden_size (%d) must be a multiple of num_attention_heads (%d), or head_dim must say "
                "how wide a head is",
                config->path, s->width, s->heads);
    if (!s->head_size) s->head_size = s->width / s->heads;
    if (s->head_size % 2)
        problem(config->list, EXIT_INPUT,
                "%s: a head must have an even width, whose halves rotary positions turn; it has %d",
                config->path, s->head_size);
}

/* Frequencies below original_context / low_frequency_factor waves are divided by the factor. */
static void read_llama3(const base_config *config, base_shape *s) {
    static const char *const needed[] = {"factor", "low_freq_factor", "high_freq_factor"};
    float *out[] = {&s->rope.factor, &s->rope.low_frequency_factor, &s->rope.high_frequency_factor};
    s->rope.scaling = BASE_ROPE_LLAMA3;
    s->rope.original_context = s->context;
    for (int i = 0; i < 3; i++)
        if (!config_has(config, needed[i]))
            problem(config->list, EXIT_INPUT, "%s: %s%s is missing; rope_type \"llama3\" needs it",
                    config->path, config->in, needed[i]);
        else
            config_positive(config, needed[i], out[i]);
    if (config_has(config, "original_max_position_embeddings"))
        config_int(config, "original_max_position_embeddings", CONFIG_MAX_IDS, &s->rope.original_context);
    if (s->rope.high_frequency_factor > 0 && s->rope.low_frequency_factor >= s->rope.high_frequency_factor)
        problem(config->list, EXIT_INPUT, "%s: %shigh_freq_factor must be above low_freq_factor",
                config->path, config->in);
}

/* rope_scaling (type or rope_type, and its parameters) or rope_parameters, which has rope_theta in it. */
static void read_rope(const base_config *config, base_shape *s) {
    char shown[SAFETENSORS_SHOWN_BYTES];
    bool newer = !config_has(config, "rope_scaling");
    const char *key = newer ? "rope_parameters" : "rope_scaling";
    s->rope.theta = default_theta;
    config_positive(config, "rope_theta", &s->rope.theta);
    if (!config_has(config, key)) return;
    base_config inner = *config;
    inner.json = json_object_get(config->json, key);
    inner.in = newer ? "rope_parameters." : "rope_scaling.";
    json_t *type = json_object_get(inner.json, "rope_type");
    if (!type) type = json_object_get(inner.json, "type");
    const char *kind = type ? json_string_value(type) : "default";
    if (!json_is_object(inner.json) || !kind) {
        problem(config->list, EXIT_INPUT, "%s: %s must be an object with the string \"rope_type\"",
                config->path, key);
        return;
    }
    config_positive(&inner, "rope_theta", &s->rope.theta);
    if (!strcmp(kind, "llama3"))
        read_llama3(&inner, s);
    else if (strcmp(kind, "default") != 0)
        problem(config->list, EXIT_INPUT,
                "%s: %s of kind \"%s\" is not supported; rope_type must be \"default\" or \"llama3\"",
                config->path, key, safetensors_shown(kind, shown));
}

static void refuse_partial_rotation(const base_config *config) {
    json_t *rope = json_object_get(config->json, "rope_parameters");
    json_t *share = json_object_get(config->json, "partial_rotary_factor");
    if (!share) share = json_object_get(rope, "partial_rotary_factor");
    if (share && json_number_value(share) != 1.0)
        problem(config->list, EXIT_INPUT,
                "%s: partial_rotary_factor must be 1: rotary positions turn whole heads", config->path);
}

static void refuse_sliding_windows(const base_config *config) {
    json_t *types = json_object_get(config->json, "layer_types");
    config_must_be(config, "use_sliding_window", false, "every token attends to all before it");
    for (size_t i = 0; i < json_array_size(types); i++) {
        const char *type = json_string_value(json_array_get(types, i));
        if (type && !strcmp(type, "full_attention")) continue;
        problem(config->list, EXIT_INPUT,
                "%s: layer_types must be \"full_attention\" in all layers: every token attends to all before "
                "it",
                config->path);
        return;
    }
}

static void read_biases(const base_config *config, base_shape *s) {
    if (is_qwen2(config)) {
        s->qkv_bias = true;
        return;
    }
    config_flag(config, "attention_bias", &s->qkv_bias);
    s->out_bias = s->qkv_bias;
    config_flag(config, "mlp_bias", &s->mlp_bias);
}

static void read_config(base_config *config, base_shape *s) {
    config_word(config, "hidden_act", "silu");
    if (config_sizes(config, sizes, SIZES, s)) read_heads(config, s);
    config_epsilon(config, "rms_norm_eps", 1e-6, &s->epsilon);
    config_flag(config, "tie_word_embeddings", &s->tied_head);
    read_biases(config, s);
    read_rope(config, s);
    refuse_partial_rotation(config);
    refuse_sliding_windows(config);
    config_refuse_quantized(config);
}

static void write_rope(json_t *config, const base_rope *rope) {
    json_object_set_new(config, "rope_theta", json_real(config_shortest(rope->theta)));
    if (rope->scaling == BASE_ROPE_LLAMA3)
        json_object_set_new(config, "rope_scaling",
                            json_pack("{s:s, s:f, s:f, s:f, s:i}", "rope_type", "llama3", "factor",
                                      config_shortest(rope->factor), "low_freq_factor",
                                      config_shortest(rope->low_frequency_factor), "high_freq_factor",
                                      config_shortest(rope->high_frequency_factor),
                                      "original_max_position_embeddings", rope->original_context));
}

/* Rotary positions in the form that all versions of transformers read. */
static json_t *write_config(const base_shape *s) {
    bool qwen2 = s->qkv_bias && !s->out_bias;
    json_t *config =
        json_pack("{s:[s], s:s, s:s, s:f, s:n, s:n, s:b, s:i, s:i, s:s}", "architectures",
                  qwen2 ? "Qwen2ForCausalLM" : "LlamaForCausalLM", "model_type", qwen2 ? "qwen2" : "llama",
                  "hidden_act", "silu", "rms_norm_eps", config_shortest(s->epsilon), "bos_token_id",
                  "eos_token_id", "tie_word_embeddings", (int)s->tied_head, "num_key_value_heads",
                  s->kv_heads, "head_dim", s->head_size, "torch_dtype", "float32");
    if (!config) return NULL;
    for (int i = 0; i < SIZES; i++)
        json_object_set_new(config, sizes[i].key,
                            json_integer(*(const int *)((const char *)s + sizes[i].offset)));
    if (!qwen2) {
        json_object_set_new(config, "attention_bias", json_boolean(s->qkv_bias));
        json_object_set_new(config, "mlp_bias", json_boolean(s->mlp_bias));
    }
    write_rope(config, &s->rope);
    return config;
}

/* The tied head, and frequencies that old checkpoints carry as buffers. */
static bool may_be_there(const char *name) {
    static const char frequencies[] = ".self_attn.rotary_emb.inv_freq";
    size_t length = strlen(name), end = sizeof frequencies - 1;
    return !strcmp(name, "lm_head.weight") || (length > end && !strcmp(name + length - end, frequencies));
}

const base_family base_family_llama = {
    .name = "llama",
    .model_types = (const char *const[]){"llama", "qwen2", NULL},
    .prefix = prefix,
    .layers = "layers",
    .context_key = "max_position_embeddings",
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
