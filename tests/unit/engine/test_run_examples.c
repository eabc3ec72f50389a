/* Steps and evaluations on examples, which differ in length, against the float64 oracle: the loss is the mean
 * over the tokens of responses, and nothing else. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "oracle/oracle.h"
#include "unit/data_files.h"
#include "unit/small_run.h"

enum { WINDOWS = 20, LONGEST = 16 };

/* Prompts of 1 to 9 bytes, responses of 1 to 7, all different. */
static void make_corpus(const char *folder) {
    char path[5000], out[5000], *text = NULL;
    size_t size = 0;
    problems *list = problems_create();
    FILE *lines = open_memstream(&text, &size);
    for (int i = 0; i < 60; i++)
        fprintf(lines, "{\"prompt\": \"%.*s\", \"response\": \"%.*s\"}\n", 1 + i % 9, "the quick",
                1 + (i * 5) % 7, "abcdefghijklmnopqrstuvwxyz" + i % 20);
    fclose(lines);
    data_write(folder, "examples.jsonl", text, size);
    snprintf(path, sizeof path, "%s/examples.jsonl", folder);
    snprintf(out, sizeof out, "%s/corpus", folder);
    const char *name = "a", *source = path;
    const data_build options = {
        .n_sources = 1, .names = &name, .paths = &source, .out = out, .valid_share = 0.25, .test_share = 0.3};
    small_check(data_build_shards(&options, list), list, "corpus");
    free(text);
    problems_destroy(list);
}

static small_run open_run(const char *populations, const char *more) {
    static char corpus_[5100];
    const char *folder = small_folder();
    static int made;
    if (!made++) make_corpus(folder);
    snprintf(corpus_, sizeof corpus_, "data.corpus=%s/corpus", folder);
    const char *overrides[] = {corpus_,
                               "base.vocabulary=256",
                               "data.tokens_per_device=0",
                               "data.valid_tokens_per_device=0",
                               "data.test_tokens_per_device=0",
                               "evaluate.windows=20",
                               "trace.routing_windows=3",
                               "train.batch=5",
                               more};
    return small_open(populations, more ? 9 : 8, overrides);
}

/* Some of a device's windows, one after the other. */
typedef struct {
    int n;
    int64_t first[WINDOWS + 1];
    int32_t tokens[WINDOWS * LONGEST], targets[WINDOWS * LONGEST];
} batch;

static void add(batch *b, const data_window *at, problems *list) {
    int64_t first = b->first[b->n];
    cr_assert_eq(data_window_read(at, b->tokens + first, b->targets + first, list), EXIT_OK);
    b->first[++b->n] = first + at->tokens;
}

static batch drawn(const small_run *r, const device *d, int n) {
    batch b = {0};
    data_window at;
    for (int i = 0; i < n; i++) {
        cr_assert_eq(device_data_sample(d->data, DATA_TRAIN, 0, i, LONGEST, &at, r->problems), EXIT_OK);
        add(&b, &at, r->problems);
    }
    return b;
}

static batch evaluated(const small_run *r, const device *d) {
    batch b = {0};
    data_window at;
    int n = device_data_fixed_count(d->data, DATA_TEST, WINDOWS);
    for (int i = 0; i < n; i++) {
        cr_assert_eq(device_data_fixed(d->data, DATA_TEST, i, n, LONGEST, &at, r->problems), EXIT_OK);
        add(&b, &at, r->problems);
    }
    return b;
}

/* By the oracle: the mean loss over targets that are not -1; gradients of the device's pack, NULL: not
 * wanted. */
static double oracle_loss(const small_run *r, const device *d, const float *parameters, const batch *b,
                          double *gradients) {
    const session *s = r->session;
    const ck_shape *shape = &s->fleet->shapes[d->shape];
    double loss[WINDOWS],
        sum = 0, counted = 0,
        *weights = oracle_from_floats(s->programs.base.weights, s->programs.base.layout.total),
        *pack = oracle_from_floats(parameters + d->pack, shape->total);
    oracle_base base = {s->programs.base.shape, s->programs.base.layout, weights};
    oracle_batch given = {b->n, b->first, b->tokens, b->targets, NULL};
    oracle_pass pass = {.loss = loss, .gradients = gradients};
    (void)oracle_model(&base, shape, pack, &given, &pass);
    for (int i = 0; i < b->n; i++) sum += loss[i];
    for (int64_t t = 0; t < b->first[b->n]; t++) counted += b->targets[t] >= 0;
    cr_assert_lt(counted, (double)b->first[b->n], "nothing of a prompt is there");
    free(weights);
    free(pack);
    return sum / counted;
}

