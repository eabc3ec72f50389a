#include "rig/view.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "rig/case.h"

const double VIEW_UNJUDGED = -DBL_MAX;

/* ---- Picking */

picks picks_of(int64_t first, int64_t count, double wanted) {
    int64_t n = wanted >= (double)count ? count : (int64_t)wanted;
    if (n < 1 && count > 0) n = 1;
    picks p = {.n = n, .index = rig_zeros(n, sizeof *p.index)};
    for (int64_t i = 0; i < n; i++) p.index[i] = first + (n > 1 ? i * (count - 1) / (n - 1) : 0);
    return p;
}

void picks_free(picks *p) {
    free(p->index);
    *p = (picks){0};
}

/* ---- Columns */

/* How often the columns of the cut stand side by side in a tensor; 0: it is not cut. */
static int branches_of(const view *v, tensor_id id) {
    column_kind kind = v->r->tensor[id].kind;
    if (v->cut == COLUMNS_FFN && kind == COLUMNS_UP) return v->r->up / v->r->ffn;
    return v->cut != COLUMNS_PLAIN && kind == v->cut;
}

int view_columns(const view *v, tensor_id id) {
    int branches = branches_of(v, id);
    return branches ? branches * (int)v->columns.n : v->r->tensor[id].columns;
}

/* Where column c of the view is in the tensor. */
static int64_t column_at(const view *v, tensor_id id, int64_t c) {
    if (!branches_of(v, id)) return c;
    return c / v->columns.n * v->r->ffn + v->columns.index[c % v->columns.n];
}

double *view_row(const view *v, tensor_id id, int64_t row) {
    return v->tensor[id] + row * view_columns(v, id);
}

int64_t view_length(const view *v, int s) {
    return v->row[s + 1] - v->row[s];
}

double view_loss_scale(const view *v) {
    const rig *r = v->r;
    int64_t counted = r->trains_base
                          ? oracle_counted(r->n_tokens, r->targets)
                          : oracle_counted(rig_rows(r, v->device), r->targets + rig_first(r, v->device));
    return counted > 0 ? 1.0 / (double)counted : 0;
}

/* ---- Content */

static void gather(view *v, tensor_id id) {
    const tensor_array *t = &v->r->tensor[id];
    int64_t columns = view_columns(v, id), count = v->rows.n * columns;
    const float *from = t->role == INNER && v->cut ? t->after : t->before;
    v->tensor[id] = oracle_zeros(count);
    if (t->after) v->out[id] = rig_zeros(count, sizeof(float));
    for (int64_t i = 0; i < count; i++) {
        int64_t at = v->rows.index[i / columns] * t->columns + column_at(v, id, i % columns);
        if (from) v->tensor[id][i] = (double)from[at];
        if (t->after) v->out[id][i] = t->after[at];
    }
}

static void copy_columns(view *v, oracle_part part) {
    oracle_range wide = oracle_part_range(rig_shape(v->r, v->device), v->r->layer, part),
                 narrow = oracle_part_range(&v->shape, v->r->layer, part);
    int64_t n = v->columns.n, rows = narrow.count / n, stride = rows ? wide.count / rows : 0;
    for (int64_t i = 0; i < narrow.count; i++)
        v->parameters[narrow.offset + i] = (double)rig_pack_value(
            v->r, PACK_PARAMETERS, v->device, wide.offset + i / n * stride + v->columns.index[i % n]);
}

/* A pack of the cut's columns: of router, A1 and B2, or of B1 and A2. */
static void narrow_adapter(view *v) {
    uint64_t parts = v->cut == COLUMNS_WIDTH ? 1u << ORACLE_ROUTER | 1u << ORACLE_A1 | 1u << ORACLE_B2
                                             : 1u << ORACLE_B1 | 1u << ORACLE_A2;
    v->shape.width = v->cut == COLUMNS_WIDTH ? (int)v->columns.n : 1;
    v->shape.ffn = v->cut == COLUMNS_FFN ? (int)v->columns.n : 1;
    memset(v->shape.lora_rank, 0, sizeof v->shape.lora_rank);
    memset(v->shape.tied_rank, 0, sizeof v->shape.tied_rank);
    memset(v->shape.vector, 0, sizeof v->shape.vector);
    if (ck_shape_init(&v->shape, NULL) != CK_OK) abort();
    v->parameters = oracle_zeros(v->shape.total);
    for (oracle_part part = 0; part < ORACLE_PARTS; part++)
        if (parts >> part & 1) copy_columns(v, part);
}

