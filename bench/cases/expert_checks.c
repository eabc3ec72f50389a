#include "cases/expert_checks.h"

#include <math.h>
#include <stdlib.h>

/* Choices may differ from the reference's where two logits are closer than rounding. */
static double least_margin(const world *w) {
    return w->precision == CK_BF16 ? 3e-2 : 1e-4;
}

static double *start(const world *w, start_value *value, tensor_id id, int device, const picks *rows) {
    if (value) return value(w, device, rows);
    return w->tensor[id].before ? world_gather(w, id, BEFORE, rows, NULL)
                                : oracle_zeros(rows->n * w->tensor[id].columns);
}

/* Compares columns of chosen experts only; by_rank: columns are ranks, else experts. */
static void compare_chosen(const world *w, verdict *v, tensor_id id, const picks *rows, const double *gates,
                           bool by_rank, const double *ref) {
    const ck_shape *s = &w->shape;
    const tensor_array *t = &w->tensor[id];
    int columns = by_rank ? s->rank_sum : s->n_experts;
    float *out = calloc((size_t)(rows->n * columns + 1), sizeof *out);
    double *kept = oracle_zeros(rows->n * columns);
    for (int64_t r = 0; r < rows->n && out; r++)
        for (int e = 0; e < s->n_experts; e++) {
            int first = by_rank ? s->rank_first[e] : e, end = by_rank ? s->rank_first[e + 1] : e + 1;
            for (int c = first; c < end && gates[r * CK_MAX_EXPERTS + e] > 0; c++) {
                out[r * columns + c] = t->after[rows->index[r] * t->columns + c];
                kept[r * columns + c] = ref[r * t->columns + c];
            }
        }
    if (out) verdict_compare(v, t->name, out, kept, rows->n * columns);
    free(out);
    free(kept);
}

/* ---- Forward */

static void compare_gates(const world *w, verdict *v, const picks *rows, const double *zh,
                          const double *gates) {
    int columns = w->tensor[ZH].columns;
    for (int64_t r = 0; r < rows->n; r++) {
        picks row = {.n = 1, .index = rows->index + r};
        if (oracle_margin(&w->shape, 1, zh + r * columns, columns) < least_margin(w)) continue;
        const double *ref = gates + r * CK_MAX_EXPERTS;
        const float *out = w->tensor[GATES].after + row.index[0] * CK_MAX_EXPERTS;
        for (int e = 0; e < CK_MAX_EXPERTS; e++)
            if ((out[e] != 0) != (ref[e] > 0)) verdict_exact(v, "chosen experts", false);
        world_compare(w, v, GATES, &row, NULL, ref);
    }
}

/* h of an expert that the token has not chosen may be 0 instead. */
static void compare_zh(const world *w, verdict *v, const picks *rows, const double *zh) {
    const ck_shape *s = &w->shape;
    const tensor_array *t = &w->tensor[ZH];
    float *out = calloc((size_t)(rows->n * t->columns + 1), sizeof *out);
    double *kept = oracle_zeros(rows->n * t->columns);
    for (int64_t i = 0; i < rows->n * t->columns && out; i++) {
        int64_t row = rows->index[i / t->columns];
        int column = (int)(i % t->columns), rank = (column - s->router_rows) % s->rank_sum, e = 0;
        while (rank >= s->rank_first[e + 1]) e++;
        out[i] = t->after[row * t->columns + column];
        bool chosen = column < s->router_rows || w->tensor[GATES].after[row * CK_MAX_EXPERTS + e] != 0;
        kept[i] = chosen || out[i] != 0 ? zh[i] : 0;
    }
    if (out) verdict_compare(v, t->name, out, kept, rows->n * t->columns);
    free(out);
    free(kept);
}

void check_route(const world *w, verdict *v) {
    int columns = w->tensor[ZH].columns;
    for (int i = 0; i < w->n_checked; i++) {
        device_reference ref = reference_of(w, w->checked[i]);
        oracle_adapter a = reference_adapter(&ref);
        picks rows = world_some_rows(w, w->checked[i], (double)w->width * columns);
        double *x = world_read(w, X, &rows, NULL), *zh = oracle_zeros(rows.n * columns),
               *gates = oracle_zeros(rows.n * CK_MAX_EXPERTS);
        oracle_route(&a, rows.n, x, zh, columns, gates);
        compare_zh(w, v, &rows, zh);
        compare_gates(w, v, &rows, zh, gates);
        free(x);
        free(zh);
        free(gates);
        picks_free(&rows);
        reference_free(&ref);
    }
}

