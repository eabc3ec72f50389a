/* Sweeps: the populations that a grid becomes, their names, and what is refused. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "config/sweep.h"
#include "config/table.h"
#include "unit/configuration.h"
#include "unit/data_files.h"

/* "name:seed" of all populations, with blanks between them. */
static const char *names_of(const settings *s) {
    static char text[8192];
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; i < s->n_populations; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s:%llu", i ? " " : "",
                                 s->populations[i].name, (unsigned long long)s->populations[i].seed);
    return text;
}

static const char *axes_of(const settings *s) {
    static char text[1024];
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; i < s->n_axes; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s", i ? " " : "", s->axes[i]);
    return text;
}

static void expect_names(const char *sweep, const char *names, const char *axes) {
    settings *s = configuration_must_load(sweep);
    cr_expect_str_eq(names_of(s), names, "%s\nof %s", names_of(s), sweep);
    cr_expect_str_eq(axes_of(s), axes, "%s\nof %s", axes_of(s), sweep);
    settings_destroy(s);
}

/* ---- What is right ---- */

Test(sweep, axes_are_crossed_with_the_last_one_fastest) {
    settings *s = configuration_must_load("sweep:\n"
                                          "  population: {devices: 3, train: {router: {every: 5}}}\n"
                                          "  cross:\n"
                                          "    - {method: [local, comigs]}\n"
                                          "    - {rank: [2, 4]}\n"
                                          "    - {zip: {generalists: [1, 2], specialists: [3, 0]}}\n"
                                          "  seeds: [7, 9]\n"
                                          "  name: '{method}-{rank}-{generalists}g{specialists}s'\n");
    cr_assert_eq(s->n_populations, 16);
    for (int i = 0; i < 16; i++) {
        const population_settings *p = &s->populations[i];
        cr_expect_str_eq(p->method, i < 8 ? "local" : "comigs");
        cr_expect_eq(p->rank.value, i / 4 % 2 ? 4 : 2);
        cr_expect_eq(p->generalists.value, i / 2 % 2 ? 2 : 1);
        cr_expect_eq(p->specialists.value, i / 2 % 2 ? 0 : 3);
        cr_expect_eq(p->seed, (uint64_t)(i % 2 ? 9 : 7));
        cr_expect_eq(p->devices, 3);
        cr_expect_eq(p->train.router.every, 5);
        cr_expect_eq(p->line, 3);
    }
    cr_expect_str_eq(s->populations[7].name, "local-4-2g0s");
    cr_expect_str_eq(axes_of(s), "method experts.rank generalists specialists");
    settings_destroy(s);
}

