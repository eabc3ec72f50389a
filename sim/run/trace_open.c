#include "run/trace_open.h"
#include "config/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "data/split.h"

#ifndef COHORT_GIT_REVISION
#define COHORT_GIT_REVISION "unknown"
#endif

typedef char point_text[SETTINGS_HASH_BYTES];

static void fill_population(const session *s, int index, const point_text *points, trace_population *out) {
    const population *p = &s->fleet->populations[index];
    const population_settings *ps = p->settings;
    *out = (trace_population){.name = ps->name,
                              .method = p->method->name,
                              .seed = ps->seed,
                              .devices = p->n_devices,
                              .top_k = ps->experts.top_k,
                              .tokens_per_device = ps->data.tokens_per_device.value,
                              .split = split_name(ps->data.split),
                              .evaluation = evaluation_name(ps->data.evaluation),
                              .point = points[index],
                              .revision = COHORT_GIT_REVISION,
                              .routed = p->method->gates == CK_GATES_TOP_K};
    for (int i = 0; i < p->n_devices; i++) {
        const device *d = &s->fleet->devices[p->first_device + i];
        if (d->generalists > out->generalists) out->generalists = d->generalists;
        if (d->specialists > out->specialists) out->specialists = d->specialists;
        if (d->rank > out->rank) out->rank = d->rank;
    }
}

/* The names of all corpora's sources, one after the other; a population's begin where its corpus does. NULL
 * without memory. */
static const char **name_sources(const session *s, trace_population *populations, int *n) {
    const fleet *f = s->fleet;
    *n = 0;
    for (int i = 0; i < f->n_corpora; i++) *n += corpus_sources(f->corpora[i]);
    const char **names = calloc((size_t)*n + 1, sizeof *names);
    for (int i = 0, first = 0; names && i < f->n_corpora; first += corpus_sources(f->corpora[i++])) {
        for (int j = 0; j < corpus_sources(f->corpora[i]); j++)
            names[first + j] = corpus_source_name(f->corpora[i], j);
        for (int p = 0; p < f->n_populations; p++)
            if (f->populations[p].text == f->corpora[i]) populations[p].first_source = first;
    }
    return names;
}

static void fill_device(const session *s, int index, trace_device *out) {
    const device *d = &s->fleet->devices[index];
    const population *p = &s->fleet->populations[d->population];
    *out = (trace_device){.population = d->population,
                          .index = d->index,
                          .source = d->text.source,
                          .experts = device_experts(d),
                          .generalists = d->generalists,
                          .specialists = d->specialists,
                          .rank = d->rank,
                          .train_tokens = d->text.tokens[DATA_TRAIN],
                          .valid_tokens = d->text.tokens[DATA_VALID],
                          .test_tokens = d->text.tokens[DATA_TEST],
                          .parameters_shared = d->parameters_shared,
                          .parameters_private = d->parameters_private,
                          .entropy = d->text.entropy,
                          .held_out = d->index >= p->n_senders};
}

/* Of several processes: how many there are, and what process 0 runs on. */
static void describe_hardware(const session *s, size_t bytes, char *out) {
    int processes = ck_processes(s->collective);
    if (processes > 1)
        snprintf(out, bytes, "%d processes, each as: %s", processes, ck_hardware(s->backend));
    else
        snprintf(out, bytes, "%s", ck_hardware(s->backend));
}

exit_code session_open_trace(const session *s, const char *path, int rounds, trace **out, problems *list) {
    const fleet *f = s->fleet;
    char created[32], hardware[256], base[BASE_TEXT_BYTES];
    time_t now = time(NULL);
    strftime(created, sizeof created, "%Y-%m-%dT%H:%M:%SZ", gmtime(&now));
    describe_hardware(s, sizeof hardware, hardware);
    char *yaml = settings_to_yaml(s->settings);
    trace_population *populations = calloc((size_t)f->n_populations, sizeof *populations);
    trace_device *devices = calloc((size_t)f->n_devices, sizeof *devices);
    point_text *points = calloc((size_t)f->n_populations, sizeof *points);
    const char **names = NULL;
    int n_sources = 0;
    exit_code code = EXIT_OK;
    for (int i = 0; populations && points && i < f->n_populations; i++) {
        settings_point_hash(s->settings, i, points[i]);
        fill_population(s, i, points, &populations[i]);
    }
    if (populations) names = name_sources(s, populations, &n_sources);
    if (!yaml || !populations || !devices || !points || !names) {
        code = problem(list, EXIT_ENVIRONMENT, "out of memory for the trace");
        goto cleanup;
    }
    for (int i = 0; i < f->n_devices; i++) fill_device(s, i, &devices[i]);
    trace_header header = {.git_revision = COHORT_GIT_REVISION,
                           .config_yaml = yaml,
                           .base = base_describe(&s->programs.base.shape, base),
                           .backend = ck_name(s->backend),
                           .hardware = hardware,
                           .created_utc = created,
                           .seed = s->settings->seed,
                           .n_populations = f->n_populations,
                           .n_devices = f->n_devices,
                           .n_layers = s->programs.base.shape.layers,
                           .max_experts = s->numbers.shape.experts,
                           .sequence = s->numbers.shape.sequence,
                           .populations = populations,
                           .devices = devices,
                           .n_sources = n_sources,
                           .source_names = names,
                           .most_sources = f->most_sources,
                           .mixtures = f->mixtures,
                           .routing_windows = s->routing.n,
                           .routing_devices = s->routing.devices,
                           .sampling = s->sampled.size};
    code =
        rounds > 0 ? trace_resume(path, &header, rounds, out, list) : trace_create(path, &header, out, list);
cleanup:
    free(yaml);
    free(names);
    free(points);
    free(populations);
    free(devices);
    return code;
}