static bool differ_in_length(const batch *b) {
    for (int i = 1; i < b->n; i++)
        if (b->first[i + 1] - b->first[i] != b->first[1]) return true;
    return false;
}

Test(run_examples, a_step_learns_from_responses_alone) {
    small_run r = open_run("  - {name: f, method: fedavg, devices: 2, seed: 3}\n", NULL);
    session *s = r.session;
    const fleet *f = s->fleet;
    float *before = small_download(&r, f->parameters, f->n_parameters);
    session_begin_round(s);
    small_check(session_local_step(s, r.problems), r.problems, "step");
    float *moment = small_download(&r, f->moment1, f->n_parameters);
    for (int i = 0; i < 2; i++) {
        const device *d = &f->devices[i];
        const ck_shape *shape = &f->shapes[d->shape];
        batch b = drawn(&r, d, 5);
        double *gradients = oracle_zeros(shape->total), difference = 0, size = 0,
               expected = oracle_loss(&r, d, before, &b, gradients),
               found = metric_doubles(&s->numbers, METRIC_TRAIN_LOSS)[i] * r.settings->local_steps;
        cr_expect(differ_in_length(&b));
        cr_expect_leq(fabs(found - expected), 1e-5 * expected, "device %d: %.8g, expected %.8g", i, found,
                      expected);
        for (int64_t j = 0; j < shape->total; j++) {
            difference += pow(moment[d->pack + j] / (1.0 - 0.9) - gradients[j], 2.0);
            size += pow(gradients[j], 2.0);
        }
        cr_expect_gt(size, 0.0);
        cr_expect_leq(sqrt(difference / size), 1e-5, "device %d: gradients differ by %g", i,
                      sqrt(difference / size));
        free(gradients);
    }
    cr_expect_eq(s->agreed.expert_tokens,
                 (double)(drawn(&r, &f->devices[0], 5).first[5] + drawn(&r, &f->devices[1], 5).first[5]),
                 "the tokens counted are those that were there");
    free(before);
    free(moment);
    small_close(&r);
}

static const char *const EVALUATED = "  - {name: c, method: comigs, devices: 2, specialists: [1, 2]}\n"
                                     "  - {name: l, method: local, devices: 3}\n";

Test(run_examples, an_evaluation_is_the_mean_over_the_tokens_of_responses) {
    small_run r = open_run(EVALUATED, NULL);
    session *s = r.session;
    const fleet *f = s->fleet;
    for (int step = 0; step < 2; step++) small_check(session_local_step(s, r.problems), r.problems, "step");
    small_check(session_evaluate(s, (evaluation_order){.part = DATA_TEST, .routing = true}, METRIC_TEST_LOSS,
                                 r.problems),
                r.problems, "evaluation");
    float *parameters = small_download(&r, f->parameters, f->n_parameters);
    for (int i = 0; i < f->n_devices; i++) {
        const device *d = &f->devices[i];
        batch b = evaluated(&r, d);
        cr_expect_eq(b.n, device_data_examples(d->data, DATA_TEST));
        double expected = oracle_loss(&r, d, parameters, &b, NULL),
               found = metric_doubles(&s->numbers, METRIC_TEST_LOSS)[i];
        cr_expect_leq(fabs(found - expected), 1e-5 * expected, "device %d: %.8g, expected %.8g", i, found,
                      expected);
        /* routing is measured on prompts, too: gates of a token sum to 1 */
        const float *mean = metric_floats(&s->numbers, METRIC_GATE_MEAN) +
                            (int64_t)i * s->programs.base.shape.layers * s->numbers.shape.experts;
        for (int l = 0; l < s->programs.base.shape.layers; l++) {
            double sum = 0;
            for (int e = 0; e < f->shapes[d->shape].n_experts; e++)
                sum += mean[l * s->numbers.shape.experts + e];
            cr_expect_leq(fabs(sum - 1), 1e-5, "device %d, layer %d: gates sum to %g", i, l, sum);
        }
    }
    free(parameters);
    small_close(&r);
}

