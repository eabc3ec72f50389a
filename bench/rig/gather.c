#include "rig/gather.h"

#include <stdlib.h>
#include <string.h>

enum { LEAST_ROWS = 4, LEAST_COLUMNS = 8 };

static void *need(void *memory) {
    if (!memory) abort();
    return memory;
}

/* ---- Picking */

picks picks_of(int64_t first, int64_t count, double wanted) {
    int64_t n = wanted >= (double)count ? count : (int64_t)wanted;
    if (n < 1 && count > 0) n = 1;
    picks p = {.n = n, .index = need(malloc((size_t)(n + 1) * sizeof *p.index))};
    for (int64_t i = 0; i < n; i++) p.index[i] = first + (n > 1 ? i * (count - 1) / (n - 1) : 0);
    return p;
}

void picks_free(picks *p) {
    free(p->index);
    *p = (picks){0};
}

static double at_least(double wanted, double least) {
    return wanted > least ? wanted : least;
}

picks world_some_rows(const world *w, int device, double cost_per_row) {
    return picks_of(world_first(w, device), world_rows(w, device),
                    at_least(GATHER_BUDGET / cost_per_row, LEAST_ROWS));
}

picks world_all_rows(const world *w, int device) {
    return picks_of(world_first(w, device), world_rows(w, device), (double)world_rows(w, device));
}

picks world_some_columns(int count, double cost_per_column) {
    return picks_of(0, count, at_least(GATHER_BUDGET / cost_per_column, LEAST_COLUMNS));
}

/* ---- Rows and columns */

static int64_t width_of(const picks *columns, int64_t all) {
    return columns ? columns->n : all;
}

static int64_t at(const picks *columns, int64_t i) {
    return columns ? columns->index[i] : i;
}

double *world_gather(const world *w, tensor_id id, side when, const picks *rows, const picks *columns) {
    const tensor_array *t = &w->tensor[id];
    const float *from = when == BEFORE ? t->before : t->after;
    int64_t n = width_of(columns, t->columns);
    double *out = oracle_zeros(rows->n * n);
    for (int64_t r = 0; r < rows->n; r++)
        for (int64_t c = 0; c < n; c++)
            out[r * n + c] = (double)from[rows->index[r] * t->columns + at(columns, c)];
    return out;
}

double *world_read(const world *w, tensor_id id, const picks *rows, const picks *columns) {
    return world_gather(w, id, w->tensor[id].before ? BEFORE : AFTER, rows, columns);
}

void world_compare(const world *w, verdict *v, tensor_id id, const picks *rows, const picks *columns,
                   const double *ref) {
    const tensor_array *t = &w->tensor[id];
    int64_t n = width_of(columns, t->columns);
    float *out = need(malloc((size_t)(rows->n * n + 1) * sizeof *out));
    for (int64_t r = 0; r < rows->n; r++)
        for (int64_t c = 0; c < n; c++)
            out[r * n + c] = t->after[rows->index[r] * t->columns + at(columns, c)];
    verdict_compare(v, t->name, out, ref, rows->n * n);
    free(out);
}

void world_compare_finite(const world *w, verdict *v, bool all_kept) {
    for (int i = 0; i < TENSORS; i++) {
        const tensor_array *t = &w->tensor[i];
        if (i == G || i == Q || i == DW) continue;
        if (t->after && (all_kept || t->role != INNER))
            verdict_finite(v, t->name, t->after, w->n_tokens * t->columns);
    }
    for (int i = 0; i < BUFFERS; i++)
        if (w->buffer[i].after) verdict_finite(v, w->buffer[i].name, w->buffer[i].after, w->buffer[i].count);
}

/* ---- A device's layer */

static device_reference make_reference(const ck_shape *shape, double *parameters) {
    device_reference r = {.shape = *shape, .parameters = parameters, .gradients = oracle_zeros(shape->total)};
    return r;
}

oracle_adapter reference_adapter(const device_reference *r) {
    return (oracle_adapter){
        .shape = &r->shape, .layer = 0, .parameters = r->parameters, .gradients = r->gradients};
}

device_reference reference_of(const world *w, int device) {
    return make_reference(&w->shape, world_pack(w, PACK_PARAMETERS, device));
}

static void copy_columns(const world *w, int device, const ck_shape *to, double *pack, oracle_part part,
                         const picks *columns) {
    oracle_range wide = oracle_part_range(&w->shape, 0, part), narrow = oracle_part_range(to, 0, part);
    int64_t rows = columns->n ? narrow.count / columns->n : 0, stride = rows ? wide.count / rows : 0;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns->n; c++)
            pack[narrow.offset + r * columns->n + c] = (double)world_pack_value(
                w, PACK_PARAMETERS, device, wide.offset + r * stride + columns->index[c]);
}

static device_reference narrow_reference(const world *w, int device, int width, int ffn, unsigned parts,
                                         const picks *columns) {
    ck_shape shape = w->shape;
    shape.width = width;
    shape.ffn = ffn;
    memset(shape.lora_rank, 0, sizeof shape.lora_rank);
    if (ck_shape_init(&shape, NULL) != CK_OK) abort();
    double *pack = oracle_zeros(shape.total);
    for (int part = 0; part < ORACLE_PARTS; part++)
        if (parts >> part & 1) copy_columns(w, device, &shape, pack, (oracle_part)part, columns);
    return make_reference(&shape, pack);
}

device_reference reference_of_width(const world *w, int device, const picks *columns) {
    return narrow_reference(w, device, (int)columns->n, 1,
                            1u << ORACLE_ROUTER | 1u << ORACLE_A1 | 1u << ORACLE_B2, columns);
}

device_reference reference_of_ffn(const world *w, int device, const picks *columns) {
    return narrow_reference(w, device, 1, (int)columns->n, 1u << ORACLE_B1 | 1u << ORACLE_A2, columns);
}

void reference_free(device_reference *r) {
    free(r->parameters);
    free(r->gradients);
}

void world_compare_gradient(const world *w, verdict *v, int i, const device_reference *r, oracle_part part,
                            const picks *columns) {
    oracle_range wide = oracle_part_range(&w->shape, 0, part), narrow = oracle_part_range(&r->shape, 0, part);
    if (narrow.count == 0) return;
    float *out = need(malloc((size_t)narrow.count * sizeof *out));
    for (int64_t j = 0; j < narrow.count; j++) {
        int64_t row = columns ? j / columns->n : 0, column = columns ? j % columns->n : j;
        int64_t stride = columns ? wide.count / (narrow.count / columns->n) : 0;
        out[j] = w->pack_after[PACK_GRADIENTS][i][wide.offset + row * stride + at(columns, column)];
    }
    char what[32] = "d";
    strncat(what, oracle_part_name(part), sizeof what - 2);
    verdict_compare(v, what, out, r->gradients + narrow.offset, narrow.count);
    free(out);
}
