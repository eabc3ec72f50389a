/* Settings written back load to the same settings; hashes change with what matters and with nothing else. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/compare.h"
#include "config/config.h"
#include "config/table.h"
#include "unit/configuration.h"
#include "unit/data_files.h"

static const char RICH[] =
    "seed: 18446744073709551615\n"
    "threads: 3\n"
    "adapters: \"a \\\"b\\\" \\\\ \\x01 é: #\"\n"
    "base: {layers: 2, width: 48, heads: 3, pretrain: {tokens: 0, seed: 5, learning_rate: "
    "0.333333333333333314}}\n"
    "data: {sequence: 17, evaluation: out_of_distribution, synthetic: {purity: 0.123456789}}\n"
    "train: {router: {learning_rate: 1e-3}}\n"
    "populations:\n"
    "  - {name: one, method: comigs, devices: 3, specialists: [1, 2, 3], seeds: [1, 2]}\n"
    "  - {name: two, method: local, devices: 1, rank: 3, data: {corpus: 'null', evaluation: "
    "in_distribution}}\n"
    "  - {name: '3', method: fedavg, devices: 1, train: {batch: 2, router: {every: 3}}, attention: {rank: "
    "0}}\n"
    "  - {name: mixed, method: local, devices: 1, data: {split: dirichlet, dirichlet: 0.3}}\n"
    "  - {name: mixed-by-default, method: local, devices: 1, data: {split: dirichlet}}\n"
    "  - {name: held, method: fedprox, devices: 1, fedprox: {mu: 0}}\n"
    "  - {name: held-by-default, method: fedprox, devices: 1}\n"
    "  - {name: late, method: comigs, devices: 3, held_out: {devices: 2, rounds: 7}}\n"
    "  - {name: none-late, method: comigs, devices: 3, held_out: {devices: 0, rounds: 7}}\n"
    "  - {name: few, method: local, devices: 2, data: {split: pathological, pathological: 3}}\n"
    "  - {name: few-by-default, method: local, devices: 2, data: {split: pathological}}\n"
    "  - {name: uneven, method: local, devices: 2, data: {split: quantity, quantity: 0.3, sources: [3, 1]}}\n"
    "  - {name: moving, method: local, devices: 2, data: {split: drift, sources: 2, fraction: [0.1, "
    "0.333333333333333314]}}\n";

/* Lists from above, which some populations replace by one of their own, or by a number. */
static const char LISTS[] =
    "data: {sources: [1, 0], fraction: [0.5, 0.25]}\n"
    "populations:\n"
    "  - {name: a, method: local, devices: 2, seeds: [1, 2]}\n"
    "  - {name: b, method: local, devices: 2, data: {sources: [3, 3], fraction: 0.5}}\n"
    "  - {name: c, method: local, devices: 2, data: {split: iid}}\n";

/* A parameter of some populations' split, from above. */
static const char MIXED[] =
    "data: {dirichlet: 0.2}\n"
    "populations:\n"
    "  - {name: a, method: local, devices: 2, data: {split: dirichlet}}\n"
    "  - {name: b, method: local, devices: 2}\n"
    "  - {name: c, method: local, devices: 2, data: {split: dirichlet, dirichlet: 3}}\n";

static void expect_round_trip(const char *text) {
    char first_hash[SETTINGS_HASH_BYTES], second_hash[SETTINGS_HASH_BYTES];
    settings *first = configuration_must_load(text);
    char *yaml = settings_to_yaml(first);
    settings *second = configuration_must_load(yaml);
    char *again = settings_to_yaml(second);
    cr_assert_str_eq(again, yaml);
    settings_hash(first, first_hash);
    settings_hash(second, second_hash);
    cr_assert_str_eq(second_hash, first_hash);
    settings_base_hash(first, first_hash);
    settings_base_hash(second, second_hash);
    cr_assert_str_eq(second_hash, first_hash);
    cr_assert_eq(second->n_populations, first->n_populations);
    free(yaml);
    free(again);
    settings_destroy(first);
    settings_destroy(second);
}

