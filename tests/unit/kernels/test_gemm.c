/* test_gemm.c - the products of the CPU backend against sums in double, on both sides of every border of
 * their tiles.
 *
 *   want[i,j] = alpha sum_k A[i,k] B[k,j] + addend[i,j]
 *   |C[i,j] - want[i,j]| <= (K + 8) 2^-24 (|alpha| sum_k |A[i,k] B[k,j]| + |addend[i,j]|)
 *
 * The bound is that of rounding, whatever the order of the sum. A and B end with their last element, so that
 * a sanitizer sees a read beyond it, and NaN lies between their rows; around the elements of C lies what
 * nobody may overwrite. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/gemm.h"

enum { MOST_ROWS = 128, MOST_COLUMNS = 65, MOST_DEPTH = 513, GUARD = 32 };
static const float UNTOUCHED = 12345.0F;

/* Tiles have 6 or 8 rows, and 8, 16 or 32 columns; sums are cut at 256, and take another way up to 32. */
static const int ROWS[] = {0, 1, 2, 5, 6, 7, 8, 9, 11, 12, 13, 15, 16, 17, 23, 24, 25};
static const int DEPTHS[] = {0,  1,  2,   3,   7,   8,   9,   15,  16,  17,  31,
                             32, 33, 127, 128, 129, 255, 256, 257, 511, 512, 513};
#define COUNT(list) ((int)(sizeof(list) / sizeof *(list)))

/* The operands of every product of a test, which takes as many of their rows and columns as it wants. */
static struct {
    int rows, columns, k;
    float a[MOST_ROWS * MOST_DEPTH];    /* [rows, k] */
    float b[MOST_DEPTH * MOST_COLUMNS]; /* [k, columns] */
    float c[MOST_ROWS * MOST_COLUMNS];  /* [rows, columns]: C before, or the residual */
    float bias[MOST_COLUMNS], scale[MOST_ROWS];
    double sum[MOST_ROWS * MOST_COLUMNS], size[MOST_ROWS * MOST_COLUMNS]; /* of A B, and of its magnitudes */
} f;
static int compared;

static void draw(float *values, int n) {
    for (int i = 0; i < n; i++) values[i] = (float)drand48() - 0.5F;
}

static void draw_operands(int rows, int columns, int k) {
    f.rows = rows, f.columns = columns, f.k = k;
    draw(f.a, rows * k);
    draw(f.b, k * columns);
    draw(f.c, rows * columns);
    draw(f.bias, columns);
    draw(f.scale, rows);
}

static void sum_in_double(void) {
    memset(f.sum, 0, sizeof f.sum);
    memset(f.size, 0, sizeof f.size);
    for (int i = 0; i < f.rows; i++) {
        for (int k = 0; k < f.k; k++) {
            for (int j = 0; j < f.columns; j++) {
                double term = (double)f.a[i * f.k + k] * (double)f.b[k * f.columns + j];
                f.sum[i * f.columns + j] += term;
                f.size[i * f.columns + j] += fabs(term);
            }
        }
    }
}

typedef enum { NT, NN, TN, LINEAR } product;
static const char *const NAMES[] = {"gemm_nt", "gemm_nn", "gemm_tn", "gemm_linear"};

/* First element `offset` floats into an allocation, `padding` floats between rows. */
typedef struct {
    int offset, padding;
} placing;
static const placing PLACES[] = {{0, 0}, {1, 3}};

typedef struct {
    product product;
    int m, n;
    float alpha;
    bool keeps; /* beta = 1; of a gemm_linear: the residual is Y itself */
    bool bias, scale, residual;
    placing place;
} job;

typedef struct {
    float *memory, *at;
    int stride;
} matrix;

/* Element (i, j) from values[i row + j step]; `around` everywhere else. */
static matrix lay(const float *values, int row, int step, int rows, int columns, placing place, int guard,
                  float around) {
    int stride = columns + place.padding > 0 ? columns + place.padding : 1;
    int floats = place.offset + (rows > 0 && columns > 0 ? (rows - 1) * stride + columns : 0) + guard;
    matrix m = {.memory = malloc((size_t)floats * sizeof(float)), .stride = stride};
    cr_assert(m.memory || floats == 0, "no memory");
    for (int i = 0; i < floats; i++) m.memory[i] = around;
    m.at = m.memory + place.offset;
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) m.at[i * stride + j] = values[i * row + j * step];
    return m;
}

static matrix lay_c(const job *w) {
    matrix c = lay(f.c, f.columns, 1, w->m, w->n, w->place, GUARD, UNTOUCHED);
    for (int i = 0; i < w->m && !w->keeps; i++)
        for (int j = 0; j < w->n; j++) c.at[i * c.stride + j] = NAN;
    return c;
}

