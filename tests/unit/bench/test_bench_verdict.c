/* Right and wrong, and when samples have settled. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "measure/timing.h"
#include "rig/verdict.h"

enum { COUNT = 1000 };

static void fill(float *out, double *ref) {
    for (int i = 0; i < COUNT; i++) out[i] = (float)(ref[i] = (double)(float)sin(i + 1.0));
}

Test(bench_verdict, equal_arrays_are_right_and_nothing_is_not) {
    float out[COUNT];
    double ref[COUNT];
    verdict v = {.tolerance = 1e-5};
    cr_assert(!verdict_passed(&v));
    fill(out, ref);
    verdict_compare(&v, "x", out, ref, COUNT);
    cr_assert(verdict_passed(&v) && v.checked == COUNT && v.error == 0);
}

Test(bench_verdict, one_wrong_element_of_a_thousand_is_counted_and_named) {
    float out[COUNT];
    double ref[COUNT];
    verdict v = {.tolerance = 1e-5};
    fill(out, ref);
    verdict_compare(&v, "first", out, ref, COUNT);
    out[77] += 1e-3f;
    verdict_compare(&v, "second", out, ref, COUNT);
    out[78] = 5;
    verdict_compare(&v, "third", out, ref, COUNT);
    cr_assert_eq(v.wrong, 3, "%lld are wrong", (long long)v.wrong);
    cr_assert_str_eq(v.where, "second");
}

Test(bench_verdict, an_error_too_small_for_any_element_is_wrong_in_the_norm) {
    float out[COUNT];
    double ref[COUNT];
    verdict v = {.tolerance = 1e-3};
    fill(out, ref);
    for (int i = 0; i < COUNT; i++) out[i] *= 1.002f;
    verdict_compare(&v, "x", out, ref, COUNT);
    cr_assert_eq(v.wrong, COUNT);
}

Test(bench_verdict, nan_infinity_and_what_should_be_zero_are_wrong) {
    float out[3] = {NAN, INFINITY, 1}, zero[3] = {0, 0, 1e-30f};
    double ref[3] = {1, 1, 1}, nothing[3] = {0};
    verdict v = {.tolerance = 1e-2}, z = v, f = v;
    verdict_compare(&v, "x", out, ref, 3);
    cr_assert_eq(v.wrong, 2);
    verdict_compare(&z, "x", zero, nothing, 3);
    cr_assert_eq(z.wrong, 1);
    verdict_finite(&f, "x", out, 3);
    cr_assert(f.wrong == 2 && f.checked == 0);
    verdict_exact(&f, "y", true);
    cr_assert_eq(f.checked, 1);
    cr_assert_eq(f.wrong, 2);
}

/* ---- Timing, with subjects that only say that they worked */

typedef struct {
    double seconds, wobble; /* of an iteration; by so much more every second time */
    double first;           /* instead, in the first call; 0: no difference */
    int calls, fails_at;    /* 0: never */
    /* all calls but every so many-th are preempted, and then ten times as slow; 0: none is */
    int quiet_every;
    int64_t last;
} pretender;

static bool pretend(void *who, int64_t n, sample *out) {
    pretender *p = who;
    p->calls++;
    p->last = n;
    out->seconds = (double)n * p->seconds * (p->calls % 2 ? 1 : 1 + p->wobble);
    if (p->calls == 1 && p->first > 0) out->seconds = p->first;
    out->used.cpu_seconds = 2 * out->seconds;
    if (p->quiet_every > 0 && p->calls % p->quiet_every != 0) out->seconds *= 10, out->used.preemptions = 1;
    return p->fails_at == 0 || p->calls < p->fails_at;
}

static const timing_rule QUICK = {.noise = 0.02, .seconds = 0.02, .sample_seconds = 1e-3, .least_samples = 5};

Test(bench_timing, quiet_samples_settle_at_the_least_count) {
    pretender p = {.seconds = 1e-5};
    subject s = {.who = &p, .work = pretend};
    timing_measure(&s, 1, &QUICK);
    cr_assert(s.t.settled && s.t.count == QUICK.least_samples);
    cr_assert(fabs(s.t.real.median - 1e-5) < 1e-12 && fabs(s.t.cpu_seconds[0] - 2e-5) < 1e-12);
    cr_assert(s.t.iterations >= 50 && s.t.iterations <= 200, "%lld iterations make 1 ms",
              (long long)s.t.iterations);
    timing_free(&s.t);
}

Test(bench_timing, a_slow_start_does_not_make_short_samples) {
    pretender p = {.seconds = 1e-5, .first = 1};
    subject s = {.who = &p, .work = pretend};
    timing_measure(&s, 1, &QUICK);
    cr_assert(s.t.settled && p.last >= 50, "the last sample has %lld iterations", (long long)p.last);
    timing_free(&s.t);
}