void check_activation(const world *w, verdict *v) {
    int zh_columns = w->tensor[ZH].columns, g_columns = w->tensor[G].columns;
    for (int i = 0; i < w->n_checked; i++) {
        device_reference ref = reference_of(w, w->checked[i]);
        oracle_adapter a = reference_adapter(&ref);
        picks rows = world_some_rows(w, w->checked[i], (double)w->up * (2 * w->shape.rank_sum + 32));
        double *u = world_read(w, U, &rows, NULL), *zh = world_read(w, ZH, &rows, NULL),
               *gates = world_read(w, GATES, &rows, NULL);
        double *m = oracle_zeros(rows.n * w->ffn), *g = oracle_zeros(rows.n * g_columns);
        oracle_expert_activation(&a, rows.n, u, zh, zh_columns, gates, m, g, g_columns);
        world_compare(w, v, M, &rows, NULL, m);
        compare_chosen(w, v, G, &rows, gates, true, g);
        free(u);
        free(zh);
        free(gates);
        free(m);
        free(g);
        picks_free(&rows);
        reference_free(&ref);
    }
}

void check_expand(const world *w, verdict *v, start_value *y_start) {
    double cost = (double)w->width * w->shape.rank_sum + (y_start ? (double)w->width * w->ffn : 0);
    for (int i = 0; i < w->n_checked; i++) {
        device_reference ref = reference_of(w, w->checked[i]);
        oracle_adapter a = reference_adapter(&ref);
        picks rows = world_some_rows(w, w->checked[i], cost);
        double *g = world_read(w, G, &rows, NULL), *gates = world_read(w, GATES, &rows, NULL);
        double *y = start(w, y_start, Y, w->checked[i], &rows);
        oracle_expert_expand(&a, rows.n, g, w->tensor[G].columns, gates, y);
        world_compare(w, v, Y, &rows, NULL, y);
        free(g);
        free(gates);
        free(y);
        picks_free(&rows);
        reference_free(&ref);
    }
}

/* ---- Backward: all columns of some rows, then some columns of all rows */

static void expand_backward_rows(const world *w, verdict *v, int device, bool judge_dw) {
    device_reference ref = reference_of(w, device);
    oracle_adapter a = reference_adapter(&ref);
    picks rows = world_some_rows(w, device, (double)w->width * w->shape.rank_sum * 2);
    int columns = w->tensor[G].columns;
    double *dy = world_read(w, DY, &rows, NULL), *g = world_read(w, G, &rows, NULL),
           *gates = world_read(w, GATES, &rows, NULL);
    double *bias = oracle_from_floats(w->buffer[BIAS2].before, w->width);
    double *q = oracle_zeros(rows.n * columns), *dw = oracle_zeros(rows.n * CK_MAX_EXPERTS);
    oracle_expert_expand_backward(&a, rows.n, bias, dy, g, columns, gates, q, dw);
    compare_chosen(w, v, Q, &rows, gates, true, q);
    if (judge_dw) compare_chosen(w, v, DW, &rows, gates, false, dw);
    free(dy);
    free(g);
    free(gates);
    free(bias);
    free(q);
    free(dw);
    picks_free(&rows);
    reference_free(&ref);
}

static void expand_backward_columns(const world *w, verdict *v, int i) {
    picks rows = world_all_rows(w, w->checked[i]),
          some = world_some_columns(w->width, 2.0 * (double)rows.n * w->shape.rank_sum);
    device_reference ref = reference_of_width(w, w->checked[i], &some);
    oracle_adapter a = reference_adapter(&ref);
    int columns = w->tensor[G].columns;
    double *dy = world_read(w, DY, &rows, &some), *g = world_read(w, G, &rows, NULL),
           *gates = world_read(w, GATES, &rows, NULL);
    double *bias = oracle_zeros(some.n), *q = oracle_zeros(rows.n * columns),
           *dw = oracle_zeros(rows.n * CK_MAX_EXPERTS);
    oracle_expert_expand_backward(&a, rows.n, bias, dy, g, columns, gates, q, dw);
    world_compare_gradient(w, v, i, &ref, ORACLE_B2, &some);
    free(dy);
    free(g);
    free(gates);
    free(bias);
    free(q);
    free(dw);
    picks_free(&some);
    picks_free(&rows);
    reference_free(&ref);
}

void check_expand_backward(const world *w, verdict *v, bool judge_dw) {
    for (int i = 0; i < w->n_checked; i++) {
        expand_backward_rows(w, v, w->checked[i], judge_dw);
        expand_backward_columns(w, v, i);
    }
}

/* columns NULL: all of F. */
typedef struct {
    double *u, *zh, *gates, *dm, *q, *du, *p, *dw;
} activation_arrays;