static void multiply_linear(const job *w, matrix a, matrix b, matrix c) {
    placing denser = {w->place.offset, w->place.padding / 2};
    matrix bias = lay(f.bias, 0, 1, 1, w->n, w->place, 0, NAN),
           scale = lay(f.scale, 0, 1, 1, w->m, w->place, 0, NAN);
    matrix residual = lay(f.c, f.columns, 1, w->m, w->n, denser, 0, NAN);
    gemm_addend addend = {.bias = w->bias ? bias.at : NULL, .bias_scale = w->scale ? scale.at : NULL};
    if (w->residual) addend.residual = residual.at, addend.residual_stride = residual.stride;
    if (w->keeps) addend.residual = c.at, addend.residual_stride = c.stride;
    gemm_linear(w->m, w->n, f.k, a.at, a.stride, b.at, b.stride, addend, c.at, c.stride);
    free(bias.memory), free(scale.memory), free(residual.memory);
}

/* C after the product. free() its memory. */
static matrix multiply(const job *w) {
    bool a_turned = w->product == TN, b_turned = w->product == NT || w->product == LINEAR;
    matrix a = a_turned ? lay(f.a, 1, f.k, f.k, w->m, w->place, 0, NAN)
                        : lay(f.a, f.k, 1, w->m, f.k, w->place, 0, NAN);
    matrix b = b_turned ? lay(f.b, 1, f.columns, w->n, f.k, w->place, 0, NAN)
                        : lay(f.b, f.columns, 1, f.k, w->n, w->place, 0, NAN);
    matrix c = lay_c(w);
    float beta = w->keeps ? 1.0F : 0.0F;
    switch (w->product) {
    case NT:
        gemm_nt(w->m, w->n, f.k, w->alpha, a.at, a.stride, b.at, b.stride, beta, c.at, c.stride);
        break;
    case NN:
        gemm_nn(w->m, w->n, f.k, w->alpha, a.at, a.stride, b.at, b.stride, beta, c.at, c.stride);
        break;
    case TN:
        gemm_tn(w->m, w->n, f.k, w->alpha, a.at, a.stride, b.at, b.stride, beta, c.at, c.stride);
        break;
    default:
        multiply_linear(w, a, b, c);
    }
    free(a.memory), free(b.memory);
    return c;
}

static bool is_right(const job *w, int i, int j, double got, double *want) {
    int at = i * f.columns + j;
    double alpha = (double)w->alpha, bias = 0, kept = w->keeps || w->residual ? (double)f.c[at] : 0;
    if (w->bias) bias = (w->scale ? (double)f.scale[i] : 1.0) * (double)f.bias[j];
    *want = alpha * f.sum[at] + bias + kept;
    if (isnan(*want)) return isnan(got);
    if (isinf(*want)) return got == *want;
    return fabs(got - *want) <= (f.k + 8) * 0x1p-24 * (fabs(alpha) * f.size[at] + fabs(bias) + fabs(kept));
}

static void check_around(const job *w, matrix c) {
    for (int p = 0; p < w->place.offset + (w->m > 0 && w->n > 0 ? (w->m - 1) * c.stride + w->n : 0) + GUARD;
         p++) {
        int inside = p - w->place.offset;
        bool element = inside >= 0 && inside / c.stride < w->m && inside % c.stride < w->n;
        if (!element && c.memory[p] != UNTOUCHED)
            cr_assert_fail("%s wrote beside C: M %d, N %d, K %d, float %d", NAMES[w->product], w->m, w->n,
                           f.k, inside);
    }
}

static void check(const job *w) {
    matrix c = multiply(w);
    for (int i = 0; i < w->m; i++) {
        for (int j = 0; j < w->n; j++, compared++) {
            double want, got = (double)c.at[i * c.stride + j];
            if (!is_right(w, i, j, got, &want))
                cr_assert_fail("%s: M %d, N %d, K %d, alpha %g, offset %d, padding %d%s%s%s%s: [%d, %d] is "
                               "%.9g, expected %.9g",
                               NAMES[w->product], w->m, w->n, f.k, (double)w->alpha, w->place.offset,
                               w->place.padding, w->keeps ? ", keeps C" : "", w->bias ? ", bias" : "",
                               w->scale ? ", scale" : "", w->residual ? ", residual" : "", i, j, got, want);
        }
    }
    check_around(w, c);
    free(c.memory);
}

/* Every function with every alpha, beta and addend it can have. */
static void each_variant(int m, int n, placing place, void (*visit)(const job *)) {
    for (product p = NT; p < LINEAR; p++)
        for (int v = 0; v < 4; v++) visit(&(job){p, m, n, v & 1 ? -0.7F : 1, v & 2, .place = place});
    for (int v = 0; v < 12; v++) visit(&(job){LINEAR, m, n, 1, v / 4 == 1, v & 1, v & 2, v / 4 == 2, place});
}

static void check_places(int m, int n) {
    for (int l = 0; l < COUNT(PLACES); l++) each_variant(m, n, PLACES[l], check);
}

static void check_tiles(int k) {
    draw_operands(25, MOST_COLUMNS, k);
    sum_in_double();
    for (int r = 0; r < COUNT(ROWS); r++)
        for (int n = 0; n <= MOST_COLUMNS; n++) check_places(ROWS[r], n);
    cr_assert_gt(compared, 0);
}

