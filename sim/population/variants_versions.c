/* New versions of variants, and what a checkpoint holds of them.
 *
 *   saved = for each population with a variant   header, bytes_of [version], then
 *                                                factors since version 1, or all weights, or nothing
 *   factors = record, a [rank, in], b [rank, rows], and so on; each padded to 8 bytes */
#include <stdlib.h>
#include <string.h>

#include "population/variants_state.h"
#include "support/kernel_problem.h"

typedef struct {
    int32_t linear, rank;
    int64_t first_row, rows, in;
    double scale;
} factors_record;

typedef struct {
    int64_t version, dense, bytes; /* bytes: of the factors, or of the weights */
} saved_header;

static exit_code no_memory(problems *list) {
    return problem(list, EXIT_ENVIRONMENT, "out of memory for a new version of a base variant");
}

/* ---- Folding ---- */

static exit_code check_factors(const placed_variant *v, const variant_factors *x, base_linear l,
                               problems *list) {
    bool fits = x->rank >= 1 && x->first_row >= 0 && x->rows >= 1 && x->first_row + x->rows <= l.out;
    if (base_variant_place(v->source, x->linear).weight >= 0 && fits) return EXIT_OK;
    return problem(list, EXIT_RUN,
                   "%s: factors of rank %d for rows %lld to %lld of linear %d cannot be folded in; it does "
                   "not have them",
                   base_variant_path(v->source), x->rank, (long long)x->first_row,
                   (long long)(x->first_row + x->rows), x->linear);
}

static exit_code fold(fleet *f, placed_variant *v, const variant_factors *x, base_linear l, problems *list) {
    size_t bytes = (size_t)(x->rows * l.in) * sizeof(float);
    float *rows = malloc(bytes), *at = v->memory + base_variant_place(v->source, x->linear).weight;
    if (!rows) return no_memory(list);
    at += x->first_row * l.in;
    ck_status status = ck_download(f->stream, rows, at, bytes);
    THEN(status, ck_wait(f->stream));
    base_fold_factors(rows, x->rows, l.in, x->rank, x->scale, x->a, x->b);
    THEN(status, ck_upload(f->stream, at, rows, bytes));
    THEN(status, ck_wait(f->stream));
    free(rows);
    return kernel_problem(list, f->backend, status, "folding factors into a base variant");
}

/* ---- What is kept of it ---- */

static size_t padded(size_t bytes) {
    return (bytes + 7) / 8 * 8;
}

static size_t record_bytes(const factors_record *r) {
    return sizeof *r + padded((size_t)(r->rank * (r->in + r->rows)) * sizeof(float));
}

static void keep_weights_instead(placed_variant *v) {
    v->dense = true;
    free(v->added);
    v->added = NULL;
    v->n_added = 0;
}

static exit_code keep(placed_variant *v, const variant_factors *x, int in, problems *list) {
    factors_record r = {x->linear, x->rank, x->first_row, x->rows, in, (double)x->scale};
    size_t a = (size_t)(x->rank * r.in) * sizeof(float), b = (size_t)(x->rank * x->rows) * sizeof(float);
    if (v->n_added + record_bytes(&r) >= (size_t)base_variant_floats(v->source) * sizeof(float))
        keep_weights_instead(v);
    if (v->dense) return EXIT_OK;
    uint8_t *grown = realloc(v->added, v->n_added + record_bytes(&r));
    if (!grown) return no_memory(list);
    v->added = grown;
    memset(grown + v->n_added, 0, record_bytes(&r));
    memcpy(grown + v->n_added, &r, sizeof r);
    memcpy(grown + v->n_added + sizeof r, x->a, a);
    memcpy(grown + v->n_added + sizeof r + a, x->b, b);
    v->n_added += record_bytes(&r);
    return EXIT_OK;
}

/* ---- Versions ---- */

static bool is_shared(const fleet *f, int which) {
    const int *of = f->variants->of_population;
    for (int i = 0; i < f->n_populations; i++)
        if (i != which && of[i] == of[which]) return true;
    return false;
}

/* From now on the population has a variant of its own. */
static exit_code split(fleet *f, int which, problems *list) {
    struct variants *v = f->variants;
    if (!is_shared(f, which)) return EXIT_OK;
    const placed_variant *from = variant_of_population(f, which);
    placed_variant *own = &v->each[v->n];
    size_t bytes = (size_t)base_variant_floats(from->source) * sizeof(float);
    void *memory = NULL;
    *own = (placed_variant){.source = from->source, .version = 1, .bytes_of = malloc(sizeof *own->bytes_of)};
    if (!own->bytes_of) return no_memory(list);
    own->bytes_of[0] = from->bytes_of[0];
    ck_status status = ck_alloc(f->backend, bytes, "a base variant", &memory);
    own->memory = memory;
    THEN(status, ck_copy(f->stream, own->memory, from->memory, bytes));
    THEN(status, ck_wait(f->stream));
    v->of_population[which] = v->n++;
    variant_fill_table(v, v->of_population[which]);
    return kernel_problem(list, f->backend, status, "a base variant of a population's own");
}

