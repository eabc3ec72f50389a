/* What a configuration means: defaults, populations, overrides, limits, and what is refused and where. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "config/table.h"
#include "unit/configuration.h"
#include "unit/data_files.h"

#define POPULATION "populations: [{name: a, method: local, devices: 2}]\n"

/* ---- What is right ---- */

Test(settings, defaults_are_the_paper_s) {
    settings *s = configuration_must_load("populations: [{name: a, method: comigs, devices: 4}]");
    const population_settings *p = &s->populations[0];
    cr_assert_eq(s->rounds, 20);
    cr_assert_eq(s->local_steps, 10);
    cr_assert_eq(s->seed, 42);
    cr_assert_str_eq(s->backend, "auto");
    cr_assert_eq(p->train.learning_rate, 2e-3);
    cr_assert_eq(p->train.final_learning_rate_ratio, 0.1);
    cr_assert_eq(p->train.weight_decay, 0.01);
    cr_assert_eq(p->train.beta1, 0.9);
    cr_assert_eq(p->train.beta2, 0.95);
    cr_assert_eq(p->train.router.every, 30);
    cr_assert_eq(p->train.router.steps, 10);
    cr_assert_eq(p->train.router.weight_decay, 0.01);
    cr_assert_eq(p->rank.value, 8);
    cr_assert_eq(p->attention_rank, 8);
    cr_assert_eq(p->experts.alpha, 16);
    cr_assert_eq(p->experts.scaling, SCALING_RSLORA);
    cr_assert_eq(p->experts.mix, MIX_MLP);
    cr_assert_eq(p->experts.router, ROUTER_LINEAR);
    cr_assert_eq(p->experts.top_k, 2);
    cr_assert_eq(p->experts.balance, 0.01);
    cr_assert_eq(p->experts.balance_importance, 0.5);
    cr_assert_eq(p->generalists.value, 1);
    cr_assert_eq(p->specialists.value, 1);
    settings_destroy(s);
}

Test(settings, what_is_not_written_follows_from_other_keys) {
    settings *s = configuration_must_load(
        "seed: 7\n"
        "data: {sequence: 64, synthetic: {vocabulary: 100}}\n"
        "train: {batch: 3, learning_rate: 0.01}\n"
        "populations:\n"
        "  - {name: a, method: local, devices: 2}\n"
        "  - {name: b, method: local, devices: 2, seed: 9, train: {batch: 5}}\n"
        "  - {name: c, method: local, devices: 2, train: {router: {batch: 2, learning_rate: 0.5}}}\n");
    const population_settings *p = s->populations;
    cr_assert_eq(s->base.context, 64);
    cr_assert_eq(s->base.pretrain.sequence, 64);
    cr_assert_eq(s->base.pretrain.seed, 7);
    cr_assert_eq(s->base.vocabulary, 100);
    cr_assert_eq(p[0].seed, 7);
    cr_assert_eq(p[1].seed, 9);
    cr_assert_eq(p[0].train.router.batch, 3);
    cr_assert_eq(p[1].train.router.batch, 5);
    cr_assert_eq(p[2].train.router.batch, 2);
    cr_assert_eq(p[0].train.router.learning_rate, 0.01);
    cr_assert_eq(p[2].train.router.learning_rate, 0.5);
    settings_destroy(s);
}

Test(settings, a_family_says_what_its_base_is_by_default) {
    settings *s = configuration_must_load("base: {width: 96}\n" POPULATION);
    cr_assert(s->base.family == FAMILY_GPT2 && s->base.kv_heads == 4 && s->base.ffn == 384);
    cr_assert_eq(s->base.rope_theta, 0);
    settings_destroy(s);
    s = configuration_must_load("base: {family: llama, width: 100, heads: 10}\n" POPULATION);
    cr_assert(s->base.family == FAMILY_LLAMA && s->base.kv_heads == 10 && s->base.ffn == 288);
    cr_assert_eq(s->base.rope_theta, 10000);
    settings_destroy(s);
    s = configuration_must_load("base: {family: llama, kv_heads: 2, ffn: 50, rope_theta: 7}\n" POPULATION);
    cr_assert(s->base.kv_heads == 2 && s->base.ffn == 50);
    cr_assert_eq(s->base.rope_theta, 7);
    settings_destroy(s);
}

