/* test_trace.c - what is written to trace.h5 is what stands in it: every table, its shape, its units, and
 * nothing of the clock. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "result/h5.h"
#include "unit/trace_fixture.h"

enum { DEVICES = 6, WINDOWS = 3, ROUNDS = 5 };

static char *write_trace(const char *name, fixture *f) {
    char *folder = fixture_folder(), *path = fixture_path(folder, name);
    problems *list = fixture_problems();
    trace *t = NULL;
    cr_assert_eq(trace_create(path, &f->header, &t, list), EXIT_OK, "%s",
                 problems_count(list) ? problems_message(list, 0) : "");
    fixture_append(t, f, 1, ROUNDS);
    cr_assert_eq(trace_flush(t, list), EXIT_OK);
    cr_assert_eq(trace_close(t, list), EXIT_OK);
    cr_assert_eq(problems_count(list), 0);
    return path;
}

static char *attribute(const char *path, const char *object, const char *name) {
    h5_error error = {0};
    h5_enter();
    hid_t file = h5_open_file(path, false, &error);
    hid_t opened = file < 0 ? -1 : H5Oopen(file, object, H5P_DEFAULT);
    char *text = opened < 0 ? NULL : h5_read_text(opened, name, &error);
    if (opened >= 0) H5Oclose(opened);
    if (file >= 0) H5Fclose(file);
    h5_leave();
    return fixture_keep(text);
}

Test(trace, losses_come_back_and_rounds_without_an_evaluation_are_nan) {
    static const char *const tables[] = {"/loss/train", "/loss/valid", "/loss/test", "/loss/test_after"};
    fixture f;
    fixture_create(&f, DEVICES, WINDOWS);
    char *path = write_trace("trace.h5", &f);
    cr_assert(fixture_holds(path, DEVICES, ROUNDS));
    for (int i = 0; i < 4; i++) {
        hsize_t dims[5];
        double *loss = fixture_read(path, tables[i], H5T_NATIVE_DOUBLE, dims);
        cr_assert_not_null(loss);
        cr_assert_eq(dims[0], ROUNDS);
        cr_assert_eq(dims[1], DEVICES);
        for (int r = 1; r <= ROUNDS; r++)
            for (int d = 0; d < DEVICES; d++) {
                double found = loss[(r - 1) * DEVICES + d];
                if (i > 0 && r % 2)
                    cr_assert(isnan(found), "%s round %d device %d: %g", tables[i], r, d, found);
                else
                    cr_assert_eq(found, fixture_loss(i, r, d), "%s round %d device %d", tables[i], r, d);
            }
    }
}

Test(trace, routing_comes_back) {
    fixture f;
    fixture_create(&f, DEVICES, WINDOWS);
    char *path = write_trace("trace.h5", &f);
    const int64_t places = DEVICES * FIXTURE_LAYERS * FIXTURE_EXPERTS, tokens = WINDOWS * FIXTURE_SEQUENCE;
    const int64_t gates = tokens * FIXTURE_LAYERS * FIXTURE_EXPERTS;
    hsize_t dims[5];
    float *mean = fixture_read(path, "/routing/gate_mean", H5T_NATIVE_FLOAT, dims);
    cr_assert(dims[0] == ROUNDS && dims[1] == DEVICES && dims[2] == FIXTURE_LAYERS &&
              dims[3] == FIXTURE_EXPERTS);
    float *share = fixture_read(path, "/routing/token_share", H5T_NATIVE_FLOAT, NULL);
    int32_t *ids = fixture_read(path, "/routing/tokens/ids", H5T_NATIVE_INT32, dims);
    cr_assert(dims[0] == ROUNDS && dims[1] == WINDOWS && dims[2] == FIXTURE_SEQUENCE);
    float *token_gates = fixture_read(path, "/routing/tokens/gates", H5T_NATIVE_FLOAT, dims);
    cr_assert(dims[1] == WINDOWS && dims[2] == FIXTURE_SEQUENCE && dims[3] == FIXTURE_LAYERS &&
              dims[4] == FIXTURE_EXPERTS);
    for (int r = 1; r <= ROUNDS; r++) {
        const bool evaluated = r % 2 == 0;
        for (int64_t i = 0; i < places; i++) {
            float m = mean[(r - 1) * places + i], s = share[(r - 1) * places + i];
            cr_assert(evaluated ? m == fixture_gate(r, i) && s == -m : isnan(m) && isnan(s),
                      "round %d place %d", r, (int)i);
        }
        for (int64_t i = 0; i < gates; i++) {
            float g = token_gates[(r - 1) * gates + i];
            cr_assert(evaluated ? g == fixture_gate(r, i) : isnan(g), "round %d gate %d", r, (int)i);
        }
        for (int64_t i = 0; i < tokens; i++)
            cr_assert_eq(ids[(r - 1) * tokens + i], evaluated ? r * 1000 + i : -1, "round %d token %d", r,
                         (int)i);
    }
    int *whose = fixture_read(path, "/routing/tokens/devices", H5T_NATIVE_INT, NULL);
    for (int i = 0; i < WINDOWS; i++) cr_assert_eq(whose[i], i);
}

Test(trace, traffic_and_time_come_back) {
    fixture f;
    fixture_create(&f, DEVICES, WINDOWS);
    char *path = write_trace("trace.h5", &f);
    int64_t *up = fixture_read(path, "/traffic/bytes_up", H5T_NATIVE_INT64, NULL);
    int64_t *down = fixture_read(path, "/traffic/bytes_down", H5T_NATIVE_INT64, NULL);
    double *train = fixture_read(path, "/time/train", H5T_NATIVE_DOUBLE, NULL);
    double *total = fixture_read(path, "/time/total", H5T_NATIVE_DOUBLE, NULL);
    for (int r = 1; r <= ROUNDS; r++) {
        cr_assert_eq(up[(r - 1) * DEVICES], (int64_t)r << 33);
        cr_assert_eq(down[(r - 1) * DEVICES + 5], 5);
        cr_assert_eq(train[r - 1], 0.5);
        cr_assert_eq(total[r - 1], 0.875);
    }
}

typedef struct {
    char name[64], method[16], split[32], evaluation[32];
    uint64_t seed;
    int64_t tokens;
    int32_t rank, devices;
} some_columns;

static void insert_text(hid_t type, const char *name, size_t offset, size_t bytes) {
    hid_t text = H5Tcopy(H5T_C_S1);
    H5Tset_size(text, bytes);
    H5Tset_cset(text, H5T_CSET_UTF8);
    cr_assert_geq(H5Tinsert(type, name, offset, text), 0);
}

Test(trace, populations_are_a_table_of_named_columns) {
    fixture f;
    fixture_create(&f, DEVICES, WINDOWS);
    char *path = write_trace("trace.h5", &f);
    h5_enter();
    hid_t type = H5Tcreate(H5T_COMPOUND, sizeof(some_columns));
    insert_text(type, "name", offsetof(some_columns, name), 64);
    insert_text(type, "method", offsetof(some_columns, method), 16);
    insert_text(type, "split", offsetof(some_columns, split), 32);
    insert_text(type, "evaluation", offsetof(some_columns, evaluation), 32);
    H5Tinsert(type, "seed", offsetof(some_columns, seed), H5T_NATIVE_UINT64);
    H5Tinsert(type, "tokens_per_device", offsetof(some_columns, tokens), H5T_NATIVE_INT64);
    H5Tinsert(type, "rank", offsetof(some_columns, rank), H5T_NATIVE_INT32);
    H5Tinsert(type, "devices", offsetof(some_columns, devices), H5T_NATIVE_INT32);
    h5_leave();
    hsize_t dims[5];
    some_columns *p = fixture_read(path, "/populations", type, dims);
    cr_assert_not_null(p);
    cr_assert_eq(dims[0], 2);
    cr_assert_str_eq(p[0].name, "comigs-1g1s");
    cr_assert_str_eq(p[1].name, "local, poor");
    cr_assert_str_eq(p[0].method, "comigs");
    cr_assert_str_eq(p[0].split, "natural");
    cr_assert_str_eq(p[0].evaluation, "in_distribution");
    cr_assert_str_eq(p[1].evaluation, "out_of_distribution");
    cr_assert_eq(p[1].seed, UINT64_MAX);
    cr_assert_eq(p[1].tokens, 15000);
    cr_assert_eq(p[0].rank, 8);
    cr_assert_eq(p[1].devices, 3);
    char *units = attribute(path, "/populations", "units");
    cr_assert_str_eq(units,
                     "text,text,text,1,tokens,devices,experts,experts,1,experts,text,1,text,text,text");
}

Test(trace, devices_are_a_table_of_named_columns) {
    fixture f;
    fixture_create(&f, DEVICES, WINDOWS);
    char *path = write_trace("trace.h5", &f);
    struct {
        double entropy;
        int64_t private_parameters;
        int32_t population;
    } * d;
    h5_enter();
    hid_t type = H5Tcreate(H5T_COMPOUND, sizeof *d);
    H5Tinsert(type, "entropy", 0, H5T_NATIVE_DOUBLE);
    H5Tinsert(type, "parameters_private", 8, H5T_NATIVE_INT64);
    H5Tinsert(type, "population", 16, H5T_NATIVE_INT32);
    h5_leave();
    d = fixture_read(path, "/devices", type, NULL);
    cr_assert_not_null(d);
    cr_assert(isnan(d[0].entropy));
    cr_assert_eq(d[3].entropy, 3.75);
    cr_assert_eq(d[5].private_parameters, 8192);
    cr_assert_eq(d[2].population, 0);
    cr_assert_eq(d[3].population, 1);
}

Test(trace, attributes_say_where_it_comes_from) {
    fixture f;
    fixture_create(&f, DEVICES, WINDOWS);
    char *path = write_trace("trace.h5", &f);
    cr_expect_str_eq(attribute(path, "/", "git_revision"), "0123abc");
    cr_expect_str_eq(attribute(path, "/", "config"), "seed: 42\n");
    cr_expect_str_eq(attribute(path, "/", "base"), "gpt2, 4 layers");
    cr_expect_str_eq(attribute(path, "/", "backend"), "cpu");
    cr_expect_str_eq(attribute(path, "/", "hardware"), "a machine");
    cr_expect_str_eq(attribute(path, "/", "created_utc"), "2024-01-02T03:04:05Z");
    cr_expect(strlen(attribute(path, "/", "cohort_version")) > 0);
}

Test(trace, every_table_has_units) {
    static const char *const units[][2] = {{"/rounds", "round"},
                                           {"/loss/train", "nats/token"},
                                           {"/loss/valid", "nats/token"},
                                           {"/loss/test", "nats/token"},
                                           {"/loss/test_after", "nats/token"},
                                           {"/routing/gate_mean", "1"},
                                           {"/routing/token_share", "1"},
                                           {"/routing/tokens/ids", "token"},
                                           {"/routing/tokens/gates", "1"},
                                           {"/traffic/bytes_up", "bytes"},
                                           {"/traffic/bytes_down", "bytes"},
                                           {"/time/train", "s"},
                                           {"/time/evaluate", "s"},
                                           {"/time/aggregate", "s"},
                                           {"/time/total", "s"},
                                           {"/routing/tokens/devices", "device"}};
    fixture f;
    fixture_create(&f, DEVICES, WINDOWS);
    char *path = write_trace("trace.h5", &f);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        char *found = attribute(path, units[i][0], "units");
        cr_assert_not_null(found, "%s has no units", units[i][0]);
        cr_expect_str_eq(found, units[i][1], "%s: %s", units[i][0], found);
    }
    cr_expect_str_eq(attribute(path, "/routing/gate_mean", "axes"), "row,device,layer,expert");
}

Test(trace, a_configuration_beyond_64_kib_is_kept_whole) {
    fixture f;
    fixture_create(&f, DEVICES, 0);
    char *config = fixture_array(200000, 1);
    for (int i = 0; i < 200000; i++) config[i] = (char)('a' + i % 26);
    config[200000] = '\0';
    f.header.config_yaml = config;
    char *path = write_trace("trace.h5", &f);
    cr_assert_str_eq(attribute(path, "/", "config"), config);
}

Test(trace, without_sampled_windows_there_is_no_table_of_tokens) {
    fixture f;
    fixture_create(&f, DEVICES, 0);
    char *path = write_trace("trace.h5", &f);
    cr_assert_null(fixture_read(path, "/routing/tokens/ids", H5T_NATIVE_INT32, NULL));
    cr_assert(fixture_holds(path, DEVICES, ROUNDS));
}

static char *file_bytes(const char *path, size_t *size) {
    FILE *in = fopen(path, "rb");
    struct stat status;
    cr_assert_not_null(in);
    stat(path, &status);
    *size = (size_t)status.st_size;
    char *bytes = fixture_array((int64_t)*size, 1);
    cr_assert_eq(fread(bytes, 1, *size, in), *size);
    fclose(in);
    return bytes;
}

/* The fixture's seconds and created_utc are constants, so nothing else may differ, though the clock has moved
 * on. */
