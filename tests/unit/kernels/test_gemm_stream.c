/* test_gemm_stream.c - the product of decoding against sums in double, on both sides of every border of its
 * tiles, and its promise: an element has the same bits whatever rows and columns are asked for with it.
 *
 *   want[i,j] = sum_k X[i,k] W[j,k] + scale[i] bias[j] + residual[i,j]
 *   |Y[i,j] - want[i,j]| <= (K + 8) 2^-24 (the same sum of magnitudes) */
#include <criterion/criterion.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/gemm_stream.h"

enum { MOST_ROWS = 9, MOST_COLUMNS = 41, MOST_DEPTH = 257, PADDING = 3, STRIDE = MOST_COLUMNS + 5 };
static const float UNTOUCHED = 12345.0F;

/* Tiles have 3 rows and 2, 4 or 8 columns; vectors have 4, 8 or 16 elements. */
static const int ROWS[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9},
                 COLUMNS[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 41},
                 DEPTHS[] = {0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 255, 256, 257};
#define COUNT(list) ((int)(sizeof(list) / sizeof *(list)))

static struct {
    float x[MOST_ROWS * (MOST_DEPTH + PADDING)], w[MOST_COLUMNS * (MOST_DEPTH + PADDING)];
    float bias[MOST_COLUMNS], scale[MOST_ROWS], residual[MOST_ROWS * STRIDE], y[MOST_ROWS * STRIDE];
} f;

static void draw(float *values, int n) {
    for (int i = 0; i < n; i++) values[i] = (float)drand48() - 0.5F;
}

/* NaN between the rows, where nothing may be read. */
static void draw_rows(float *values, int rows, int k) {
    for (int i = 0; i < rows * (k + PADDING); i++) values[i] = NAN;
    for (int i = 0; i < rows; i++) draw(values + i * (k + PADDING), k);
}

static void draw_all(int k) {
    draw_rows(f.x, MOST_ROWS, k);
    draw_rows(f.w, MOST_COLUMNS, k);
    draw(f.bias, MOST_COLUMNS);
    draw(f.scale, MOST_ROWS);
    draw(f.residual, MOST_ROWS * STRIDE);
}

/* Rows [row, row + m), columns [column, column + n). */
static void multiply(int row, int m, int column, int n, int k, bool adds, float *y) {
    gemm_addend addend = {0};
    if (adds)
        addend = (gemm_addend){.bias = f.bias + column,
                               .bias_scale = f.scale + row,
                               .residual = f.residual + row * STRIDE + column,
                               .residual_stride = STRIDE};
    gemm_stream(m, n, k, f.x + row * (k + PADDING), k + PADDING, f.w + column * (k + PADDING), k + PADDING,
                addend, y + row * STRIDE + column, STRIDE);
}

static void compare(int m, int n, int k, bool adds) {
    for (int i = 0; i < MOST_ROWS; i++) {
        for (int j = 0; j < STRIDE; j++) {
            double sum = 0, size = 0;
            for (int at = 0; at < k && i < m && j < n; at++) {
                double term = (double)f.x[i * (k + PADDING) + at] * (double)f.w[j * (k + PADDING) + at];
                sum += term, size += fabs(term);
            }
            if (adds && i < m && j < n) {
                double bias = (double)f.scale[i] * (double)f.bias[j],
                       rest = (double)f.residual[i * STRIDE + j];
                sum += bias + rest, size += fabs(bias) + fabs(rest);
            }
            float y = f.y[i * STRIDE + j];
            if (i >= m || j >= n)
                cr_assert_eq(y, UNTOUCHED, "%d x %d x %d wrote element %d, %d", m, n, k, i, j);
            else
                cr_assert_leq(fabs((double)y - sum), (k + 8) * 0x1p-24 * size, "%d x %d x %d: element %d, %d",
                              m, n, k, i, j);
        }
    }
}

Test(gemm_stream, agrees_with_sums_in_double) {
    int compared = 0;
    for (int d = 0; d < COUNT(DEPTHS); d++) {
        draw_all(DEPTHS[d]);
        for (int r = 0; r < COUNT(ROWS); r++)
            for (int c = 0; c < COUNT(COLUMNS); c++, compared++) {
                for (int i = 0; i < MOST_ROWS * STRIDE; i++) f.y[i] = UNTOUCHED;
                multiply(0, ROWS[r], 0, COLUMNS[c], DEPTHS[d], compared % 2, f.y);
                compare(ROWS[r], COLUMNS[c], DEPTHS[d], compared % 2);
            }
    }
    cr_assert_eq(compared, COUNT(DEPTHS) * COUNT(ROWS) * COUNT(COLUMNS));
}

Test(gemm_stream, an_element_does_not_depend_on_its_neighbours) {
    static float alone[MOST_ROWS * STRIDE];
    for (int d = 0; d < COUNT(DEPTHS); d++) {
        draw_all(DEPTHS[d]);
        multiply(0, MOST_ROWS, 0, MOST_COLUMNS, DEPTHS[d], true, f.y);
        for (int rows = 1; rows < MOST_ROWS; rows++) {
            for (int row = 0; row < MOST_ROWS; row += rows)
                for (int column = 0, n = 1; column < MOST_COLUMNS; column += n, n = n % 11 + 1) {
                    int m = row + rows < MOST_ROWS ? rows : MOST_ROWS - row;
                    if (column + n > MOST_COLUMNS) n = MOST_COLUMNS - column;
                    multiply(row, m, column, n, DEPTHS[d], true, alone);
                }
            for (int i = 0; i < MOST_ROWS; i++)
                cr_assert_eq(memcmp(f.y + i * STRIDE, alone + i * STRIDE, MOST_COLUMNS * sizeof(float)), 0,
                             "row %d differs in parts of %d rows (depth %d)", i, rows, DEPTHS[d]);
        }
    }
}

Test(gemm_stream, what_it_adds_to_may_be_its_result) {
    static float y[MOST_ROWS * STRIDE];
    draw_all(64);
    multiply(0, MOST_ROWS, 0, MOST_COLUMNS, 64, true, f.y);
    memcpy(y, f.residual, sizeof y);
    gemm_stream(
        MOST_ROWS, MOST_COLUMNS, 64, f.x, 64 + PADDING, f.w, 64 + PADDING,
        (gemm_addend){.bias = f.bias, .bias_scale = f.scale, .residual = y, .residual_stride = STRIDE}, y,
        STRIDE);
    for (int i = 0; i < MOST_ROWS; i++)
        cr_assert_eq(memcmp(f.y + i * STRIDE, y + i * STRIDE, MOST_COLUMNS * sizeof(float)), 0, "row %d", i);
}