Test(settings, vocabulary_of_real_text_is_bytes) {
    settings *s =
        configuration_must_load("data: {corpus: shards}\nbase: {pretrain: {text: english}}\n" POPULATION);
    cr_assert_eq(s->base.vocabulary, 256);
    settings_destroy(s);
}

Test(settings, seeds_expand_to_populations_of_one_name) {
    settings *s = configuration_must_load("populations:\n"
                                          "  - {name: a, method: comigs, devices: 2, specialists: [1, 3], "
                                          "seeds: [42, 45, 18446744073709551615]}\n"
                                          "  - {name: b, method: local, devices: 1}\n");
    cr_assert_eq(s->n_populations, 4);
    cr_assert_eq(s->populations[1].seed, 45);
    cr_assert_eq(s->populations[2].seed, UINT64_MAX);
    cr_assert_str_eq(s->populations[2].name, "a");
    cr_assert_eq(s->populations[2].specialists.n, 2);
    cr_assert_eq(s->populations[2].specialists.list[1], 3);
    cr_assert_eq(s->populations[2].specialists.value, 3, "the largest of the list");
    cr_assert_neq((void *)s->populations[1].specialists.list, (void *)s->populations[2].specialists.list);
    cr_assert_eq(s->populations[3].line, 3);
    settings_destroy(s);
}

Test(settings, population_overrides_only_itself) {
    settings *s = configuration_must_load(
        "train: {learning_rate: 1e-3}\n"
        "populations:\n"
        "  - name: a\n"
        "    method: local\n"
        "    devices: 2\n"
        "    rank: 4\n"
        "    data: {evaluation: out_of_distribution, tokens_per_device: 1_000, corpus: shards}\n"
        "    train: {learning_rate: .5E-2}\n"
        "    experts: {scaling: lora, mix: linear}\n"
        "    attention: {rank: 0}\n"
        "  - {name: b, method: local, devices: 2}\n");
    const population_settings *a = &s->populations[0], *b = &s->populations[1];
    cr_assert_eq(a->rank.value, 4);
    cr_assert_eq(b->rank.value, 8);
    cr_assert_eq(a->data.evaluation, OUT_OF_DISTRIBUTION);
    cr_assert_eq(a->data.tokens_per_device.value, 1000);
    cr_assert_str_eq(a->data.corpus, "shards");
    cr_assert_str_eq(b->data.corpus, "synthetic");
    cr_assert_eq(b->data.tokens_per_device.value, 40000);
    cr_assert_eq(a->train.learning_rate, 5e-3);
    cr_assert_eq(b->train.learning_rate, 1e-3);
    cr_assert_eq(a->experts.scaling, SCALING_LORA);
    cr_assert_eq(a->experts.mix, MIX_LINEAR);
    cr_assert_eq(a->attention_rank, 0);
    cr_assert_eq(b->attention_rank, 8);
    settings_destroy(s);
}

Test(settings, anchors_and_aliases_are_written_out) {
    settings *s = configuration_must_load("populations:\n"
                                          "  - {name: a, method: local, devices: 2, train: &t {batch: 3}}\n"
                                          "  - {name: b, method: local, devices: 2, train: *t}\n");
    cr_assert_eq(s->populations[1].train.batch, 3);
    settings_destroy(s);
}

Test(settings, checkpoint_brings_the_shape) {
    settings *s = configuration_must_load("base: {checkpoint: gpt2}\n" POPULATION);
    cr_assert_str_eq(s->base.checkpoint, "gpt2");
    cr_assert_eq(s->base.layers, 0);
    cr_assert_null(s->base.pretrain.text);
    settings_destroy(s);
}

/* ---- Overrides ---- */