Test(sweep, any_key_of_a_population_is_an_axis) {
    static const struct {
        const char *axis, *names, *axes;
    } cases[] = {
        {"{train.router.every: [3, 10]}", "every3:42 every10:42", "train.router.every"},
        {"{train: {router: {every: [3, 10]}}}", "every3:42 every10:42", "train.router.every"},
        {"{train.learning_rate: [1e-3, 2.50e-2]}", "learning_rate0.001:42 learning_rate0.025:42",
         "train.learning_rate"},
        {"{experts.rank: [2, 4]}", "rank2:42 rank4:42", "experts.rank"},
        {"{rank: [2, 4]}", "rank2:42 rank4:42", "experts.rank"},
        {"{seed: [1, 2]}", "local:1 local:2", "seed"},
        {"{seeds: [[1, 2], [3]]}", "local:1 local:2 local:3", "seed"},
        {"{specialists: [1, [1, 2]]}", "specialists1:42 specialists1_2:42", "specialists"},
        {"{data.corpus: [synthetic, 'my data/a,b']}", "synthetic:42 my_data_a_b:42", "data.corpus"},
        {"{base.variant: [a/b, c]}", "a_b:42 c:42", "base.variant"},
        {"{experts.scaling: [lora, rslora]}", "lora:42 rslora:42", "experts.scaling"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[512];
        snprintf(
            text, sizeof text,
            "base: {pretrain: {tokens: 0}}\nsweep: {population: {devices: 2, method: local}, cross: [%s]}",
            cases[i].axis);
        expect_names(text, cases[i].names, cases[i].axes);
    }
}

Test(sweep, every_number_and_choice_of_the_table_can_be_an_axis) {
    int count = 0, tried = 0;
    const setting_row *rows = table_rows(&count);
    for (int i = 0; i < count; i++) {
        char text[512];
        settings *s = NULL;
        if (rows[i].scope != SCOPE_BOTH || !rows[i].initial || rows[i].type == VALUE_TEXT) continue;
        snprintf(text, sizeof text, "sweep: {population: {devices: 1, method: local}, cross: [{%s: [%s]}]}\n",
                 rows[i].path, rows[i].initial);
        problems *list = configuration_load(text, &s);
        cr_expect_eq(problems_count(list), 0, "%s: %s", text, configuration_messages(list));
        if (s) cr_expect_str_eq(axes_of(s), rows[i].path);
        if (s) settings_destroy(s);
        problems_destroy(list);
        tried++;
    }
    cr_assert_gt(tried, 20);
}

Test(sweep, points_stand_alone_or_behind_the_grid) {
    expect_names(
        "sweep: {population: {devices: 2}, points: [{method: local, rank: 2}, {method: comigs, seeds: [1, "
        "2]}]}",
        "local-rank2:42 comigs-rank8:1 comigs-rank8:2", "method experts.rank seed");
    expect_names("sweep: {population: {devices: 2}, cross: [{method: [local, fedavg]}], points: [{method: "
                 "comigs, train: {router: {every: 3}}, name: mine}]}",
                 "local-every30:42 fedavg-every30:42 mine:42", "method train.router.every");
}

/* A point with a key of its own leaves the names of the others as they were. */
Test(sweep, a_value_that_a_point_lacks_is_not_in_its_name) {
    expect_names("sweep: {population: {devices: 2}, cross: [{method: [local, fedavg]}], points: [{method: "
                 "fedprox, fedprox.mu: 0.5}, {method: comigs, data: {split: dirichlet}, data.dirichlet: 3}]}",
                 "local-natural:42 fedavg-natural:42 fedprox-mu0.5-natural:42 comigs-dirichlet-dirichlet3:42",
                 "method fedprox.mu data.split data.dirichlet");
}

Test(sweep, listed_populations_stand_before_it) {
    expect_names(
        "populations: [{name: first, method: local, devices: 1}]\n"
        "sweep: {population: {devices: 2}, cross: [{method: [local, fedavg]}], axes: [method, rank]}",
        "first:42 local:42 fedavg:42", "method experts.rank");
    expect_names("populations: [{name: first, method: local, devices: 1}]\nsweep: {axes: [rank, seed]}",
                 "first:42", "experts.rank seed");
}

Test(sweep, points_are_excluded_by_resolved_values) {
    expect_names(
        "sweep: {population: {devices: 2}, cross: [{method: [local, fedavg]}, {data: {dirichlet: [0.1, 1, "
        "1e2]}}], exclude: [{method: local, data.dirichlet: 100}, {data: {dirichlet: 0.10}}]}\n"
        "data: {split: dirichlet}",
        "local-dirichlet1:42 fedavg-dirichlet1:42 fedavg-dirichlet100:42", "method data.dirichlet");
    expect_names(
        "sweep: {population: {devices: 2}, cross: [{method: [local, fedavg]}], seeds: [1, 2], exclude: "
        "[{method: local, seed: 2}]}",
        "local:1 fedavg:1 fedavg:2", "method");
    /* The default of a method, which is not written; and a point that would be refused. */
    expect_names("sweep: {population: {devices: 2}, cross: [{method: [local, comigs]}, {rank: [8, 300]}], "
                 "exclude: [{generalists: 1}, {rank: 300}]}",
                 "local-rank8:42", "method experts.rank");
}

Test(sweep, a_template_names_points_by_any_key) {
    expect_names("sweep: {population: {devices: 2}, cross: [{method: [local, comigs]}], seeds: [1, 2], name: "
                 "'x_{method}.{generalists}g-{experts.alpha}-s{seed}'}",
                 "x_local.0g-16-s1:1 x_local.0g-16-s2:2 x_comigs.1g-16-s1:1 x_comigs.1g-16-s2:2", "method");
}

Test(sweep, values_are_set_from_the_command_line) {
    static const char text[] = "sweep:\n"
                               "  population: {devices: 2, method: local}\n"
                               "  cross:\n"
                               "    - {experts.rank: [2, 4]}\n"
                               "    - {train: {batch: [1, 2]}}\n"
                               "  seeds: [1, 2]\n";
    const char *const overrides[] = {"sweep.seeds=[5]", "sweep.cross.0.experts.rank=[3]",
                                     "sweep.cross.1.train.batch=[7]", "sweep.population.devices=9", NULL};
    settings *s = NULL;
    problems *list = configuration_load_with(text, overrides, &s);
    cr_assert_eq(problems_count(list), 0, "%s", configuration_messages(list));
    cr_expect_str_eq(names_of(s), "rank3-batch7:5");
    cr_expect_eq(s->populations[0].devices, 9);
    settings_destroy(s);
    problems_destroy(list);
    const char *const wrong[] = {"sweep.cross.0.experts.rank=[0]", NULL};
    list = configuration_load_with(text, wrong, &s);
    cr_expect_eq(problems_count(list), 1);
    cr_expect(configuration_has(list, "--set sweep.cross.0.experts.rank: '0' is out of range"), "%s",
              configuration_messages(list));
    problems_destroy(list);
}

Test(sweep, written_settings_load_to_the_same) {
    char first_hash[SETTINGS_HASH_BYTES], second_hash[SETTINGS_HASH_BYTES];
    settings *first = configuration_must_load(
        "data: {split: dirichlet}\n"
        "sweep: {population: {devices: 2}, cross: [{method: [local, comigs]}, {data.dirichlet: [0.1, 3]}, "
        "{specialists: [1, [1, 2]]}], seeds: [1, 2]}");
    char *yaml = settings_to_yaml(first);
    cr_expect_not_null(
        strstr(yaml, "\nsweep:\n  axes: [method, data.dirichlet, specialists]\npopulations:\n"), "%s", yaml);
    settings *second = configuration_must_load(yaml);
    char *again = settings_to_yaml(second);
    cr_expect_str_eq(again, yaml);
    cr_expect_str_eq(axes_of(second), "method data.dirichlet specialists");
    settings_hash(first, first_hash);
    settings_hash(second, second_hash);
    cr_expect_str_eq(first_hash, second_hash);
    free(yaml);
    free(again);
    settings_destroy(first);
    settings_destroy(second);
}

/* Axes say how results are looked at, and change no number. */
Test(sweep, axes_do_not_enter_the_hash) {
    static const char listed[] = "populations: [{name: a, method: local, devices: 2}]\n";
    char with_axes[256], one[SETTINGS_HASH_BYTES], other[SETTINGS_HASH_BYTES];
    snprintf(with_axes, sizeof with_axes, "%ssweep: {axes: [method]}\n", listed);
    settings *first = configuration_must_load(listed), *second = configuration_must_load(with_axes);
    settings_hash(first, one);
    settings_hash(second, other);
    cr_expect_str_eq(one, other);
    settings_destroy(first);
    settings_destroy(second);
}

/* ---- The identity of a point ---- */

static void point_hash(const char *text, const char *override, int index, char out[SETTINGS_HASH_BYTES]) {
    const char *const overrides[] = {override, NULL};
    settings *s = NULL;
    problems *list = configuration_load_with(text, override ? overrides : NULL, &s);
    cr_assert_not_null(s, "%s", configuration_messages(list));
    settings_point_hash(s, index, out);
    problems_destroy(list);
    settings_destroy(s);
}

static const char ALONE[] = "populations: [{name: x, method: comigs, devices: 2, seed: 3, data: {split: "
                            "dirichlet, dirichlet: 0.1}}]\n";

Test(sweep, a_point_is_the_same_alone_and_among_others) {
    char alone[SETTINGS_HASH_BYTES], among[SETTINGS_HASH_BYTES];
    static const char sweep[] =
        "sweep: {population: {devices: 2, data.split: dirichlet}, cross: [{method: [local, "
        "comigs]}, {data.dirichlet: [0.1, 1]}], seeds: [2, 3]}\n";
    point_hash(ALONE, NULL, 0, alone);
    int equal = 0;
    for (int i = 0; i < 8; i++) {
        point_hash(sweep, NULL, i, among);
        bool same = strcmp(alone, among) == 0;
        cr_expect_eq(same, i == 5, "population %d", i);
        equal += same;
    }
    cr_expect_eq(equal, 1);
}

Test(sweep, a_point_is_another_if_anything_that_matters_differs) {
    static const char *const matters[] = {"populations.0.seed=4",
                                          "populations.0.devices=3",
                                          "populations.0.method=pfedmoe",
                                          "populations.0.rank=4",
                                          "train.batch=3",
                                          "train.learning_rate=1e-4",
                                          "populations.0.generalists=2",
                                          "populations.0.specialists=[1, 2]",
                                          "experts.alpha=8",
                                          "data.tokens_per_device=999",
                                          "base.width=64",
                                          "base.pretrain.tokens=1000",
                                          "base.pretrain.seed=1",
                                          "train.rounds=3",
                                          "train.local_steps=3",
                                          "evaluate.windows=3",
                                          "data.sequence=64",
                                          "data.synthetic.purity=0.5",
                                          "populations.0.data.dirichlet=0.2",
                                          "precision=bf16",
                                          "aggregate.weights=tokens"};
    static const char *const not [] = {"populations.0.name=y", "threads=2",          "wave_tokens=77",
                                       "backend=cpu",          "checkpoint.every=1", "memory_limit=500",
                                       "sweep.axes=[method]"};
    char plain[SETTINGS_HASH_BYTES], other[SETTINGS_HASH_BYTES];
    point_hash(ALONE, NULL, 0, plain);
    for (size_t i = 0; i < sizeof matters / sizeof *matters; i++) {
        point_hash(ALONE, matters[i], 0, other);
        cr_expect_str_neq(other, plain, "%s", matters[i]);
    }
    for (size_t i = 0; i < sizeof not / sizeof *not ; i++) {
        point_hash(ALONE, not [i], 0, other);
        cr_expect_str_eq(other, plain, "%s", not [i]);
    }
}

/* ---- What is refused, each with one message ---- */

static const struct {
    const char *sweep, *expected;
} MISTAKES[] = {
    {"5", "c.yaml:1: sweep: must be a map of keys"},
    {"{}", "c.yaml:1: sweep: has no points; write axes in cross, or points"},
    {"{corss: [{method: [local]}], points: [{method: local, devices: 1}]}",
     "c.yaml:1: sweep.corss: unknown key; did you mean sweep.cross?"},
    {"{cross: [{method: [local]}], devices: 3, population: {devices: 1}}",
     "c.yaml:1: sweep.devices: unknown key; known here: population, cross, points, seeds, name, exclude, "
     "axes; what "
     "all points have is written in population"},
    {"{cross: {method: [local]}, population: {devices: 1}}",
     "c.yaml:1: sweep.cross: has another form; it must be a list of axes, each with one key"},
    {"{cross: [], population: {devices: 1}}", "c.yaml:1: sweep.cross: is empty; it must be a list of axes"},
    {"{cross: [method], population: {devices: 1}}",
     "c.yaml:1: sweep.cross.0: is no axis; write a key and its values"},
    {"{cross: [{method: [local], rank: [1, 2]}], population: {devices: 1}}",
     "c.yaml:1: sweep.cross.0: has 2 keys; give each an axis of its own (- {method: [..]} and - {rank: "
     "[..]}), or let "
     "them change together: - {zip: {method: [..], rank: [..]}}"},
    {"{cross: [{train: {batch: [1], beta1: [0]}}], population: {devices: 1}}",
     "c.yaml:1: sweep.cross.0: has 2 keys; give each an axis of its own (- {train.batch: [..]} and"},
    {"{cross: [{method: local}], population: {devices: 1}}",
     "c.yaml:1: sweep.cross.0.method: is an axis, which has a list of values; write a list of values: [.., "
     "..]; a key "
     "that is the same for all points belongs in population"},
    {"{cross: [{method: []}], population: {devices: 1}}", "c.yaml:1: sweep.cross.0.method: has no values"},
    {"{cross: [{zip: {method: [local, comigs], rank: [1, 2, 3]}}], population: {devices: 1}}",
     "c.yaml:1: sweep.cross.0.zip.rank: has 3 values, and method has 2; keys of a zip change together"},
    {"{cross: [{zip: [1]}], population: {devices: 1}}", "c.yaml:1: sweep.cross.0: zip must be a map of keys"},
    {"{cross: [{zip: {method: [local]}, rank: [1]}], population: {devices: 1}}",
     "c.yaml:1: sweep.cross.0: has keys beside zip"},
    {"{points: {method: local}}", "c.yaml:1: sweep.points: has another form; it must be a list of points"},
    {"{points: [local]}", "c.yaml:1: sweep.points.0: has another form; it must be a map of keys"},
    {"{points: [{method: local}], population: [1]}",
     "c.yaml:1: sweep.population: has another form; it must be a map"},
    {"{points: [{method: local, devices: 1}, {method: local}]}",
     "c.yaml:1: sweep.population.devices: is missing"},
    {"{cross: [{method: [local]}]}",
     "c.yaml:1: sweep.population.devices: is missing; give simulated devices"},
    /* Values: one message, whatever the number of points. */
    {"{population: {devices: 1, data.split: dirichlet},\n cross: [{method: [local, comigs]},\n "
     "{data.dirichlet: [1, -1]}, {rank: "
     "[1, 2]}]}",
     "c.yaml:3: sweep.cross.1.data.dirichlet: '-1' is out of range; it must be above 0"},
    {"{population: {devices: 1},\n cross: [{method: [local, comigs]},\n {rank: [1,\n two, 3]}], seeds: [1, "
     "2]}",
     "c.yaml:4: sweep.cross.1.rank: 'two' is not a whole number"},
    {"{population: {devices: 1}, cross: [{method: [local, fedavgg]}, {rank: [1, 2]}, {train.batch: [1, 2]}]}",
     "c.yaml:1: sweep.cross.0.method: 'fedavgg' is no method; did you mean fedavg? `cohort help methods` "
     "lists them "
     "(the point 'fedavgg-rank1-batch1' and 3 more)"},
    {"{population: {devices: 0}, cross: [{method: [local, fedavg]}]}",
     "c.yaml:1: sweep.population.devices: '0' is out of range; it must be 1 to"},
    {"{population: {devices: 1}, cross: [{method: [local, fedavg]}], seeds: [1, -2]}",
     "c.yaml:1: sweep.seeds: entry 1 is not a seed"},
    {"{population: {devices: 1}, cross: [{method: [local, fedavg]}], seeds: 3}",
     "c.yaml:1: sweep.seeds: must be a list of seeds"},
    {"{population: {devices: 1}, cross: [{method: [local, fedavg]}, {seed: [1, 2]}], seeds: [3]}",
     "c.yaml:1: sweep.seeds: seed and seeds are both written"},
    /* Keys. */
    {"{population: {devices: 1, method: local}, cross: [{metod: [local, fedavg]}, {rank: [1, 2]}]}",
     "sweep.cross.0.metod: unknown key; did you mean method?"},
    {"{population: {devices: 1, method: local}, cross: [{data.dirichlett: [1, 2]}, {rank: [1, 2]}]}",
     "c.yaml:1: sweep.cross.0.data.dirichlett: unknown key; did you mean data.dirichlet?"},
    {"{population: {devices: 1, method: local}, cross: [{trian.router.every: [1, 2]}, {rank: [1, 2]}]}",
     "c.yaml:1: sweep.cross.0.trian.router.every: unknown key; did you mean train.router.every?"},
    {"{population: {devices: 1, method: local}, cross: [{dirichlet: [1, 2]}]}",
     "c.yaml:1: sweep.cross.0.dirichlet: unknown key; did you mean data.dirichlet?"},
    {"{population: {devices: 1, method: local}, cross: [{train.rounds: [1, 2]}, {rank: [1, 2]}]}",
     "c.yaml:1: sweep.cross.0.train.rounds: a population cannot have its own: all populations go through the "
     "rounds "
     "together; write train.rounds at the top level"},
    {"{population: {devices: 1, method: local}, cross: [{base.layers: [1, 2]}]}",
     "c.yaml:1: sweep.cross.0.base.layers: a population cannot have its own; write base.layers at the top "
     "level"},
    {"{population: {devices: 1, rank: 4}, cross: [{method: [local]}, {rank: [1, 2]}]}",
     "c.yaml:1: sweep.cross.1.rank: is written twice, first in line 1; remove one"},
    {"{population: {devices: 1},\n cross: [{method: [local]},\n {method: [comigs]}]}",
     "c.yaml:3: sweep.cross.1.method: is written twice, first in line 2; remove one"},
    {"{population: {devices: 1, experts.rank: 4}, cross: [{method: [local, fedavg]}, {rank: [1, 2]}]}",
     "c.yaml:1: sweep.cross.1.rank: is short for experts.rank, and both are written; keep one (the point "
     "'local-rank1' "
     "and 3 more)"},
    {"{points: [{method: local, devices: 1}], axes: [metod]}",
     "c.yaml:1: sweep.axes.0: unknown key; did you mean method?"},
    {"{points: [{method: local, devices: 1}], axes: [data]}",
     "c.yaml:1: sweep.axes.0: is a section of keys, not a key"},
    {"{points: [{method: local, devices: 1}], axes: [train.rounds]}",
     "c.yaml:1: sweep.axes.0: a population cannot have its own"},
    {"{points: [{method: local, devices: 1}], axes: method}", "c.yaml:1: sweep.axes: must be a list of keys"},
    /* Points. */
    {"{population: {devices: 1}, cross: [{method: [fedavg, comigs]}, {generalists: [1, 16]}, {rank: [1, "
     "2]}]}",
     "c.yaml:1: sweep.cross.1.generalists: a device has 17 experts (16 generalists + 1 specialists); it can "
     "have at "
     "most 16 (the point 'comigs-generalists16-rank1' and 1 more)"},
    {"{population: {devices: 3, method: comigs}, cross: [{specialists: [1, [1, 2]]}], seeds: [1, 2]}",
     "c.yaml:1: sweep.cross.0.specialists: the list has 2 entries for 3 devices; write one for each device, "
     "or a "
     "single number (the point 'specialists1_2')"},
    {"{population: {devices: 1},\n cross: [{method: [local, comigs]},\n {data.dirichlet: [0.1, 1]}], "
     "exclude: [{method: "
     "comigs}]}",
     "c.yaml:3: sweep.cross.1.data.dirichlet: is of data.split dirichlet, but the split is natural"},
    {"{population: {devices: 1}, cross: [{method: [local, comigs]}, {rank: [2, 4, 2]}]}",
     "c.yaml:1: sweep: the points 'local-rank2' and 'local-rank2' are one and the same (method local, "
     "experts.rank 2, "
     "seed 42); write it once; 1 more are written twice, too"},
    {"{population: {devices: 1},\n points: [{name: a, method: local, rank: 2},\n {name: b, rank: 2, method: "
     "local}]}",
     "c.yaml:3: sweep: the points 'a' and 'b' are one and the same (method local, experts.rank 2, seed 42)"},
    {"{population: {devices: 1}, cross: [{method: [local]}], seeds: [1, 2, 1]}",
     "c.yaml:1: sweep: the points 'local' and 'local' are one and the same (method local, seed 1)"},
    {"{population: {devices: 1}, cross: [{method: [local, fedavg]}, {rank: [2, 4]}], name: '{method}'}",
     "c.yaml:1: sweep.name: different points have the name 'local': (method local, experts.rank 2, seed 42) "
     "and (method "
     "local, experts.rank 4, seed 42); put keys that tell them apart into the template; so it is with 1 "
     "more"},
    {"{population: {devices: 1}, cross: [{method: [local, fedavg]}, {seed: [1, 2]}], name: same}",
     "c.yaml:1: sweep.name: different points have the name 'same'"},
    {"{population: {devices: 1}, cross: [{method: [local]}], name: '{method}-{experts.rnk}'}",
     "c.yaml:1: sweep.name: {experts.rnk}: unknown key; did you mean experts.rank?"},
    {"{population: {devices: 1}, cross: [{method: [local]}], name: '{method'}",
     "c.yaml:1: sweep.name: '{method' has a brace without its other one"},
    {"{population: {devices: 1}, cross: [{method: [local]}], name: 'method}'}",
     "c.yaml:1: sweep.name: 'method}' has a brace without its other one"},
    {"{population: {devices: 1}, cross: [{method: [local]}], name: '{name}'}",
     "sweep.name: {name}: is what is being made"},
    {"{population: {devices: 1}, cross: [{method: [local]}], name: '{seeds}'}",
     "sweep.name: {seeds}: has no single value; write {seed}"},
    {"{population: {devices: 1}, cross: [{method: [local]}], name: [a]}",
     "sweep.name: must be a text with keys"},
    {"{population: {devices: 1}, cross: [{method: [local]}], name: 'a b {method}'}",
     "c.yaml:1: sweep.name: 'a b local' is no name; use at most 64 letters"},
    {"{population: {devices: 1},\n cross: [{method: [local]}],\n exclude: [{method: fedavg}]}",
     "c.yaml:3: sweep.exclude.0: excludes nothing: no point has these values; correct it or remove it"},
    {"{population: {devices: 1}, cross: [{method: [local]}], exclude: [{method: local}]}",
     "c.yaml:1: sweep.exclude: excludes all points; leave some"},
    {"{population: {devices: 1}, cross: [{method: [local]}], exclude: [{rnk: 4}]}",
     "c.yaml:1: sweep.exclude.0.rnk: unknown key; did you mean sweep.exclude.0.rank?"},
    {"{population: {devices: 1}, cross: [{method: [local]}], exclude: {rank: 4}}",
     "c.yaml:1: sweep.exclude: must be a list of maps"},
    {"{population: {devices: 1}, cross: [{method: [local]}], exclude: [{}]}",
     "c.yaml:1: sweep.exclude.0: must be a map of keys"},
    {"{population: {devices: 1}, cross: [{method: [local]}], exclude: [{seeds: [1]}]}",
     "c.yaml:1: sweep.exclude.0: seeds is no value of a population; write seed"},
};

Test(sweep, each_mistake_has_its_one_message) {
    for (size_t i = 0; i < sizeof MISTAKES / sizeof *MISTAKES; i++) {
        char text[1024];
        settings *s = NULL;
        snprintf(text, sizeof text, "sweep: %s", MISTAKES[i].sweep);
        problems *list = configuration_load(text, &s);
        cr_expect(problems_count(list) == 1 && configuration_has(list, MISTAKES[i].expected),
                  "expected one message (%s) of\n%s\ngot:\n%s", MISTAKES[i].expected, text,
                  configuration_messages(list));
        problems_destroy(list);
        if (s) settings_destroy(s);
    }
}

/* "first, first + 1, ..": n numbers. */
static char *numbers(int first, int n) {
    static char text[4][131072];
    static int next;
    char *out = text[next++ % 4];
    size_t used = 0;
    for (int i = 0; i < n; i++)
        used += (size_t)snprintf(out + used, sizeof text[0] - used, "%s%d", i ? ", " : "", first + i);
    return out;
}

static void expect_too_many(const char *expected, const char *format, const char *one, const char *other) {
    char *text = malloc(400000);
    snprintf(text, 400000, format, one, other);
    configuration_must_fail(text, expected);
    free(text);
}

Test(sweep, more_points_than_can_be_name_the_axis) {
    expect_too_many(
        "c.yaml:4: sweep.cross.1: with the 501 values of data.tokens_per_device the sweep has 15,030 "
        "populations in all; there can be at most 5,000",
        "sweep:\n  population: {devices: 1, method: local}\n  cross: [{rank: [%s]},\n "
        "{data.tokens_per_device: "
        "[%s]}]\n  seeds: [1, 2]\n",
        numbers(1, 15), numbers(1000, 501));
    expect_too_many(
        "c.yaml:4: sweep.seeds: with them the sweep has 5,010 populations in all",
        "sweep:\n  population: {devices: 1, method: local}\n  cross: [{rank: [%s]}]\n  seeds: [%s]\n",
        numbers(1, 10), numbers(1, 501));
    char *text = malloc(400000);
    snprintf(text, 400000, "sweep:\n  population: {devices: 1, method: local}\n  cross: [{seed: [%s]}]\n",
             numbers(1, SWEEP_MOST));
    settings *s = configuration_must_load(text);
    cr_expect_eq(s->n_populations, SWEEP_MOST);
    char *yaml = settings_to_yaml(s);
    settings *again = configuration_must_load(yaml);
    cr_expect_eq(again->n_populations, SWEEP_MOST, "what a result keeps can be read");
    settings_destroy(again);
    settings_destroy(s);
    free(yaml);
    free(text);
}

Test(sweep, what_is_of_points_alone_is_refused_without_them) {
    configuration_must_fail("populations: [{name: a, method: local, devices: 1}]\n"
                            "sweep: {axes: [method],\n exclude: [{method: local}]}",
                            "c.yaml:3: sweep.exclude: is of the points of a sweep, and there are none");
    configuration_must_fail("populations: [{name: a, method: local, devices: 1}]\n"
                            "sweep:\n  axes: [method]\n  seeds: [1]\n",
                            "c.yaml:4: sweep.seeds: is of the points of a sweep, and there are none");
}

Test(sweep, names_that_listed_populations_have_are_refused) {
    configuration_must_fail("populations: [{name: local, method: local, devices: 1}]\n"
                            "sweep: {population: {devices: 2}, cross: [{method: [local, fedavg]}]}",
                            "c.yaml:2: populations: 'local' with seed 42 is already in line 1");
    configuration_must_fail("data: {dirichlet: 1}\nsweep: {points: 5}",
                            "c.yaml:2: sweep.points: has another form");
}