Test(gemm, every_tile_of_a_short_sum) {
    check_tiles(5);
}

Test(gemm, every_tile_of_a_longer_sum) {
    check_tiles(35);
}

Test(gemm, every_length_of_a_sum) {
    static const int rows[] = {1, 8, 9}, columns[] = {1, 8, 9, 17, 33, 65};
    for (int d = 0; d < COUNT(DEPTHS); d++) {
        draw_operands(9, MOST_COLUMNS, DEPTHS[d]);
        sum_in_double();
        for (int r = 0; r < COUNT(rows); r++)
            for (int n = 0; n < COUNT(columns); n++) check_places(rows[r], columns[n]);
    }
    cr_assert_gt(compared, 0);
}

/* One spoiled operand: NaN and Inf reach the elements they are terms of, by a factor of 0 too, and no others.
 */
static void check_spoiled(float *operand) {
    static const float spoilers[] = {NAN, INFINITY, -INFINITY};
    float well = *operand;
    for (int s = 0; s < COUNT(spoilers); s++) {
        *operand = spoilers[s];
        sum_in_double();
        each_variant(f.rows, f.columns, PLACES[1], check);
    }
    *operand = well;
}

static void draw_with_zeros(int rows, int columns, int k) {
    draw_operands(rows, columns, k);
    for (int i = 0; i < rows * k; i += 3) f.a[i] = 0;
    for (int i = 0; i < k * columns; i += 3) f.b[i] = 0;
}

Test(gemm, nan_and_infinity_of_a_reach_their_row_alone) {
    draw_with_zeros(17, 43, 35);
    for (int i = 0; i < f.rows; i++) check_spoiled(&f.a[i * f.k + 2 * i]);
    cr_assert_gt(compared, 0);
}

Test(gemm, nan_and_infinity_of_b_reach_their_column_alone) {
    draw_with_zeros(17, 43, 35);
    for (int j = 0; j < f.columns; j++) check_spoiled(&f.b[j % f.k * f.columns + j]);
    cr_assert_gt(compared, 0);
}

Test(gemm, nan_and_infinity_of_what_is_added) {
    draw_with_zeros(9, 43, 5);
    for (int j = 0; j < f.columns; j++) {
        check_spoiled(&f.c[j % f.rows * f.columns + j]);
        check_spoiled(&f.bias[j]);
        check_spoiled(&f.scale[j % f.rows]);
    }
    cr_assert_gt(compared, 0);
}

#if defined __FMA__ && defined __AVX2__ /* elsewhere OpenBLAS does the work, in its own order */
/* What a device computes alone, it computes to the bit among others: an element of the largest product is
 * that of every smaller one. */
static void check_bits(const job *largest) {
    static const int rows[] = {1, 2, 5, 6, 7, 8, 9, 23, 127};
    matrix all = multiply(largest);
    for (int r = 0; r < COUNT(rows); r++) {
        for (int n = 1; n <= largest->n; n += n < 33 ? 1 : 15) {
            job part = *largest;
            part.m = rows[r], part.n = n, part.place = PLACES[n & 1];
            matrix c = multiply(&part);
            for (int i = 0; i < part.m; i++, compared += n)
                if (memcmp(c.at + i * c.stride, all.at + i * all.stride, (size_t)n * sizeof(float)) != 0)
                    cr_assert_fail("%s: K %d, alpha %g: row %d of %d x %d has other bits than among %d rows",
                                   NAMES[part.product], f.k, (double)part.alpha, i, part.m, n, largest->m);
            free(c.memory);
        }
    }
    free(all.memory);
}

static void check_bits_at(int k) {
    draw_operands(MOST_ROWS, MOST_COLUMNS, k);
    each_variant(f.rows, f.columns, PLACES[0], check_bits);
    cr_assert_gt(compared, 0);
}

Test(gemm, bits_of_a_short_sum_do_not_depend_on_the_rest) {
    check_bits_at(8);
}

Test(gemm, bits_of_a_sum_do_not_depend_on_the_rest) {
    check_bits_at(100);
}

Test(gemm, bits_of_a_sum_in_blocks_do_not_depend_on_the_rest) {
    check_bits_at(300);
}

Test(gemm, orientations_agree_to_the_bit) {
    for (int d = 0; d < COUNT(DEPTHS); d++) {
        draw_operands(25, MOST_COLUMNS, DEPTHS[d]);
        job w = {NT, f.rows, f.columns, 1, .place = PLACES[0]};
        matrix first = multiply(&w);
        for (w.product = NN; w.product <= LINEAR; w.product++) {
            matrix c = multiply(&w);
            cr_expect_arr_eq(c.at, first.at, (size_t)(w.m * w.n) * sizeof(float),
                             "%s of K %d differs from gemm_nt", NAMES[w.product], f.k);
            free(c.memory);
        }
        free(first.memory);
    }
}
#endif
