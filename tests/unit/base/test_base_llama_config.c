/* config.json of the Llama family. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "base/base.h"
#include "base/tensors.h"
#include "unit/checkpoints.h"

/* Published configurations, as their config.json have them. */

#define SMOLLM_135M                                                                                          \
    "{\"architectures\": [\"LlamaForCausalLM\"], \"attention_bias\": false, \"attention_dropout\": 0.0, "    \
    "\"bos_token_id\": 0, \"eos_token_id\": 0, \"hidden_act\": \"silu\", \"hidden_size\": 576, "             \
    "\"initializer_range\": 0.02, \"intermediate_size\": 1536, \"max_position_embeddings\": 2048, "          \
    "\"model_type\": \"llama\", \"num_attention_heads\": 9, \"num_hidden_layers\": 30, "                     \
    "\"num_key_value_heads\": 3, \"pretraining_tp\": 1, \"rms_norm_eps\": 1e-05, \"rope_scaling\": null, "   \
    "\"rope_theta\": 10000.0, \"tie_word_embeddings\": true, \"torch_dtype\": \"bfloat16\", "                \
    "\"use_cache\": true, \"vocab_size\": 49152}"
#define LLAMA_32_1B                                                                                          \
    "{\"architectures\": [\"LlamaForCausalLM\"], \"attention_bias\": false, \"head_dim\": 64, "              \
    "\"hidden_act\": \"silu\", \"hidden_size\": 2048, \"intermediate_size\": 8192, "                         \
    "\"max_position_embeddings\": 131072, \"mlp_bias\": false, \"model_type\": \"llama\", "                  \
    "\"num_attention_heads\": 32, \"num_hidden_layers\": 16, \"num_key_value_heads\": 8, "                   \
    "\"rms_norm_eps\": 1e-05, \"rope_scaling\": {\"factor\": 32.0, \"high_freq_factor\": 4.0, "              \
    "\"low_freq_factor\": 1.0, \"original_max_position_embeddings\": 8192, \"rope_type\": \"llama3\"}, "     \
    "\"rope_theta\": 500000.0, \"tie_word_embeddings\": true, \"vocab_size\": 128256}"
#define QWEN_25_05B                                                                                          \
    "{\"architectures\": [\"Qwen2ForCausalLM\"], \"hidden_act\": \"silu\", \"hidden_size\": 896, "           \
    "\"intermediate_size\": 4864, \"max_position_embeddings\": 32768, \"max_window_layers\": 24, "           \
    "\"model_type\": \"qwen2\", \"num_attention_heads\": 14, \"num_hidden_layers\": 24, "                    \
    "\"num_key_value_heads\": 2, \"rms_norm_eps\": 1e-06, \"rope_theta\": 1000000.0, "                       \
    "\"sliding_window\": 32768, \"tie_word_embeddings\": true, \"use_mrope\": false, "                       \
    "\"use_sliding_window\": false, \"vocab_size\": 151936}"
#define TINYLLAMA_11B                                                                                        \
    "{\"architectures\": [\"LlamaForCausalLM\"], \"hidden_act\": \"silu\", \"hidden_size\": 2048, "          \
    "\"intermediate_size\": 5632, \"max_position_embeddings\": 2048, \"model_type\": \"llama\", "            \
    "\"num_attention_heads\": 32, \"num_hidden_layers\": 22, \"num_key_value_heads\": 4, "                   \
    "\"rms_norm_eps\": 1e-05, \"rope_scaling\": null, \"tie_word_embeddings\": false, \"vocab_size\": "      \
    "32000}"

static exit_code read_config(const char *text, base_shape *shape, problems *list) {
    char *folder = temporary_folder(), *path = path_in(folder, "config.json");
    write_text(path, text);
    exit_code code = base_config_read(path, shape, list);
    free(path);
    remove_folder(folder);
    return code;
}

static base_shape shape_of_config(const char *text) {
    base_shape shape;
    problems *list = problems_create();
    cr_assert_eq(read_config(text, &shape, list), EXIT_OK, "%s", all_messages(list));
    problems_destroy(list);
    return shape;
}

static int64_t elements(const packed_tensor *t) {
    return t->n_dims == 1 ? t->dims[0] : t->dims[0] * t->dims[1];
}

