/* settings.h - what a configuration says, resolved: defaults applied, populations expanded over their seeds.
 * Plain structs, which every room may read; config/ makes them from a file. `cohort help settings` is the
 * reference of the keys. */
#ifndef COHORT_SETTINGS_H
#define COHORT_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pack.h"
#include "settings/per_device.h"

/* The linears of a layer by their keys in a configuration: key, site, and what help says of it. */
#define SETTINGS_LINEARS(X)                                                                                  \
    X(q, CK_SITE_Q, "q (Llama)")                                                                             \
    X(k, CK_SITE_K, "k (Llama)")                                                                             \
    X(v, CK_SITE_V, "v (Llama)")                                                                             \
    X(qkv, CK_SITE_QKV, "q, k and v, where they are one linear (GPT-2)")                                     \
    X(out, CK_SITE_OUT, "the output projection of attention")                                                \
    X(gate, CK_SITE_GATE, "the MLP's gate (Llama)")                                                          \
    X(up, CK_SITE_FC, "the MLP's first linear (Llama's up, GPT-2's fc)")                                     \
    X(down, CK_SITE_PR, "the MLP's last linear")
/* "q", "qkv", ...; NULL of no linear. */
const char *settings_linear(ck_site site);
bool settings_is_of_attention(ck_site site);
/* Whether a text of tied_settings.linears names the site; CK_NO_SITE: whether it is such a text. */
bool settings_names_linear(const char *linears, ck_site site);

enum { SETTINGS_MAX_PER_DEVICE = 1024 }; /* numbers in a list per device */

typedef enum { SCALING_RSLORA, SCALING_LORA } lora_scaling; /* alpha / sqrt(r), alpha / r */
typedef enum { MIX_MLP, MIX_LINEAR } experts_mix;
/* In the order of ck_router. */
typedef enum { ROUTER_LINEAR, ROUTER_LLAMA_MOE } experts_router;
/* Of a device in an average: the method's choice, 1 / N, or its share of the population's training tokens. */
typedef enum { WEIGHTS_OF_METHOD, WEIGHTS_UNIFORM, WEIGHTS_TOKENS } aggregate_weights;

/* In the order of base_family_id (base/base.h). */
typedef enum { FAMILY_GPT2, FAMILY_LLAMA } base_family_choice;

/* base: the frozen transformer. */
typedef struct {
    /* folder with model.safetensors + config.json; NULL: described by the fields below and pre-trained */
    char *checkpoint;
    int family;                                    /* base_family_choice */
    int layers, width, heads, vocabulary, context; /* context: positions the model knows, >= data.sequence */
    int kv_heads, ffn;                             /* heads of keys and values; width of the MLP */
    double rope_theta;                             /* of the family llama; else 0 */
    struct {
        char *text;     /* folder of shards, or "synthetic": all topics in equal parts */
        int64_t tokens; /* training tokens seen in total; 0: random weights, no pre-training */
        int batch;      /* sequences a step */
        int sequence;   /* 0: data.sequence */
        double learning_rate, weight_decay;
        int warmup; /* steps */
        uint64_t seed;
    } pretrain;
} base_settings;

typedef enum { IN_DISTRIBUTION, OUT_OF_DISTRIBUTION } data_evaluation;

typedef struct {
    /* "synthetic", or a folder of shards train_<i>.bin, valid_<i>.bin, test_<i>.bin: of text or of examples
     */
    char *corpus;
    int corpus_line; /* where the configuration says which; 0: --set */
    int split;       /* index into the list of splits (data/splits/splits.h) */
    int evaluation;  /* data_evaluation: what valid and test text are */
    /* the parameters of the splits of these names; 0 where the population has another split */
    double dirichlet, quantity; /* alpha; sigma */
    int pathological;           /* sources of a device */
    double drift;               /* share of the next source in the last round */
    /* the split's parameter where the configuration has it, else data.split; NULL: neither is written */
    const char *split_key;
    int split_line;      /* where that is; 0: --set */
    per_device sources;  /* the source of each device that has one of its own; -1: i mod S */
    int sources_line;    /* as of corpus_line */
    per_device fraction; /* real: of tokens_per_device that a device has */
    /* training tokens a device holds; 0: all of its source, divided evenly among the source's devices. No
     * number of a list is 0 */
    per_device tokens_per_device;
    per_device valid_tokens_per_device, test_tokens_per_device; /* 0: all of its source's split */
    /* of a corpus of examples: training examples that a device holds, the first of its text; 0: all of it */
    per_device examples_per_device;
    /* tokens of a window (targets are shifted by one), and the most of an example without its last */
    int sequence;
    int truncate; /* 0 or 1: cut examples that are longer */
    /* NULL, or a file of window offsets that replaces sampling */
    char *windows;
    struct {
        int topics, vocabulary;
        int branching; /* successors each state can reach: entropy <= ln(branching) */
        /* share of a device's text that comes from its own topic, the rest uniform over topics */
        double purity;
        uint64_t seed;
    } synthetic;
} data_settings;

