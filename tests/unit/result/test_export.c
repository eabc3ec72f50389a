/* test_export.c - tables of a made-up run as CSV: every value from its place, to the last bit, under the
 * right names. */
#include "result/export.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "unit/trace_fixture.h"

enum { DEVICES = 4, WINDOWS = 3, ROUNDS = 5 };

typedef struct {
    fixture run;
    char *folder;
    trace *trace;
    problems *list;
} result;

/* A run that is still going: closed by the caller, or not. */
static result start(int windows) {
    result r = {.folder = fixture_folder(), .list = fixture_problems()};
    fixture_create(&r.run, DEVICES, windows);
    cr_assert_eq(trace_create(fixture_path(r.folder, "trace.h5"), &r.run.header, &r.trace, r.list), EXIT_OK);
    fixture_append(r.trace, &r.run, 1, ROUNDS);
    cr_assert_eq(trace_flush(r.trace, r.list), EXIT_OK);
    return r;
}

static result finished(int windows) {
    result r = start(windows);
    cr_assert_eq(trace_close(r.trace, r.list), EXIT_OK);
    return r;
}

static char *table_of(const result *r, const char *name) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    exit_code code = trace_export(r->folder, name, out, NULL, r->list);
    fclose(out);
    cr_assert_eq(code, EXIT_OK, "%s: %s", name,
                 problems_count(r->list) ? problems_message(r->list, 0) : "no message");
    return fixture_keep(text);
}

static int count_lines(const char *text) {
    int n = 0;
    for (; *text; text++) n += *text == '\n';
    return n;
}

/* The number that ends the line that begins with these words. */
static double number_after(const char *text, const char *begin) {
    char wanted[256];
    snprintf(wanted, sizeof wanted, "\n%s", begin);
    const char *line = strstr(text, wanted);
    cr_assert_not_null(line, "no line begins with %s in\n%.2000s", begin, text);
    return strtod(line + strlen(wanted), NULL);
}

static const char *const name_of[] = {"comigs-1g1s,42", "\"local, poor\",18446744073709551615"};

static void device_words(char words[96], int device) {
    int population = device >= DEVICES / 2;
    snprintf(words, 96, "%s,%d", name_of[population], population ? device - DEVICES / 2 : device);
}

Test(export, populations_and_devices_are_as_they_were_declared) {
    result r = finished(WINDOWS);
    cr_expect_str_eq(
        table_of(&r, "populations"),
        "population,seed,method,devices,generalists,specialists,rank,top_k,tokens_per_device,split,gates,"
        "evaluation,point,revision,diverged_round\n"
        "comigs-1g1s,42,comigs,2,1,1,8,2,40000,natural,top_k,in_distribution,,,\n"
        "\"local, poor\",18446744073709551615,local,2,2,0,4,2,15000,natural,mean,out_of_distribution,,,\n");
    cr_expect_str_eq(table_of(&r, "devices"),
                     "population,seed,device,source,source_name,experts,train_tokens,valid_tokens,test_"
                     "tokens,parameters_shared,"
                     "parameters_private,entropy_nats_per_token,generalists,specialists,rank\n"
                     "comigs-1g1s,42,0,0,german,2,1000,100,200,4096,8192,,1,1,8\n"
                     "comigs-1g1s,42,1,1,french,2,1001,101,201,4096,8192,1.25,1,1,8\n"
                     "\"local, poor\",18446744073709551615,0,2,\"topic, 3\",2,1002,102,202,0,8192,2.5,2,0,4\n"
                     "\"local, poor\",18446744073709551615,1,0,french,2,1003,103,203,0,8192,3.75,2,0,4\n");
}

/* The devices of population 0 as given, of a trace with nothing but its tables of declarations. */
static result declared(int generalists, int specialists, int rank) {
    result r = {.folder = fixture_folder(), .list = fixture_problems()};
    fixture_create(&r.run, DEVICES, 0);
    r.run.devices[0].generalists = generalists;
    r.run.devices[0].specialists = specialists;
    r.run.devices[0].rank = rank;
    cr_assert_eq(trace_create(fixture_path(r.folder, "trace.h5"), &r.run.header, &r.trace, r.list), EXIT_OK);
    cr_assert_eq(trace_close(r.trace, r.list), EXIT_OK);
    return r;
}