/* Of U: those of F in each of its branches. */
static picks up_columns(const world *w, const picks *columns) {
    int64_t branches = w->up / w->ffn;
    picks up = {.n = branches * columns->n,
                .index = calloc((size_t)(branches * columns->n + 1), sizeof *up.index)};
    if (!up.index) abort();
    for (int64_t i = 0; i < up.n; i++) up.index[i] = i / columns->n * w->ffn + columns->index[i % columns->n];
    return up;
}

static activation_arrays activation_backward(const world *w, const device_reference *ref, const picks *rows,
                                             const picks *columns, double *dw) {
    oracle_adapter a = reference_adapter(ref);
    int q_columns = w->tensor[Q].columns, p_columns = w->tensor[P].columns;
    picks up = columns ? up_columns(w, columns) : (picks){0};
    activation_arrays t = {.u = world_read(w, U, rows, columns ? &up : NULL),
                           .zh = world_read(w, ZH, rows, NULL),
                           .gates = world_read(w, GATES, rows, NULL),
                           .dm = world_read(w, DM, rows, columns),
                           .q = world_read(w, Q, rows, NULL),
                           .du = oracle_zeros(rows->n * (w->up / w->ffn) * ref->shape.ffn),
                           .p = oracle_zeros(rows->n * p_columns),
                           .dw = dw};
    oracle_expert_activation_backward(&a, rows->n, t.u, t.zh, w->tensor[ZH].columns, t.gates, t.dm, t.q,
                                      q_columns, t.du, t.p, p_columns, t.dw);
    picks_free(&up);
    return t;
}

static void activation_free(activation_arrays *t) {
    double *arrays[] = {t->u, t->zh, t->gates, t->dm, t->q, t->du, t->p, t->dw};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) free(arrays[i]);
}

void check_activation_backward(const world *w, verdict *v, start_value *dw_start) {
    double per_row = (double)w->up * (5 * w->shape.rank_sum + 64);
    for (int i = 0; i < w->n_checked; i++) {
        int device = w->checked[i];
        device_reference ref = reference_of(w, device);
        picks rows = world_some_rows(w, device, per_row);
        activation_arrays t =
            activation_backward(w, &ref, &rows, NULL, start(w, dw_start, DW, device, &rows));
        world_compare(w, v, DU, &rows, NULL, t.du);
        world_compare(w, v, P, &rows, NULL, t.p);
        compare_chosen(w, v, DW, &rows, t.gates, false, t.dw);
        activation_free(&t);
        picks_free(&rows);
        reference_free(&ref);

        rows = world_all_rows(w, device);
        picks some = world_some_columns(w->ffn, (double)rows.n * per_row / w->ffn);
        ref = reference_of_ffn(w, device, &some);
        t = activation_backward(w, &ref, &rows, &some, oracle_zeros(rows.n * CK_MAX_EXPERTS));
        picks up = up_columns(w, &some);
        world_compare(w, v, DU, &rows, &up, t.du);
        picks_free(&up);
        world_compare_gradient(w, v, i, &ref, ORACLE_B1, &some);
        world_compare_gradient(w, v, i, &ref, ORACLE_A2, &some);
        activation_free(&t);
        picks_free(&rows);
        picks_free(&some);
        reference_free(&ref);
    }
}

/* dx (with what it began as) and, over all rows, the gradients of some columns. */
static void route_backward(const world *w, const device_reference *ref, const picks *rows,
                           const picks *columns, double *dx) {
    oracle_adapter a = reference_adapter(ref);
    double *x = world_read(w, X, rows, columns), *zh = world_read(w, ZH, rows, NULL),
           *gates = world_read(w, GATES, rows, NULL);
    double *dw = world_read(w, DW, rows, NULL), *p = world_read(w, P, rows, NULL);
    oracle_route_backward(&a, rows->n, x, zh, w->tensor[ZH].columns, gates, dw, p, w->tensor[P].columns, NULL,
                          dx);
    free(x);
    free(zh);
    free(gates);
    free(dw);
    free(p);
}

