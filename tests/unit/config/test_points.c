/* The identity of a population, and configurations with some populations. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "unit/configuration.h"

typedef char point[SETTINGS_HASH_BYTES];

static const char THREE[] =
    "data: {tokens_per_device: 500}\n"
    "populations:\n"
    "  - {name: one, method: comigs, devices: 3, specialists: [1, 2, 3], seeds: [1, 2]}\n"
    "  - {name: two, method: local, devices: 2, rank: 3, data: {tokens_per_device: 700}}\n";

static void point_of(const char *text, const char *override, int population, point out) {
    const char *overrides[] = {override, NULL};
    settings *s = NULL;
    problems *list = configuration_load_with(text, overrides, &s);
    cr_assert_not_null(s, "%s: %s", override, configuration_messages(list));
    settings_point_hash(s, population, out);
    problems_destroy(list);
    settings_destroy(s);
}

Test(points, what_changes_numbers_changes_the_point_and_nothing_else_does) {
    static const struct {
        const char *override;
        bool same;
    } cases[] = {{"populations.1.name=other", true},
                 {"threads=3", true},
                 {"checkpoint.every=7", true},
                 {"memory_limit=5000", true},
                 {"populations.0.devices=3", true},
                 {"populations.0.train.batch=5", true},
                 {"populations.0.name=two", true},
                 {"data.tokens_per_device=900", true},
                 {"populations.1.devices=3", false},
                 {"populations.1.seed=9", false},
                 {"populations.1.rank=4", false},
                 {"train.rounds=3", false},
                 {"train.learning_rate=0.5", false},
                 {"base.layers=3", false},
                 {"base.pretrain.tokens=0", false},
                 {"data.synthetic.purity=0.5", false},
                 {"populations.1.data.tokens_per_device=701", false}};
    point first, second;
    point_of(THREE, "threads=1", 2, first);
    cr_assert_eq(strlen(first), SETTINGS_HASH_BYTES - 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        point_of(THREE, cases[i].override, 2, second);
        cr_expect_eq(strcmp(first, second) == 0, cases[i].same, "%s", cases[i].override);
    }
    point_of(THREE, "threads=1", 0, first);
    point_of(THREE, "threads=1", 1, second);
    cr_expect_str_neq(first, second, "another seed");
}

Test(points, a_subset_has_the_same_points_and_writes_what_loads_to_them) {
    static const int which[] = {2, 0};
    settings *s = configuration_must_load(THREE), *some = settings_subset(s, 2, which);
    point there, here;
    cr_assert_eq(some->n_populations, 2);
    char *yaml = settings_to_yaml(some);
    settings *again = configuration_must_load(yaml);
    for (int i = 0; i < 2; i++) {
        cr_expect_eq(some->populations[i].number, which[i]);
        cr_expect_str_eq(some->populations[i].name, s->populations[which[i]].name);
        settings_point_hash(s, which[i], there);
        settings_point_hash(some, i, here);
        cr_expect_str_eq(here, there);
        settings_point_hash(again, i, here);
        cr_expect_str_eq(here, there);
    }
    settings_destroy(s); /* nothing is shared with it */
    char *later = settings_to_yaml(some);
    cr_expect_str_eq(later, yaml);
    free(later);
    free(yaml);
    settings_destroy(again);
    settings_destroy(some);
}
