/* fleet.c - from settings to populations, devices and their packs. */
#include "population/fleet.h"
#include "config/config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "data/split.h"
#include "methods/as_released.h"
#include "population/parts.h"
#include "population/sharing.h"
#include "population/variants.h"
#include "support/kernel_problem.h"

enum { LIST_BYTES = 640, STRETCH_BYTES = 160 };

bool population_shares(const population *p, const device *d, const ck_part *part) {
    return p->method->shares(part, d->generalists);
}

/* Before what was refused of a population: where it is written. */
static void prefix_place(problems *list, int first, const char *file, const population_settings *p) {
    if (p->line > 0)
        problems_prefix(list, first, "%s:%d: ", file, p->line);
    else
        problems_prefix(list, first, "--set populations: ");
}

/* taken: by the device, before this local step of the run */
static schedule_query query_of(const fleet *f, const population *p, bool routed, int64_t local_step,
                               int64_t taken) {
    return (schedule_query){.train = &p->settings->train,
                            .local_step = local_step,
                            .taken = taken,
                            .local_steps = f->local_steps,
                            .pooled = p->method->pooled ? p->settings->devices : 1,
                            .routed = routed};
}

static void count_steps(const settings *s, const fleet *f, population *p) {
    schedule_list list = released_schedule(p->method, p->settings->as_released);
    for (int held_out = 0; held_out < 2; held_out++)
        for (int routed = 0; routed < 2; routed++) {
            int first = schedule_first_round(p->settings, held_out ? p->settings->devices - 1 : 0, s->rounds);
            schedule_query q = query_of(f, p, routed, 0, 0);
            p->totals[held_out][routed] = schedule_count(list, &q, first, s->rounds, s->local_steps);
        }
}

static exit_code make_populations(const settings *s, fleet *f, problems *list) {
    exit_code code = EXIT_OK;
    for (int i = 0; i < s->n_populations; i++) {
        population *p = &f->populations[i];
        int before = problems_count(list);
        p->settings = &s->populations[i];
        p->method = method_find(p->settings->method);
        if (!p->method) {
            code = problem(list, EXIT_INPUT,
                           "population '%s': there is no method '%s'; see `cohort help methods`",
                           p->settings->name, p->settings->method);
            prefix_place(list, before, s->file, p->settings);
            continue;
        }
        p->first_device = f->n_devices;
        p->n_devices = p->method->pooled ? 1 : p->settings->devices;
        p->n_senders = p->n_devices - p->settings->held_out.devices;
        f->n_devices += p->n_devices;
        count_steps(s, f, p);
    }
    return code;
}

static bool is_routed(const fleet *f, const device *d) {
    return f->shapes[d->shape].router_rows > 0;
}

participation fleet_participation(const fleet *f, const device *d, int round) {
    return schedule_participation(f->populations[d->population].settings, d->index, round,
                                  f->settings->rounds);
}

int fleet_schedule(const fleet *f, const device *d, int64_t local_step,
                   schedule_entry entries[SCHEDULE_MOST]) {
    const population *p = &f->populations[d->population];
    int in_round = f->settings->local_steps, round = (int)(local_step / in_round) + 1;
    if (!fleet_participation(f, d, round).present) return 0;
    int first = schedule_first_round(p->settings, d->index, f->settings->rounds);
    schedule_query q =
        query_of(f, p, is_routed(f, d), local_step, local_step - (int64_t)(first - 1) * in_round);
    return released_schedule(p->method, p->settings->as_released)(&q, entries);
}

const schedule_totals *fleet_totals(const fleet *f, const device *d) {
    const population *p = &f->populations[d->population];
    return &p->totals[schedule_is_held_out(p->settings, d->index)][is_routed(f, d)];
}