void check_route_backward(const world *w, verdict *v, start_value *dx_start) {
    double per_row = 2.0 * w->width * w->tensor[ZH].columns;
    for (int i = 0; i < w->n_checked; i++) {
        int device = w->checked[i];
        device_reference ref = reference_of(w, device);
        picks rows = world_some_rows(w, device, per_row + (dx_start ? (double)w->width * w->ffn : 0));
        double *dx = start(w, dx_start, DX, device, &rows);
        route_backward(w, &ref, &rows, NULL, dx);
        world_compare(w, v, DX, &rows, NULL, dx);
        free(dx);
        picks_free(&rows);
        reference_free(&ref);

        rows = world_all_rows(w, device);
        picks some = world_some_columns(w->width, (double)rows.n * per_row / w->width);
        ref = reference_of_width(w, device, &some);
        dx = oracle_zeros(rows.n * some.n);
        route_backward(w, &ref, &rows, &some, dx);
        if (!dx_start) world_compare(w, v, DX, &rows, &some, dx);
        world_compare_gradient(w, v, i, &ref, ORACLE_ROUTER, &some);
        world_compare_gradient(w, v, i, &ref, ORACLE_A1, &some);
        free(dx);
        picks_free(&rows);
        picks_free(&some);
        reference_free(&ref);
    }
}

/* ---- Frozen matrices */

double *linear_value(const world *w, tensor_id in, buffer_id weight, buffer_id bias, const double *factor,
                     const double *residual, const picks *rows, int out) {
    int columns = w->tensor[in].columns;
    double *x = world_read(w, in, rows, NULL), *y = oracle_zeros(rows->n * out);
    double *matrix = oracle_from_floats(w->buffer[weight].before, (int64_t)columns * out);
    double *b = oracle_from_floats(w->buffer[bias].before, out);
    oracle_linear((oracle_linear_size){rows->n, columns, out}, x, matrix, b, factor, residual, y);
    free(x);
    free(matrix);
    free(b);
    return y;
}

double *linear_backward_value(const world *w, tensor_id dy, buffer_id weight, const picks *rows, int in) {
    int columns = w->tensor[dy].columns;
    double *gradient = world_read(w, dy, rows, NULL), *dx = oracle_zeros(rows->n * in);
    double *matrix = oracle_from_floats(w->buffer[weight].before, (int64_t)columns * in);
    oracle_linear_backward((oracle_linear_size){rows->n, in, columns}, NULL, matrix, gradient, dx, NULL,
                           NULL);
    free(gradient);
    free(matrix);
    return dx;
}

void check_linear(const world *w, verdict *v, tensor_id in, tensor_id out, buffer_id weight, buffer_id bias) {
    for (int i = 0; i < w->n_checked; i++) {
        picks rows =
            world_some_rows(w, w->checked[i], (double)w->tensor[in].columns * w->tensor[out].columns);
        double *y = linear_value(w, in, weight, bias, NULL, NULL, &rows, w->tensor[out].columns);
        world_compare(w, v, out, &rows, NULL, y);
        free(y);
        picks_free(&rows);
    }
}

/* ---- AdamW */

static void check_adamw_part(const world *w, verdict *v, int i, int layer, oracle_part part,
                             const ck_adamw_hyper *hyper) {
    oracle_range range = oracle_part_range(&w->shape, layer, part);
    double *value[PACK_MEMORIES];
    for (int m = 0; m < PACK_MEMORIES; m++) {
        bool came_out = m == PACK_GRADIENTS && !w->gradients_given;
        value[m] = oracle_zeros(range.count);
        for (int64_t j = 0; j < range.count; j++)
            value[m][j] = came_out
                              ? (double)w->pack_after[m][i][range.offset + j]
                              : (double)world_pack_value(w, (pack_memory)m, w->checked[i], range.offset + j);
    }
    oracle_adamw((oracle_adamw_arrays){value[PACK_PARAMETERS], value[PACK_MOMENT1], value[PACK_MOMENT2],
                                       value[PACK_GRADIENTS]},
                 range.count, hyper);
    verdict_compare(v, "parameters", w->pack_after[PACK_PARAMETERS][i] + range.offset, value[PACK_PARAMETERS],
                    range.count);
    verdict_compare(v, "first moments", w->pack_after[PACK_MOMENT1][i] + range.offset, value[PACK_MOMENT1],
                    range.count);
    verdict_compare(v, "second moments", w->pack_after[PACK_MOMENT2][i] + range.offset, value[PACK_MOMENT2],
                    range.count);
    for (int m = 0; m < PACK_MEMORIES; m++) free(value[m]);
}

void check_adamw(const world *w, verdict *v, const ck_adamw_hyper *hyper) {
    double tolerance = v->tolerance;
    v->tolerance = 1e-5; /* master parameters and moments are f32 whatever the program */
    for (int i = 0; i < w->n_checked; i++)
        for (int layer = 0; layer < w->shape.n_layers; layer++)
            for (int part = 0; part < ORACLE_PARTS; part++)
                check_adamw_part(w, v, i, layer, (oracle_part)part, &hyper[part == ORACLE_ROUTER]);
    v->tolerance = tolerance;
}
