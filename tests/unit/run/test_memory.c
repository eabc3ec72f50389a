/* What a run takes in memory: near its plan, flat over rounds, and refused before it starts where it cannot
 * fit. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <malloc.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/checkpoints.h"
#include "run/rounds.h"
#include "run/trace_open.h"
#include "support/memory.h"
#include "unit/small_run.h"

#if defined(__SANITIZE_ADDRESS__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

enum { TEXT_BYTES = 1 << 16, MOST_ARGUMENTS = 16 };

/* ---- The program as a process of its own ---- */

typedef struct {
    int status;
    double peak; /* MiB */
    char text[TEXT_BYTES];
} outcome;

static void redirect(const char *path) {
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (file < 0 || dup2(file, STDOUT_FILENO) < 0 || dup2(file, STDERR_FILENO) < 0) _exit(127);
}

/* Words are separated by blanks. */
static void run_program(const char *words, outcome *out) {
    static char copy[8192], path[5000];
    char *argv[MOST_ARGUMENTS + 1] = {(char *)COHORT_BINARY};
    int n = 1;
    struct rusage used;
    snprintf(copy, sizeof copy, "%s", words);
    snprintf(path, sizeof path, "%s/output.txt", small_folder());
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " ")) {
        cr_assert_lt(n, MOST_ARGUMENTS);
        argv[n++] = word;
    }
    pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child == 0) {
        redirect(path);
        execv(COHORT_BINARY, argv);
        _exit(127);
    }
    cr_assert_eq(wait4(child, &out->status, 0, &used), child);
    cr_assert(WIFEXITED(out->status), "cohort %s: ended by a signal", words);
    out->status = WEXITSTATUS(out->status);
    out->peak = (double)used.ru_maxrss / 1024.0;
    FILE *file = fopen(path, "r");
    cr_assert_not_null(file);
    out->text[fread(out->text, 1, sizeof out->text - 1, file)] = '\0';
    fclose(file);
}

static const char *write_config(const char *text) {
    static char path[5000];
    snprintf(path, sizeof path, "%s/memory.yaml", small_folder());
    FILE *file = fopen(path, "w");
    cr_assert_not_null(file);
    fputs(text, file);
    fclose(file);
    return path;
}

/* The number before `unit` in the line that holds `mark`. */
static double number_before(const char *text, const char *mark, const char *unit) {
    const char *at = strstr(text, mark);
    cr_assert_not_null(at, "no '%s' in: %s", mark, text);
    while (at > text && at[-1] != '\n') at--;
    const char *end = strstr(at, unit);
    cr_assert_not_null(end);
    while (end > at && strchr(" ", end[-1])) end--;
    while (end > at && strchr("0123456789.", end[-1])) end--;
    return strtod(end, NULL);
}

static double planned(const char *config, const char *options, outcome *o) {
    char words[6000];
    snprintf(words, sizeof words, "check %s%s", config, options);
    run_program(words, o);
    cr_assert_eq(o->status, 0, "%s", o->text);
    double plan = number_before(o->text, "in total", "MiB");
    cr_expect_leq(o->peak, plan + 16.0, "the check itself took %.1f MiB, the run is planned with %.1f MiB",
                  o->peak, plan);
    return plan;
}

#define SMALL_TEXT                                                                                           \
    "data: {tokens_per_device: 400, valid_tokens_per_device: 200, test_tokens_per_device: 200, sequence: "   \
    "16,\n"                                                                                                  \
    "  synthetic: {topics: 2, vocabulary: 64, branching: 4}}\n"                                              \
    "train: {rounds: 2, local_steps: 2, batch: 1, router: {every: 2, steps: 1}}\n"                           \
    "evaluate: {every: 2, windows: 1}\n"                                                                     \
    "checkpoint: {every: 1}\n"

/* With the least memory_limit that the plan admits. */
static void expect_peak_near_plan_with(const char *text, const char *options, const char *name) {
    static outcome o;
    char words[6000];
    if (SANITIZED) cr_skip_test("a sanitizer's shadow memory is not in the plan");
    const char *config = write_config(text);
    double plan = planned(config, options, &o);
    snprintf(words, sizeof words, "run %s%s --out %s/%s --set memory_limit=%.0f", config, options,
             small_folder(), name, ceil(plan) + 2.0);
    run_program(words, &o);
    cr_assert_eq(o.status, 0, "%s", o.text);
    double allowed = fmax(0.1 * o.peak, 16.0);
    cr_expect_leq(fabs(plan - o.peak), allowed,
                  "planned %.1f MiB, took %.1f MiB; %.1f MiB of difference are allowed", plan, o.peak,
                  allowed);
    cr_log_info("planned %.1f MiB, took %.1f MiB", plan, o.peak);
}

