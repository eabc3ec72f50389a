/* What is tried before a run: its trials, the settings after the choice, and what is refused. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "config/table.h"
#include "config/tune.h"
#include "unit/configuration.h"

#define RUN                                                                                                  \
    "train: {rounds: 10, local_steps: 1}\n"                                                                  \
    "populations:\n"                                                                                         \
    "  - {name: a, method: fedavg, devices: 2, seeds: [7, 8]}\n"                                             \
    "  - {name: b, method: local, devices: 3}\n"                                                             \
    "  - {name: c, method: fedavg, devices: 4, train: {batch: 3}}\n"

/* All that a result keeps of the settings, but for where they stand. */
static void expect_equal(const settings *a, const settings *b, const char *what) {
    char *first = settings_to_yaml(a), *second = settings_to_yaml(b);
    cr_expect_str_eq(first, second, "%s:\n%s\nis not\n%s", what, first, second);
    free(first);
    free(second);
}

static const char *names_of(const settings *s) {
    static char text[1024];
    text[0] = '\0';
    for (int i = 0; i < s->n_populations; i++) {
        if (i > 0) strcat(text, " ");
        strcat(text, s->populations[i].name);
    }
    return text;
}

/* ---- Trials ---- */

Test(tune, the_first_population_of_each_method_is_tried_with_each_value) {
    settings *s =
        configuration_must_load("tune: {train.learning_rate: [1.0e-3, 4.0e-3, 2e-3], rounds: 4}\n" RUN);
    const settings *trials = s->tuning->trials;
    cr_assert_eq(s->tuning->n_groups, 2);
    cr_assert_eq(trials->n_populations, 6);
    cr_expect_eq(trials->rounds, 4);
    cr_expect_eq(s->rounds, 10);
    cr_expect_str_eq(names_of(trials),
                     "fedavg-0.001 fedavg-0.004 fedavg-0.002 local-0.001 local-0.004 local-0.002");
    for (int i = 0; i < 6; i++) {
        const population_settings *p = &trials->populations[i];
        cr_expect_eq(p->devices, i < 3 ? 2 : 3);
        cr_expect_eq(p->seed, (uint64_t)(i < 3 ? 7 : 42));
        cr_expect_eq(p->train.learning_rate, i % 3 == 0 ? 1e-3 : i % 3 == 1 ? 4e-3 : 2e-3);
        cr_expect_eq(p->train.router.learning_rate, p->train.learning_rate, "it follows the other");
    }
    cr_expect_null(trials->tuning);
    cr_expect(tune_is_smaller(s->tuning, 2, 1) && !tune_is_smaller(s->tuning, 1, 2));
    settings_destroy(s);
}

Test(tune, trials_of_a_quarter_of_the_rounds_and_at_least_one) {
    static const int rounds[][2] = {{1, 1}, {3, 1}, {7, 1}, {8, 2}, {20, 5}};
    for (size_t i = 0; i < sizeof rounds / sizeof *rounds; i++) {
        char text[256];
        snprintf(text, sizeof text,
                 "tune: {train.learning_rate: [1e-3, 2e-3]}\ntrain: {rounds: %d}\n"
                 "populations: [{name: a, method: local, devices: 1}]",
                 rounds[i][0]);
        settings *s = configuration_must_load(text);
        cr_expect_eq(s->tuning->rounds, rounds[i][1], "%d of %d", s->tuning->rounds, rounds[i][0]);
        settings_destroy(s);
    }
}

Test(tune, several_keys_are_crossed_and_each_name_has_its_own_choice) {
    settings *s = configuration_must_load(
        "tune: {train: {learning_rate: [1e-3, 2e-3]}, rank: [2, 8], per: population}\n" RUN);
    const settings *trials = s->tuning->trials;
    cr_expect_eq(s->tuning->n_groups, 3);
    cr_expect_str_eq(names_of(trials),
                     "a-0.001-2 a-0.001-8 a-0.002-2 a-0.002-8 b-0.001-2 b-0.001-8 b-0.002-2 "
                     "b-0.002-8 c-0.001-2 c-0.001-8 c-0.002-2 c-0.002-8");
    cr_assert_eq(trials->n_axes, 2);
    cr_expect_str_eq(trials->axes[0], "train.learning_rate");
    cr_expect_str_eq(trials->axes[1], "experts.rank");
    char *text = tune_combination_text(s->tuning, 2);
    cr_expect_str_eq(text, "train.learning_rate 0.002, experts.rank 2");
    free(text);
    char *yaml = settings_to_yaml(trials);
    settings *again = configuration_must_load(yaml);
    expect_equal(trials, again, "the trials, read back");
    free(yaml);
    settings_destroy(again);
    settings_destroy(s);
}

Test(tune, a_long_name_becomes_a_number) {
    settings *s = configuration_must_load(
        "tune: {train.learning_rate: [1e-3, 2e-3], per: population}\n"
        "populations: [{name: a23456789-123456789-123456789-123456789-123456789-1234567, method: local, "
        "devices: "
        "1},\n {name: a23456789-123456789-123456789-123456789-123456789-123456789, method: local, devices: "
        "1}]");
    cr_expect_str_eq(names_of(s->tuning->trials),
                     "a23456789-123456789-123456789-123456789-123456789-1234567-0.001 "
                     "a23456789-123456789-123456789-123456789-123456789-1234567-0.002 trial-2 trial-3");
    settings_destroy(s);
}