Test(settings_write, written_settings_load_to_the_same) {
    expect_round_trip("populations: [{name: a, method: local, devices: 2}]");
    expect_round_trip("base: {checkpoint: gpt2}\npopulations: [{name: a, method: local, devices: 2}]");
    expect_round_trip(RICH);
    expect_round_trip(MIXED);
    expect_round_trip(LISTS);
}

/* Not only to equal hashes: every row of every population, and of the run. */
Test(settings_write, every_row_survives) {
    int count = 0;
    const setting_row *rows = table_rows(&count);
    settings *first = configuration_must_load(RICH);
    char *yaml = settings_to_yaml(first);
    settings *second = configuration_must_load(yaml);
    for (int i = 0; i < count; i++) {
        if (rows[i].type == VALUE_SEEDS) continue;
        if (!rows[i].in_population)
            cr_assert(value_equal(&rows[i], first, second), "%s in\n%s", rows[i].path, yaml);
        else
            for (int p = 0; p < first->n_populations; p++)
                cr_assert(value_equal(&rows[i], &first->populations[p], &second->populations[p]),
                          "%s of %d in\n%s", rows[i].path, p, yaml);
    }
    cr_assert_eq(second->data.evaluation, OUT_OF_DISTRIBUTION);
    cr_assert_str_eq(second->populations[2].data.corpus, "null");
    cr_assert_str_eq(second->populations[0].adapters, "a \"b\" \\ \x01 é: #");
    free(yaml);
    settings_destroy(first);
    settings_destroy(second);
}

/* override: one, or several with ; between them. */
static settings *load_with(const char *override) {
    char copy[256], *rest = copy;
    const char *overrides[4] = {NULL};
    settings *s = NULL;
    snprintf(copy, sizeof copy, "%s", override);
    for (int i = 0; rest && i < 3; i++) overrides[i] = strsep(&rest, ";");
    problems *list = configuration_load_with(
        "populations:\n- {name: a, method: comigs, devices: 2}\n- {name: b, method: local, devices: 2}\n"
        "- {name: mixed, method: local, devices: 2, data: {split: dirichlet}}\n"
        "- {name: held, method: fedprox, devices: 2, aggregate: {weights: uniform}}\n",
        overrides, &s);
    cr_assert_not_null(s, "%s", configuration_messages(list));
    problems_destroy(list);
    return s;
}

static void hashes_with(const char *override, char run[SETTINGS_HASH_BYTES], char base[SETTINGS_HASH_BYTES]) {
    settings *s = load_with(override);
    settings_hash(s, run);
    settings_base_hash(s, base);
    settings_destroy(s);
}

