/* table.c - every setting of Cohort. Defaults are the constants of the CoMiGS paper's runs where it has them
 * (batch: 64 there, 8 here, so that many devices fit a small machine). */
#include "config/table.h"

#include <string.h>

#include "data/splits/splits.h"
#include "kernels.h"

#define SETTING(name, kind) .path = (name), .type = (kind)
#define RUN(member)         .offset = offsetof(settings, member)
#define BOTH(member)                                                                                         \
    .scope = SCOPE_BOTH, .in_population = true, .offset = offsetof(population_settings, member)
#define OWN(member)                                                                                          \
    .scope = SCOPE_POPULATION, .in_population = true, .offset = offsetof(population_settings, member)
#define DATA_OF_RUN(member) .in_population = true, .offset = offsetof(population_settings, data.member)
#define SINGLE              .type = VALUE_DOUBLE, .single = true
#define LIMITS(low, high)   .least = (low), .most = (high)
#define ABOVE(low, high)    .least = (low), .most = (high), .above_least = true
#define BETWEEN(low, high)  .least = (low), .most = (high), .above_least = true, .below_most = true

#define MANY_TOKENS 1e15

static const setting_row ROWS[] = {
    {SETTING("name", VALUE_TEXT), OWN(name), .required = true,
     .help = "what tables and figures call it: letters, digits, dot, dash, underscore"},
    {SETTING("method", VALUE_TEXT), OWN(method), .required = true,
     .help = "how its devices learn together; `cohort help methods` lists them"},
    {SETTING("seed", VALUE_SEED), OWN(seed), .otherwise = "the run's seed",
     .help = "all its random numbers; populations of equal seed share initial tensors and windows"},
    {SETTING("seeds", VALUE_SEEDS), .scope = SCOPE_POPULATION, .in_population = true, .otherwise = "none",
     .help = "instead of seed: a list; makes one population of this name for each"},
    {SETTING("devices", VALUE_INT), OWN(devices), .required = true, LIMITS(1, 16777216), .unit = "devices",
     .help = "simulated devices"},
    {SETTING("generalists", VALUE_COUNTS), OWN(generalists), .otherwise = "the method's",
     LIMITS(0, CK_MAX_EXPERTS), .unit = "experts", .help = "experts of each device that are shared"},
    {SETTING("specialists", VALUE_COUNTS), OWN(specialists), .otherwise = "the method's",
     LIMITS(0, CK_MAX_EXPERTS), .unit = "experts", .help = "private experts of each device"},
    {SETTING("rank", VALUE_COUNTS), OWN(rank), .alias_of = "experts.rank", .otherwise = "experts.rank",
     LIMITS(1, CK_MAX_RANK_SUM), .help = "short for experts.rank"},
    {SETTING("base.variant", VALUE_TEXT), .names_a_path = true, OWN(variant), .otherwise = "none",
     .help = "what differs from the base for this population, frozen: a PEFT folder, whose LoRA is folded "
             "into the "
             "base, or a safetensors file or folder of linears that take the place of the base's"},

    {SETTING("seed", VALUE_SEED), RUN(seed), .initial = "42",
     .help = "default of every population's seed and of the base's"},
    {SETTING("backend", VALUE_WORD), .matter = MATTERS_NOT, RUN(backend), .initial = "auto",
     .choices = "auto|cpu|cuda", .help = "where it computes; auto takes a GPU if there is one"},
    {SETTING("precision", VALUE_CHOICE), RUN(precision), .initial = "f32", .choices = "f32|bf16",
     .help = "of activations and the frozen base; bf16 needs a GPU. Adapters, gradients, routing and all "
             "sums are f32 in both"},
    {SETTING("threads", VALUE_INT), .matter = MATTERS_NOT, RUN(threads), .initial = "0",
     LIMITS(0, CK_MAX_THREADS), .unit = "threads", .help = "CPU threads; 0: one per core. Changes no number"},
    {SETTING("wave_tokens", VALUE_INT), .matter = MATTERS_NOT, RUN(wave_tokens), .initial = "0",
     LIMITS(0, 1e9), .unit = "tokens",
     .help = "most tokens processed together; 0: from the memory plan. Changes no number on the CPU"},
    {SETTING("memory_limit", VALUE_INT64), .matter = MATTERS_NOT, RUN(memory_limit), .initial = "0",
     LIMITS(0, 1e9), .unit = "MiB",
     .help = "most memory the run may plan for; 0: all that the machine and its control group leave. Changes "
             "no number on the CPU"},
    {SETTING("adapters", VALUE_TEXT), .names_a_path = true, .word = "none", BOTH(adapters), .initial = "none",
     .help = "folder that replaces the random initial adapters: PEFT's, from which all devices of a "
             "population start; what `cohort export --adapters` wrote; or adapters_<population>_<device>"
             ".safetensors"},

    {SETTING("as_released", VALUE_CHOICE), BOTH(as_released), .initial = "false", .choices = "false|true",
     .help = "true: differ from the paper as the released CoMiGS code does (sim/methods/README.md)"},

    {SETTING("base.checkpoint", VALUE_TEXT), .names_a_path = true, RUN(base.checkpoint), .otherwise = "none",
     .help =
         "Hugging Face folder of a GPT-2, Llama or Qwen2 (config.json, model.safetensors); instead of all "
         "other keys of base"},
    {SETTING("base.family", VALUE_CHOICE), RUN(base.family), .initial = "gpt2", .choices = "gpt2|llama",
     .help = "gpt2: learned positions, LayerNorm, GELU, biases; llama: rotary positions, RMSNorm, SwiGLU, "
             "no biases. Both with a head tied to the embedding"},
    {SETTING("base.layers", VALUE_INT), RUN(base.layers), .initial = "4", LIMITS(1, 256), .unit = "layers",
     .help = "transformer blocks"},
    {SETTING("base.width", VALUE_INT), RUN(base.width), .initial = "128", LIMITS(1, 32768),
     .help = "model dimension"},
    {SETTING("base.heads", VALUE_INT), RUN(base.heads), .initial = "4", LIMITS(1, 1024), .unit = "heads",
     .help = "attention heads; must divide width"},
    {SETTING("base.kv_heads", VALUE_INT), RUN(base.kv_heads), .initial = "0", LIMITS(0, 1024),
     .unit = "heads",
     .help = "heads of keys and values (family llama), each read by heads / kv_heads heads; 0: as many as "
             "heads"},
    {SETTING("base.ffn", VALUE_INT), RUN(base.ffn), .initial = "0", LIMITS(0, 1048576),
     .help = "width of the MLP; 0: 4 times the width in gpt2, and 8/3 of it in llama, rounded up to a "
             "multiple of 32"},
    {SETTING("base.rope_theta", VALUE_DOUBLE), .single = true, RUN(base.rope_theta),
     .otherwise = "10000 in the family llama", ABOVE(0, 1e9),
     .help = "base of the frequencies of rotary positions"},
    {SETTING("base.vocabulary", VALUE_INT), RUN(base.vocabulary), .initial = "0", LIMITS(0, 1048576),
     .unit = "ids", .help = "token ids; 0: the synthetic corpus's vocabulary, or 256 (bytes) with real text"},
    {SETTING("base.context", VALUE_INT), RUN(base.context), .initial = "0", LIMITS(0, 1048576),
     .unit = "tokens",
     .help = "positions the model knows; 0: the longer of data.sequence and base.pretrain.sequence"},
    {SETTING("base.pretrain.text", VALUE_TEXT), .names_a_path = true, .names_a_corpus = true,
     .word = "synthetic", RUN(base.pretrain.text), .initial = "synthetic",
     .help = "folder of token shards, or synthetic: all topics of data.synthetic in equal parts"},
    {SETTING("base.pretrain.tokens", VALUE_INT64), RUN(base.pretrain.tokens), .initial = "5000000",
     LIMITS(0, MANY_TOKENS), .unit = "tokens", .help = "training tokens seen in total; 0: random weights"},
    {SETTING("base.pretrain.batch", VALUE_INT), RUN(base.pretrain.batch), .initial = "16", LIMITS(1, 65536),
     .unit = "windows", .help = "windows a step"},
    {SETTING("base.pretrain.sequence", VALUE_INT), RUN(base.pretrain.sequence), .initial = "0",
     LIMITS(0, 1048576), .unit = "tokens", .help = "tokens of a window; 0: data.sequence"},
    {.path = "base.pretrain.learning_rate",
     SINGLE,
     RUN(base.pretrain.learning_rate),
     .initial = "2e-3",
     ABOVE(0, 10),
     .help = "AdamW's largest step size"},
    {.path = "base.pretrain.weight_decay",
     SINGLE,
     RUN(base.pretrain.weight_decay),
     .initial = "0.1",
     LIMITS(0, 10),
     .help = "of AdamW, on matrices"},
    {SETTING("base.pretrain.warmup", VALUE_INT), RUN(base.pretrain.warmup), .initial = "100", LIMITS(0, 1e9),
     .unit = "steps", .help = "steps of linear growth of the learning rate"},
    {SETTING("base.pretrain.seed", VALUE_SEED), RUN(base.pretrain.seed), .otherwise = "the run's seed",
     .help = "initial weights and windows of the base"},

    {SETTING("data.corpus", VALUE_TEXT), .names_a_path = true, .names_a_corpus = true, .word = "synthetic",
     BOTH(data.corpus), .initial = "synthetic",
     .help = "folder of shards train_<i>.bin, valid_<i>.bin, test_<i>.bin, or synthetic"},
    {SETTING("data.split", VALUE_CHOICE), BOTH(data.split), .initial = "natural", .choices = SPLIT_CHOICES,
     .help = "how the sources' text is divided among devices" SPLIT_HELPS},
    {SETTING("data.evaluation", VALUE_CHOICE), BOTH(data.evaluation), .initial = "in_distribution",
     .choices = "in_distribution|out_of_distribution",
     .help = "what valid and test text are; in_distribution: of the sources of a device's training text, by "
             "the same split; out_of_distribution: equal parts of all sources"},
    {SETTING("data.dirichlet", VALUE_DOUBLE), BOTH(data.dirichlet), .otherwise = "1 in the split dirichlet",
     ABOVE(0, 1e6),
     .help = "concentration (alpha) of the split dirichlet: small, and a device has one source; large, and "
             "all have all alike"},
    {SETTING("data.quantity", VALUE_DOUBLE), BOTH(data.quantity), .otherwise = "1 in the split quantity",
     ABOVE(0, 10),
     .help = "standard deviation (sigma) of the logarithm of a device's training tokens in the split "
             "quantity; their mean is data.tokens_per_device"},
    {SETTING("data.pathological", VALUE_INT), BOTH(data.pathological),
     .otherwise = "2 in the split pathological", LIMITS(1, 1e6), .unit = "sources",
     .help = "sources of each device in the split pathological"},
    {SETTING("data.drift", VALUE_DOUBLE), BOTH(data.drift), .otherwise = "1 in the split drift", ABOVE(0, 1),
     .help = "share of the next source in the last round of the split drift; in the first it is 0"},
    {SETTING("data.sources", VALUE_COUNTS), BOTH(data.sources),
     .otherwise = "the device's number, modulo the number of sources", LIMITS(0, 1e6),
     .help = "own source of each device, from 0: a list with one for each device, or one number for all; "
             "splits natural, quantity, drift"},
    {SETTING("data.fraction", VALUE_NUMBERS), BOTH(data.fraction), .initial = "1", ABOVE(0, 1),
     .help = "multiplies data.tokens_per_device: a list with a number for each device, or one for all"},
    {SETTING("data.tokens_per_device", VALUE_COUNTS), BOTH(data.tokens_per_device), .initial = "40000",
     LIMITS(0, MANY_TOKENS), .unit = "tokens",
     .help = "training text of a device; 0: all of its sources, divided evenly among their devices"},
    {SETTING("data.valid_tokens_per_device", VALUE_COUNTS), BOTH(data.valid_tokens_per_device),
     .initial = "0", LIMITS(0, MANY_TOKENS), .unit = "tokens",
     .help = "validation text of a device; 0: all of its source's"},
    {SETTING("data.test_tokens_per_device", VALUE_COUNTS), BOTH(data.test_tokens_per_device), .initial = "0",
     LIMITS(0, MANY_TOKENS), .unit = "tokens", .help = "test text of a device; 0: all of its source's"},
    {SETTING("data.examples_per_device", VALUE_COUNTS), BOTH(data.examples_per_device), .initial = "0",
     LIMITS(0, MANY_TOKENS), .unit = "examples",
     .help = "of a corpus of examples (prompts and responses): exactly so many training examples of the text "
             "that a device holds; 0: all of them"},
    {SETTING("data.sequence", VALUE_INT), DATA_OF_RUN(sequence), .initial = "128", LIMITS(1, 1048576),
     .unit = "tokens", .help = "tokens of a window; the longest example may have one more",
     .why_run = "windows of all populations share one wave"},
    {SETTING("data.truncate", VALUE_CHOICE), DATA_OF_RUN(truncate), .initial = "false",
     .choices = "false|true",
     .help =
         "true: cut examples that are longer than data.sequence allows, at their ends; else they are refused",
     .why_run = "windows of all populations share one wave"},
    {SETTING("data.windows", VALUE_TEXT), .names_a_path = true, DATA_OF_RUN(windows), .otherwise = "none",
     .help = "file of windows that replaces sampling",
     .why_run = "the file lists the windows of all populations"},
    {SETTING("data.synthetic.topics", VALUE_INT), BOTH(data.synthetic.topics), .initial = "4",
     LIMITS(1, 4096), .unit = "topics",
     .help = "sources of the synthetic corpus, each a Markov chain of its own"},
    {SETTING("data.synthetic.vocabulary", VALUE_INT), BOTH(data.synthetic.vocabulary), .initial = "256",
     LIMITS(2, 65536), .unit = "ids", .help = "its token ids"},
    {SETTING("data.synthetic.branching", VALUE_INT), BOTH(data.synthetic.branching), .initial = "8",
     LIMITS(1, 65536), .unit = "ids",
     .help = "ids that can follow a state: the entropy is at most its logarithm"},
    {SETTING("data.synthetic.purity", VALUE_DOUBLE), BOTH(data.synthetic.purity), .initial = "0.9",
     LIMITS(0, 1),
     .help = "share of a device's text that is of its own topic; the rest is uniform over topics"},
    {SETTING("data.synthetic.seed", VALUE_SEED), BOTH(data.synthetic.seed), .initial = "42",
     .help = "the chains and the text; not changed by the run's seed"},

    {SETTING("train.rounds", VALUE_INT), RUN(rounds), .initial = "20", LIMITS(1, 1e6), .unit = "rounds",
     .help = "rounds, each ended by an aggregation",
     .why_run = "all populations go through the rounds together"},
    {SETTING("train.local_steps", VALUE_INT), RUN(local_steps), .initial = "10", LIMITS(1, 1e6),
     .unit = "steps", .help = "expert steps of a device in a round",
     .why_run = "all populations go through the steps together"},
    {SETTING("train.batch", VALUE_INT), BOTH(train.batch), .initial = "8", LIMITS(1, 65536),
     .unit = "windows", .help = "windows of a device in an expert step (the paper: 64)"},
    {.path = "train.learning_rate",
     SINGLE,
     BOTH(train.learning_rate),
     .initial = "2e-3",
     ABOVE(0, 10),
     .help = "of the experts at the start"},
    {SETTING("train.final_learning_rate_ratio", VALUE_DOUBLE), BOTH(train.final_learning_rate_ratio),
     .initial = "0.1", LIMITS(0, 1),
     .help = "the cosine over all steps ends at this times the learning rate"},
    {.path = "train.weight_decay",
     SINGLE,
     BOTH(train.weight_decay),
     .initial = "0.01",
     LIMITS(0, 10),
     .help = "of AdamW"},
    {.path = "train.beta1",
     SINGLE,
     BOTH(train.beta1),
     .initial = "0.9",
     .least = 0,
     .most = 1,
     .below_most = true,
     .help = "of AdamW (experts and router)"},
    {.path = "train.beta2",
     SINGLE,
     BOTH(train.beta2),
     .initial = "0.95",
     .least = 0,
     .most = 1,
     .below_most = true,
     .help = "of AdamW (experts and router)"},
    {.path = "train.epsilon",
     SINGLE,
     BOTH(train.epsilon),
     .initial = "1e-8",
     ABOVE(0, 1),
     .help = "of AdamW (experts and router)"},
    {SETTING("train.router.every", VALUE_INT), BOTH(train.router.every), .initial = "30", LIMITS(1, 1e9),
     .unit = "steps", .help = "expert steps between two bursts of router steps (tau)"},
    {SETTING("train.router.steps", VALUE_INT), BOTH(train.router.steps), .initial = "10", LIMITS(0, 1e6),
     .unit = "steps", .help = "router steps of a burst (s); 0: the router stays as it began"},
    {SETTING("train.router.batch", VALUE_INT), BOTH(train.router.batch), .initial = "0", LIMITS(0, 65536),
     .unit = "windows", .help = "validation windows of a router step; 0: train.batch"},
    {.path = "train.router.learning_rate",
     SINGLE,
     BOTH(train.router.learning_rate),
     .initial = "0",
     LIMITS(0, 10),
     .help = "of the router, constant; 0: train.learning_rate"},
    {.path = "train.router.weight_decay",
     SINGLE,
     BOTH(train.router.weight_decay),
     .initial = "0.01",
     LIMITS(0, 10),
     .help = "of the router's AdamW"},

    {SETTING("experts.rank", VALUE_COUNTS), BOTH(rank), .initial = "8", LIMITS(1, CK_MAX_RANK_SUM),
     .help = "LoRA rank of each expert of a device"},
    {SETTING("experts.alpha", VALUE_DOUBLE), BOTH(experts.alpha), .initial = "16", ABOVE(0, 1e6),
     .help = "LoRA alpha, of experts and of all other LoRAs"},
    {SETTING("experts.scaling", VALUE_CHOICE), BOTH(experts.scaling), .initial = "rslora",
     .choices = "rslora|lora", .help = "scale of B A: rslora is alpha / sqrt(rank), lora is alpha / rank"},
    {SETTING("experts.top_k", VALUE_INT), BOTH(experts.top_k), .initial = "2", LIMITS(1, CK_MAX_TOP_K),
     .unit = "experts", .help = "experts a token uses (at most those there are)"},
    {SETTING("experts.mix", VALUE_CHOICE), BOTH(experts.mix), .initial = "mlp", .choices = "mlp|linear",
     .help = "mlp: mixes the outputs of whole MLPs; linear: mixes the updates of each linear"},
    {SETTING("experts.router", VALUE_CHOICE), BOTH(experts.router), .initial = "linear",
     .choices = "linear|llama_moe",
     .help =
         "linear: one matrix, the router of CoMiGS for GPT-2; llama_moe: LLaMA-MoE's gate, that of CoMiGS "
         "for Llama: two matrices with tanh between, noise on the logits in training, and a load balance "
         "of its own"},
    {SETTING("experts.balance", VALUE_DOUBLE), BOTH(experts.balance), .initial = "0.01", LIMITS(0, 1e3),
     .help = "weight of the load balance (lambda)"},
    {SETTING("experts.balance_importance", VALUE_DOUBLE), BOTH(experts.balance_importance), .initial = "0.5",
     BETWEEN(0, 1),
     .help =
         "share of choices the load balance wants for the generalists (pi); a llama_moe router's has none"},
    {SETTING("aggregate.weights", VALUE_CHOICE), BOTH(weights), .initial = "method",
     .choices = "method|uniform|tokens",
     .help = "of a device in an average: uniform is 1/N, tokens its share of the population's training "
             "tokens, method the method's own (`cohort help methods`)"},
    {SETTING("fedprox.mu", VALUE_DOUBLE), BOTH(fedprox_mu), .otherwise = "0.01 in the method fedprox",
     LIMITS(0, 1e6),
     .help = "weight mu of the method fedprox's term mu / 2 (theta - theta^t)^2; 0 is fedavg, and the paper "
             "tries 0.001 to 1"},
    {SETTING("attention.rank", VALUE_INT), BOTH(attention_rank), .initial = "8", LIMITS(0, CK_MAX_RANK_SUM),
     .help = "rank of a LoRA that every token uses, on each linear of attention; 0 where lora gives some of "
             "them a rank of their own, or none has one"},
#define X(key, site, what)                                                                                   \
    {SETTING("lora." #key, VALUE_INT), BOTH(lora.rank[site]), .initial = "0", LIMITS(0, CK_MAX_RANK_SUM),    \
     .help = "rank of a LoRA that every token uses, on " what "; 0: none"},
    SETTINGS_LINEARS(X)
#undef X
#define X(key, site, what)                                                                                   \
    {SETTING("lora.alpha." #key, VALUE_DOUBLE), BOTH(lora.alpha[site]), .otherwise = "experts.alpha",        \
     ABOVE(0, 1e6), .help = "alpha of the LoRA on " what},
        SETTINGS_LINEARS(X)
#undef X

            {SETTING("tied.rank", VALUE_INT), BOTH(tied.rank), .initial = "0", LIMITS(0, CK_MAX_RANK_SUM),
             .help = "rank of one LoRA for each of tied.linears that all layers share; 0: none"},
    {SETTING("tied.alpha", VALUE_DOUBLE), BOTH(tied.alpha), .otherwise = "experts.alpha", ABOVE(0, 1e6),
     .help = "alpha of these LoRAs"},
    {SETTING("tied.vector", VALUE_CHOICE), BOTH(tied.vector), .initial = "none",
     .choices = "none|bias|column_bias",
     .help =
         "one vector p for each of tied.linears that all layers share: W x becomes W x + p (bias), or p is "
         "added to every column of W (column_bias)"},
    {SETTING("tied.linears", VALUE_TEXT), BOTH(tied.linears), .initial = "all",
     .help = "where: all linears that a layer of the base has, or the keys of some, with blanks between them "
             "(\"q v down\")"},

    {SETTING("held_out.devices", VALUE_INT), BOTH(held_out.devices), .initial = "0", LIMITS(0, 16777216),
     .unit = "devices",
     .help = "the last so many devices of the population join late and never send: the others learn as if "
             "they were not there"},
    {SETTING("held_out.rounds", VALUE_INT), BOTH(held_out.rounds), .otherwise = "none", LIMITS(1, 1e6),
     .unit = "rounds",
     .help = "the last so many rounds are those in which they take part: they receive what is shared, train, "
             "and are evaluated"},

    {SETTING("evaluate.every", VALUE_INT), RUN(evaluate.every), .initial = "2", LIMITS(1, 1e6),
     .unit = "rounds", .help = "rounds between evaluations; the last round always has one"},
    {SETTING("evaluate.windows", VALUE_INT), RUN(evaluate.windows), .initial = "64", LIMITS(1, 1e6),
     .unit = "windows", .help = "fixed windows of each device in an evaluation"},
    {SETTING("evaluate.target_loss", VALUE_DOUBLE), BOTH(target_loss), .initial = "0", LIMITS(0, 100),
     .unit = "nats per token",
     .help = "summary.csv says after how many rounds and bytes the mean test loss of a population's devices "
             "was at most this; 0: no target"},
    {SETTING("trace.routing_windows", VALUE_INT), RUN(trace.routing_windows), .initial = "2", LIMITS(0, 4096),
     .unit = "windows", .help = "test windows whose tokens and gates are recorded at each evaluation"},
    {SETTING("trace.sampling_windows", VALUE_CHOICE), RUN(trace.sampling_windows), .initial = "false",
     .choices = "false|true",
     .help = "true: record which windows every step drew (cohort export --table windows, data.windows)"},
    {SETTING("checkpoint.every", VALUE_INT), .matter = MATTERS_NOT, RUN(checkpoint_every), .initial = "5",
     LIMITS(1, 1e6), .unit = "rounds", .help = "rounds between checkpoints"},
};

bool table_is_per_device(const setting_row *row) {
    return row->type == VALUE_COUNTS || row->type == VALUE_NUMBERS;
}

const setting_row *table_rows(int *count) {
    *count = (int)(sizeof ROWS / sizeof *ROWS);
    return ROWS;
}

const setting_row *table_find(const char *path, bool in_a_population) {
    row_scope other = in_a_population ? SCOPE_RUN : SCOPE_POPULATION;
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++)
        if (ROWS[i].scope != other && strcmp(ROWS[i].path, path) == 0) return &ROWS[i];
    return NULL;
}