Test(settings, overrides_reach_every_place) {
    static const char *const overrides[] = {"train.rounds=3",
                                            "populations.1.rank=2",
                                            "populations.0.specialists=[1, 2]",
                                            "evaluate.every=7",
                                            "train.router={every: 4, steps: 1}",
                                            "populations.1.name=c",
                                            "adapters=../a=b",
                                            NULL};
    settings *s = NULL;
    problems *list = configuration_load_with("train: {rounds: 9, batch: 2}\n"
                                             "populations:\n"
                                             "  - {name: a, method: comigs, devices: 2}\n"
                                             "  - {name: a, method: comigs, devices: 2}\n",
                                             overrides, &s);
    cr_assert_not_null(s, "%s", configuration_messages(list));
    cr_assert_eq(s->rounds, 3);
    cr_assert_eq(s->populations[1].rank.value, 2);
    cr_assert_eq(s->populations[0].rank.value, 8);
    cr_assert_eq(s->populations[0].specialists.list[1], 2);
    cr_assert_eq(s->evaluate.every, 7);
    cr_assert_eq(s->populations[0].train.router.every, 4);
    cr_assert_eq(s->populations[0].train.batch, 2, "a section is not replaced by another's override");
    cr_assert_str_eq(s->populations[1].name, "c");
    cr_assert_str_eq(s->populations[0].adapters, "../a=b");
    settings_destroy(s);
    problems_destroy(list);
}

Test(settings, later_override_wins) {
    static const char *const overrides[] = {"seed=1", "seed=2", NULL};
    settings *s = NULL;
    problems *list = configuration_load_with(POPULATION, overrides, &s);
    cr_assert_eq(s->seed, 2);
    settings_destroy(s);
    problems_destroy(list);
}

Test(settings, bad_overrides_are_all_named) {
    static const struct {
        const char *override, *expected;
    } cases[] = {
        {"train.rounds=many", "--set train.rounds: 'many' is not a whole number"},
        {"train.round=3", "--set train.round: unknown key; did you mean train.rounds?"},
        {"populations.9.rank=3",
         "--set populations.9.rank: '9' does not name an entry of the list; it has 1"},
        {"populations.a.rank=3", "--set populations.a.rank: 'a' does not name an entry"},
        {"seed.x=3", "--set seed.x: 'x' is looked for inside a single value"},
        {"evaluate.every=", "--set evaluate.every: there is no value"},
        {"experts.rank=[1", "--set experts.rank: the value is not valid YAML"},
        {"train.batch=[1, 2]", "--set train.batch: a list is written where one whole number is expected"},
        {"nothing", "--set nothing: not of the form key.path=value"},
        {"=3", "--set =3: not of the form"},
        {"a..b=3", "--set a..b=3: not of the form"},
        {"trace.routing_windows=3 # a comment\n---\n4", "--set trace.routing_windows: a second document"},
    };
    enum { N = sizeof cases / sizeof *cases };
    const char *overrides[N + 1] = {0};
    settings *s = NULL;
    for (int i = 0; i < N; i++) overrides[i] = cases[i].override;
    problems *list = configuration_load_with("seed: 1\n" POPULATION, overrides, &s);
    cr_assert_eq(problems_count(list), N, "%s", configuration_messages(list));
    for (int i = 0; i < N; i++)
        cr_assert(configuration_has(list, cases[i].expected), "%s not in:\n%s", cases[i].expected,
                  configuration_messages(list));
    problems_destroy(list);
}

/* ---- What is refused ---- */

Test(settings, five_errors_are_reported_together) {
    static const char *const expected[] = {
        "c.yaml:2: base.layers: 'none' is not a whole number",
        "c.yaml:3: data.sequnce: unknown key; did you mean data.sequence?",
        "c.yaml:5: train.rounds: '0' is out of range; it must be 1",
        "c.yaml:6: train.learning_rate: '2.0e-3x' is not a finite number",
        "c.yaml:8: populations.0.method: 'comig' is no method; did you mean comigs?",
    };
    settings *s = NULL;
    problems *list = configuration_load("seed: 7\n"
                                        "base: {layers: none, width: 32, heads: 2}\n"
                                        "data: {corpus: synthetic, sequnce: 32}\n"
                                        "train:\n"
                                        "  rounds: 0\n"
                                        "  learning_rate: 2.0e-3x\n"
                                        "populations:\n"
                                        "  - {name: a, method: comig, devices: 4}\n",
                                        &s);
    cr_assert_eq(problems_count(list), 5, "%s", configuration_messages(list));
    for (int i = 0; i < 5; i++)
        cr_assert(configuration_has(list, expected[i]), "%s not in:\n%s", expected[i],
                  configuration_messages(list));
    cr_assert_eq(problems_code(list), EXIT_INPUT);
    problems_destroy(list);
}

