/* Rows and columns of devices, and the comparison of the two worlds. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "conformance/rig.h"

const double rig_tolerance = 1e-5, rig_tolerance_half = 1e-2;

const ck_shape *rig_shape(const rig *r, int device) {
    return &r->shapes[r->spec->devices[device].shape];
}

int64_t rig_first(const rig *r, int device) {
    return r->first_token[r->first_sequence[device]];
}

int64_t rig_rows(const rig *r, int device) {
    return r->first_token[r->first_sequence[device + 1]] - rig_first(r, device);
}

double *rig_row(const rig_tensor *t, int64_t token) {
    return t->ref + token * t->columns;
}

oracle_adapter rig_adapter(const rig *r, int device, int layer) {
    const ck_wave_device *d = &r->devices[device];
    return (oracle_adapter){rig_shape(r, device), layer, r->parameters.ref + d->parameters,
                            r->gradients.ref + d->gradients};
}

static int columns_of(const ck_shape *s, const rig_tensor *t, rig_columns columns) {
    switch (columns) {
    case COLUMNS_ALL:
        return t->columns;
    case COLUMNS_EXPERTS:
        return s->n_experts;
    case COLUMNS_ROUTED:
        return s->router_rows + s->h_ranks;
    case COLUMNS_RANKS:
        return s->rank_sum;
    case COLUMNS_H:
        return s->h_ranks;
    case COLUMNS_LORA:
    case COLUMNS_TIED:
        break;
    }
    if (columns >= COLUMNS_TIED) return s->tied_rank[columns - COLUMNS_TIED];
    return s->lora_rank[columns - COLUMNS_LORA];
}

void rig_poison(rig *r, rig_tensor *t, rig_columns columns) {
    for (int d = 0; d < r->spec->n_devices; d++)
        for (int64_t i = rig_first(r, d); i < rig_first(r, d) + rig_rows(r, d); i++)
            for (int c = columns_of(rig_shape(r, d), t, columns); c < t->columns; c++)
                t->host[i * t->columns + c] = NAN;
    rig_take(r, t);
}

static void ignore(rig_tensor *t, int64_t token, int first, int count) {
    for (int c = first; c < first + count; c++) {
        t->host[token * t->columns + c] = 0;
        t->ref[token * t->columns + c] = 0;
    }
}

/* Both branches of an expert's ranks, behind `first` columns. */
static void ignore_ranks(rig_tensor *t, int64_t token, int first, const ck_shape *s, int ranks, int e) {
    for (int branch = 0; branch < ranks; branch += s->rank_sum)
        ignore(t, token, first + branch + s->rank_first[e], s->rank[e]);
}

void rig_ignore_unchosen(rig *r, rig_tensor *t, rig_columns columns, const rig_tensor *gates) {
    for (int d = 0; d < r->spec->n_devices; d++) {
        const ck_shape *s = rig_shape(r, d);
        for (int64_t i = rig_first(r, d); i < rig_first(r, d) + rig_rows(r, d); i++)
            for (int e = 0; e < s->n_experts; e++) {
                if (rig_row(gates, i)[e] > 0) continue;
                if (columns == COLUMNS_EXPERTS) ignore(t, i, e, 1);
                if (columns == COLUMNS_RANKS) ignore_ranks(t, i, 0, s, s->rank_sum, e);
                if (columns == COLUMNS_H) ignore_ranks(t, i, 0, s, s->h_ranks, e);
                if (columns == COLUMNS_ROUTED) ignore_ranks(t, i, s->router_rows, s, s->h_ranks, e);
            }
    }
}

static void describe(const rig *r, char *where, size_t size, const char *name, int device) {
    int length =
        snprintf(where, size, "%s %s: %s on wave '%s': %s", ck_name(r->backend),
                 r->capacity.precision == CK_BF16 ? "bf16" : "f32", r->case_name, r->spec->name, name);
    if (device >= 0 && length > 0 && (size_t)length < size)
        snprintf(where + length, size - (size_t)length, " of device %d (shape %d, %lld tokens, learns %u)",
                 device, r->spec->devices[device].shape, (long long)rig_rows(r, device),
                 r->devices[device].learn);
}

void rig_expect_finite(rig *r, const rig_tensor *t, rig_columns columns) {
    char where[256];
    for (int d = 0; d < r->spec->n_devices && !r->broken; d++) {
        int count = columns_of(rig_shape(r, d), t, columns);
        int64_t bad = 0;
        for (int64_t i = rig_first(r, d); i < rig_first(r, d) + rig_rows(r, d); i++)
            for (int c = 0; c < count; c++) bad += !isfinite(t->host[i * t->columns + c]);
        r->check->comparisons++;
        describe(r, where, sizeof where, t->name, d);
        if (bad > 0) check_fail(r->check, "%s: %lld values are not finite", where, (long long)bad);
    }
}

void rig_compare(rig *r, const rig_tensor *t, rig_columns columns) {
    char where[256];
    for (int d = 0; d < r->spec->n_devices && !r->broken; d++) {
        if (r->skip_evaluated && r->devices[d].learn == 0) continue;
        int count = columns_of(rig_shape(r, d), t, columns);
        int64_t first = rig_first(r, d), rows = rig_rows(r, d);
        float *out = malloc((size_t)(rows * t->columns) * sizeof *out);
        double *ref = oracle_zeros(rows * t->columns);
        if (out == NULL) abort();
        for (int64_t i = 0; i < rows * count; i++) {
            int64_t from = (first + i / count) * t->columns + i % count;
            out[i] = t->host[from];
            ref[i] = t->ref[from];
        }
        describe(r, where, sizeof where, t->name, d);
        check_near(r->check, where, out, ref, rows * count, r->tolerance);
        free(out);
        free(ref);
    }
}

void rig_compare_buffer(rig *r, const rig_buffer *b, int64_t first, int64_t count) {
    char where[256];
    if (r->broken) return;
    describe(r, where, sizeof where, b->name, -1);
    check_near(r->check, where, b->host + first, b->ref + first, count, r->tolerance);
}

void rig_compare_gradients(rig *r, int layer, uint64_t parts) {
    char where[256], name[32];
    for (int d = 0; d < r->spec->n_devices && !r->broken; d++)
        for (oracle_part part = 0; part < ORACLE_PARTS; part++) {
            uint32_t group = part == ORACLE_ROUTER ? CK_LEARN_ROUTER : CK_LEARN_EXPERTS;
            if ((parts >> part & 1) == 0 || (r->devices[d].learn & group) == 0) continue;
            oracle_range range = oracle_part_range(rig_shape(r, d), layer, part);
            int64_t at = r->devices[d].gradients + range.offset;
            snprintf(name, sizeof name, "d%s of layer %d", oracle_part_name(part), layer);
            describe(r, where, sizeof where, name, d);
            check_near(r->check, where, r->gradients.host + at, r->gradients.ref + at, range.count,
                       r->tolerance);
        }
}