Test(trace, nothing_else_depends_on_the_clock) {
    fixture f;
    size_t size_one, size_two;
    fixture_create(&f, DEVICES, WINDOWS);
    char *one = file_bytes(write_trace("trace.h5", &f), &size_one);
    sleep(2);
    char *two = file_bytes(write_trace("trace.h5", &f), &size_two);
    cr_assert_eq(size_one, size_two);
    cr_assert_eq(memcmp(one, two, size_one), 0);
}

Test(trace, a_round_may_not_come_twice) {
    fixture f;
    fixture_create(&f, DEVICES, 0);
    char *path = fixture_path(fixture_folder(), "trace.h5");
    problems *list = fixture_problems();
    trace *t = NULL;
    cr_assert_eq(trace_create(path, &f.header, &t, list), EXIT_OK);
    fixture_append(t, &f, 1, 3);
    metric_row row = fixture_row(&f, 3);
    cr_assert_eq(trace_append(t, &row, list), EXIT_RUN);
    cr_assert(strstr(problems_message(list, 0), "round 3 after round 3"));
    cr_assert_eq(trace_close(t, list), EXIT_OK);
    cr_assert(fixture_holds(path, DEVICES, 3));
}

Test(trace, a_folder_that_is_not_there_is_named) {
    fixture f;
    fixture_create(&f, DEVICES, 0);
    problems *list = fixture_problems();
    trace *t = NULL;
    cr_assert_eq(trace_create("/nowhere/at/all/trace.h5", &f.header, &t, list), EXIT_RUN);
    cr_assert_null(t);
    cr_assert(strstr(problems_message(list, 0), "/nowhere/at/all/trace.h5"), "%s", problems_message(list, 0));
    cr_assert(strstr(problems_message(list, 0), "No such file"), "%s", problems_message(list, 0));
}

