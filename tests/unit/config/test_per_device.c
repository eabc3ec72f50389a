/* Lists with a number for each device: every setting that may be one reads, writes, compares and frees them
 * alike. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "config/table.h"
#include "unit/configuration.h"

#define POPULATION "populations: [{name: a, method: local, devices: 3, "

/* A key as nested maps: "data.x", "[1, 2]" to "data: {x: [1, 2]}". */
static void nest(const char *path, const char *value, char *out, size_t bytes) {
    const char *dot = strchr(path, '.');
    if (dot)
        snprintf(out, bytes, "%.*s: {%s: %s}", (int)(dot - path), path, dot + 1, value);
    else
        snprintf(out, bytes, "%s: %s", path, value);
}

static settings *with(const setting_row *row, const char *value) {
    char key[160], text[512];
    nest(row->path, value, key, sizeof key);
    snprintf(text, sizeof text, "data: {sequence: 16}\n" POPULATION "%s}]\n", key);
    return configuration_must_load(text);
}

static const per_device *value_of(const setting_row *row, const settings *s) {
    return (const per_device *)((const char *)&s->populations[0] + row->offset);
}

static bool is_same(const setting_row *row, const settings *a, const settings *b) {
    return value_equal(row, &a->populations[0], &b->populations[0]);
}

static double number_at(const setting_row *row, const per_device *x, int device) {
    return row->type == VALUE_COUNTS ? (double)per_device_at(x, device) : per_device_real_at(x, device);
}

static int list_rows(const setting_row **out) {
    int count = 0, n = 0;
    const setting_row *rows = table_rows(&count);
    for (int i = 0; i < count; i++)
        if (table_is_per_device(&rows[i]) && n < 32) out[n++] = &rows[i];
    return n;
}

static void hash_of(const settings *s, char out[SETTINGS_HASH_BYTES]) {
    settings_hash(s, out);
}

Test(per_device, every_setting_that_may_be_a_list_goes_through_yaml_and_the_hash) {
    const setting_row *rows[32];
    int n = list_rows(rows);
    cr_assert_geq(n, 10);
    for (int i = 0; i < n; i++) {
        bool tokens = strcmp(rows[i]->unit ? rows[i]->unit : "", "tokens") == 0,
             shares = rows[i]->type == VALUE_NUMBERS;
        const char *list = tokens   ? "[400, 300, 500]"
                           : shares ? "[0.4, 0.3, 0.5]"
                                    : "[4, 3, 5]",
                   *other = tokens   ? "[400, 500, 300]"
                            : shares ? "[0.4, 0.5, 0.3]"
                                     : "[4, 5, 3]",
                   *equal = tokens   ? "[400, 400, 400]"
                            : shares ? "[0.4, 0.4, 0.4]"
                                     : "[4, 4, 4]",
                   *number = tokens   ? "400"
                             : shares ? "0.4"
                                      : "4";
        char first[SETTINGS_HASH_BYTES], again[SETTINGS_HASH_BYTES];
        settings *s = with(rows[i], list), *swapped = with(rows[i], other), *same = with(rows[i], equal),
                 *plain = with(rows[i], number);
        const per_device *x = value_of(rows[i], s);
        static const double digits[] = {4, 3, 5};
        double times = tokens ? 100 : 1, over = shares ? 10 : 1;
        cr_assert_eq(x->n, 3, "%s", rows[i]->path);
        for (int d = 0; d < 3; d++)
            cr_expect_eq(number_at(rows[i], x, d), digits[d] * times / over, "%s", rows[i]->path);
        cr_expect_eq(number_at(rows[i], x, 3), 5 * times / over, "the largest");
        cr_expect(is_same(rows[i], s, s) && !is_same(rows[i], s, swapped));
        char *yaml = settings_to_yaml(s);
        cr_expect(strstr(yaml, list), "%s: %s", rows[i]->path, yaml);
        settings *back = configuration_must_load(yaml);
        cr_expect(is_same(rows[i], s, back), "%s", rows[i]->path);
        hash_of(s, first);
        hash_of(back, again);
        cr_expect_str_eq(first, again, "%s", rows[i]->path);
        hash_of(swapped, again);
        cr_expect_str_neq(first, again, "%s", rows[i]->path);
        /* a list of equal numbers is that number */
        cr_expect_eq(value_of(rows[i], same)->n, 0);
        hash_of(same, first);
        hash_of(plain, again);
        cr_expect_str_eq(first, again, "%s", rows[i]->path);
        free(yaml);
        settings_destroy(s), settings_destroy(swapped), settings_destroy(same), settings_destroy(plain);
        settings_destroy(back);
    }
}