Test(tune, devices_that_join_late_do_so_in_the_same_part_of_a_trial) {
    settings *s = configuration_must_load(
        "tune: {train.learning_rate: [1e-3, 2e-3], rounds: 5}\n"
        "train: {rounds: 20}\n"
        "populations:\n"
        "  - {name: a, method: local, devices: 3, held_out: {devices: 1, rounds: 8}}\n"
        "  - {name: b, method: fedavg, devices: 3, held_out: {devices: 1, rounds: 1}}\n"
        "  - {name: c, method: comigs, devices: 3}\n");
    const settings *trials = s->tuning->trials;
    static const int expected[6] = {2, 2, 1, 1, 0, 0};
    for (int i = 0; i < 6; i++)
        cr_expect_eq(trials->populations[i].held_out.rounds, expected[i], "trial %d", i);
    cr_expect_eq(s->populations[0].held_out.rounds, 8);
    char *yaml = settings_to_yaml(trials);
    settings_destroy(configuration_must_load(yaml));
    free(yaml);
    settings_destroy(s);
}

/* ---- The choice ---- */

Test(tune, settings_with_a_choice_are_those_with_the_values_written_by_hand) {
    static const char *const by_hand =
        "train: {rounds: 10, local_steps: 1}\n"
        "experts: {alpha: 3}\n"
        "populations:\n"
        "  - {name: a, method: fedavg, devices: 2, seeds: [7, 8], train: {learning_rate: 2e-3}, experts: "
        "{alpha: 16}}\n"
        "  - {name: b, method: local, devices: 3, train: {learning_rate: 1e-3}, experts: {alpha: 4}}\n"
        "  - {name: c, method: fedavg, devices: 4, train: {batch: 3, learning_rate: 2e-3}, experts: {alpha: "
        "16}}\n";
    settings *hand = configuration_must_load(by_hand),
             *s = configuration_must_load(
                 "experts: {alpha: 3}\n"
                 "tune: {train.learning_rate: [1e-3, 2e-3], experts.alpha: [4, 16]}\n" RUN);
    tune_choose(s, (int[]){3, 0});
    cr_expect_null(s->tuning);
    expect_equal(s, hand, "what was chosen");
    char a[SETTINGS_HASH_BYTES], b[SETTINGS_HASH_BYTES];
    settings_hash(s, a);
    settings_hash(hand, b);
    cr_expect_str_eq(a, b);
    settings_destroy(s);
    settings_destroy(hand);
}

Test(tune, points_of_a_sweep_are_tuned_like_populations) {
    settings *s =
        configuration_must_load("tune: {train.learning_rate: [1e-3, 2e-3]}\n"
                                "sweep: {population: {devices: 2}, cross: [{method: [local, fedavg]}, "
                                "{rank: [2, 4]}], seeds: [1, 2]}\n");
    cr_assert_eq(s->tuning->n_groups, 2);
    tune_choose(s, (int[]){1, 0});
    cr_assert_eq(s->n_populations, 8);
    for (int i = 0; i < 8; i++)
        cr_expect_eq(s->populations[i].train.learning_rate, i < 4 ? 2e-3 : 1e-3, "population %d", i);
    settings_destroy(s);
}

Test(tune, what_is_tried_is_part_of_the_hash) {
    static const char *const tunes[] = {
        "train.learning_rate: [1e-3, 2e-3]", "train.learning_rate: [1e-3, 3e-3]",
        "train.learning_rate: [1e-3, 2e-3], rounds: 3", "train.learning_rate: [1e-3, 2e-3], per: population"};
    char hashes[4][SETTINGS_HASH_BYTES], text[1024];
    for (int i = 0; i < 4; i++) {
        snprintf(text, sizeof text, "tune: {%s}\n" RUN, tunes[i]);
        settings *s = configuration_must_load(text);
        settings_hash(s, hashes[i]);
        settings_destroy(s);
        for (int k = 0; k < i; k++) cr_expect_str_neq(hashes[i], hashes[k], "%s and %s", tunes[i], tunes[k]);
    }
}

/* ---- What is refused ---- */

