/* held_out.c - devices that join late: what their keys must satisfy together. */
#include <stdarg.h>
#include <stdio.h>

#include "config/populations.h"
#include "methods/method.h"

static const char *const DEVICES = "held_out.devices", *const ROUNDS = "held_out.rounds";

__attribute__((format(printf, 3, 4))) static void report(const level *of, const char *path,
                                                         const char *format, ...) {
    char label[MAX_KEY], message[512];
    va_list rest;
    va_start(rest, format);
    vsnprintf(message, sizeof message, format, rest);
    va_end(rest);
    snprintf(label, sizeof label, "%s%s", of->label, path);
    problem_at(of->list, level_place(of, path), label, "%s", message);
}

/* Where this level wrote it. */
static void check_rounds(const settings *s, const level *of) {
    int rounds = of->defaults->held_out.rounds;
    if (level_has(of, ROUNDS) && rounds > s->rounds)
        report(of, ROUNDS, "%d rounds are more than the run has (train.rounds: %d); give at most %d", rounds,
               s->rounds, s->rounds);
}

static void check_rounds_are_there(const level *of) {
    if (of->defaults->held_out.rounds == 0 && !level_has(of, ROUNDS))
        report(of, ROUNDS, "is missing: the last rounds of the run in which the held-out devices take part");
}

void check_held_out(const settings *s, const level *of) {
    const population_settings *p = of->defaults;
    const method *how = p->method ? method_find(p->method) : NULL;
    check_rounds(s, of);
    if (p->held_out.devices == 0) {
        if (level_has(of, ROUNDS) && !level_has(of, DEVICES))
            report(of, ROUNDS,
                   "says when held-out devices join, and there are none; give %s, or remove this key",
                   DEVICES);
        return;
    }
    const char *written = level_has(of, DEVICES) ? DEVICES : "method";
    if (how && how->pooled)
        report(of, written,
               "method %s has one model for the text of all devices, which none of them can join late; give "
               "this population held_out: {devices: 0}",
               how->name);
    else if (p->devices > 0 && p->held_out.devices >= p->devices)
        report(of, level_has(of, DEVICES) ? DEVICES : "devices",
               "%d of %d devices are held out, and nobody is there for them to join; %s must be at most %d",
               p->held_out.devices, p->devices, DEVICES, p->devices - 1);
    if (level_has(of, DEVICES)) check_rounds_are_there(of);
}

void check_held_out_of_run(const settings *s, const level *top) {
    bool any = false, without_rounds = false;
    for (int i = 0; i < s->n_populations; i++) {
        any = any || s->populations[i].held_out.devices > 0;
        without_rounds = without_rounds ||
                         (s->populations[i].held_out.devices > 0 && s->populations[i].held_out.rounds == 0);
    }
    check_rounds(s, top);
    if (level_has(top, DEVICES) && without_rounds) check_rounds_are_there(top);
    if (!any && level_has(top, ROUNDS) && !level_has(top, DEVICES))
        report(top, ROUNDS,
               "says when held-out devices join, and no population has any; give %s, or remove this key",
               DEVICES);
}