static exit_code add_version(placed_variant *v, int64_t bytes, problems *list) {
    int64_t *grown = realloc(v->bytes_of, ((size_t)v->version + 1) * sizeof *grown);
    if (!grown) return no_memory(list);
    v->bytes_of = grown;
    grown[v->version++] = bytes;
    return EXIT_OK;
}

static base_linear linear_of(const fleet *f, int linear) {
    return base_variant_linear(f->variants->sources[0], linear);
}

exit_code variants_fold(fleet *f, int which, const variant_factors *factors, int n, problems *list) {
    if (!variant_of_population(f, which))
        return problem(list, EXIT_RUN, "population '%s' has no base variant to fold factors into",
                       f->populations[which].settings->name);
    exit_code code = split(f, which, list);
    placed_variant *v = variant_of_population(f, which);
    int64_t bytes = 0;
    for (int i = 0; i < n && code == EXIT_OK; i++) {
        base_linear l = linear_of(f, factors[i].linear);
        code = check_factors(v, &factors[i], l, list);
        THEN(code, fold(f, v, &factors[i], l, list));
        THEN(code, keep(v, &factors[i], l.in, list));
        bytes += 4 * factors[i].rank * (l.in + factors[i].rows);
    }
    return THEN(code, add_version(v, bytes, list));
}

/* ---- Saving ---- */

static size_t content_bytes(const placed_variant *v) {
    return v->dense ? (size_t)base_variant_floats(v->source) * sizeof(float) : v->n_added;
}

static size_t saved_bytes(const fleet *f) {
    size_t bytes = 0;
    for (int i = 0; i < f->n_populations; i++) {
        const placed_variant *v = variant_of_population(f, i);
        if (v) bytes += sizeof(saved_header) + (size_t)v->version * sizeof *v->bytes_of + content_bytes(v);
    }
    return bytes;
}

static void *put(uint8_t **at, const void *from, size_t bytes) {
    void *here = *at;
    if (from && bytes) memcpy(here, from, bytes);
    *at += bytes;
    return here;
}

static ck_status save_variant(const fleet *f, const placed_variant *v, uint8_t **at) {
    saved_header header = {v->version, v->dense, (int64_t)content_bytes(v)};
    put(at, &header, sizeof header);
    put(at, v->bytes_of, (size_t)v->version * sizeof *v->bytes_of);
    void *content = put(at, v->added, content_bytes(v));
    if (!v->dense) return CK_OK;
    ck_status status = ck_download(f->stream, content, v->memory, content_bytes(v));
    return THEN(status, ck_wait(f->stream));
}

static bool any_new_version(const fleet *f) {
    for (int i = 0; i < f->n_populations; i++)
        if (variants_version(f, i) > 1) return true;
    return false;
}

exit_code variants_save(const fleet *f, uint8_t **out, int64_t *bytes, problems *list) {
    *out = NULL;
    *bytes = 0;
    if (!any_new_version(f)) return EXIT_OK;
    uint8_t *at = *out = malloc(saved_bytes(f));
    if (!at) return problem(list, EXIT_ENVIRONMENT, "out of memory for the base variants of a checkpoint");
    *bytes = (int64_t)saved_bytes(f);
    ck_status status = CK_OK;
    for (int i = 0; i < f->n_populations && status == CK_OK; i++) {
        const placed_variant *v = variant_of_population(f, i);
        if (v) status = save_variant(f, v, &at);
    }
    return kernel_problem(list, f->backend, status, "reading the base variants");
}

/* ---- Going on ---- */

/* What is left of the saved bytes. */
typedef struct {
    const uint8_t *at;
    size_t left;
    bool short_; /* more was wanted than there is */
} saved_reader;

static const void *take(saved_reader *r, size_t bytes) {
    const void *here = r->at;
    if (r->short_ || bytes > r->left) {
        r->short_ = true;
        return NULL;
    }
    r->at += bytes;
    r->left -= bytes;
    return here;
}

