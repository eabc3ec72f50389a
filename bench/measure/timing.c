#include "measure/timing.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

enum { MOST_ITERATIONS = 100000, FIRST_ROOM = 64, FEWEST_SAMPLES = 3 };
/* A thread that is preempted may be away for a time slice of the other program, 3 ms or more. Waking threads
 * takes a few hundredths of short loops also where nobody else is there. */
static const double TIME_SLICE_SECONDS = 3e-3, LOST_SHARE = 0.1;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

bool timing_disturbed(const sample *s, int threads, const timing_rule *rule) {
    if (threads == 0) return false;
    double lost = s->used.queued_seconds;
    if (threads == 1) lost = fmax(lost, s->seconds - s->used.cpu_seconds); /* it has nobody to wait for */
    return (double)s->used.preemptions * TIME_SLICE_SECONDS > rule->noise * s->seconds ||
           lost > LOST_SHARE * s->seconds;
}

int timing_judged(const timing *t, const double *values, double *out) {
    int n = 0;
    for (int i = 0; i < t->count; i++)
        if (!t->disturbed[i] || t->undisturbed == 0) out[n++] = values[i];
    return n;
}

statistics timing_ratio(const timing *a, const timing *b) {
    int pairs = a->count < b->count ? a->count : b->count, n = 0;
    double *of_a = malloc(2 * ((size_t)pairs + 1) * sizeof *of_a), *of_b = of_a + pairs;
    for (int i = 0; i < pairs && of_a; i++) {
        if (a->disturbed[i] || b->disturbed[i]) continue;
        of_a[n] = a->seconds[i];
        of_b[n++] = b->seconds[i];
    }
    statistics s = n > 0 || !of_a ? statistics_of_ratio(of_a, of_b, n)
                                  : statistics_of_ratio(a->seconds, b->seconds, pairs);
    free(of_a);
    return s;
}

/* Grows the number of iterations until a sample is long enough; this also warms up. */
static void calibrate(subject *s, const timing_rule *rule) {
    s->t.iterations = 1;
    for (int attempt = 0; attempt < 20; attempt++) {
        sample first = {0};
        if (!s->work(s->who, s->t.iterations, &first)) {
            s->t.failed = true;
            return;
        }
        if (first.seconds >= 0.5 * rule->sample_seconds || s->t.iterations == MOST_ITERATIONS) break;
        double factor = first.seconds > 0 ? rule->sample_seconds / first.seconds : 10;
        double wanted = (double)s->t.iterations * (factor < 10 ? factor : 10) + 1;
        s->t.iterations = wanted < MOST_ITERATIONS ? (int64_t)wanted : MOST_ITERATIONS;
    }
}

static bool make_room(timing *t) {
    if (t->count < t->room) return true;
    int room = t->room ? 2 * t->room : FIRST_ROOM;
    double *seconds = realloc(t->seconds, (size_t)room * sizeof *seconds);
    if (seconds) t->seconds = seconds;
    double *cpu = realloc(t->cpu_seconds, (size_t)room * sizeof *cpu);
    if (cpu) t->cpu_seconds = cpu;
    bool *disturbed = realloc(t->disturbed, (size_t)room * sizeof *disturbed);
    if (disturbed) t->disturbed = disturbed;
    if (seconds && cpu && disturbed) t->room = room;
    return t->room == room;
}

/* The first, slow iterations are a bad guide on a busy machine: later samples may show that more are due. */
static void lengthen(timing *t, double seconds, const timing_rule *rule) {
    if (seconds >= 0.25 * rule->sample_seconds || seconds <= 0) return;
    double wanted = (double)t->iterations * rule->sample_seconds / seconds;
    t->iterations = wanted < MOST_ITERATIONS ? (int64_t)wanted : MOST_ITERATIONS;
}

static statistics statistics_of_judged(const timing *t) {
    double *judged = malloc((size_t)t->count * sizeof *judged);
    statistics s = statistics_of(judged, judged ? timing_judged(t, t->seconds, judged) : 0);
    free(judged);
    return s;
}

static void take_sample(subject *s, const timing_rule *rule) {
    sample taken = {0};
    timing *t = &s->t;
    if (!make_room(t) || !s->work(s->who, t->iterations, &taken)) {
        t->failed = true;
        return;
    }
    t->seconds[t->count] = taken.seconds / (double)t->iterations;
    t->cpu_seconds[t->count] = taken.used.cpu_seconds / (double)t->iterations;
    t->disturbed[t->count] = timing_disturbed(&taken, s->threads, rule);
    t->undisturbed += !t->disturbed[t->count++];
    lengthen(t, taken.seconds, rule);
    t->real = statistics_of_judged(t);
    const settling limits = {
        .least_samples = rule->least_samples, .spread = rule->noise, .seconds = rule->seconds};
    t->settled = t->undisturbed > 0 && statistics_settled(&t->real, &limits, 0) == STATISTICS_SETTLED;
}

void timing_measure(subject *subjects, int n, const timing_rule *rule) {
    double begin = now();
    bool going_on = true;
    for (int i = 0; i < n; i++) calibrate(&subjects[i], rule);
    while (going_on) {
        going_on = false;
        bool few = false;
        for (int i = 0; i < n; i++) {
            if (subjects[i].t.failed) continue;
            take_sample(&subjects[i], rule);
            going_on |= !subjects[i].t.failed && !subjects[i].t.settled;
            few |= !subjects[i].t.failed && subjects[i].t.count < FEWEST_SAMPLES;
        }
        if (!few && now() - begin >= rule->seconds * n) break;
    }
}

void timing_free(timing *t) {
    free(t->seconds);
    free(t->cpu_seconds);
    free(t->disturbed);
    *t = (timing){0};
}