Test(tune, bad_input_is_refused_with_its_line) {
    static const char *const cases[][2] = {
        {"tune: 5", "c.yaml:1: tune: must be a map with keys of populations"},
        {"tune: {rounds: 2}", "c.yaml:1: tune: must be a map with keys of populations"},
        {"tune:\n  train.lerning_rate: [1e-3, 2e-3]",
         "c.yaml:2: tune.train.lerning_rate: unknown key; did you mean train.learning_rate?"},
        {"tune:\n  train: {lerning_rate: [1e-3, 2e-3]}",
         "c.yaml:2: tune.train.lerning_rate: unknown key; did you mean train.learning_rate?"},
        {"tune: {round: 2, train.learning_rate: [1e-3, 2e-3]}",
         "c.yaml:1: tune.round: unknown key; did you mean tune.rounds?"},
        {"tune: {train.learning_rate: [1e-3, 2e-3],\n pre: method}",
         "c.yaml:2: tune.pre: unknown key; did you mean tune.per?"},
        {"tune: {method: [local, fedavg]}", "c.yaml:1: tune.method: is no number"},
        {"tune: {seed: [1, 2]}", "c.yaml:1: tune.seed: is no number"},
        {"tune: {devices: [1, 2]}", "c.yaml:1: tune.devices: is part of what populations are given"},
        {"tune: {data.dirichlet: [1, 2]}",
         "c.yaml:1: tune.data.dirichlet: is part of what populations are given"},
        {"tune: {base.layers: [1, 2]}", "tune.base.layers: a population cannot have its own"},
        {"tune: {train: [1e-3, 2e-3]}", "tune.train: is a section of keys, not a key"},
        {"tune:\n  train.learning_rate: []",
         "c.yaml:2: tune.train.learning_rate: must be a list of at least two"},
        {"tune:\n  train.learning_rate: [1e-3]", "must be a list of at least two numbers to choose from"},
        {"tune:\n  train.learning_rate: 1e-3", "must be a list of at least two numbers to choose from"},
        {"tune:\n  train.learning_rate: [1e-3, 2e-3, 1.0e-3]",
         "c.yaml:2: tune.train.learning_rate: 0.001 is written twice; remove one"},
        {"tune: {rank: [2, 4], experts.rank: [4, 8]}", "tune.experts.rank: is written twice; remove one"},
        {"tune: {rank: [2, [4, 8]]}", "c.yaml:1: tune.rank: entry 1 is no number"},
        {"tune: {train.learning_rate: [1e-3, fast]}", "c.yaml:1: tune.train.learning_rate: "},
        {"tune: {train.learning_rate: [1e-3, -1]}", "c.yaml:1: tune.train.learning_rate: "},
        {"tune: {train.learning_rate: [1e-3, 2e-3],\n rounds: 11}",
         "c.yaml:2: tune.rounds: a trial of 11 rounds is longer than the run of 10 (train.rounds)"},
        {"tune: {train.learning_rate: [1e-3, 2e-3], rounds: 0}", "c.yaml:1: tune.rounds: "},
        {"tune: {train.learning_rate: [1e-3, 2e-3],\n per: seed}",
         "c.yaml:2: tune.per: 'seed' is neither method (one choice for all populations of a method) nor"},
        {"tune: {rank: [1, 2, 3, 4, 5, 6, 7, 8, 9], experts.alpha: [1, 2, 3, 4, 5, 6, 7, 8]}",
         "c.yaml:1: tune: the values make 72 combinations; there can be at most 64"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[1024];
        snprintf(text, sizeof text, "%s\n%s", cases[i][0], RUN);
        configuration_must_fail(text, cases[i][1]);
    }
}

Test(tune, a_key_that_a_population_writes_itself_is_refused) {
    configuration_must_fail(
        "tune: {train.learning_rate: [1e-3, 2e-3]}\n"
        "populations:\n"
        "  - {name: a, method: local, devices: 1}\n"
        "  - {name: b, method: local, devices: 1, train: {learning_rate: 1e-3}}\n",
        "c.yaml:4: populations.1.train.learning_rate: is tuned, too (tune.train.learning_rate)");
    configuration_must_fail("tune: {experts.rank: [1, 2]}\n"
                            "populations: [{name: a, method: local, devices: 1, rank: 8}]\n",
                            "c.yaml:2: populations.0.rank: is tuned, too (tune.experts.rank)");
    configuration_must_fail("tune: {train.learning_rate: [1e-3, 2e-3]}\n"
                            "sweep: {population: {devices: 2, method: local},\n"
                            "  cross: [{train.learning_rate: [1e-3, 2e-3]}]}\n",
                            "c.yaml:3: sweep.cross.0.train.learning_rate: is tuned, too");
    configuration_must_fail("tune: {train.learning_rate: [1e-3, 2e-3]}\n"
                            "sweep: {population: {devices: 2}, cross: [{method: [local, fedavg]}],\n"
                            "  exclude: [{method: local, train.learning_rate: 2e-3}]}\n",
                            "sweep.exclude");
}

/* Every value is checked as if it had been written. */
Test(tune, values_that_do_not_go_with_others_are_refused) {
    configuration_must_fail("tune:\n  rank: [8, 1024]\n"
                            "populations: [{name: a, method: comigs, devices: 2}]\n",
                            "tune.rank: ");
}

Test(tune, the_default_of_the_run_may_stand_beside_it) {
    settings *s = configuration_must_load("train: {learning_rate: 5e-3}\n"
                                          "tune: {train.learning_rate: [1e-3, 2e-3]}\n"
                                          "populations: [{name: a, method: local, devices: 1}]\n");
    cr_expect_eq(s->populations[0].train.learning_rate, 1e-3);
    settings_destroy(s);
}
