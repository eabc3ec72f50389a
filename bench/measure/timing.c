#include "measure/timing.h"

#include <stdlib.h>
#include <time.h>

enum { MOST_ITERATIONS = 100000, FIRST_ROOM = 64, FEWEST_SAMPLES = 3 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Grows the number of iterations until a sample is long enough; this also warms up. */
static void calibrate(subject *s, const timing_rule *rule) {
    double seconds = 0, cpu = 0;
    s->t.iterations = 1;
    for (int attempt = 0; attempt < 20; attempt++) {
        if (!s->work(s->who, s->t.iterations, &seconds, &cpu)) {
            s->t.failed = true;
            return;
        }
        if (seconds >= 0.5 * rule->sample_seconds || s->t.iterations == MOST_ITERATIONS) break;
        double factor = seconds > 0 ? rule->sample_seconds / seconds : 10;
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
    if (seconds && cpu) t->room = room;
    return seconds && cpu;
}

/* The first, slow iterations are a bad guide on a busy machine: later samples may show that more are due. */
static void lengthen(timing *t, double seconds, const timing_rule *rule) {
    if (seconds >= 0.25 * rule->sample_seconds || seconds <= 0) return;
    double wanted = (double)t->iterations * rule->sample_seconds / seconds;
    t->iterations = wanted < MOST_ITERATIONS ? (int64_t)wanted : MOST_ITERATIONS;
}

static void take_sample(subject *s, const timing_rule *rule) {
    double seconds = 0, cpu = 0;
    timing *t = &s->t;
    if (!make_room(t) || !s->work(s->who, t->iterations, &seconds, &cpu)) {
        t->failed = true;
        return;
    }
    t->seconds[t->count] = seconds / (double)t->iterations;
    t->cpu_seconds[t->count++] = cpu / (double)t->iterations;
    lengthen(t, seconds, rule);
    t->real = statistics_of(t->seconds, t->count);
    const settling limits = {.least_samples = rule->least_samples, .spread = rule->noise, .seconds = rule->seconds};
    t->settled = statistics_settled(&t->real, &limits, 0) == STATISTICS_SETTLED;
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
    *t = (timing){0};
}