static void expect_peak_near_plan(const char *text) {
    expect_peak_near_plan_with(text, "", "peak");
}

/* With and without the report, for which the rate of matrix products is measured. */
Test(memory, plan_is_near_the_peak_whatever_the_threads) {
    static const char *const options[] = {" --threads 2", " --threads 16", " --threads 64"};
    static const char *const texts[] = {
        "base: {layers: 2, width: 32, heads: 2, pretrain: {tokens: 2000}}\n" SMALL_TEXT
        "populations:\n  - {name: l, method: local, devices: 4}\n  - {name: c, method: comigs, devices: 4}\n",
        "base: {layers: 1, width: 16, heads: 1, pretrain: {tokens: 0}}\n" SMALL_TEXT
        "experts: {rank: 1}\nattention: {rank: 1}\n"
        "populations:\n  - {name: l, method: local, devices: 2}\n"};
    char with[64], name[32];
    for (int t = 0; t < 2; t++)
        for (int i = 0; i < 3; i++)
            for (int quiet = 0; quiet < 2; quiet++) {
                snprintf(with, sizeof with, "%s", options[i]);
                snprintf(name, sizeof name, "peak-%d-%d-%d%s", t, i, quiet, quiet ? " --quiet" : "");
                expect_peak_near_plan_with(texts[t], with, name);
            }
}

Test(memory, plan_is_near_the_peak_of_many_small_devices) {
    expect_peak_near_plan("base: {layers: 2, width: 32, heads: 2, pretrain: {tokens: 0}}\n" SMALL_TEXT
                          "experts: {rank: 4}\nattention: {rank: 4}\n"
                          "populations:\n  - {name: c, method: comigs, devices: 1000}\n");
}

Test(memory, plan_is_near_the_peak_of_a_wide_base) {
    expect_peak_near_plan("base: {layers: 4, width: 768, heads: 12, pretrain: {tokens: 0}}\n" SMALL_TEXT
                          "populations:\n  - {name: c, method: comigs, devices: 2}\n");
}

Test(memory, plan_is_near_the_peak_of_a_large_vocabulary) {
    expect_peak_near_plan(
        "base: {layers: 1, width: 128, heads: 2, vocabulary: 65536, pretrain: {tokens: 0}}\n" SMALL_TEXT
        "populations:\n  - {name: c, method: comigs, devices: 8}\n");
}

Test(memory, plan_counts_what_pretraining_takes) {
    expect_peak_near_plan(
        "base: {layers: 2, width: 512, heads: 8, pretrain: {tokens: 400, batch: 2}}\n" SMALL_TEXT
        "populations:\n  - {name: c, method: local, devices: 2}\n");
}

/* Every linear of the base once more: 4 layers of 7,084,800 values, 108.1 MiB. */
Test(memory, plan_counts_variants_of_the_base) {
    static outcome o;
    static char text[16384], words[6000], folder[5000];
    const char *base = "base: {layers: 4, width: 768, heads: 12, pretrain: {tokens: 0}}\n" SMALL_TEXT;
    snprintf(folder, sizeof folder, "%s/variant", small_folder());
    snprintf(text, sizeof text, "%spopulations:\n  - {name: c, method: comigs, devices: 2}\n", base);
    snprintf(words, sizeof words, "pretrain %s --out %s", write_config(text), folder);
    run_program(words, &o);
    cr_assert_eq(o.status, 0, "%s", o.text);
    snprintf(text, sizeof text,
             "%spopulations:\n  - {name: c, method: comigs, devices: 2, base: {variant: %s}}\n"
             "  - {name: d, method: local, devices: 1, base: {variant: %s}}\n",
             base, folder, folder);
    expect_peak_near_plan(text);
    double plan = planned(write_config(text), "", &o);
    cr_expect_float_eq(number_before(o.text, "MiB  variants of the base", "MiB"), 108.1, 0.06, "%s", o.text);
    snprintf(words, sizeof words, "check %s --set memory_limit=%.0f", write_config(text), plan - 60.0);
    run_program(words, &o);
    cr_expect_eq(o.status, 3, "status %d: %s", o.status, o.text);
    cr_expect(strstr(o.text, "108 MiB of it for base variants") &&
                  strstr(o.text, "108.1 MiB for base.variant of population 'c'"),
              "%s", o.text);
}

/* A fourth array of packs. */
Test(memory, plan_counts_carried_gradients) {
    static outcome o;
    const char *strict = "base: {layers: 2, width: 32, heads: 2, pretrain: {tokens: 0}}\n" SMALL_TEXT
                         "populations:\n  - {name: c, method: comigs, devices: 1000}\n";
    char released[2048];
    snprintf(released, sizeof released, "as_released: true\n%s", strict);
    planned(write_config(strict), "", &o);
    double packs = number_before(o.text, "adapters and AdamW", "MiB");
    planned(write_config(released), "", &o);
    double more = number_before(o.text, "adapters and AdamW", "MiB");
    cr_expect_float_eq(more / packs, 4.0 / 3.0, 0.01, "%.1f MiB grew to %.1f MiB", packs, more);
}

