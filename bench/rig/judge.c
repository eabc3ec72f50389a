/* judge.c - which rows and columns a rig is judged on, and the comparison of everything it wrote. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rig/case.h"

enum { LEAST_ROWS = 4, LEAST_SEQUENCES = 2, LEAST_COLUMNS = 8 };

void rig_context(const rig *r, verdict *v, int device) {
    int length = snprintf(v->context, sizeof v->context, "%s %s%s%s%s", ck_name(r->backend),
                          r->precision == CK_BF16 ? "bf16" : "f32", r->where[0] ? ", wave '" : "", r->where,
                          r->where[0] ? "'" : "");
    if (device >= 0 && length > 0 && (size_t)length < sizeof v->context)
        snprintf(v->context + length, sizeof v->context - (size_t)length,
                 ", device %d (shape %d, %lld tokens, learns %u)", device, r->devices[device].shape,
                 (long long)rig_rows(r, device), r->devices[device].learn);
}

/* A backward case promises nothing for devices that learn nothing. */
static bool is_judged(const rig *r, int device) {
    return r->trains_base || !(r->which->needs & NEED_GRADIENTS) || r->devices[device].learn != 0;
}

/* ---- Budget */

/* Multiply-adds of the reference for a token, about; *parts: operations. */
static double cost_per_row(const rig *r, int *parts) {
    cost costs[CASE_MOST_COSTS];
    double sum = 0;
    *parts = rig_costs(r, costs);
    for (int i = 0; i < *parts; i++) sum += costs[i].flops / 2 + costs[i].bytes / 4;
    return sum / (double)r->n_tokens;
}

static double at_least(double wanted, double least) {
    return wanted > least ? wanted : least;
}

/* Rows that can be paid for. */
static double affordable(const rig *r) {
    int parts;
    if (r->all_checked) return INFINITY;
    double per_row = cost_per_row(r, &parts);
    return CASE_BUDGET * parts / per_row;
}

static void open_view(view *v, const rig *r, verdict *judge, int device, double *const *buffer) {
    int64_t rows = rig_rows(r, device);
    int first = r->first_sequence[device], n = r->first_sequence[device + 1] - first;
    double most = affordable(r);
    if (r->which->rows == ROWS_DEVICE || most >= (double)rows)
        view_open_sequences(v, r, judge, device, picks_of(first, n, n), buffer);
    else if (r->which->rows == ROWS_SEQUENCES)
        view_open_sequences(v, r, judge, device,
                            picks_of(first, n, at_least(most * n / (double)rows, LEAST_SEQUENCES)), buffer);
    else
        view_open_rows(v, r, judge, device, picks_of(rig_first(r, device), rows, at_least(most, LEAST_ROWS)),
                       buffer);
}

/* ---- Finite */

static void check_finite(const rig *r, verdict *v, bool all_kept) {
    for (int i = 0; i < TENSORS; i++) {
        const tensor_array *t = &r->tensor[i];
        if (!t->after || t->chosen || (t->role == INNER && !all_kept)) continue;
        for (int d = 0; d < r->n_devices; d++) {
            if (!is_judged(r, d)) continue;
            int owned = rig_owned(r, (tensor_id)i, d);
            int64_t rows = owned == t->columns ? 1 : rig_rows(r, d);
            int64_t count = owned == t->columns ? rig_rows(r, d) * owned : owned;
            for (int64_t row = 0; row < rows; row++)
                verdict_finite(v, t->name, t->after + (rig_first(r, d) + row) * t->columns, count);
        }
    }
    for (int i = 0; i < BUFFERS; i++) {
        const buffer_array *b = &r->buffer[i];
        if (b->after && !b->partial) verdict_finite(v, b->name, b->after, b->count);
    }
}

/* ---- Gradients of packs */

static void compare_gradient(const view *v, int i, oracle_part part) {
    const rig *r = v->r;
    oracle_range wide = oracle_part_range(rig_shape(r, v->device), r->layer, part),
                 narrow = oracle_part_range(&v->shape, r->layer, part);
    int64_t n = v->columns.n, rows = narrow.count / n, stride = rows ? wide.count / rows : 0;
    float *out = rig_zeros(narrow.count, sizeof *out);
    char what[32] = "d";
    for (int64_t j = 0; j < narrow.count; j++)
        out[j] = r->pack_after[PACK_GRADIENTS][i][wide.offset + j / n * stride + v->columns.index[j % n]];
    strncat(what, oracle_part_name(part), sizeof what - 2);
    verdict_compare(v->verdict, what, out, v->gradients + narrow.offset, narrow.count);
    free(out);
}