static exit_code refold(fleet *f, placed_variant *v, saved_reader content, bool *damaged, problems *list) {
    exit_code code = EXIT_OK;
    while (content.left > 0 && code == EXIT_OK && !*damaged) {
        factors_record r;
        const void *head = take(&content, sizeof r);
        if (head) memcpy(&r, head, sizeof r);
        const float *a = head && r.rank >= 1 && r.rank <= 1 << 20 && r.in >= 1 && r.rows >= 1 &&
                                 r.linear >= 0 && r.linear < f->variants->n_linears
                             ? take(&content, record_bytes(&r) - sizeof r)
                             : NULL;
        *damaged = !a || linear_of(f, r.linear).in != r.in;
        if (*damaged) break;
        variant_factors x = {r.linear, r.first_row, r.rows, r.rank, (float)r.scale, a, a + r.rank * r.in};
        code = check_factors(v, &x, linear_of(f, r.linear), list);
        THEN(code, fold(f, v, &x, linear_of(f, r.linear), list));
        THEN(code, keep(v, &x, (int)r.in, list));
    }
    return code;
}

static exit_code restore_weights(fleet *f, placed_variant *v, const void *content, problems *list) {
    keep_weights_instead(v);
    ck_status status = ck_upload(f->stream, v->memory, content, content_bytes(v));
    THEN(status, ck_wait(f->stream));
    return kernel_problem(list, f->backend, status, "restoring a base variant");
}

static exit_code restore_variant(fleet *f, int which, saved_reader *r, bool *damaged, problems *list) {
    saved_header header = {0};
    const void *head = take(r, sizeof header);
    if (head) memcpy(&header, head, sizeof header);
    *damaged = !head || header.version < 1 || header.version > (int64_t)1 << 40 || header.bytes < 0;
    const int64_t *bytes_of = *damaged ? NULL : take(r, (size_t)header.version * sizeof *bytes_of);
    const uint8_t *content = bytes_of ? take(r, (size_t)header.bytes) : NULL;
    *damaged = !content;
    if (*damaged) return EXIT_OK;
    exit_code code = header.version > 1 ? split(f, which, list) : EXIT_OK;
    placed_variant *v = variant_of_population(f, which);
    for (int64_t i = 1; i < header.version && code == EXIT_OK; i++) code = add_version(v, bytes_of[i], list);
    if (code != EXIT_OK || header.version == 1) return code;
    if (!header.dense)
        return refold(f, v, (saved_reader){content, (size_t)header.bytes, false}, damaged, list);
    *damaged = (size_t)header.bytes != (size_t)base_variant_floats(v->source) * sizeof(float);
    return *damaged ? EXIT_OK : restore_weights(f, v, content, list);
}

exit_code variants_restore(fleet *f, const uint8_t *saved, int64_t bytes, const char *path, problems *list) {
    saved_reader r = {saved, (size_t)bytes, false};
    bool damaged = !f->variants;
    exit_code code = EXIT_OK;
    if (bytes == 0) return EXIT_OK;
    for (int i = 0; i < f->n_populations && code == EXIT_OK && !damaged; i++)
        if (variant_of_population(f, i)) code = restore_variant(f, i, &r, &damaged, list);
    if (code == EXIT_OK && (damaged || r.left > 0))
        code =
            problem(list, EXIT_INPUT,
                    "%s: /variants does not fit this run; it is damaged: start over in a new folder", path);
    return code;
}

/* ---- Merging ---- */

/* All bytes of the next record; 0: it is damaged. */
static size_t record_of_population(const saved_reader *r) {
    saved_header h;
    if (r->left < sizeof h) return 0;
    memcpy(&h, r->at, sizeof h);
    if (h.version < 1 || h.version > (int64_t)1 << 40 || h.bytes < 0) return 0;
    size_t bytes = sizeof h + (size_t)h.version * sizeof(int64_t) + (size_t)h.bytes;
    return bytes <= r->left ? bytes : 0;
}

exit_code variants_append_saved(const saved_variants *from, int which, uint8_t **out, int64_t *bytes,
                                problems *list) {
    /* version 1 says nothing more */
    static const struct {
        saved_header header;
        int64_t bytes_of;
    } unchanged = {{1, 0, 0}, 0};
    saved_reader r = {from->bytes, (size_t)from->n, false};
    size_t length = sizeof unchanged;
    if (!from->fleet->populations[which].settings->variant) return EXIT_OK;
    for (int i = 0; i <= which && from->n > 0; i++) {
        if (!from->fleet->populations[i].settings->variant) continue;
        length = record_of_population(&r);
        if (length == 0)
            return problem(list, EXIT_INPUT,
                           "the base variants of a checkpoint are damaged, or of another run");
        if (i < which) (void)take(&r, length);
    }
    uint8_t *grown = realloc(*out, (size_t)*bytes + length);
    if (!grown) return no_memory(list);
    memcpy(grown + *bytes, from->n > 0 ? (const void *)r.at : (const void *)&unchanged, length);
    *out = grown;
    *bytes += (int64_t)length;
    return EXIT_OK;
}