static exit_code make_device(fleet *f, const base_shape *base, int population_index, int index,
                             problems *list) {
    population *p = &f->populations[population_index];
    device *d = &f->devices[p->first_device + index];
    d->population = population_index;
    d->index = index;
    d->joined_loss = NAN;
    d->generalists = (int)per_device_at(&p->settings->generalists, index);
    d->specialists = (int)per_device_at(&p->settings->specialists, index);
    d->rank = (int)per_device_at(&p->settings->rank, index);
    exit_code code = shape_of_device(f, base, p, d, &d->shape, list);
    if (code != EXIT_OK) return code;
    const ck_shape *shape = &f->shapes[d->shape];
    shape_count_parameters(p, d, shape, &d->parameters_shared, &d->parameters_private);
    d->carries = fleet_totals(f, d)->carries;
    return EXIT_OK;
}

/* A shape error is the same for all devices of a population: said once. */
static exit_code make_devices(fleet *f, const base_shape *base, problems *list) {
    exit_code code = EXIT_OK;
    f->devices = calloc((size_t)f->n_devices, sizeof *f->devices);
    f->owner = calloc((size_t)f->n_devices, sizeof *f->owner);
    f->local = calloc((size_t)f->n_devices, sizeof *f->local);
    if (!f->devices || !f->owner || !f->local)
        return problem(list, EXIT_ENVIRONMENT, "out of memory for %d devices", f->n_devices);
    for (int i = 0; i < f->n_populations; i++) {
        exit_code one = EXIT_OK;
        int before = problems_count(list);
        for (int j = 0; j < f->populations[i].n_devices && one == EXIT_OK; j++)
            one = make_device(f, base, i, j, list);
        THEN(one, sharing_check(f, &f->populations[i], list));
        prefix_place(list, before, f->file, f->populations[i].settings);
        if (one != EXIT_OK) code = one;
    }
    return code;
}

bool fleet_same_text(const data_settings *a, const data_settings *b) {
    return strcmp(a->corpus, b->corpus) == 0 && a->synthetic.topics == b->synthetic.topics &&
           a->synthetic.vocabulary == b->synthetic.vocabulary &&
           a->synthetic.branching == b->synthetic.branching && a->synthetic.purity == b->synthetic.purity &&
           a->synthetic.seed == b->synthetic.seed;
}

static int64_t tokens_of(const data_settings *d, uint64_t seed, int index) {
    return data_train_tokens(d, seed, index) + per_device_at(&d->valid_tokens_per_device, index) +
           per_device_at(&d->test_tokens_per_device, index);
}

/* Of a mixture of synthetic sources every stretch is a text by itself. */
static size_t list_bytes(const data_settings *d, int64_t tokens) {
    bool mixes = split_of(d)->mixes || d->evaluation == OUT_OF_DISTRIBUTION;
    bool many = mixes && strcmp(d->corpus, "synthetic") == 0;
    int64_t stretches = (int64_t)DATA_SPLITS * d->synthetic.topics, most = tokens / d->sequence;
    return LIST_BYTES + (many ? (size_t)(stretches < most ? stretches : most) * STRETCH_BYTES : 0);
}

/* Synthetic text is held for each device; shards stay in their files. A device's lists of stretches come with
 * either. */
static size_t own_text_bytes(const fleet *f, const population *p) {
    const data_settings *d = &p->settings->data;
    bool synthetic = strcmp(d->corpus, "synthetic") == 0;
    size_t bytes = 0;
    for (int i = 0; i < p->settings->devices; i++) {
        int holder = p->first_device + (p->method->pooled ? 0 : i);
        if (f->owner[holder] != f->place.process) continue;
        int64_t tokens = tokens_of(d, p->settings->seed, i);
        bytes += (synthetic ? (size_t)tokens * sizeof(uint16_t) : 0) + list_bytes(d, tokens);
    }
    return bytes;
}

fleet_text_bytes fleet_measure_text(const fleet *f) {
    fleet_text_bytes bytes = {0, 0};
    for (int i = 0; i < f->n_populations; i++) {
        const data_settings *d = &f->populations[i].settings->data;
        bool known = false;
        for (int j = 0; j < i && !known; j++) known = fleet_same_text(&f->populations[j].settings->data, d);
        bytes.devices += own_text_bytes(f, &f->populations[i]);
        if (!known) bytes.corpora += (size_t)corpus_bytes(d);
    }
    return bytes;
}