Test(export, devices_that_differ_have_a_number_each) {
    result r = declared(2, 0, 16);
    cr_expect(strstr(table_of(&r, "populations"), "comigs-1g1s,42,comigs,2,2 1,0 1,16 8,2,40000,"), "%s",
              table_of(&r, "populations"));
    cr_expect(strstr(table_of(&r, "devices"), ",4096,8192,,2,0,16\n"), "%s", table_of(&r, "devices"));
}

/* It says how many experts a device has, and no more: the columns that came later are read as 0. */
Test(export, devices_of_an_older_trace_are_as_their_population) {
    result r = declared(0, 0, 0);
    cr_expect(strstr(table_of(&r, "populations"), "comigs-1g1s,42,comigs,2,1,1,8,2,40000,"), "%s",
              table_of(&r, "populations"));
    cr_expect(strstr(table_of(&r, "devices"), ",4096,8192,,1,1,8\n"), "%s", table_of(&r, "devices"));
}

/* Sources by their names, from where the population's begin; none of which a device has nothing. */
Test(export, mixtures_have_a_line_for_each_source_of_a_device) {
    result r = finished(WINDOWS);
    cr_expect_str_eq(table_of(&r, "mixture"), "population,seed,device,source,source_name,train_tokens\n"
                                              "comigs-1g1s,42,0,0,german,900\n"
                                              "comigs-1g1s,42,0,1,french,100\n"
                                              "comigs-1g1s,42,1,1,french,900\n"
                                              "comigs-1g1s,42,1,2,italian,101\n"
                                              "\"local, poor\",18446744073709551615,0,0,french,102\n"
                                              "\"local, poor\",18446744073709551615,0,2,\"topic, 3\",900\n"
                                              "\"local, poor\",18446744073709551615,1,0,french,900\n"
                                              "\"local, poor\",18446744073709551615,1,1,italian,103\n");
}

Test(export, losses_keep_every_bit_and_rounds_without_evaluation_have_none) {
    static const char *const splits[] = {"train", "valid", "test", "test_after"};
    result r = finished(WINDOWS);
    char *text = table_of(&r, "loss"), begin[160], words[96];
    cr_expect_eq(count_lines(text), 1 + DEVICES * (ROUNDS + 3 * (ROUNDS / 2)));
    for (int round = 1; round <= ROUNDS; round++)
        for (int d = 0; d < DEVICES; d++)
            for (int split = 0; split < (round % 2 ? 1 : 4); split++) {
                device_words(words, d);
                snprintf(begin, sizeof begin, "%d,%s,%s,", round, words, splits[split]);
                cr_expect_eq(number_after(text, begin), fixture_loss(split, round, d), "%s", begin);
            }
}

Test(export, routing_names_the_kind_of_every_expert) {
    result r = finished(WINDOWS);
    char *text = table_of(&r, "routing"), begin[160], words[96];
    cr_expect_eq(count_lines(text), 1 + ROUNDS / 2 * DEVICES * FIXTURE_LAYERS * FIXTURE_EXPERTS);
    for (int64_t at = 0; at < DEVICES * FIXTURE_LAYERS * FIXTURE_EXPERTS; at++) {
        int device = (int)(at / 4), layer = (int)(at / 2 % 2), expert = (int)(at % 2);
        const char *kind =
            /* the second population has two generalists */
            device >= DEVICES / 2 || expert == 0 ? "generalist" : "specialist";
        device_words(words, device);
        snprintf(begin, sizeof begin, "4,%s,%d,%d,%s,", words, layer, expert, kind);
        cr_expect_eq((float)number_after(text, begin), fixture_gate(4, at));
    }
}

Test(export, experts_that_do_not_exist_have_no_line) {
    result r = start(WINDOWS);
    metric_row row = fixture_row(&r.run, 6);
    /* device 0, layer 1, expert 1 */
    metric_floats(&row, METRIC_GATE_MEAN)[3] = metric_floats(&row, METRIC_TOKEN_SHARE)[3] = NAN;
    cr_assert_eq(trace_append(r.trace, &row, r.list), EXIT_OK);
    cr_assert_eq(trace_close(r.trace, r.list), EXIT_OK);
    char *text = table_of(&r, "routing");
    cr_expect_not_null(strstr(text, "\n6,comigs-1g1s,42,0,1,0,"));
    cr_expect_null(strstr(text, "\n6,comigs-1g1s,42,0,1,1,"));
    cr_expect_null(strstr(text, "nan"));
}