static const struct {
    const char *text, *expected;
} mistakes[] = {
    {"seed: 1\nseed: 2\n" POPULATION, "c.yaml:2: seed: is written twice, first in line 1"},
    {"train:\n  batch: 1\n  batch: 1\n" POPULATION,
     "c.yaml:3: train.batch: is written twice, first in line 2"},
    {"xylophone: 1\n" POPULATION, "c.yaml:1: xylophone: unknown key; known here: seed, backend"},
    {"rounds: 1\n" POPULATION, "c.yaml:1: rounds: unknown key; did you mean train.rounds?"},
    {"populatoins: 1\n" POPULATION, "c.yaml:1: populatoins: unknown key; did you mean populations?"},
    {"devices: 3\n" POPULATION, "c.yaml:1: devices: belongs to a population"},
    {"train: 3\n" POPULATION, "c.yaml:1: train: must be a map"},
    {"train:\n" POPULATION, "c.yaml:1: train: must be a map of keys ({key: value, ...}); it is empty"},
    {"seed:\n" POPULATION, "c.yaml:1: seed: has no value"},
    {"seed: -1\n" POPULATION, "c.yaml:1: seed: '-1' is not a seed; it must be 0 to 2^64 - 1"},
    {"seed: 18446744073709551616\n" POPULATION, "seed: '18446744073709551616' is not a seed"},
    {"backend: gpu\n" POPULATION,
     "c.yaml:1: backend: 'gpu' is not one of the choices; it must be auto, cpu or cuda"},
    {"backend: cp\n" POPULATION, "backend: 'cp' is not one of the choices"},
    {"train: {batch: 1e3}\n" POPULATION, "train.batch: '1e3' is not a whole number in digits"},
    {"train: {batch: 010}\n" POPULATION, "train.batch: '010' is not a whole number"},
    {"train: {batch: 1__0}\n" POPULATION, "train.batch: '1__0' is not a whole number"},
    {"train: {batch: _1}\n" POPULATION, "train.batch: '_1' is not a whole number"},
    {"train: {batch: 1_}\n" POPULATION, "train.batch: '1_' is not a whole number"},
    {"train: {batch: 6 rounds}\n" POPULATION, "train.batch: '6 rounds' is not a whole number"},
    {"train: {batch: \"6\"}\n" POPULATION, "train.batch: '6' is text because of its quotes"},
    {"train: {batch: 99999999999999999999999}\n" POPULATION,
     "is out of range; it must be 1 to 65,536 windows"},
    {"train: {batch: 4294967297}\n" POPULATION, "train.batch: '4294967297' is out of range"},
    {"train: {learning_rate: .nan}\n" POPULATION, "train.learning_rate: '.nan' is not a finite number"},
    {"train: {learning_rate: nan}\n" POPULATION, "train.learning_rate: 'nan' is not a finite number"},
    {"train: {learning_rate: .inf}\n" POPULATION, "train.learning_rate: '.inf' is not a finite number"},
    {"train: {learning_rate: 1e999}\n" POPULATION, "train.learning_rate: '1e999' is not a finite number"},
    {"train: {learning_rate: 0x1p-9}\n" POPULATION, "train.learning_rate: '0x1p-9' is not a finite number"},
    {"train: {learning_rate: 1e}\n" POPULATION, "train.learning_rate: '1e' is not a finite number"},
    {"train: {learning_rate: 0}\n" POPULATION,
     "train.learning_rate: '0' is out of range; it must be above 0, at most 10"},
    {"train: {batch: [1, 2]}\n" POPULATION,
     "train.batch: a list is written where one whole number is expected"},
    {"train: {learning_rate: {a: 1}}\n" POPULATION,
     "train.learning_rate: a map is written where one number is expected"},
    {"threads: 1025\n" POPULATION,
     "c.yaml:1: threads: '1025' is out of range; it must be 0 to 1,024 threads"},
    {"train: {epsilon: 1e-60}\n" POPULATION, "c.yaml:1: train.epsilon: '1e-60' is 0 in single precision, "
                                             "in which it is used; it must be above 0, at most 1"},
    {"train: {learning_rate: 1e-46}\n" POPULATION, "train.learning_rate: '1e-46' is 0 in single precision"},
    {"train: {weight_decay: 1e-60}\n" POPULATION, "train.weight_decay: '1e-60' is 0 in single precision"},
    {"train: {router: {learning_rate: 1e-60}}\n" POPULATION,
     "train.router.learning_rate: '1e-60' is 0 in single precision"},
    {"train: {beta2: 0.99999999}\n" POPULATION,
     "train.beta2: '0.99999999' rounds to a limit in single precision, in which it is used; it must be "
     "at least 0, below 1"},
    {"base: {pretrain: {learning_rate: 1e-60}}\n" POPULATION,
     "base.pretrain.learning_rate: '1e-60' is 0 in single precision"},
    {"train: {rounds: 1000000, local_steps: 2148}\n" POPULATION,
     "c.yaml:1: train.rounds: a device takes 2148000000 steps; it must take at most 2147483647"},
    {"train: {batch: 65536}\ndata: {sequence: 32768, tokens_per_device: 0}\n" POPULATION,
     "train.batch: an expert step has 65536 windows of 32768 tokens; it must have at most 2147483647 "
     "tokens"},
    {"base: {pretrain: {batch: 65536, sequence: 32768}}\n" POPULATION,
     "c.yaml:1: base.pretrain.batch: a step of pre-training has 65536 windows of 32768 tokens"},
    {"base: {pretrain: {tokens: 1000000000000000, batch: 1}}\n" POPULATION,
     "c.yaml:1: base.pretrain.tokens: pre-training takes 7812500000000 steps; it must take at most "
     "2147483647"},
    {"adapters: ''\n" POPULATION, "adapters: is empty"},
    {"seed: !int 5\n" POPULATION, "c.yaml:1: configuration: tags (!...) have no meaning here"},
    {"? [a, b]\n: 3\n", "a list or map is used as a key"},
    {"populations: &x [*x]\n", "nested deeper than 16 levels"},
    {POPULATION "---\nseed: 1\n", "c.yaml:3: configuration: a second document starts here"},
    {"", "c.yaml:1: configuration: there is nothing in it"},
    {"# only a comment\n", "configuration: there is nothing in it"},
    {"- a\n- b\n", "c.yaml:1: configuration: starts with a list; it must be a map"},
    {"hello\n", "configuration: starts with a single value"},
    {"seed: 1\ntrain: [\n" POPULATION, "c.yaml:4:1: not valid YAML: did not find expected ',' or ']' "
                                       "while parsing a flow sequence that begins in line 2"},
    {"seed: 1\n\tbatch: 2\n", "c.yaml:2:1: not valid YAML"},
    {"seed: \xff\xfe\n", "not readable as YAML text"},
    {"base: {heads: 5}\n" POPULATION, "c.yaml:1: base.heads: 5 heads do not divide the width 128"},
    {"base:\n  width: 130\n" POPULATION, "c.yaml:2: base.width: 4 heads do not divide the width 130"},
    {"base: {family: opt}\n" POPULATION, "base.family: 'opt' is not one of the choices; it must be gpt2"},
    {"base: {kv_heads: 2}\n" POPULATION,
     "c.yaml:1: base.kv_heads: a gpt2 has as many heads of keys as heads"},
    {"base: {rope_theta: 5}\n" POPULATION, "c.yaml:1: base.rope_theta: is of the family llama"},
    {"base: {family: llama, kv_heads: 3}\n" POPULATION,
     "c.yaml:1: base.kv_heads: 3 heads of keys and values do not divide 4 heads"},
    {"base: {family: llama, width: 12}\n" POPULATION,
     "c.yaml:1: base.width: 4 heads make each 3 wide; a head of a llama must have an even width"},
    {"base: {checkpoint: x, layers: 3}\n" POPULATION, "base.layers: the base comes from base.checkpoint"},
    {"base: {vocabulary: 255, pretrain: {tokens: 0}}\n" POPULATION,
     "the corpus has 256 ids, the base only 255"},
    {"data: {corpus: shards}\n" POPULATION,
     "base.pretrain.text: is missing, and the corpus 'shards' is real text"},
    {"data: {tokens_per_device: 128}\n" POPULATION,
     "data.tokens_per_device: 128 tokens hold no window of 128"},
    {"data: {synthetic: {branching: 257}}\n" POPULATION, "data.synthetic.branching: 257 ids cannot follow"},
    {"data: {split: naturally}\n" POPULATION,
     "data.split: 'naturally' is not one of the choices; it must be natural, iid"},
    {"data:\n  split: out_of_distribution\n" POPULATION,
     "c.yaml:2: data.split: 'out_of_distribution' is a choice of data.evaluation, not of this key; it must "
     "be nat"},
    {"data:\n  split: dirichlet\n  dirichlet: 0\n" POPULATION,
     "c.yaml:3: data.dirichlet: '0' is out of range; it must be above 0"},
    {"data: {split: dirichlet, dirichlet: -1}\n" POPULATION,
     "data.dirichlet: '-1' is out of range; it must be above 0"},
    {"data:\n  split: quantity\n  quantity: 0\n" POPULATION,
     "c.yaml:3: data.quantity: '0' is out of range; it must be above 0, at most 10"},
    {"data: {split: quantity, quantity: -1}\n" POPULATION,
     "data.quantity: '-1' is out of range; it must be above"},
    {"data:\n  split: pathological\n  pathological: 0\n" POPULATION,
     "c.yaml:3: data.pathological: '0' is out of range; it must be 1 to "},
    {"data: {split: pathological, pathological: 1.5}\n" POPULATION,
     "data.pathological: '1.5' is not a whole number in digits"},
    {"data:\n  split: drift\n  drift: 1.5\n" POPULATION,
     "c.yaml:3: data.drift: '1.5' is out of range; it must be above 0, at most 1"},
    {"data: {split: drift, drift: 0}\n" POPULATION, "data.drift: '0' is out of range; it must be above 0"},
    {"data: {pathological: 3}\n" POPULATION,
     "data.pathological: is of data.split pathological, but the split is natural"},
    {"data:\n  split: iid\n  sources: [0, 1]\n" POPULATION,
     "c.yaml:3: data.sources: devices have no source of their own in the split iid, but in natural, "
     "quantity, drift"},
    {"data:\n  sources: [0, 1, 1]\n" POPULATION,
     "c.yaml:3: populations.0.data.sources: the list has 3 entries for 2 devices; write one for each"},
    {"data:\n  sources: [0, 1.5]\n" POPULATION, "c.yaml:2: data.sources: '1.5' is not a whole number"},
    {"data:\n  sources: [0, -1]\n" POPULATION, "c.yaml:2: data.sources: '-1' is out of range"},
    {"data: {sources: []}\n" POPULATION, "data.sources: the list has 0 entries; write one for each device"},
    {"data: {sources: {a: 1}}\n" POPULATION,
     "data.sources: a map is written where a number, or a list of numbers is expected"},
    {"data:\n  fraction: [1, 0]\n" POPULATION,
     "c.yaml:2: data.fraction: '0' is out of range; it must be above 0, at most 1"},
    {"data:\n  fraction: [1, 0.5, 1]\n" POPULATION,
     "populations.0.data.fraction: the list has 3 entries for 2 devices"},
    {"data:\n  fraction: [1, 0.001]\n" POPULATION, "c.yaml:2: data.fraction: 0.001 leaves 40 of 40000 "
                                                   "tokens, which hold no window of 128 and its next token"},
    {"data: {split: dirichlet, dirichlet: nan}\n" POPULATION, "data.dirichlet: 'nan' is not a finite number"},
    {"data:\n  dirichlet: 1\n" POPULATION,
     "c.yaml:2: data.dirichlet: is of data.split dirichlet, but the split is natural; write "
     "data.split: dirichlet, or remove"},
    {"fedprox:\n  mu: -0.5\npopulations: [{name: a, method: fedprox, devices: 2}]\n",
     "c.yaml:2: fedprox.mu: '-0.5' is out of range; it must be 0 to 1,000,000"},
    {"fedprox:\n  mu: 1\n" POPULATION,
     "c.yaml:2: fedprox.mu: is of the method fedprox, but no population has it; write method: fedprox, or "
     "remove this key"},
};

