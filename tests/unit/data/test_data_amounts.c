/* Amounts of text that differ from device to device: tokens_per_device and its like as lists. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "data/corpus.h"
#include "data/partition.h"
#include "unit/data_files.h"

enum { SOURCES = 2, TOKENS = 3000, DEVICES = 4, SEED = 4 };

static char *folder;
static problems *list;
static corpus *text;
static data_settings used;

static void set_up(void) {
    folder = data_folder();
    list = problems_create();
    static const char *const names[] = {"train_%d.bin", "valid_%d.bin", "test_%d.bin"};
    for (int source = 0; source < SOURCES; source++)
        for (int part = 0; part < DATA_SPLITS; part++) {
            char name[32];
            snprintf(name, sizeof name, names[part], source);
            data_write_shard(folder, name, source, TOKENS);
        }
    used = data_settings_of(folder);
    used.tokens_per_device.value = used.valid_tokens_per_device.value = used.test_tokens_per_device.value =
        100;
    cr_assert_eq(corpus_open(&used, 256, &text, list), EXIT_OK);
}

static void tear_down(void) {
    corpus_close(text);
    data_folder_remove(folder);
    problems_destroy(list);
}

TestSuite(data_amounts, .init = set_up, .fini = tear_down);

static per_device list_of(int64_t *numbers, int n) {
    per_device x = {.n = n, .list = numbers};
    for (int i = 0; i < n; i++) x.value = numbers[i] > x.value ? numbers[i] : x.value;
    return x;
}

/* The first range of a part of a device, and how many it has. */
static text_range range_of(const data_settings *d, int devices, int device, data_part part, int *count) {
    partition *p = NULL;
    part_text out = {0};
    cr_assert_eq(partition_open(text, d, SEED, devices, &p, list), EXIT_OK);
    cr_assert_eq(partition_take(p, device, part, &out, list), EXIT_OK, "%s",
                 problems_count(list) ? problems_message(list, 0) : "");
    text_range first = out.ranges[0];
    if (count) *count = out.count;
    free(out.ranges);
    partition_close(p);
    return first;
}

/* Devices 0 and 2, and 1 and 3, have one source each. */
Test(data_amounts, stretches_lie_one_after_another) {
    int64_t amounts[DEVICES] = {1500, 40, 700, 2960};
    for (int part = DATA_TRAIN; part <= DATA_VALID; part++) {
        data_settings d = used;
        *(part == DATA_TRAIN ? &d.tokens_per_device : &d.valid_tokens_per_device) = list_of(amounts, DEVICES);
        text_range r[DEVICES];
        for (int i = 0; i < DEVICES; i++) {
            r[i] = range_of(&d, DEVICES, i, (data_part)part, NULL);
            cr_expect_eq(r[i].count, amounts[i]);
            cr_expect_eq(r[i].source, i % SOURCES);
            cr_expect(!r[i].shared);
        }
        cr_expect_eq(r[2].first, r[0].first + 1500);
        cr_expect_eq(r[1].first, 0);
        cr_expect_eq(r[3].first, 40, "the source is full");
    }
}

/* One device a source: a list puts a device where its number alone would. */
Test(data_amounts, one_device_of_a_source_begins_where_its_number_alone_would) {
    int64_t amounts[SOURCES] = {700, 250};
    data_settings listed = used;
    listed.tokens_per_device = listed.valid_tokens_per_device = list_of(amounts, SOURCES);
    for (int part = DATA_TRAIN; part <= DATA_VALID; part++)
        for (int i = 0; i < SOURCES; i++) {
            data_settings plain = used;
            plain.tokens_per_device.value = plain.valid_tokens_per_device.value = amounts[i];
            text_range a = range_of(&listed, SOURCES, i, (data_part)part, NULL),
                       b = range_of(&plain, SOURCES, i, (data_part)part, NULL);
            cr_expect_eq(a.first, b.first);
            cr_expect_eq(a.count, b.count);
        }
}

