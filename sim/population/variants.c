#include "population/variants.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "population/variants_state.h"
#include "support/kernel_problem.h"

static const double MIB = 1048576.0;

/* ---- Opening ---- */

static int source_of(const struct variants *v, const char *path) {
    for (int i = 0; i < v->n_sources; i++)
        if (strcmp(base_variant_path(v->sources[i]), path) == 0) return i;
    return -1;
}

static void prefix_population(problems *list, int before, const fleet *f, const population_settings *p) {
    problems_prefix(list, before, "population '%s': base.variant: ", p->name);
    if (p->line > 0) problems_prefix(list, before, "%s:%d: ", f->file, p->line);
}

/* Of populations that name a path that was refused, the first has said so. */
static bool refused_before(const fleet *f, int which) {
    for (int i = 0; i < which; i++) {
        const char *other = f->populations[i].settings->variant;
        if (other && strcmp(other, f->populations[which].settings->variant) == 0) return true;
    }
    return false;
}

static exit_code open_of(fleet *f, const base_shape *base, int which, problems *list) {
    struct variants *v = f->variants;
    const population_settings *p = f->populations[which].settings;
    int source = source_of(v, p->variant), before = problems_count(list);
    if (source < 0 && refused_before(f, which)) return EXIT_INPUT;
    if (source < 0) {
        exit_code code = base_variant_open(p->variant, base, &v->sources[v->n_sources], list);
        prefix_population(list, before, f, p);
        if (code != EXIT_OK) return code;
        source = v->n_sources++;
        v->each[v->n++] = (placed_variant){.source = v->sources[source], .version = 1};
    }
    v->of_population[which] = source;
    return EXIT_OK;
}

static bool any_named(const fleet *f) {
    for (int i = 0; i < f->n_populations; i++)
        if (f->populations[i].settings->variant) return true;
    return false;
}

exit_code variants_open(fleet *f, const base_shape *base, problems *list) {
    size_t n = (size_t)f->n_populations;
    exit_code code = EXIT_OK;
    if (!any_named(f)) return EXIT_OK;
    struct variants *v = f->variants = calloc(1, sizeof *v);
    if (v) {
        v->sources = calloc(n, sizeof *v->sources);
        v->each = calloc(n, sizeof *v->each);
        v->of_population = malloc(n * sizeof *v->of_population);
        v->n_linears = base->layers * BASE_LAYER_LINEARS;
        v->table = calloc(n * (size_t)v->n_linears, sizeof *v->table);
    }
    if (!v || !v->sources || !v->each || !v->of_population || !v->table)
        return problem(list, EXIT_ENVIRONMENT, "out of memory for the base variants");
    for (int i = 0; i < f->n_populations; i++) {
        v->of_population[i] = -1;
        if (!f->populations[i].settings->variant) continue;
        exit_code one = open_of(f, base, i, list);
        if (one != EXIT_OK) code = one;
    }
    return code;
}

void variants_destroy(fleet *f) {
    struct variants *v = f->variants;
    if (!v) return;
    for (int i = 0; v->each && i < v->n; i++) {
        if (f->backend) ck_free(f->backend, v->each[i].memory);
        free(v->each[i].bytes_of);
        free(v->each[i].added);
    }
    for (int i = 0; v->sources && i < v->n_sources; i++) base_variant_close(v->sources[i]);
    free(v->sources);
    free(v->each);
    free(v->of_population);
    free(v->table);
    free(v);
    f->variants = NULL;
}

/* ---- Sizes ---- */

static size_t bytes_of(const placed_variant *v) {
    return (size_t)base_variant_floats(v->source) * sizeof(float);
}

size_t variants_bytes(const fleet *f) {
    size_t bytes = 0;
    for (int i = 0; f->variants && i < f->variants->n; i++) bytes += bytes_of(&f->variants->each[i]);
    return bytes;
}

/* Downloaded as they are written down, 4 bytes a value. */
static int64_t bytes_of_first(const placed_variant *v) {
    return 4 * base_variant_values(v->source);
}

int64_t variants_first_bytes(const fleet *f, int which) {
    const placed_variant *v = variant_of_population(f, which);
    return v ? bytes_of_first(v) : 0;
}

/* The linear that is being folded, and the file, which is mapped. */
size_t variants_passing_bytes(const fleet *f) {
    size_t most = 0;
    for (int i = 0; f->variants && i < f->variants->n_sources; i++) {
        const base_variant *v = f->variants->sources[i];
        size_t bytes =
            2 * (size_t)base_variant_largest(v) * sizeof(float); /* a linear, and what is read for it */
        if (bytes > most) most = bytes;
    }
    return most;
}