static exit_code corpus_of(fleet *f, int population_index, const data_settings **sections, corpus **out,
                           problems *list) {
    const data_settings *data = &f->populations[population_index].settings->data;
    for (int i = 0; i < f->n_corpora; i++)
        if (fleet_same_text(sections[i], data)) {
            *out = f->corpora[i];
            return EXIT_OK;
        }
    for (int i = 0; i < f->n_corpora; i++)
        if (!f->corpora[i] && strcmp(sections[i]->corpus, data->corpus) == 0) return problems_code(list);
    int before = problems_count(list);
    exit_code code = corpus_open(data, f->vocabulary, out, list);
    THEN(code, corpus_check_examples(*out, data, list));
    if (code != EXIT_OK) {
        corpus_close(*out);
        *out = NULL;
    }
    settings_prefix_line(f->settings, "data.corpus", data->corpus_line, before, list);
    sections[f->n_corpora] = data;
    f->corpora[f->n_corpora++] = *out;
    return code;
}

/* All windows that the device will need are in data.windows, if there is one. */
static exit_code require_windows(const fleet *f, const device *d, problems *list) {
    const schedule_totals *all = fleet_totals(f, d);
    exit_code code = EXIT_OK;
    for (int part = DATA_TRAIN; part <= DATA_VALID && code == EXIT_OK; part++)
        code = device_data_require(d->data, (data_part)part, all->steps[part], all->batch[part], list);
    return code;
}

static exit_code open_device_data(fleet *f, const population *p, partition *parts, int device_index,
                                  given_windows *given, problems *list) {
    const population_settings *s = p->settings;
    device *d = &f->devices[p->first_device + device_index];
    exit_code code = device_data_open(parts, device_index, p->method->pooled, &d->data, list);
    if (given) THEN(code, device_data_give_windows(d->data, s->data.sequence, given, list));
    if (code != EXIT_OK) return code;
    d->text = (device_text){.source = device_data_source(d->data),
                            .overlaps = device_data_overlaps(d->data),
                            .longest = device_data_longest(d->data, DATA_TRAIN),
                            .entropy = device_data_entropy(d->data),
                            .train_examples = device_data_examples(d->data, DATA_TRAIN)};
    for (int part = 0; part < DATA_SPLITS; part++)
        d->text.tokens[part] = device_data_tokens(d->data, (data_part)part);
    device_data_mixture(d->data, f->mixtures + (int64_t)(p->first_device + device_index) * f->most_sources);
    device_data_set_length(d->data, f->settings->rounds, fleet_totals(f, d)->steps[DATA_TRAIN]);
    return require_windows(f, d, list);
}

/* Of the devices that this process has; NULL: the population's windows are all drawn. */
static exit_code read_windows(const fleet *f, const population *p, given_windows **out, problems *list) {
    *out = NULL;
    if (!p->settings->data.windows) return EXIT_OK;
    bool *wanted = calloc((size_t)p->settings->devices, sizeof *wanted);
    if (!wanted) return problem(list, EXIT_ENVIRONMENT, "out of memory for the windows");
    for (int i = 0; i < p->n_devices; i++) wanted[i] = f->owner[p->first_device + i] == f->place.process;
    exit_code code = given_windows_read(p->settings->data.windows, p->settings->devices, wanted, out, list);
    free(wanted);
    return code;
}

static exit_code open_population_data(fleet *f, population *p, problems *list) {
    given_windows *given;
    int before = problems_count(list);
    partition *parts = NULL;
    exit_code code = read_windows(f, p, &given, list);
    THEN(code,
         partition_open(p->text, &p->settings->data, p->settings->seed, p->settings->devices, &parts, list));
    for (int i = 0; i < p->n_devices && code == EXIT_OK; i++)
        if (f->owner[p->first_device + i] == f->place.process)
            code = open_device_data(f, p, parts, i, given, list);
    partition_close(parts);
    given_windows_destroy(given);
    problems_prefix(list, before, "population '%s', seed %llu: ", p->settings->name,
                    (unsigned long long)p->settings->seed);
    prefix_place(list, before, f->file, p->settings);
    return code;
}