Test(settings, each_mistake_has_its_one_message) {
    for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++)
        configuration_must_fail(mistakes[i].text, mistakes[i].expected);
}

static const struct {
    const char *entries, *expected;
} mistakes_of_populations[] = {
    {"[]", "populations: is not a list of populations"},
    {"{}", "populations: is not a list of populations"},
    {"[3]", "populations.0: is not a map"},
    {"[{method: local, devices: 2}]", "populations.0.name: is missing"},
    {"[{name: a, devices: 2}]", "populations.0.method: is missing"},
    {"[{name: a, method: local}]", "populations.0.devices: is missing"},
    {"[{name: a, method: local, devices: 2, fedprox: {mu: 1}}]",
     "populations.0.fedprox.mu: is of the method fedprox, but the method is local; write method: fedprox, or "
     "remove this key"},
    {"[{name: a, method: local, devices: 2, data: {dirichlet: 2}}]",
     "populations.0.data.dirichlet: is of data.split dirichlet, but the split is natural"},
    {"[{name: a, method: local, devices: 0}]",
     "devices: '0' is out of range; it must be 1 to 16,777,216 devices"},
    {"[{name: a b, method: local, devices: 1}]", "populations.0.name: 'a b' is no name"},
    {"[{name: a, method: nothing, devices: 1, generalists: 1, specialists: 1}]",
     "populations.0.method: 'nothing' is no method"},
    {"[{name: a, method: local, devices: 1, rank: 4, experts: {rank: 4}}]",
     "rank: is short for experts.rank, and both are written"},
    {"[{name: a, method: local, devices: 1, base: {width: 4}}]",
     "populations.0.base.width: a population cannot have its own; write base.width at the top level"},
    {"[{name: a, method: local, devices: 1, trace: {routing_windows: 4}}]",
     "populations.0.trace: a population cannot have its own trace"},
    {"[{name: a, method: local, devices: 1, evaluate: {every: 4}}]",
     "populations.0.evaluate.every: a population cannot have its own; write evaluate.every at the top level"},
    {"[{name: a, method: local, devices: 1, evaluate: {target_loss: -1}}]",
     "populations.0.evaluate.target_loss: '-1' is out of range; it must be 0 to 100 nats per token"},
    {"[{name: a, method: local, devices: 1, train: {rounds: 4}}]",
     "populations.0.train.rounds: a population cannot have its own: all populations go through the "
     "rounds together"},
    {"[{name: a, method: local, devices: 1, data: {sequence: 4}}]",
     "data.sequence: a population cannot have its own: windows of all"},
    {"[{name: a, method: local, devices: 1, data: {windows: x}}]",
     "data.windows: a population cannot have its own"},
    {"[{name: a, method: centralized, devices: 2500000}]",
     "populations.0.train.batch: an expert step has 20000000 windows of 128"},
    {"[{name: a, method: local, devices: 1, threads: 4}]",
     "threads: a population cannot have its own; write threads at the top level"},
    {"[{name: a, method: local, devices: 1, train: {bath: 4}}]",
     "unknown key; did you mean populations.0.train.batch?"},
    {"[{name: a, method: local, devices: 1, data: {test_tokens_per_device: 5}}]",
     "5 tokens hold no window of 128"},
    {"[{name: a, method: local, devices: 1, seed: 1, seeds: [2]}]", "seed and seeds are both written"},
    {"[{name: a, method: local, devices: 1, seeds: []}]", "seeds: must be a list of seeds"},
    {"[{name: a, method: local, devices: 1, seeds: 3}]", "seeds: must be a list of seeds"},
    {"[{name: a, method: local, devices: 1, seeds: [3, x]}]", "seeds: entry 1 is not a seed"},
    {"[{name: a, method: local, devices: 1, seeds: [3, 3]}]", "'a' with seed 3 is already in line 1"},
    {"\n- {name: a, method: local, devices: 1}\n- {name: a, method: comigs, devices: 1}",
     "c.yaml:3: populations: 'a' with seed 42 is already in line 2"},
    {"[{name: a, method: comigs, devices: 2, specialists: [1]}]",
     "specialists: the list has 1 entries for 2 devices"},
    {"[{name: a, method: comigs, devices: 1, specialists: []}]", "specialists: the list has 0 entries"},
    {"[{name: a, method: comigs, devices: 2, specialists: [1, [2]]}]",
     "specialists: entry 1 is not a number"},
    {"[{name: a, method: comigs, devices: 2, specialists: [1, 99]}]",
     "'99' is out of range; it must be 0 to 16 experts"},
    {"[{name: a, method: comigs, devices: 2, generalists: 0, specialists: [1, 0], attention: {rank: 0}}]",
     "device 1 has no experts and no LoRA"},
    {"[{name: a, method: comigs, devices: 2, generalists: 8, specialists: 9}]",
     "a device has 17 experts (8 generalists + 9 specialists)"},
    {"[{name: a, method: comigs, devices: 2, rank: 257}]",
     "rank: the ranks of the 2 experts of a device sum to 514; the sum must be at most 512"},
};