static void open(view *v, double *const *buffer) {
    const rig *r = v->r;
    v->buffer = buffer;
    v->shape = *rig_shape(r, v->device);
    if (r->n_kinds && v->cut)
        narrow_adapter(v);
    else if (r->n_kinds)
        v->parameters = rig_pack(r, PACK_PARAMETERS, v->device);
    v->gradients = oracle_zeros(v->shape.total);
    v->adapter = (oracle_adapter){&v->shape, r->layer, v->parameters, v->gradients};
    v->targets = rig_zeros(v->rows.n, sizeof *v->targets);
    for (int64_t i = 0; i < v->rows.n; i++) v->targets[i] = r->targets[v->rows.index[i]];
    for (int i = 0; i < TENSORS; i++)
        if (r->tensor[i].role != ABSENT) gather(v, (tensor_id)i);
}

void view_open_rows(view *v, const rig *r, verdict *judge, int device, picks rows, double *const *buffer) {
    *v = (view){.r = r, .verdict = judge, .device = device, .rows = rows};
    open(v, buffer);
}

void view_open_cut(view *v, const rig *r, verdict *judge, int device, column_kind cut, picks columns,
                   double *const *buffer) {
    int64_t n = rig_rows(r, device);
    *v = (view){.r = r, .verdict = judge, .device = device, .cut = cut, .columns = columns};
    v->rows = picks_of(rig_first(r, device), n, (double)n);
    open(v, buffer);
}

void view_open_sequences(view *v, const rig *r, verdict *judge, int device, picks sequences,
                         double *const *buffer) {
    *v = (view){.r = r, .verdict = judge, .device = device, .n_sequences = (int)sequences.n};
    v->sequence = rig_zeros(sequences.n, sizeof *v->sequence);
    v->row = rig_zeros(sequences.n + 1, sizeof *v->row);
    v->rows.index = rig_zeros(rig_rows(r, device), sizeof *v->rows.index);
    for (int64_t i = 0; i < sequences.n; i++) {
        int s = v->sequence[i] = (int)sequences.index[i];
        for (int64_t t = r->first_token[s]; t < r->first_token[s + 1]; t++) v->rows.index[v->rows.n++] = t;
        v->row[i + 1] = v->rows.n;
    }
    picks_free(&sequences);
    open(v, buffer);
}

void view_close(view *v) {
    for (int i = 0; i < TENSORS; i++) {
        free(v->tensor[i]);
        free(v->out[i]);
    }
    picks_free(&v->rows);
    picks_free(&v->columns);
    free(v->sequence);
    free(v->row);
    free(v->targets);
    free(v->parameters);
    free(v->gradients);
}

/* ---- Comparing */

/* The expert that a column belongs to; -1: none. */
static int expert_of(const view *v, tensor_id id, int column) {
    const ck_shape *s = &v->shape;
    column_kind kind = v->r->tensor[id].kind;
    int rank = column - (kind == COLUMNS_ROUTED ? s->router_rows : 0), e = 0;
    if (kind == COLUMNS_EXPERTS) return column < s->n_experts ? column : -1;
    if (rank < 0 || rank >= s->h_ranks) return -1;
    while (rank % s->rank_sum >= s->rank_first[e + 1]) e++;
    return e;
}

void view_skip(view *v, tensor_id id, int64_t row) {
    for (int c = 0; c < view_columns(v, id); c++) view_row(v, id, row)[c] = VIEW_UNJUDGED;
}

static bool is_unchosen(const view *v, tensor_id id, tensor_id gates, int64_t row, int column) {
    int e = expert_of(v, id, column);
    return e >= 0 && !(view_row(v, gates, row)[e] > 0);
}

void view_unchosen(view *v, tensor_id id) {
    for (int64_t row = 0; row < v->rows.n; row++)
        for (int c = 0; c < view_columns(v, id); c++)
            if (is_unchosen(v, id, GATES, row, c)) view_row(v, id, row)[c] = VIEW_UNJUDGED;
}

void view_allow_zeros(view *v, tensor_id id, tensor_id gates) {
    int columns = view_columns(v, id);
    for (int64_t row = 0; row < v->rows.n; row++)
        for (int c = 0; c < columns; c++)
            if (v->out[id][row * columns + c] == 0 && is_unchosen(v, id, gates, row, c))
                view_row(v, id, row)[c] = 0;
}

void view_judge(view *v, tensor_id id) {
    const tensor_array *t = &v->r->tensor[id];
    int columns = view_columns(v, id), owned = branches_of(v, id) ? columns : rig_owned(v->r, id, v->device);
    int64_t count = 0;
    float *out = rig_zeros(v->rows.n * columns, sizeof *out);
    double *ref = oracle_zeros(v->rows.n * columns);
    if (t->chosen) view_unchosen(v, id);
    for (int64_t i = 0; i < v->rows.n * columns; i++) {
        if (i % columns >= owned || v->tensor[id][i] == VIEW_UNJUDGED) continue;
        out[count] = v->out[id][i];
        ref[count++] = v->tensor[id][i];
    }
    verdict_compare(v->verdict, t->name, out, ref, count);
    for (int64_t i = 0; i < v->rows.n * columns; i++) v->tensor[id][i] = (double)v->out[id][i];
    v->done[id] = true;
    free(out);
    free(ref);
}