Test(trace, thousands_of_devices_and_rows_beyond_a_chunk) {
    enum { MANY = 40000 }; /* gate_mean: 640 kB a row; /loss 320 kB */
    fixture f;
    fixture_create(&f, MANY, 0);
    char *path = fixture_path(fixture_folder(), "trace.h5");
    problems *list = fixture_problems();
    trace *t = NULL;
    f.header.n_layers = FIXTURE_LAYERS;
    cr_assert_eq(trace_create(path, &f.header, &t, list), EXIT_OK);
    fixture_append(t, &f, 1, 3);
    cr_assert_eq(trace_close(t, list), EXIT_OK);
    cr_assert(fixture_holds(path, MANY, 3));
    float *mean = fixture_read(path, "/routing/gate_mean", H5T_NATIVE_FLOAT, NULL);
    const int64_t places = (int64_t)MANY * FIXTURE_LAYERS * FIXTURE_EXPERTS;
    for (int64_t i = 0; i < places; i++) cr_assert_eq(mean[places + i], fixture_gate(2, i));
}

Test(trace, many_rounds_fill_many_chunks) {
    enum { MANY = 200 };
    fixture f;
    fixture_create(&f, 4, 0);
    char *path = fixture_path(fixture_folder(), "trace.h5");
    problems *list = fixture_problems();
    trace *t = NULL;
    cr_assert_eq(trace_create(path, &f.header, &t, list), EXIT_OK);
    fixture_append(t, &f, 1, MANY);
    cr_assert_eq(trace_close(t, list), EXIT_OK);
    cr_assert(fixture_holds(path, 4, MANY));
}