Test(data_amounts, too_little_text_is_shared_and_too_much_is_refused_by_name) {
    int64_t amounts[DEVICES] = {2000, 100, 1800, 100}, more[DEVICES] = {100, 100, TOKENS + 1, 100};
    data_settings d = used;
    d.tokens_per_device = list_of(amounts, DEVICES);
    text_range a = range_of(&d, DEVICES, 0, DATA_TRAIN, NULL), b = range_of(&d, DEVICES, 2, DATA_TRAIN, NULL);
    cr_expect(a.shared && b.shared);
    cr_expect(a.first >= 0 && b.first > a.first && b.first + 1800 <= TOKENS);
    cr_expect(!range_of(&d, DEVICES, 1, DATA_TRAIN, NULL).shared);
    partition *p = NULL;
    part_text out = {0};
    d.tokens_per_device = list_of(more, DEVICES);
    cr_assert_eq(partition_open(text, &d, SEED, DEVICES, &p, list), EXIT_OK);
    cr_expect_eq(partition_take(p, 2, DATA_TRAIN, &out, list), EXIT_INPUT);
    cr_expect(data_says(list, "device 2 of 4: data.tokens_per_device asks for 3001 tokens, but source 0"),
              "%s", problems_message(list, 0));
    free(out.ranges);
    partition_close(p);
}

/* Test text begins at the beginning of the source whoever has it; a mixture has its amount over all sources. */
Test(data_amounts, test_text_and_mixtures_have_the_devices_own_amount) {
    int64_t amounts[DEVICES] = {60, 81, 200, 600};
    data_settings d = used, mixed = used;
    d.test_tokens_per_device = mixed.valid_tokens_per_device = list_of(amounts, DEVICES);
    mixed.evaluation = OUT_OF_DISTRIBUTION;
    for (int i = 0; i < DEVICES; i++) {
        int count = 0;
        text_range r = range_of(&d, DEVICES, i, DATA_TEST, NULL),
                   m = range_of(&mixed, DEVICES, i, DATA_VALID, &count);
        cr_expect_eq(r.first, 0);
        cr_expect_eq(r.count, amounts[i]);
        cr_expect_eq(count, SOURCES);
        cr_expect_eq(m.count, (amounts[i] + 1) / 2);
    }
}

/* Each split gives a device its own number of tokens, times its fraction; quantity draws a factor for each. */
Test(data_amounts, every_split_has_the_devices_own_amounts) {
    static const char *const splits[] = {"natural", "iid", "dirichlet", "pathological", "drift", "quantity"};
    int64_t amounts[DEVICES] = {400, 81, 200, 600};
    double fractions[DEVICES] = {0.5, 1, 0.25, 1};
    for (size_t i = 0; i < sizeof splits / sizeof *splits; i++) {
        data_settings d = used, plain = used;
        d.split = plain.split = split_named(splits[i]);
        d.dirichlet = d.drift = d.quantity = plain.quantity = 1;
        d.pathological = 2;
        d.tokens_per_device = list_of(amounts, DEVICES);
        d.valid_tokens_per_device = list_of(amounts, DEVICES);
        d.fraction = (per_device){.real = 1, .n = DEVICES, .reals = fractions};
        plain.tokens_per_device.value = 1000000;
        for (int device = 0; device < DEVICES; device++) {
            device_data *data = NULL;
            cr_assert_eq(data_open_device(text, &d, SEED, device, DEVICES, false, &data, list), EXIT_OK,
                         "%s: %s", splits[i], problems_message(list, 0));
            int64_t own = (int64_t)((double)amounts[device] * fractions[device]),
                    trained = device_data_tokens(data, DATA_TRAIN);
            double factor = (double)data_train_tokens(&plain, SEED, device) / 1e6,
                   drawn = fmax(factor * (double)own, used.sequence + 1);
            cr_expect(fabs((double)trained - drawn) < 1.001, "%s: device %d has %lld", splits[i], device,
                      (long long)trained);
            cr_expect_eq(trained == own, i < 5, "%s: device %d has %lld", splits[i], device,
                         (long long)trained);
            cr_expect_eq(device_data_tokens(data, DATA_VALID), amounts[device], "%s", splits[i]);
            device_data_close(data);
        }
    }
}

/* Pooled data has the stretches of all devices. */
Test(data_amounts, pooled_data_has_all_of_them) {
    int64_t amounts[DEVICES] = {60, 81, 200, 600};
    data_settings d = used;
    d.tokens_per_device = d.test_tokens_per_device = list_of(amounts, DEVICES);
    device_data *data = NULL;
    cr_assert_eq(data_open_device(text, &d, SEED, 0, DEVICES, true, &data, list), EXIT_OK);
    cr_expect_eq(device_data_tokens(data, DATA_TRAIN), 941);
    cr_expect_eq(device_data_tokens(data, DATA_TEST), 941);
    device_data_close(data);
}