void rig_judge_gradients(const rig *r, verdict *v, int i, int layer, uint64_t parts,
                         const double *gradients) {
    int device = r->checked[i];
    for (oracle_part part = 0; part < ORACLE_PARTS; part++) {
        if (!(parts >> part & 1) || !(r->devices[device].learn & oracle_part_class(part))) continue;
        oracle_range range = oracle_part_range(rig_shape(r, device), layer, part);
        char what[64];
        snprintf(what, sizeof what, r->layers > 1 ? "d%s of layer %d" : "d%s", oracle_part_name(part), layer);
        verdict_compare(v, what, r->pack_after[PACK_GRADIENTS][i] + range.offset, gradients + range.offset,
                        range.count);
    }
}

/* ---- A device */

static void judge_tensors(view *v) {
    for (int i = 0; i < TENSORS; i++)
        if (v->out[i] && !v->done[i]) view_judge(v, (tensor_id)i);
}

static void judge_cut(const rig *r, verdict *judge, int i, const case_cut *cut, double *const *buffer) {
    int parts, device = r->checked[i], all = cut->columns == COLUMNS_WIDTH ? r->width : r->ffn;
    double per_column = cost_per_row(r, &parts) * (double)rig_rows(r, device) / all;
    picks columns = picks_of(0, all, at_least(CASE_BUDGET * parts / per_column, LEAST_COLUMNS));
    view v;
    view_open_cut(&v, r, judge, device, cut->columns, columns, buffer);
    (cut->of ? cut->of : r->which)->reference(&v);
    if (cut->tensor != NO_TENSOR) view_judge(&v, cut->tensor);
    for (oracle_part part = 0; part < ORACLE_PARTS; part++)
        if (cut->parts >> part & 1) compare_gradient(&v, i, part);
    view_close(&v);
}

static void judge_device(const rig *r, verdict *judge, int i, double *const *buffer) {
    int device = r->checked[i];
    view v;
    rig_context(r, judge, device);
    open_view(&v, r, judge, device, buffer);
    r->which->reference(&v);
    bool whole = v.rows.n == rig_rows(r, device);
    if (is_judged(r, device)) judge_tensors(&v);
    if (whole) rig_judge_gradients(r, judge, i, r->layer, r->gradients, v.gradients);
    view_close(&v);
    for (int c = 0; c < CASE_MOST_CUTS && r->which->cuts[c].columns && !whole; c++)
        judge_cut(r, judge, i, &r->which->cuts[c], buffer);
}

/* ---- Buffers: the views write their parts of them */

static void open_buffers(const rig *r, double *buffer[BUFFERS]) {
    for (int i = 0; i < BUFFERS; i++) {
        const buffer_array *b = &r->buffer[i];
        buffer[i] = NULL;
        if (b->role == ABSENT) continue;
        buffer[i] = b->before ? oracle_from_floats(b->before, b->count) : oracle_zeros(b->count);
        for (int64_t j = 0; j < b->count && b->role == OUTPUT; j++) buffer[i][j] = VIEW_UNJUDGED;
    }
}

/* Run by run of what was computed: a large value hides none far from it. */
static void judge_buffer(verdict *v, const buffer_array *b, const double *ref) {
    int64_t end, compared = 0;
    for (int64_t first = 0; first < b->count; first = end + 1) {
        for (end = first; end < b->count && ref[end] != VIEW_UNJUDGED; end++) {
        }
        if (end > first) verdict_compare(v, b->name, b->after + first, ref + first, end - first);
        compared += end - first;
    }
    if (!compared && !b->partial) verdict_fail(v, "%s: nothing of it was compared", b->name);
}

static void judge_buffers(const rig *r, verdict *v, double *buffer[BUFFERS]) {
    rig_context(r, v, -1);
    for (int i = 0; i < BUFFERS; i++) {
        if (buffer[i] && r->buffer[i].after) judge_buffer(v, &r->buffer[i], buffer[i]);
        free(buffer[i]);
    }
}

void rig_judge(rig *r, verdict *v, bool all_kept) {
    double *buffer[BUFFERS];
    rig_context(r, v, -1);
    check_finite(r, v, all_kept);
    if (r->which->reference) {
        open_buffers(r, buffer);
        for (int i = 0; i < r->n_checked; i++) judge_device(r, v, i, buffer);
        judge_buffers(r, v, buffer);
    }
    if (r->which->verify) r->which->verify(r, v);
}