/* A value other than the default for every key of the run and of populations; 'b': the base changes too. */
static const struct {
    const char *override;
    bool run, base;
} CHANGES[] = {
    {"seed=43", true, true},
    {"backend=cpu", false, false},
    {"precision=bf16", true, false},
    {"threads=2", false, false},
    {"wave_tokens=4096", false, false},
    {"memory_limit=100000", false, false},
    {"as_released=true", true, false},
    {"checkpoint.every=1", false, false},
    {"adapters=elsewhere", true, false},
    {"base.checkpoint=gpt2", true, true},
    {"base.family=llama", true, true},
    {"base.kv_heads=2;base.family=llama", true, true},
    {"base.ffn=96", true, true},
    {"base.rope_theta=500000;base.family=llama", true, true},
    {"base.layers=3", true, true},
    {"base.width=64", true, true},
    {"base.heads=2", true, true},
    {"base.vocabulary=300", true, true},
    {"base.context=256", true, true},
    {"base.pretrain.text=english", true, true},
    {"base.pretrain.tokens=1", true, true},
    {"base.pretrain.batch=3", true, true},
    {"base.pretrain.sequence=64", true, true},
    {"base.pretrain.learning_rate=1e-3", true, true},
    {"base.pretrain.weight_decay=0", true, true},
    {"base.pretrain.warmup=5", true, true},
    {"base.pretrain.seed=43", true, true},
    {"held_out.devices=1;held_out.rounds=2", true, false},
    {"held_out.rounds=3;held_out.devices=1", true, false},
    {"data.split=iid", true, false},
    {"data.evaluation=out_of_distribution", true, false},
    {"data.dirichlet=2", true, false},
    {"data.dirichlet=1", false, false},
    {"data.quantity=0.5;data.split=quantity", true, false},
    {"data.pathological=3;data.split=pathological", true, false},
    {"data.drift=0.5;data.split=drift", true, false},
    {"data.sources=[1, 0]", true, false},
    {"data.fraction=[1, 0.5]", true, false},
    {"data.tokens_per_device=1000", true, false},
    {"data.valid_tokens_per_device=1000", true, false},
    {"data.test_tokens_per_device=1000", true, false},
    {"data.examples_per_device=5", true, false},
    {"data.sequence=64", true, true},
    {"data.truncate=true", true, false},
    {"data.windows=file", true, false},
    {"data.synthetic.topics=5", true, true},
    {"data.synthetic.vocabulary=200", true, true},
    {"data.synthetic.branching=4", true, true},
    {"data.synthetic.purity=0.5", true, true},
    {"data.synthetic.seed=1", true, true},
    {"train.rounds=3", true, false},
    {"train.local_steps=3", true, false},
    {"train.batch=3", true, false},
    {"train.learning_rate=1e-3", true, false},
    {"train.final_learning_rate_ratio=0.2", true, false},
    {"train.weight_decay=0", true, false},
    {"train.beta1=0.8", true, false},
    {"train.beta2=0.9", true, false},
    {"train.epsilon=1e-7", true, false},
    {"train.router.every=20", true, false},
    {"train.router.steps=5", true, false},
    {"train.router.batch=3", true, false},
    {"train.router.learning_rate=1e-3", true, false},
    {"train.router.weight_decay=0", true, false},
    {"experts.rank=4", true, false},
    {"experts.alpha=8", true, false},
    {"experts.scaling=lora", true, false},
    {"experts.top_k=1", true, false},
    {"experts.mix=linear", true, false},
    {"experts.router=llama_moe", true, false},
    {"experts.balance=0", true, false},
    {"experts.balance_importance=0.4", true, false},
    {"aggregate.weights=tokens", true, false},
    {"aggregate.weights=uniform", false, false},
    {"fedprox.mu=0", true, false},
    {"fedprox.mu=0.01", false, false},
    {"attention.rank=4", true, false},
    {"lora.q=4", true, false},
    {"lora.k=4", true, false},
    {"lora.v=4", true, false},
    {"lora.qkv=4", true, false},
    {"lora.out=4", true, false},
    {"lora.gate=4", true, false},
    {"lora.up=4", true, false},
    {"lora.down=4", true, false},
    {"lora.alpha.q=8", true, false},
    {"lora.alpha.k=8", true, false},
    {"lora.alpha.v=8", true, false},
    {"lora.alpha.qkv=8", true, false},
    {"lora.alpha.out=8", true, false},
    {"lora.alpha.gate=8", true, false},
    {"lora.alpha.up=8", true, false},
    {"lora.alpha.down=8", true, false},
    {"tied.rank=4", true, false},
    {"tied.alpha=8", true, false},
    {"tied.vector=bias", true, false},
    {"tied.linears=q v", true, false},
    {"evaluate.every=3", true, false},
    {"evaluate.windows=3", true, false},
    {"evaluate.target_loss=3", true, false},
    {"trace.routing_windows=3", true, false},
    {"trace.sampling_windows=true", true, false},
    {"populations.0.name=c", true, false},
    {"populations.0.method=pfedmoe", true, false},
    {"populations.0.devices=3", true, false},
    {"populations.0.seed=3", true, false},
    {"populations.0.generalists=2", true, false},
    {"populations.0.specialists=2", true, false},
    {"populations.0.base.variant=elsewhere", true, false},
    {"populations.1.rank=4", true, false},
    {"populations.1.seeds=[42, 43]", true, false},
    {"train.rounds=20", false, false},
    {"data.corpus=synthetic", false, false},
    {"populations.0.specialists=1", false, false},
};
enum { N_CHANGES = sizeof CHANGES / sizeof *CHANGES };