Test(settings, each_mistake_of_a_population_has_its_one_message) {
    char text[512];
    for (size_t i = 0; i < sizeof mistakes_of_populations / sizeof *mistakes_of_populations; i++) {
        snprintf(text, sizeof text, "populations: %s\n", mistakes_of_populations[i].entries);
        configuration_must_fail(text, mistakes_of_populations[i].expected);
    }
    configuration_must_fail("seed: 1\n", "c.yaml:1: populations: is missing");
}

/* What single precision can hold is fine, however small; the others are never used in it. */
Test(settings, small_numbers_that_single_precision_holds_are_kept) {
    settings *s = configuration_must_load(
        "train: {epsilon: 1.5e-45, beta2: 0.9999999, learning_rate: 1.0e-40}\n"
        "data: {synthetic: {purity: 1.0e-60}}\nexperts: {balance_importance: 0.99999999}\n" POPULATION);
    cr_expect_eq(s->populations[0].train.epsilon, 1.5e-45);
    cr_expect_eq(s->populations[0].train.learning_rate, 1.0e-40);
    cr_expect_eq(s->populations[0].data.synthetic.purity, 1.0e-60);
    cr_expect_eq(s->populations[0].experts.balance_importance, 0.99999999);
    settings_destroy(s);
}

Test(settings, limits_on_experts_and_ranks_hold_on_both_sides) {
    settings_destroy(configuration_must_load(
        "populations: [{name: a, method: comigs, devices: 2, generalists: 8, specialists: 8}]"));
    settings_destroy(
        configuration_must_load("populations: [{name: a, method: comigs, devices: 2, rank: 256}]"));
    settings_destroy(configuration_must_load(
        "populations: [{name: a, method: comigs, devices: 2, generalists: 0, specialists: [1, 16]}]"));
    settings_destroy(
        configuration_must_load("base: {context: 128}\ndata: {tokens_per_device: 129}\n" POPULATION));
}