Test(bench_timing, noisy_samples_end_with_the_time_and_are_not_settled) {
    pretender p = {.seconds = 1e-5, .wobble = 0.5};
    subject s = {.who = &p, .work = pretend};
    timing_measure(&s, 1, &QUICK);
    cr_assert(!s.t.settled && s.t.count > QUICK.least_samples);
    timing_free(&s.t);
}

Test(bench_timing, a_subject_that_fails_leaves_the_others) {
    pretender good = {.seconds = 1e-5}, bad = {.seconds = 1e-5, .fails_at = 6},
              worse = {.seconds = 1e-5, .fails_at = 1};
    subject s[3] = {
        {.who = &good, .work = pretend}, {.who = &bad, .work = pretend}, {.who = &worse, .work = pretend}};
    timing_measure(s, 3, &QUICK);
    cr_assert(s[0].t.settled && s[0].t.count == QUICK.least_samples && !s[0].t.failed);
    cr_assert(s[1].t.failed && s[1].t.count < QUICK.least_samples);
    cr_assert(s[2].t.failed && s[2].t.count == 0);
    for (int i = 0; i < 3; i++) timing_free(&s[i].t);
}

/* A foreign program on one of the cores: its samples agree very well, and are wrong. */
Test(bench_timing, disturbed_samples_do_not_settle) {
    pretender p = {.seconds = 1e-5, .quiet_every = 1000000};
    subject s = {.who = &p, .work = pretend, .threads = 2};
    timing_measure(&s, 1, &QUICK);
    cr_assert(!s.t.settled && s.t.undisturbed == 0 && s.t.count > QUICK.least_samples);
    cr_assert(fabs(s.t.real.median - 1e-4) < 1e-11 && s.t.real.spread < 1e-9, "they are all there is: %g",
              s.t.real.median);
    timing_free(&s.t);
}

Test(bench_timing, undisturbed_samples_alone_count) {
    pretender p = {.seconds = 1e-5, .quiet_every = 3};
    subject s = {.who = &p, .work = pretend, .threads = 2};
    timing_measure(&s, 1, &QUICK);
    cr_assert(s.t.settled && s.t.undisturbed == QUICK.least_samples && s.t.count > 2 * QUICK.least_samples);
    cr_assert(fabs(s.t.real.median - 1e-5) < 1e-12 && s.t.real.count == s.t.undisturbed, "a median of %g",
              s.t.real.median);
    double judged[64];
    cr_assert_eq(timing_judged(&s.t, s.t.seconds, judged), s.t.undisturbed);
    for (int i = 0; i < s.t.undisturbed; i++) cr_assert(judged[i] < 2e-5);
    timing_free(&s.t);
}

Test(bench_timing, what_is_lost_to_others_is_held_against_the_time) {
    const struct {
        sample s;
        int threads;
        bool disturbed;
    } cases[] = {
        {{1e-3, {.cpu_seconds = 1e-3}}, 1, false},
        {{1e-3, {.cpu_seconds = 1e-3, .preemptions = 1}}, 1, true},
        {{10, {.cpu_seconds = 10, .preemptions = 20}}, 1, false}, /* 60 ms of 10 s */
        {{1e-3, {.cpu_seconds = 0.8e-3}}, 1, true},               /* one thread has nobody to wait for */
        {{1e-3, {.cpu_seconds = 0.8e-3}}, 2, false},              /* of two one may wait for the other */
        {{1e-3, {.cpu_seconds = 2e-3, .queued_seconds = 0.2e-3}}, 2, true},
        {{1e-3, {.cpu_seconds = 2e-3, .queued_seconds = 0.05e-3}}, 2, false},
        {{1e-3, {.preemptions = 9, .queued_seconds = 1}}, 0, false}, /* a GPU */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        cr_expect_eq(timing_disturbed(&cases[i].s, cases[i].threads, &QUICK), cases[i].disturbed, "case %zu",
                     i);
}

Test(bench_timing, ratios_are_of_pairs_that_nobody_disturbed) {
    double a[] = {1, 2, 30, 4}, b[] = {1, 1, 1, 40};
    bool of_a[] = {false, false, true, false}, of_b[] = {false, false, false, true},
         all[] = {true, true, true, true};
    timing x = {.count = 4, .undisturbed = 3, .seconds = a, .disturbed = of_a},
           y = {.count = 4, .undisturbed = 3, .seconds = b, .disturbed = of_b};
    statistics pairs = timing_ratio(&x, &y);
    cr_assert(pairs.count == 2 && pairs.median == 1.5);
    y.disturbed = all, y.undisturbed = 0;
    cr_assert_eq(timing_ratio(&x, &y).count, 4);
}

/* This process is preempted by nobody on purpose, but has used some time. */
Test(bench_timing, usage_counts_cpu_time) {
    usage begin = usage_now();
    volatile double x = 1;
    for (int i = 0; i < 10000000; i++) x = x * 0.5 + 1;
    usage used = usage_since(&begin);
    cr_assert(used.cpu_seconds > 1e-3 && used.queued_seconds >= 0 && used.preemptions >= 0, "%g CPU seconds",
              used.cpu_seconds);
}