Test(export, tokens_belong_to_the_device_of_their_window) {
    result r = finished(WINDOWS);
    char *text = table_of(&r, "tokens"), begin[160], words[96];
    cr_expect_eq(count_lines(text),
                 1 + ROUNDS / 2 * WINDOWS * FIXTURE_SEQUENCE * FIXTURE_LAYERS * FIXTURE_EXPERTS);
    for (int w = 0; w < WINDOWS; w++)
        for (int t = 0; t < FIXTURE_SEQUENCE; t++) {
            int64_t token = w * FIXTURE_SEQUENCE + t;
            device_words(words, w);
            snprintf(begin, sizeof begin, "2,%d,%s,%d,%lld,1,0,generalist,", w, words, t,
                     2000 + (long long)token);
            cr_expect_eq((float)number_after(text, begin), fixture_gate(2, token * 4 + 2));
        }
}

static void expect_begin(const char *text, const char *begin) {
    cr_expect_eq(strncmp(text, begin, strlen(begin)), 0, "%.200s", text);
}

Test(export, traffic_and_time_have_their_units_in_the_header) {
    result r = finished(WINDOWS);
    char *traffic = table_of(&r, "traffic"), *seconds = table_of(&r, "time");
    expect_begin(traffic,
                 "round,population,seed,device,bytes_up,bytes_down\n1,comigs-1g1s,42,0,8589934592,0\n");
    cr_expect_eq(count_lines(traffic), 1 + ROUNDS * DEVICES);
    cr_expect_eq(
        strncmp(seconds,
                "round,phase,seconds\n1,train,0.5\n1,evaluate,0.25\n1,aggregate,0.125\n1,total,0.875\n2,",
                76),
        0, "%.200s", seconds);
}

/* Every metric of a device or a population, a line each: nothing is listed by hand. Rounds that were not
 * evaluated have no lines of theirs.
 */
Test(export, metrics_in_long_form) {
    result r = finished(WINDOWS);
    char *text = table_of(&r, "metrics"), words[96], begin[160];
    int lines = 1;
    for (metric_id id = 0; id < METRIC_COUNT; id++) {
        bool of_device = metrics[id].axes == METRIC_OF_DEVICE;
        if (!of_device && metrics[id].axes != METRIC_OF_POPULATION) continue;
        int rounds = metrics[id].when == METRIC_EACH_ROUND ? ROUNDS : ROUNDS / 2;
        if (metrics[id].derive) continue; /* the made-up run has only what is measured */
        lines += rounds * (of_device ? DEVICES : 2);
    }
    cr_expect_eq(count_lines(text), lines);
    device_words(words, 1);
    snprintf(begin, sizeof begin, "2,%s,loss/test,nats/token,", words);
    cr_expect_eq(number_after(text, begin), fixture_loss(2, 2, 1));
    snprintf(begin, sizeof begin, "1,%s,traffic/bytes_up,bytes,", words);
    cr_expect_eq(number_after(text, begin), 8589934592.0);
    cr_expect_null(strstr(text, "nan"));
}

Test(export, a_run_that_is_still_going_can_be_read) {
    result r = start(WINDOWS);
    cr_expect_eq(count_lines(table_of(&r, "traffic")), 1 + ROUNDS * DEVICES);
    fixture_append(r.trace, &r.run, ROUNDS + 1, ROUNDS + 2);
    cr_assert_eq(trace_flush(r.trace, r.list), EXIT_OK);
    cr_expect_eq(count_lines(table_of(&r, "traffic")), 1 + (ROUNDS + 2) * DEVICES);
    cr_assert_eq(trace_close(r.trace, r.list), EXIT_OK);
}

Test(export, all_tables_become_files) {
    static const char *const names[] = {"populations.csv", "devices.csv", "loss.csv",   "routing.csv",
                                        "traffic.csv",     "time.csv",    "metrics.csv"};
    result r = finished(0);
    char *out = fixture_path(r.folder, "tables");
    struct stat info;
    cr_assert_eq(trace_export_all(r.folder, out, r.list), EXIT_OK);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        cr_expect_eq(stat(fixture_path(out, names[i]), &info), 0, "%s is missing", names[i]);
        cr_expect_gt(info.st_size, 0);
    }
    cr_expect_neq(stat(fixture_path(out, "tokens.csv"), &info), 0, "no window was recorded");
    cr_expect_eq(trace_export_all(r.folder, out, r.list), EXIT_OK,
                 "the tables of a longer run replace those of a shorter one");
}