const char *variants_describe(const fleet *f, size_t size, char *out) {
    size_t most = 0;
    out[0] = '\0';
    for (int i = 0; i < f->n_populations; i++) {
        const placed_variant *v = variant_of_population(f, i);
        if (!v || bytes_of(v) <= most) continue;
        most = bytes_of(v);
        snprintf(out, size, "%.1f MiB for base.variant of population '%s'", (double)most / MIB,
                 f->populations[i].settings->name);
    }
    return out;
}

/* ---- On the backend ---- */

exit_code variants_check(const fleet *f, const base_model *base, problems *list) {
    exit_code code = EXIT_OK;
    for (int i = 0; f->variants && i < f->variants->n_sources; i++) {
        exit_code one = base_variant_check(f->variants->sources[i], base, list);
        if (one != EXIT_OK) code = one;
    }
    return code;
}

void variant_fill_table(struct variants *v, int index) {
    const placed_variant *p = &v->each[index];
    for (int i = 0; i < v->n_linears; i++) {
        variant_place at = base_variant_place(p->source, i);
        v->table[(int64_t)index * v->n_linears + i] = (ck_replacement){
            at.weight >= 0 ? p->memory + at.weight : NULL, at.bias >= 0 ? p->memory + at.bias : NULL};
    }
}

static exit_code place_linear(fleet *f, placed_variant *v, const base_model *base, int linear, float *room,
                              problems *list) {
    base_linear l = base_linear_at(&base->shape, &base->layout, linear);
    variant_place at = base_variant_place(v->source, linear);
    size_t weights = at.weight >= 0 ? (size_t)l.in * (size_t)l.out : 0,
           biases = at.bias >= 0 ? (size_t)l.out : 0;
    if (weights + biases == 0) return EXIT_OK;
    exit_code code = base_variant_fold(v->source, base, linear, room, room + weights, list);
    if (code != EXIT_OK) return code;
    ck_status status = CK_OK;
    if (weights) status = ck_upload(f->stream, v->memory + at.weight, room, weights * sizeof *room);
    if (biases && status == CK_OK)
        status = ck_upload(f->stream, v->memory + at.bias, room + weights, biases * sizeof *room);
    THEN(status, ck_wait(f->stream));
    return kernel_problem(list, f->backend, status, "placing a base variant");
}

static exit_code place_variant(fleet *f, placed_variant *v, const base_model *base, problems *list) {
    void *memory = NULL;
    float *room = malloc((size_t)(base_variant_largest(v->source) + 1) * sizeof *room);
    v->bytes_of = malloc(sizeof *v->bytes_of);
    exit_code code = room && v->bytes_of
                         ? base_variant_compare(v->source, base, list)
                         : problem(list, EXIT_ENVIRONMENT, "out of memory for the base variants");
    THEN(code, kernel_problem(list, f->backend, ck_alloc(f->backend, bytes_of(v), "a base variant", &memory),
                              "placing a base variant"));
    v->memory = memory;
    for (int i = 0; i < f->variants->n_linears && code == EXIT_OK; i++)
        code = place_linear(f, v, base, i, room, list);
    if (code == EXIT_OK) v->bytes_of[0] = bytes_of_first(v);
    base_variant_close_files(v->source);
    free(room);
    return code;
}

exit_code variants_place(fleet *f, const base_model *base, problems *list) {
    exit_code code = EXIT_OK;
    for (int i = 0; f->variants && i < f->variants->n; i++) {
        exit_code one = place_variant(f, &f->variants->each[i], base, list);
        if (one != EXIT_OK) code = one;
        variant_fill_table(f->variants, i);
    }
    return code;
}

/* ---- Waves, traffic ---- */

placed_variant *variant_of_population(const fleet *f, int which) {
    int index = f->variants ? f->variants->of_population[which] : -1;
    return index >= 0 ? &f->variants->each[index] : NULL;
}

int32_t variants_of(const fleet *f, int which) {
    return f->variants ? f->variants->of_population[which] + 1 : 0;
}

void variants_view(const fleet *f, ck_wave *wave) {
    if (!f->variants) return;
    wave->n_variants = f->variants->n;
    wave->n_linears = f->variants->n_linears;
    wave->variants = f->variants->table;
}

int64_t variants_version(const fleet *f, int which) {
    const placed_variant *v = variant_of_population(f, which);
    return v ? v->version : 0;
}

/* Either what each version added, or all that it replaces. */
int64_t variants_bring(fleet *f, device *d) {
    const placed_variant *v = variant_of_population(f, d->population);
    int64_t bytes = 0, all = v ? 4 * base_variant_replaced(v->source) : 0;
    for (int64_t i = d->variant_version; v && i < v->version; i++) bytes += v->bytes_of[i];
    if (v) d->variant_version = v->version;
    return bytes < all ? bytes : all;
}