/* Each seed has a copy of its own; a number or another list takes the place of the run's list. */
Test(per_device, a_list_of_the_run_is_the_default_of_its_populations) {
    settings *s = configuration_must_load("experts: {rank: [2, 4]}\ndata: {tokens_per_device: [500, 900]}\n"
                                          "populations:\n"
                                          "  - {name: a, method: local, devices: 2, seeds: [1, 2]}\n"
                                          "  - {name: b, method: local, devices: 3, rank: 16, data: "
                                          "{tokens_per_device: 0}}\n"
                                          "  - {name: c, method: local, devices: 2, rank: [8, 1]}\n");
    const population_settings *p = s->populations;
    cr_expect_eq(per_device_at(&p[0].rank, 1), 4);
    cr_expect_eq(per_device_at(&p[1].rank, 1), 4);
    cr_expect_neq((void *)p[0].rank.list, (void *)p[1].rank.list);
    cr_expect_eq(per_device_at(&p[1].data.tokens_per_device, 1), 900);
    cr_expect_eq(p[2].rank.n, 0);
    cr_expect_eq(per_device_at(&p[2].rank, 2), 16);
    cr_expect_eq(per_device_at(&p[3].rank, 0), 8);
    cr_expect_eq(per_device_at(&p[3].rank, 1), 1);
    cr_expect_eq(p[3].rank.value, 8);
    cr_expect_eq(s->data.tokens_per_device.n, 2);
    char *yaml = settings_to_yaml(s), *lists = settings_lists(&p[3]);
    settings *back = configuration_must_load(yaml);
    for (int i = 0; i < 4; i++) {
        cr_expect(value_equal(table_find("experts.rank", true), &p[i], &back->populations[i]), "%d", i);
        cr_expect(value_equal(table_find("data.tokens_per_device", true), &p[i], &back->populations[i]));
    }
    cr_expect_str_eq(lists, "data.tokens_per_device [500, 900], experts.rank [8, 1]");
    free(yaml);
    free(lists);
    settings_destroy(s);
    settings_destroy(back);
}

static const struct {
    const char *text, *expected;
} mistakes[] = {
    {POPULATION "rank: [4, 8]}]",
     "c.yaml:1: populations.0.rank: the list has 2 entries for 3 devices; write one for each device"},
    {POPULATION "experts: {rank: [4, 8, 8, 8]}}]",
     "populations.0.experts.rank: the list has 4 entries for 3"},
    {"experts: {rank: [4, 8]}\n" POPULATION "generalists: 1}]",
     "c.yaml:2: populations.0.experts.rank: the list has 2 entries for 3 devices"},
    {POPULATION "generalists: [1, 2]}]", "populations.0.generalists: the list has 2 entries for 3 devices"},
    {POPULATION "data: {examples_per_device: [5, 6]}}]", "data.examples_per_device: the list has 2 entries"},
    {POPULATION "data: {sources: [1, 0]}}]",
     "c.yaml:1: populations.0.data.sources: the list has 2 entries for 3 devices; write one for each device"},
    {"data: {fraction: [1, 0.5]}\n" POPULATION "generalists: 1}]",
     "c.yaml:2: populations.0.data.fraction: the list has 2 entries for 3 devices"},
    {POPULATION "data: {fraction: [1, x, 0.5]}}]", "data.fraction: 'x' is not a finite number"},
    {POPULATION "data: {fraction: [1, 0, 0.5]}}]", "data.fraction: '0' is out of range"},
    {POPULATION "data: {tokens_per_device: [400, 900, 400], fraction: [1, 0.5, 0.25]}}]",
     "data.fraction: 0.25 leaves 100 of 400 tokens, which hold no window of 128"},
    {POPULATION "rank: []}]", "rank: the list has 0 entries"},
    {POPULATION "rank: [4, x, 8]}]", "rank: 'x' is not a whole number"},
    {POPULATION "rank: [4, [8], 8]}]", "rank: entry 1 is not a number"},
    {POPULATION "rank: [4, 0, 8]}]", "rank: '0' is out of range; it must be 1 to 512"},
    {POPULATION "rank: [4, 300, 8], specialists: 1, generalists: 1}]",
     "rank: the ranks of the 2 experts of device 1 sum to 600; the sum must be at most 512"},
    {POPULATION "generalists: [1, 16, 1], specialists: [0, 1, 16]}]",
     "device 1 has 17 experts (16 generalists + 1 specialists); it can have at most 16"},
    {POPULATION "rank: {a: 1}}]", "rank: a map is written where a number, or a list of numbers is expected"},
    {POPULATION "data: {tokens_per_device: [400, 0, 400]}}]",
     "data.tokens_per_device: entry 1 is 0, which stands for all text where it is the only number"},
    {POPULATION "data: {valid_tokens_per_device: [400, 128, 400]}}]",
     "data.valid_tokens_per_device: 128 tokens hold no window of 128"},
    {"data: {test_tokens_per_device: [400, 100, 400]}\n" POPULATION "generalists: 1}]",
     "c.yaml:1: data.test_tokens_per_device: 100 tokens hold no window of 128"},
    {"populations: [{name: a, method: centralized, devices: 3, rank: [4, 8, 4]}]",
     "populations.0.rank: method centralized trains one model on the text of all devices"},
    {POPULATION "attention: {rank: [1, 2, 3]}}]", "attention.rank: a list is written where one whole number"},
};

Test(per_device, each_mistake_has_its_one_message) {
    for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++) {
        settings *s = NULL;
        problems *list = configuration_load(mistakes[i].text, &s);
        cr_expect_null(s, "%s", mistakes[i].text);
        cr_expect(configuration_has(list, mistakes[i].expected), "%s: %s", mistakes[i].text,
                  configuration_messages(list));
        cr_expect_leq(problems_count(list), 2);
        problems_destroy(list);
    }
}

/* What speaks of text may differ in pooled data. */
Test(per_device, pooled_data_may_have_unequal_parts) {
    settings *s = configuration_must_load(
        "populations: [{name: a, method: centralized, devices: 3, rank: [4, 4, 4], data: "
        "{tokens_per_device: [200, 300, 400]}}]");
    cr_expect_eq(s->populations[0].data.tokens_per_device.n, 3);
    settings_destroy(s);
}