Test(settings_write, hashes_change_with_what_matters) {
    char run[SETTINGS_HASH_BYTES], base[SETTINGS_HASH_BYTES], other_run[SETTINGS_HASH_BYTES],
        other_base[SETTINGS_HASH_BYTES];
    hashes_with("seed=42", run, base);
    cr_assert_eq(strlen(run), 32);
    cr_assert_eq(strspn(run, "0123456789abcdef"), 32);
    for (int i = 0; i < N_CHANGES; i++) {
        hashes_with(CHANGES[i].override, other_run, other_base);
        cr_assert_eq(strcmp(run, other_run) != 0, CHANGES[i].run, "%s", CHANGES[i].override);
        cr_assert_eq(strcmp(base, other_base) != 0, CHANGES[i].base, "%s and the base", CHANGES[i].override);
    }
}

/* A new setting must be put into the list above. */
Test(settings_write, every_key_is_among_the_changes) {
    int count = 0;
    const setting_row *rows = table_rows(&count);
    for (int i = 0; i < count; i++) {
        bool found = false;
        for (int j = 0; j < N_CHANGES && !found; j++) {
            const char *key = CHANGES[j].override;
            if (rows[i].scope == SCOPE_POPULATION) key += strncmp(key, "populations.", 12) == 0 ? 14 : 0;
            size_t length = strlen(rows[i].path);
            found = strncmp(key, rows[i].path, length) == 0 && key[length] == '=';
        }
        cr_assert(found, "%s", rows[i].path);
    }
}

/* What differs between the default (there) and an override (here). */
static char *differences_of(const char *override) {
    settings *there = load_with("seed=42"), *here = load_with(override);
    char *text = settings_differences(there, here);
    settings_destroy(there);
    settings_destroy(here);
    return text;
}

Test(settings_write, every_key_that_matters_is_named_where_it_differs) {
    for (int i = 0; i < N_CHANGES; i++) {
        char key[64], *text = differences_of(CHANGES[i].override);
        const char *start = strncmp(CHANGES[i].override, "populations.", 12) == 0 ? CHANGES[i].override + 14
                                                                                  : CHANGES[i].override;
        snprintf(key, sizeof key, "%.*s", (int)strcspn(start, "="), start);
        bool identity = strcmp(key, "name") == 0 ||
                        (strcmp(key, "seed") == 0 && start != CHANGES[i].override) ||
                        strcmp(key, "seeds") == 0;
        const char *named = identity ? "populations." : strcmp(key, "rank") == 0 ? "experts.rank" : key;
        if (CHANGES[i].run)
            cr_assert(strstr(text, named), "%s is not named in: %s", CHANGES[i].override, text);
        else
            cr_assert_str_eq(text, "", "%s", CHANGES[i].override);
        free(text);
    }
}