/* There is no second copy of the adapters: what most of a large federation's memory is. */
Test(memory, a_checkpoint_takes_little_beside_the_adapters) {
    static outcome o;
    const char *text = "base: {layers: 2, width: 64, heads: 2, pretrain: {tokens: 0}}\n" SMALL_TEXT
                       "populations:\n  - {name: c, method: comigs, devices: 1000}\n";
    expect_peak_near_plan(text);
    double plan = planned(write_config(text), "", &o),
           packs = number_before(o.text, "adapters and AdamW", "MiB");
    cr_expect_gt(packs, 300.0);
    cr_expect_leq(plan, 1.5 * packs, "%.1f MiB in total, %.1f MiB of them are adapters and their moments",
                  plan, packs);
    cr_expect_leq(number_before(o.text, "into a checkpoint", "MiB"), 8.0);
}

static double peak_here(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)used.ru_maxrss / 1024.0;
}

Test(memory, measuring_the_rate_of_products_takes_what_it_says) {
    ck_backend *backend = NULL;
    if (SANITIZED) cr_skip_test("a sanitizer's shadow memory is not counted");
    cr_assert_eq(ck_open("cpu", 16, &backend), CK_OK, "%s", ck_last_error(NULL));
    double before = peak_here(), said = (double)ck_ceiling_bytes(backend) / 1048576.0;
    cr_expect_gt(ck_measure_ceiling(backend, CK_F32).product, 0.0);
    double took = peak_here() - before;
    cr_expect(took <= said + 2.0 && took >= 0.5 * said - 2.0, "said %.1f MiB, took %.1f MiB", said, took);
    ck_close(backend);
}

/* ---- What cannot fit ---- */

static const char *const MANY =
    "base: {layers: 2, width: 32, heads: 2, pretrain: {tokens: 0}}\n" SMALL_TEXT "memory_limit: %d\n"
    "populations:\n  - {name: c, method: comigs, devices: %d}\n";

static void plan_devices(int limit, int devices, outcome *o) {
    char text[2048], words[6000];
    snprintf(text, sizeof text, MANY, limit, devices);
    snprintf(words, sizeof words, "check %s", write_config(text));
    run_program(words, o);
}

Test(memory, a_run_that_cannot_fit_is_refused_and_the_largest_number_of_devices_named) {
    static outcome o;
    char text[2048], words[6000], out[5000];
    if (SANITIZED) cr_skip_test("a sanitizer's shadow memory is not in the plan");
    const int limit = 100, devices = 2000;
    snprintf(text, sizeof text, MANY, limit, devices);
    snprintf(out, sizeof out, "%s/refused", small_folder());
    snprintf(words, sizeof words, "run %s --out %s", write_config(text), out);
    run_program(words, &o);
    cr_assert_eq(o.status, 3, "status %d: %s", o.status, o.text);
    cr_expect_neq(access(out, F_OK), 0, "something was written");
    cr_expect(strstr(o.text, "of its 2000 devices at most ") && strstr(o.text, "100 MiB memory_limit allows"),
              "%s", o.text);
    int fit = (int)number_before(o.text, "at most", " fit");
    cr_expect(fit > 50 && fit < 1000, "%d devices", fit);
    plan_devices(limit, fit, &o);
    cr_expect_eq(o.status, 0, "%d devices were promised to fit: %s", fit, o.text);
    plan_devices(limit, fit + fit / 20 + 5, &o);
    cr_expect_eq(o.status, 3, "%d devices should not fit where %d are the most: %s", fit + fit / 20 + 5, fit,
                 o.text);
}

/* The list of the devices alone would take gigabytes: it is not made. */
Test(memory, a_list_of_devices_that_cannot_fit_is_not_made) {
    static outcome o;
    if (SANITIZED) cr_skip_test("a sanitizer's shadow memory is not in the plan");
    plan_devices(100, 16777216, &o);
    cr_assert_eq(o.status, 3, "status %d: %s", o.status, o.text);
    cr_expect(strstr(o.text, "for the list of its 16777216 devices alone") &&
                  strstr(o.text, "100 MiB memory_limit allows"),
              "%s", o.text);
    cr_expect_leq(o.peak, 100.0, "it took %.1f MiB to find out", o.peak);
}