/* The mixtures' room is known once all corpora are open. */
static exit_code make_mixtures(fleet *f, problems *list) {
    for (int i = 0; i < f->n_corpora; i++)
        if (f->corpora[i] && corpus_sources(f->corpora[i]) > f->most_sources)
            f->most_sources = corpus_sources(f->corpora[i]);
    f->mixtures = calloc((size_t)f->n_devices * (size_t)f->most_sources + 1, sizeof *f->mixtures);
    if (f->mixtures) return EXIT_OK;
    return problem(list, EXIT_ENVIRONMENT, "out of memory for the mixtures of %d devices", f->n_devices);
}

/* Those that cannot be opened are reported, each once. */
static exit_code open_corpora(fleet *f, problems *list) {
    exit_code code = EXIT_OK;
    f->corpora = calloc((size_t)f->n_populations, sizeof *f->corpora);
    const data_settings **sections = calloc((size_t)f->n_populations, sizeof *sections);
    if (!f->corpora || !sections) code = problem(list, EXIT_ENVIRONMENT, "out of memory for the data");
    for (int i = 0; i < f->n_populations && f->corpora && sections; i++) {
        corpus *c = NULL;
        exit_code one = corpus_of(f, i, sections, &c, list);
        f->populations[i].text = c;
        THEN(code, one);
    }
    free(sections);
    exit_code made = make_mixtures(f, list);
    return THEN(code, made);
}

/* Whether two populations have a refused key from the same place: then it is reported once. */
static bool same_refusal(const data_settings *a, const data_settings *b) {
    return a->split == b->split && a->split_line == b->split_line && a->sources_line == b->sources_line &&
           strcmp(a->corpus, b->corpus) == 0;
}

/* What the population's split asks of its corpus. */
static exit_code check_split(const fleet *f, const population *p, const data_settings **refused,
                             problems *list) {
    const data_settings *d = &p->settings->data;
    const char *key = NULL;
    problems *again = *refused && same_refusal(*refused, d) ? problems_create() : NULL;
    int before = problems_count(list);
    exit_code code = partition_check(p->text, d, &key, again ? again : list);
    problems_destroy(again);
    if (code == EXIT_OK) return code;
    int line = strcmp(key, "data.sources") == 0 ? d->sources_line : d->split_line;
    if (!again) settings_prefix_line(f->settings, key, line, before, list);
    *refused = d;
    return code;
}

/* All that is refused is reported, but a corpus once and a population once for all its seeds. */
exit_code fleet_open_data(fleet *f, problems *list) {
    exit_code code = given_packs_check(f, list), opened = open_corpora(f, list);
    const population_settings *refused = NULL;
    const data_settings *split_refused = NULL;
    THEN(code, opened);
    for (int i = 0; i < f->n_populations && f->mixtures; i++) {
        population *of = &f->populations[i];
        const population_settings *p = of->settings;
        /* another seed of it */
        bool again = refused && refused->line == p->line && strcmp(refused->name, p->name) == 0;
        if (!of->text || again) continue;
        exit_code one = check_split(f, of, &split_refused, list);
        THEN(one, open_population_data(f, of, list));
        if (one == EXIT_OK) continue;
        refused = p;
        THEN(code, one);
    }
    return code;
}

exit_code fleet_create(const settings *s, const base_shape *base, fleet **out, problems *list) {
    *out = NULL;
    fleet *f = calloc(1, sizeof *f);
    if (!f) return problem(list, EXIT_ENVIRONMENT, "out of memory for the populations");
    f->collective = ck_collective_local();
    f->place = (process_place){.process = 0, .processes = 1, .on_machine = 1};
    f->n_populations = s->n_populations;
    f->file = s->file;
    f->local_steps = (int64_t)s->rounds * s->local_steps;
    f->settings = s;
    f->vocabulary = base->vocabulary;
    f->populations = calloc((size_t)s->n_populations, sizeof *f->populations);
    exit_code code =
        f->populations ? EXIT_OK : problem(list, EXIT_ENVIRONMENT, "out of memory for the populations");
    THEN(code, make_populations(s, f, list));
    THEN(code, make_devices(f, base, list));
    if (code == EXIT_OK) packs_place(f);
    THEN(code, groups_create(f, list));
    if (code != EXIT_OK) {
        fleet_destroy(f);
        return code;
    }
    *out = f;
    return EXIT_OK;
}