typedef struct {
    int batch; /* windows a device and step */
    /* cosine from lr to ratio * lr over rounds * local_steps */
    double learning_rate, final_learning_rate_ratio;
    double weight_decay, beta1, beta2, epsilon;
    struct {
        int every, steps, batch;
        double learning_rate, weight_decay;
    } router; /* batch 0: train.batch; lr 0: train.learning_rate */
} train_settings;

typedef struct {
    double alpha;
    lora_scaling scaling;
    int top_k;
    experts_mix mix;
    experts_router router;
    double balance, balance_importance; /* lambda and pi of the load balance */
} experts_settings;

/* The LoRAs that every token uses, one for each linear of a layer. */
typedef struct {
    int rank[CK_SITES]; /* 0: none */
    double alpha[CK_SITES];
} lora_settings;

/* What all layers share: a LoRA and a vector for each linear of a layer. */
typedef struct {
    char *linears; /* "all", or keys of linears with blanks between them */
    int rank;      /* 0: no LoRA */
    double alpha;
    int vector; /* ck_vector_form */
} tied_settings;

/* One population after expansion: one method, one seed. */
typedef struct {
    char *name;   /* as written; populations of several seeds share it */
    char *method; /* a name of methods/method.h, validated by the caller */
    uint64_t seed;
    int devices;
    struct {
        int devices; /* the last of the population's; 0: none */
        int rounds;  /* the last of the run's, in which they take part */
    } held_out;
    per_device generalists, specialists; /* -1: the method's default */
    per_device rank;                     /* of every expert of a device */
    int attention_rank; /* of the LoRAs on all linears of attention; 0: lora says which have one */
    lora_settings lora;
    tied_settings tied;
    int as_released;           /* 0 or 1: differ from the paper as the released CoMiGS code does */
    aggregate_weights weights; /* WEIGHTS_OF_METHOD if and only if it averages nothing */
    double fedprox_mu;         /* of the method fedprox; negative in all others */
    experts_settings experts;
    train_settings train;
    double target_loss; /* of evaluate: nats per token; 0: none */
    data_settings data;
    char *adapters;    /* "none", or a folder that replaces random initialisation */
    int adapters_line; /* where the configuration says which; 0: --set */
    char *variant;     /* NULL, or the folder or file of its base variant (base/variant.h) */
    int line;          /* where the configuration declares it; 0: --set */
    int number;        /* its index in the configuration, from 0 */
} population_settings;

typedef struct {
    char *file; /* the configuration's path, for messages */
    /* of the top level's keys in the order of the table, for settings_prefix(); NULL: unknown */
    int *key_lines;
    uint64_t seed;
    char *backend;           /* auto, cpu, cuda */
    int precision;           /* ck_precision of activations and frozen weights in training and evaluation */
    int threads;             /* 0: one per core */
    int wave_tokens;         /* most tokens processed together; 0: chosen from the memory plan */
    int64_t memory_limit;    /* MiB; 0: what is free */
    int rounds, local_steps; /* the same for all populations: they share waves */
    struct {
        int every, windows;
    } evaluate; /* rounds between evaluations (the last round always is one), test windows a device */
    struct {
        int routing_windows;  /* windows whose tokens and gates are recorded at each evaluation */
        int sampling_windows; /* 0 or 1: record the place of every window that a step drew */
    } trace;
    int checkpoint_every; /* rounds between checkpoints */
    base_settings base;
    data_settings data; /* defaults of the populations */
    int n_populations;
    population_settings *populations;
    /* What populations are compared by: dotted keys of a population (never a short form), in their order. */
    int n_axes;
    char **axes;
    /* What is tried and chosen before the run (config/tune.h), owned; NULL: nothing. Until then the populations
     * have the first of the values. */
    struct tuning *tuning;
} settings;

#endif