/* Long texts need more than a small base does, and are not laid at its door. */
Test(memory, texts_that_cannot_fit_are_counted_in_devices) {
    static outcome o;
    char text[2048], words[6000];
    if (SANITIZED) cr_skip_test("a sanitizer's shadow memory is not in the plan");
    const char *const config =
        "base: {layers: 2, width: 32, heads: 2, pretrain: {tokens: 0}}\n"
        "data: {corpus: synthetic, tokens_per_device: 1000000, sequence: 32}\nmemory_limit: 80\n"
        "populations:\n  - {name: l, method: local, devices: %d}\n";
    snprintf(text, sizeof text, config, 60);
    snprintf(words, sizeof words, "check %s", write_config(text));
    run_program(words, &o);
    cr_assert_eq(o.status, 3, "status %d: %s", o.status, o.text);
    int fit = (int)number_before(o.text, "of its 60 devices at most", " fit");
    cr_assert(fit >= 5 && fit < 60, "%d devices: %s", fit, o.text);
    snprintf(text, sizeof text, config, fit);
    snprintf(words, sizeof words, "check %s", write_config(text));
    run_program(words, &o);
    cr_expect_eq(o.status, 0, "%d devices were promised to fit: %s", fit, o.text);
}

Test(memory, a_base_that_cannot_fit_is_refused_by_name) {
    static outcome o;
    char words[6000];
    const char *config =
        write_config("base: {layers: 8, width: 1024, heads: 8, pretrain: {tokens: 1000}}\n" SMALL_TEXT
                     "memory_limit: 200\n"
                     "populations:\n  - {name: c, method: comigs, devices: 2}\n");
    snprintf(words, sizeof words, "run %s --out %s/refused", config, small_folder());
    run_program(words, &o);
    cr_expect_eq(o.status, 3, "status %d: %s", o.status, o.text);
    cr_expect(strstr(o.text, "pre-training the base") && strstr(o.text, "200 MiB memory_limit allows"), "%s",
              o.text);
}

/* ---- Over rounds ---- */

typedef struct {
    small_run run;
    checkpoint state;
    result_folder folder;
    rounds rounds;
} long_run;

static void open_long_run(long_run *l) {
    const char *overrides[] = {"train.local_steps=1", "train.batch=1",    "train.router.steps=1",
                               "experts.rank=32",     "evaluate.every=2", "evaluate.windows=1"};
    char path[FOLDER_PATH_BYTES];
    l->run = small_open("  - {name: c, method: comigs, devices: 80, as_released: true}\n  - {name: f, "
                        "method: fedavg, devices: 80}\n",
                        6, overrides);
    snprintf(l->folder.path, sizeof l->folder.path, "%s", small_folder());
    small_check(checkpoints_create(l->run.session, &l->state, l->run.problems), l->run.problems,
                "checkpoint");
    l->rounds =
        (rounds){.session = l->run.session, .checkpoint = &l->state, .folder = &l->folder, .quiet = true};
    result_path(&l->folder, "trace.h5", path);
    small_check(session_open_trace(l->run.session, path, 0, &l->rounds.trace, l->run.problems),
                l->run.problems, "trace");
}

/* There is a checkpoint before round 2 is measured, and more of them before round 200 (each waits for the
 * disk). */
static double resident_after(long_run *l, int round) {
    l->run.settings->rounds = round;
    l->run.settings->checkpoint_every = round == 2 ? 1 : 15;
    small_check(rounds_run(&l->rounds, l->run.problems), l->run.problems, "rounds");
    l->state.round = round;
    memory_give_back(); /* what is free in the heap is touched now or later, as it happens */
    return (double)memory_resident() / 1048576.0;
}

/* What is allocated of the main thread's heap, MiB. */
static double held(void) {
    struct mallinfo2 info = mallinfo2();
    return (double)(info.uordblks + info.hblkhd) / 1048576.0;
}

Test(memory, is_flat_from_round_2_to_round_200) {
    static long_run l;
    if (SANITIZED) cr_skip_test("a sanitizer keeps what was freed");
    open_long_run(&l);
    double early = resident_after(&l, 2);
    resident_after(&l, 50);
    double held_early = held(), late = resident_after(&l, 200), held_late = held();
    cr_expect_leq(late, 1.01 * early, "%.2f MiB after round 2, %.2f MiB after round 200", early, late);
    /* Finer than pages: HDF5 remembers where a table's chunks are, nothing else may grow. */
    cr_expect_leq(held_late, held_early + 0.15, "%.3f MiB allocated after round 50, %.3f MiB after round 200",
                  held_early, held_late);
    cr_log_info("%.2f MiB after round 2, %.2f MiB after round 200; allocated %.3f and %.3f MiB", early, late,
                held_early, held_late);
    small_check(trace_close(l.rounds.trace, l.run.problems), l.run.problems, "closing the trace");
    checkpoints_destroy(&l.state);
    small_close(&l.run);
}