Test(base_llama_config, published_configurations_have_the_published_numbers_of_parameters) {
    static const struct {
        const char *name, *config;
        int64_t parameters; /* as their pages say */
        int tensors;        /* of their safetensors files */
    } cases[] = {
        {"SmolLM-135M", SMOLLM_135M, 134515008, 272},
        {"Llama-3.2-1B", LLAMA_32_1B, 1235814400, 146},
        {"Qwen2.5-0.5B", QWEN_25_05B, 494032768, 290},
        {"TinyLlama-1.1B", TINYLLAMA_11B, 1100048384, 201},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        base_shape shape = shape_of_config(cases[i].config);
        base_layout layout = base_layout_of(&shape);
        int64_t parameters = 0;
        cr_expect_eq(base_tensor_count(&shape), cases[i].tensors, "%s: %d tensors", cases[i].name,
                     base_tensor_count(&shape));
        for (int t = 0; t < base_tensor_count(&shape); t++) {
            packed_tensor tensor = base_tensor(&shape, &layout, "model.", t, NULL);
            parameters += elements(&tensor);
        }
        cr_expect_eq(parameters, cases[i].parameters, "%s: %lld parameters", cases[i].name,
                     (long long)parameters);
    }
}

Test(base_llama_config, configurations_are_read_whole) {
    base_shape s = shape_of_config(LLAMA_32_1B);
    cr_expect(s.family == BASE_LLAMA && s.layers == 16 && s.width == 2048 && s.heads == 32 &&
              s.kv_heads == 8 && s.head_size == 64 && s.ffn == 8192 && s.vocabulary == 128256 &&
              s.context == 131072 && s.epsilon == 1e-5f);
    cr_expect(s.tied_head && !s.qkv_bias && !s.out_bias && !s.mlp_bias);
    cr_expect(s.rope.scaling == BASE_ROPE_LLAMA3 && s.rope.theta == 500000.0f && s.rope.factor == 32.0f &&
              s.rope.low_frequency_factor == 1.0f && s.rope.high_frequency_factor == 4.0f &&
              s.rope.original_context == 8192);
    s = shape_of_config(QWEN_25_05B);
    cr_expect(s.qkv_bias && !s.out_bias && !s.mlp_bias && s.rope.theta == 1e6f && s.head_size == 64 &&
              s.epsilon == 1e-6f && s.rope.scaling == BASE_ROPE_PLAIN);
    s = shape_of_config(TINYLLAMA_11B);
    cr_expect(!s.tied_head && s.rope.theta == 10000.0f && s.kv_heads == 4);
}

#define SIZES                                                                                                \
    "\"num_hidden_layers\": 2, \"hidden_size\": 12, \"num_attention_heads\": 4, "                            \
    "\"intermediate_size\": 20, \"vocab_size\": 19, \"max_position_embeddings\": 7"
#define LLAMA "{\"model_type\": \"llama\", " SIZES
#define SCALING(rest)                                                                                        \
    LLAMA ", \"head_dim\": 4, \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, "                 \
          "\"low_freq_factor\": 1, \"high_freq_factor\": 4" rest "}}"

Test(base_llama_config, configuration_defaults_and_older_forms_are_those_of_transformers) {
    base_shape s = shape_of_config("{\"model_type\": \"llama\", \"num_hidden_layers\": 2, "
                                   "\"hidden_size\": 16, \"num_attention_heads\": 4, "
                                   "\"num_key_value_heads\": null, \"head_dim\": null, "
                                   "\"intermediate_size\": 20, \"vocab_size\": 19, "
                                   "\"max_position_embeddings\": 7}");
    cr_expect(s.kv_heads == 4 && s.head_size == 4 && !s.tied_head && !s.qkv_bias && s.epsilon == 1e-6f &&
              s.rope.theta == 10000.0f && s.rope.scaling == BASE_ROPE_PLAIN);
    s = shape_of_config(LLAMA ", \"head_dim\": 6, \"attention_bias\": true, \"mlp_bias\": true}");
    cr_expect(s.head_size == 6 && s.qkv_bias && s.out_bias && s.mlp_bias);
    s = shape_of_config(SCALING(""));
    cr_expect(s.rope.scaling == BASE_ROPE_LLAMA3 && s.rope.original_context == 7);
    s = shape_of_config(LLAMA ", \"head_dim\": 4, \"rope_theta\": 50, "
                              "\"rope_scaling\": {\"type\": \"default\"}}");
    cr_expect(s.rope.scaling == BASE_ROPE_PLAIN && s.rope.theta == 50.0f);
    s = shape_of_config(LLAMA ", \"head_dim\": 4, \"rope_parameters\": {\"rope_type\": \"llama3\", "
                              "\"rope_theta\": 60, \"factor\": 8, \"low_freq_factor\": 1, "
                              "\"high_freq_factor\": 4, \"original_max_position_embeddings\": 5}}");
    cr_expect(s.rope.scaling == BASE_ROPE_LLAMA3 && s.rope.theta == 60.0f && s.rope.original_context == 5);
}