static long resident_kib(void) {
    long pages = 0;
    FILE *in = fopen("/proc/self/statm", "r");
    cr_assert_not_null(in);
    cr_assert_eq(fscanf(in, "%*d %ld", &pages), 1);
    fclose(in);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

/* HDF5's default caches would keep some 8 MB of old chunks here. */
Test(trace, memory_does_not_creep_with_the_rounds) {
#ifdef __SANITIZE_ADDRESS__
    cr_skip_test("AddressSanitizer keeps freed memory");
#endif
    enum { MANY = 4096 };
    fixture f;
    fixture_create(&f, MANY, 0);
    char *path = fixture_path(fixture_folder(), "trace.h5");
    problems *list = fixture_problems();
    trace *t = NULL;
    cr_assert_eq(trace_create(path, &f.header, &t, list), EXIT_OK);
    fixture_append(t, &f, 1, 2);
    cr_assert_eq(trace_flush(t, list), EXIT_OK);
    long before = resident_kib();
    fixture_append(t, &f, 3, 100);
    cr_assert_eq(trace_flush(t, list), EXIT_OK);
    long grown = resident_kib() - before;
    cr_assert_eq(trace_close(t, list), EXIT_OK);
    cr_assert_lt(grown, 1024, "%ld KiB over 98 rounds", grown);
}