Test(settings_write, differences_show_both_values_and_where_they_stand) {
    static const struct {
        const char *override, *expected;
    } cases[] = {
        {"train.batch=3",
         "train.batch (8 there, 3 here), train.router.batch (8 there, 3 here)"}, /* follows it */
        {"adapters=elsewhere", "adapters (none there, elsewhere here)"},
        {"populations.1.experts.rank=4", "populations.1.experts.rank (8 there, 4 here)"},
        {"populations.0.devices=3", "populations.0.devices (2 there, 3 here)"},
        {"populations.1.name=c", "populations.1 (b of seed 42 there, c of seed 42 here)"},
        {"populations=[{name: a, method: comigs, devices: 2}]",
         "populations.1 (b of seed 42 there, none here)"},
        {"populations.1.seeds=[42, 43]", "populations.2 (mixed of seed 42 there, b of seed 43 here)"},
        {"train={rounds: 3, beta1: 0.5}",
         "train.rounds (20 there, 3 here), train.beta1 (0.9 there, 0.5 here)"},
        {"base.checkpoint=gpt2", "base.checkpoint (none there, gpt2 here)"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text = differences_of(cases[i].override);
        cr_expect_str_eq(text, cases[i].expected, "%s: %s", cases[i].override, text);
        free(text);
    }
}

/* Where text lies does not matter, what it says does. */
Test(settings_write, paths_count_by_their_content) {
    static const char contents[3][6] = {"words", "words", "other"};
    char folder[] = "/tmp/cohort-XXXXXX", path[3][64], file[256], override[256];
    char run[3][SETTINGS_HASH_BYTES], base[3][SETTINGS_HASH_BYTES];
    cr_assert_not_null(mkdtemp(folder));
    for (int i = 0; i < 3; i++) {
        snprintf(path[i], sizeof path[i], "%s/%d", folder, i);
        cr_assert_eq(mkdir(path[i], 0700), 0);
        snprintf(file, sizeof file, "%s/train_0.bin", path[i]);
        FILE *out = fopen(file, "wb");
        fputs(contents[i], out);
        fclose(out);
        snprintf(override, sizeof override, "base.pretrain.text=%s", path[i]);
        hashes_with(override, run[i], base[i]);
    }
    cr_assert_str_eq(base[0], base[1]);
    cr_assert_str_eq(run[0], run[1]);
    cr_assert_str_neq(base[0], base[2]);
    cr_assert_str_neq(run[0], run[2]);
    for (int i = 0; i < 3; i++) {
        snprintf(file, sizeof file, "%s/train_0.bin", path[i]);
        unlink(file);
        rmdir(path[i]);
    }
    rmdir(folder);
}

/* ---- Paths ---- */

static void put_shard(const char *folder, const char *content) {
    char path[200];
    cr_assert(mkdir(folder, 0777) == 0 || errno == EEXIST);
    snprintf(path, sizeof path, "%s/train_0.bin", folder);
    FILE *file = fopen(path, "w");
    cr_assert_not_null(file);
    fputs(content, file);
    cr_assert_eq(fclose(file), 0);
}

static void enter_new_folder(char folder[200]) {
    const char *root = getenv("TMPDIR");
    snprintf(folder, 200, "%s/cohort-XXXXXX", root ? root : "/tmp");
    cr_assert_not_null(mkdtemp(folder));
    cr_assert_eq(chdir(folder), 0);
}

static void leave_folder(const char *folder) {
    char command[300];
    cr_assert_eq(chdir("/"), 0);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    cr_assert_eq(system(command), 0);
}

static void hash_of(const char *text, char hash[SETTINGS_HASH_BYTES]) {
    settings *s = configuration_must_load(text);
    settings_hash(s, hash);
    settings_destroy(s);
}

/* Whatever way a path is spelled: below data/, with a dot before it, once at the top and otherwise in a
 * population. */
static const char WITH_PATHS[] = "adapters: ./given\n"
                                 "base: {pretrain: {text: english}}\n"
                                 "data: {corpus: ./text, windows: \"given/it's.csv\"}\n"
                                 "populations:\n"
                                 "  - {name: a, method: local, devices: 1}\n"
                                 "  - {name: b, method: local, devices: 1, data: {corpus: text}}\n"
                                 "  - {name: c, method: local, devices: 1, data: {corpus: english}}\n"
                                 "  - {name: d, method: local, devices: 1, data: {corpus: synthetic}}\n"
                                 "  - {name: e, method: local, devices: 1, data: {corpus: nowhere}}\n";

Test(settings_write, written_settings_mean_the_same_from_any_folder) {
    char folder[200], line[400], before[SETTINGS_HASH_BYTES], after[SETTINGS_HASH_BYTES];
    enter_new_folder(folder);
    put_shard("text", "one");
    put_shard("given", "two");
    cr_assert_eq(mkdir("data", 0777), 0);
    put_shard("data/english", "three");
    cr_assert_eq(rename("given/train_0.bin", "given/it's.csv"), 0);
    settings *s = configuration_must_load(WITH_PATHS);
    settings_hash(s, before);
    char *yaml = settings_to_yaml(s);
    cr_assert_eq(chdir("/"), 0);
    hash_of(yaml, after);
    cr_expect_str_eq(after, before, "%s", yaml);
    hash_of(WITH_PATHS, after);
    cr_expect_str_neq(after, before, "nothing lies there, seen from this folder");
    static const char *const names[] = {
        "adapters: %s/given\n", "text: %s/data/english\n", "windows: \"%s/given/it's.csv\"\n",
        "corpus: %s/text\n",    "corpus: synthetic\n",     "corpus: nowhere\n"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(line, sizeof line, names[i], folder);
        cr_expect_not_null(strstr(yaml, line), "no %s in\n%s", line, yaml);
    }
    free(yaml);
    settings_destroy(s);
    leave_folder(folder);
}

Test(settings_write, corpus_below_data_counts_by_its_content) {
    static const char text[] = "base: {pretrain: {tokens: 0}}\ndata: {corpus: english}\npopulations: [{name: "
                               "a, method: local, devices: 1}]\n";
    char folder[200], first[SETTINGS_HASH_BYTES], second[SETTINGS_HASH_BYTES];
    enter_new_folder(folder);
    cr_assert_eq(mkdir("data", 0777), 0);
    put_shard("data/english", "one");
    hash_of(text, first);
    put_shard("data/english", "two");
    hash_of(text, second);
    cr_expect_str_neq(second, first);
    cr_assert_eq(rename("data/english", "english"), 0);
    hash_of(text, first);
    cr_expect_str_eq(second, first);
    leave_folder(folder);
}

Test(settings_write, every_path_that_leads_nowhere_is_named_once) {
    settings *s = configuration_must_load(WITH_PATHS);
    problems *list = problems_create();
    cr_assert_eq(settings_check_paths(s, list), EXIT_INPUT);
    static const char *const said[] = {
        "c.yaml:1: adapters: there is no file or folder ./given; put it back, or say where it is now: --set "
        "adapters=PATH",
        "c.yaml:2: base.pretrain.text: there is no folder english;",
        "c.yaml:3: data.windows: there is no file",
        "c.yaml:3: data.corpus: there is no folder ./text;",
        "c.yaml:6: data.corpus: there is no folder text;",
        "c.yaml:7: data.corpus: there is no folder english;",
        "c.yaml:9: data.corpus: there is no folder nowhere;"};
    for (size_t i = 0; i < sizeof said / sizeof *said; i++)
        cr_expect(configuration_has(list, said[i]), "%s in\n%s", said[i], configuration_messages(list));
    cr_expect_eq(problems_count(list), (int)(sizeof said / sizeof *said), "%s", configuration_messages(list));
    problems_destroy(list);
    settings_destroy(s);
    s = configuration_must_load("base: {pretrain: {tokens: 0, text: nowhere}}\npopulations: [{name: a, "
                                "method: local, devices: 1}]\n");
    list = problems_create();
    cr_expect_eq(settings_check_paths(s, list), EXIT_OK, "nobody reads it: %s", configuration_messages(list));
    problems_destroy(list);
    settings_destroy(s);
}