Test(base_llama_config, configurations_that_are_not_supported_are_refused) {
    static const struct {
        const char *text, *message;
    } cases[] = {
        {LLAMA "}", "a head must have an even width, whose halves rotary positions turn; it has 3"},
        {LLAMA ", \"num_key_value_heads\": 3, \"head_dim\": 4}",
         "num_attention_heads (4) must be a multiple of num_key_value_heads (3)"},
        {"{\"model_type\": \"llama\", \"num_hidden_layers\": 2, \"hidden_size\": 10, "
         "\"num_attention_heads\": 4, \"intermediate_size\": 20, \"vocab_size\": 19, "
         "\"max_position_embeddings\": 7}",
         "hidden_size (10) must be a multiple of num_attention_heads (4), or head_dim must say"},
        {LLAMA ", \"head_dim\": 4, \"hidden_act\": \"gelu\"}", "hidden_act is \"gelu\"; only \"silu\""},
        {LLAMA ", \"head_dim\": 4, \"tie_word_embeddings\": \"yes\"}",
         "tie_word_embeddings must be true or false"},
        {LLAMA ", \"head_dim\": 4, \"rms_norm_eps\": 0}", "rms_norm_eps must be a number between 0 and 1"},
        {LLAMA ", \"head_dim\": 4, \"rope_theta\": 0}", "rope_theta must be a number above 0"},
        {LLAMA ", \"head_dim\": 4, \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}}",
         "rope_scaling of kind \"linear\" is not supported; rope_type must be \"default\" or \"llama3\""},
        {LLAMA ", \"head_dim\": 4, \"rope_parameters\": {\"rope_type\": \"yarn\", \"factor\": 2}}",
         "rope_parameters of kind \"yarn\" is not supported"},
        {LLAMA ", \"head_dim\": 4, \"rope_scaling\": 3}", "rope_scaling must be an object"},
        {LLAMA ", \"head_dim\": 4, \"rope_scaling\": {\"rope_type\": \"llama3\", \"low_freq_factor\": 1, "
               "\"high_freq_factor\": 4}}",
         "rope_scaling.factor is missing"},
        {LLAMA ", \"head_dim\": 4, \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": -1, "
               "\"low_freq_factor\": 1, \"high_freq_factor\": 4}}",
         "rope_scaling.factor must be a number above 0"},
        {LLAMA ", \"head_dim\": 4, \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, "
               "\"low_freq_factor\": 4, \"high_freq_factor\": 4}}",
         "rope_scaling.high_freq_factor must be above low_freq_factor"},
        {SCALING(", \"original_max_position_embeddings\": 0"),
         "rope_scaling.original_max_position_embeddings must be an integer"},
        {LLAMA ", \"head_dim\": 4, \"partial_rotary_factor\": 0.5}", "partial_rotary_factor must be 1"},
        {LLAMA ", \"head_dim\": 4, \"quantization_config\": {}}", "quantization_config is not supported"},
        {"{\"model_type\": \"qwen2\", \"head_dim\": 4, \"use_sliding_window\": true, " SIZES "}",
         "use_sliding_window must be false"},
        {"{\"model_type\": \"qwen2\", \"head_dim\": 4, "
         "\"layer_types\": [\"full_attention\", \"sliding_attention\"], " SIZES "}",
         "layer_types must be \"full_attention\" in all layers"},
        {"{\"model_type\": \"mistral\", " SIZES "}",
         "model_type \"mistral\" is not supported; it must be one of \"gpt2\", \"llama\", \"qwen2\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        base_shape shape;
        problems *list = problems_create();
        cr_expect_eq(read_config(cases[i].text, &shape, list), EXIT_INPUT, "case %zu was accepted: %s", i,
                     cases[i].text);
        cr_expect_eq(problems_count(list), 1, "case %zu: %s", i, all_messages(list));
        cr_expect(mentions(list, cases[i].message), "case %zu: expected \"%s\", got %s", i, cases[i].message,
                  all_messages(list));
        problems_destroy(list);
    }
}