int64_t fleet_largest_pack(const fleet *f) {
    int64_t largest = 0;
    for (int i = 0; i < f->n_shapes; i++)
        if (f->shapes[i].total > largest) largest = f->shapes[i].total;
    return largest;
}

static ck_status allocate_packs(fleet *f, int64_t floats, bool far, const char *what, float **out) {
    size_t bytes = (size_t)floats * sizeof(float);
    if (bytes == 0) return CK_OK;
    return (far ? ck_alloc_far : ck_alloc)(f->backend, bytes, what, (void **)out);
}

exit_code fleet_allocate(fleet *f, ck_backend *backend, ck_stream *stream, problems *list) {
    f->backend = backend;
    f->stream = stream;
    bool moments_far = f->packs_at != PACKS_NEAR, all_far = f->packs_at == PACKS_FAR;
    ck_status status = allocate_packs(f, f->n_parameters, all_far, "adapters", &f->parameters);
    THEN(status, allocate_packs(f, f->n_parameters, moments_far, "first moments of AdamW", &f->moment1));
    THEN(status, allocate_packs(f, f->n_parameters, moments_far, "second moments of AdamW", &f->moment2));
    THEN(status, allocate_packs(f, f->n_carried, all_far, "carried gradients", &f->carried));
    THEN(status, allocate_packs(f, f->n_packed, false, "averaged adapters", &f->packed));
    exit_code code = kernel_problem(list, backend, status, "allocating the devices");
    return THEN(code, packs_init(f, list));
}

static void free_buffers(fleet *f) {
    if (!f->backend) return;
    ck_free(f->backend, f->parameters);
    ck_free(f->backend, f->moment1);
    ck_free(f->backend, f->moment2);
    ck_free(f->backend, f->carried);
    ck_free(f->backend, f->packed);
}

void fleet_destroy(fleet *f) {
    if (!f) return;
    variants_destroy(f);
    free_buffers(f);
    groups_destroy(f);
    for (int i = 0; f->devices && i < f->n_devices; i++)
        if (f->devices[i].data) device_data_close(f->devices[i].data);
    for (int i = 0; i < f->n_corpora; i++) corpus_close(f->corpora[i]);
    free(f->corpora);
    free(f->mixtures);
    free(f->devices);
    free(f->owner);
    free(f->local);
    free(f->shapes);
    free(f->populations);
    free(f);
}

/* status: of this process's sums. The other processes are there already, so the sum must take place. */
exit_code packed_sum(fleet *f, ck_status status, problems *list) {
    if (status != CK_OK) (void)ck_wait(f->stream);
    ck_status summed = ck_collective_sum(f->collective, f->stream, f->packed, f->n_packed);
    if (summed != CK_OK)
        return problem(list, EXIT_RUN, "averaging the shared adapters over processes: %s",
                       ck_collective_error(f->collective));
    return EXIT_OK;
}

exit_code fleet_aggregate(fleet *f, int round, problems *list) {
    if (f->n_groups == 0) return EXIT_OK;
    groups_of_senders(f, round);
    ck_status status = ck_group_sum(f->stream, f->parameters, f->groups, f->n_groups, f->packed);
    exit_code code = packed_sum(f, status, list);
    if (code != EXIT_OK) return code;
    groups_of_receivers(f, round);
    (void)ck_group_spread(f->stream, f->parameters, f->groups, f->n_groups, f->packed);
    ck_status spread = ck_wait(f->stream);
    return kernel_problem(list, f->backend, status ? status : spread, "averaging the shared adapters");
}