/* A window that does not fit is wrong in the data and, where pre-training uses it, in the base. */
Test(settings, windows_must_fit_the_context) {
    settings *s = NULL;
    problems *list = configuration_load("base: {context: 64}\n" POPULATION, &s);
    cr_assert_eq(problems_count(list), 2, "%s", configuration_messages(list));
    cr_assert(configuration_has(
        list, "c.yaml:1: base.context: windows of 128 tokens do not fit the base's context of 64"));
    problems_destroy(list);
    configuration_must_fail("base: {context: 128, pretrain: {sequence: 129}}\n" POPULATION,
                            "base.pretrain.sequence: windows of 129 tokens");
    settings_destroy(configuration_must_load("base: {context: 128, pretrain: {sequence: 128}}\n" POPULATION));
}

Test(settings, aliases_cannot_explode) {
    char text[2048] = "";
    strcat(text, "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for (int i = 1; i < 9; i++)
        sprintf(text + strlen(text), "a%d: &a%d [*a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d]\n", i, i,
                i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1);
    configuration_must_fail(text, "more than 200000 values");
}

Test(settings, files_that_cannot_be_read_are_named) {
    static const char *const paths[] = {"/nowhere/c.yaml", "/"};
    for (int i = 0; i < 2; i++) {
        settings *s = NULL;
        problems *list = problems_create();
        cr_assert_eq(settings_load(paths[i], 0, NULL, &s, list), EXIT_INPUT);
        cr_assert_eq(problems_count(list), 1);
        cr_assert_eq(strncmp(problems_message(list, 0), paths[i], strlen(paths[i])), 0);
        cr_assert_not_null(strstr(problems_message(list, 0), "give the path of a YAML file"));
        problems_destroy(list);
    }
}