Test(run_examples, recorded_windows_end_with_their_example) {
    small_run r = open_run(EVALUATED, NULL);
    session *s = r.session;
    small_check(session_record_routing(s, r.problems), r.problems, "record");
    int64_t per_token = (int64_t)s->programs.base.shape.layers * s->numbers.shape.experts;
    cr_assert_eq(s->routing.n, 3);
    for (int w = 0; w < 3; w++) {
        const device *d = &s->fleet->devices[s->routing.devices[w]];
        const int32_t *ids = metric_ints(&s->numbers, METRIC_ROUTING_IDS) + (int64_t)w * LONGEST;
        const float *gates = metric_floats(&s->numbers, METRIC_ROUTING_GATES) + w * LONGEST * per_token;
        batch b = evaluated(&r, d);
        int nth = w < 2 ? 0 : 1; /* the third is the second of the first of two devices with routers */
        for (int t = 0; t < LONGEST; t++) {
            bool there = t < b.first[nth + 1] - b.first[nth];
            cr_expect_eq(ids[t], there ? b.tokens[b.first[nth] + t] : -1, "window %d, token %d", w, t);
            float sum = 0;
            for (int e = 0; e < s->fleet->shapes[d->shape].n_experts; e++) sum += gates[t * per_token + e];
            cr_expect(there ? fabsf(sum - 1.0F) < 1e-5F : isnan(sum) != 0, "window %d, token %d: %g", w, t,
                      (double)sum);
        }
    }
    small_close(&r);
}

/* What comes with each window moves along when a device before it is taken out. */
Test(run_examples, windows_keep_their_numbers_when_a_device_leaves_the_wave) {
    small_run r = open_run(EVALUATED, NULL);
    fleet *f = r.session->fleet;
    wave_buffer *w = r.session->waves.filling;
    data_window at[4];
    for (int i = 0; i < 4; i++) {
        const device *d = &f->devices[i];
        wave_add_device(w, f, i, 0);
        cr_assert_eq(device_data_sample(d->data, DATA_TRAIN, 0, 2 * i, LONGEST, &at[i], r.problems), EXIT_OK);
        cr_assert_eq(wave_add_window(w, &at[i], r.problems), EXIT_OK);
    }
    fleet_stop(f, 0); /* devices 0 and 1 */
    wave_drop_stopped(w, f);
    cr_assert(w->n_devices == 2 && w->n_sequences == 2);
    cr_expect(at[0].tokens != at[2].tokens || at[1].tokens != at[3].tokens, "windows before are as long");
    for (int i = 0; i < 2; i++) {
        int32_t tokens[LONGEST], targets[LONGEST];
        const data_window *expected = &at[2 + i];
        cr_assert_eq(data_window_read(expected, tokens, targets, r.problems), EXIT_OK);
        cr_expect_eq(wave_tokens(w, i), expected->tokens);
        cr_expect_eq(wave_counted(w, i), expected->tokens - expected->skipped);
        cr_expect_eq(w->place[i], expected->place);
        cr_expect_arr_eq(w->tokens + w->first_token[i], tokens, (size_t)expected->tokens * sizeof *tokens);
        cr_expect_arr_eq(w->targets + w->first_token[i], targets, (size_t)expected->tokens * sizeof *targets);
    }
    wave_clear(w);
    small_close(&r);
}

/* Waves that hold one device's step and a few windows of an evaluation, against waves that hold all. */
Test(run_examples, waves_of_many_lengths_change_no_bit) {
    const char *sizes[] = {"wave_tokens=80", NULL};
    float *parameters[2];
    double losses[2][5];
    for (int i = 0; i < 2; i++) {
        small_run r = open_run(EVALUATED, sizes[i]);
        session *s = r.session;
        cr_expect(i == 1 || s->plan.limits.max_tokens == 80);
        for (int step = 0; step < 3; step++) {
            small_check(session_local_step(s, r.problems), r.problems, "step");
            small_check(session_follow_ups(s, r.problems), r.problems, "bursts");
        }
        small_check(
            session_evaluate(s, (evaluation_order){.part = DATA_VALID}, METRIC_VALID_LOSS, r.problems),
            r.problems, "evaluation");
        parameters[i] = small_download(&r, s->fleet->parameters, s->fleet->n_parameters);
        memcpy(losses[i], metric_doubles(&s->numbers, METRIC_VALID_LOSS), sizeof losses[i]);
        if (i == 1)
            cr_expect_arr_eq(parameters[0], parameters[1], (size_t)s->fleet->n_parameters * sizeof(float));
        small_close(&r);
    }
    cr_expect_arr_eq(losses[0], losses[1], sizeof losses[0]);
    free(parameters[0]);
    free(parameters[1]);
}