/* Devices 0 and 2 take two expert steps a round; device 2 one router step in even rounds, of one window; the
 * others stopped before. */
Test(export, windows_are_numbered_over_all_rounds) {
    enum { STEPS = 2, BATCH = 3 };
    int64_t train[DEVICES * STEPS * BATCH], valid[DEVICES * 1 * 2];
    result r = {.folder = fixture_folder(), .list = fixture_problems()};
    fixture_create(&r.run, DEVICES, 0);
    r.run.header.sampling = (sampling_shape){STEPS, BATCH, 1, 2, true, false};
    cr_assert_eq(trace_create(fixture_path(r.folder, "trace.h5"), &r.run.header, &r.trace, r.list), EXIT_OK);
    for (int round = 1; round <= 4; round++) {
        metric_row row = fixture_row(&r.run, round);
        for (int i = 0; i < DEVICES * STEPS * BATCH; i++)
            train[i] = i / (STEPS * BATCH) % 2 ? -1 : 1000 * round + i;
        for (int i = 0; i < DEVICES * 2; i++) valid[i] = i == 4 && round % 2 == 0 ? 7000 + round : -1;
        row.values[METRIC_TRAIN_WINDOWS] = train;
        row.values[METRIC_VALID_WINDOWS] = valid;
        cr_assert_eq(trace_append(r.trace, &row, r.list), EXIT_OK);
    }
    cr_assert_eq(trace_close(r.trace, r.list), EXIT_OK);
    char *text = table_of(&r, "windows");
    cr_expect_eq(count_lines(text), 1 + 4 * 2 * STEPS * BATCH + 2);
    cr_expect_eq(number_after(text, "1,comigs-1g1s,42,0,train,0,0,"), 1000);
    cr_expect_eq(number_after(text, "1,comigs-1g1s,42,0,train,1,2,"), 1005);
    cr_expect_eq(number_after(text, "4,\"local, poor\",18446744073709551615,0,train,7,1,"), 4000 + 12 + 4);
    cr_expect_eq(number_after(text, "2,\"local, poor\",18446744073709551615,0,valid,0,0,"), 7002);
    cr_expect_eq(number_after(text, "4,\"local, poor\",18446744073709551615,0,valid,1,0,"), 7004);
}

static void expect_refused(const char *folder, const char *table, const char *path, const char *expected) {
    problems *list = fixture_problems();
    cr_expect_eq(trace_export(folder, table, stdout, path, list), EXIT_INPUT);
    cr_assert_eq(problems_count(list), 1);
    cr_expect_not_null(strstr(problems_message(list, 0), expected), "%s", problems_message(list, 0));
}

Test(export, refusals_say_what_would_be_right) {
    result r = finished(0);
    char *file = fixture_path(r.folder, "t.csv");
    expect_refused(r.folder, "losses", file,
                   "there is no table 'losses'; a result has populations, devices, mixture, loss, routing,");
    expect_refused(
        r.folder, "tokens", file,
        "the run recorded no tokens; ask for them in its configuration (trace.routing_windows: 2)");
    expect_refused("/nowhere", "loss", file, "/nowhere: cannot be opened: there is no such folder");
    expect_refused(r.folder, "loss", "/nowhere/t.csv", "/nowhere/t.csv: cannot be written");
    cr_expect_neq(access(file, F_OK), 0, "a refused export left a file");
}

Test(export, a_trace_that_contradicts_itself_is_refused) {
    result r = {.folder = fixture_folder(), .list = fixture_problems()};
    fixture_create(&r.run, DEVICES, WINDOWS);
    r.run.devices[1].population = 7;
    cr_assert_eq(trace_create(fixture_path(r.folder, "trace.h5"), &r.run.header, &r.trace, r.list), EXIT_OK);
    cr_assert_eq(trace_close(r.trace, r.list), EXIT_OK);
    expect_refused(r.folder, "loss", NULL, "its tables contradict each other");
}
