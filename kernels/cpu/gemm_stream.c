/* gemm_stream.c - the product of decoding, Y = X W^T + addend, for one row of X up to some hundreds.
 *
 * Floor: the bytes of W, 4 N K, while M is less than about 20; then 2 M N K FLOPs. So W is read where it
 * lies, COLUMNS of its rows at a time, and of the COLUMNS rows behind them a line is asked for with every
 * line that is used. All rows of X pass while these rows of W are in cache.
 *
 *   sum[i] = sum over l of X[l LANES + i] W[l LANES + i], 0 <= i < LANES, in the order of l, zeros behind K;
 *   then the second half of the sums is added to the first, until one is left
 *
 * A tile of ROWS x COLUMNS such sums lives in registers. */
#include "gemm_stream.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* FOLD_n(a, b): of two vectors of groups of n sums, one vector of groups of n / 2, first those of a. */
#define SHUFFLE __builtin_shufflevector
#if defined __AVX512F__ && defined __FMA__
#include <immintrin.h>
enum { LANES = 16, ROWS = 3, COLUMNS = 8 }; /* 24 of 32 registers hold sums */
#define FOLD_16(a, b)                                                                                        \
    (SHUFFLE(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +                                 \
     SHUFFLE(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31))
#define FOLD_8(a, b)                                                                                         \
    (SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +                               \
     SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31))
#define FOLD_4(a, b)                                                                                         \
    (SHUFFLE(a, b, 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29) +                               \
     SHUFFLE(a, b, 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31))
#define FOLD_2(a) (SHUFFLE(a, a, 0, 2, 4, 6, 8, 10, 12, 14) + SHUFFLE(a, a, 1, 3, 5, 7, 9, 11, 13, 15))
#define FOLD_ALL(s)                                                                                          \
    FOLD_2(FOLD_4(FOLD_8(FOLD_16(s[0], s[1]), FOLD_16(s[2], s[3])),                                          \
                  FOLD_8(FOLD_16(s[4], s[5]), FOLD_16(s[6], s[7]))))
#elif defined __AVX2__ && defined __FMA__
#include <immintrin.h>
enum { LANES = 8, ROWS = 3, COLUMNS = 4 }; /* 12 of 16 */
#define FOLD_8(a, b) (SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15))
#define FOLD_4(a, b) (SHUFFLE(a, b, 0, 1, 4, 5, 8, 9, 12, 13) + SHUFFLE(a, b, 2, 3, 6, 7, 10, 11, 14, 15))
#define FOLD_2(a)    (SHUFFLE(a, a, 0, 2, 4, 6) + SHUFFLE(a, a, 1, 3, 5, 7))
#define FOLD_ALL(s)  FOLD_2(FOLD_4(FOLD_8(s[0], s[1]), FOLD_8(s[2], s[3])))
#else
enum { LANES = 4, ROWS = 3, COLUMNS = 2 };
#define FOLD_4(a, b) (SHUFFLE(a, b, 0, 1, 4, 5) + SHUFFLE(a, b, 2, 3, 6, 7))
#define FOLD_2(a)    (SHUFFLE(a, a, 0, 2) + SHUFFLE(a, a, 1, 3))
#define FOLD_ALL(s)  FOLD_2(FOLD_4(s[0], s[1]))
#endif

typedef float lanes __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));
typedef float sums __attribute__((vector_size(COLUMNS * sizeof(float)), aligned(4), may_alias));

/* sum + a b. Where the processor rounds once, that is written out: compilers do it in some tiles and not in
 * others, whose bits would differ. */
static inline lanes step(lanes a, lanes b, lanes sum) {
#if defined __AVX512F__ && defined __FMA__
    return (lanes)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
#elif defined __AVX2__ && defined __FMA__
    return (lanes)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)sum);
#else
    return sum + a * b;
#endif
}

/* The same for the sums of a row of a tile. */
static inline sums step_sums(sums a, sums b, sums sum) {
#if defined __AVX512F__ && defined __FMA__
    return (sums)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)sum);
#elif defined __AVX2__ && defined __FMA__
    return (sums)_mm_fmadd_ps((__m128)a, (__m128)b, (__m128)sum);
#else
    return sum + a * b;
#endif
}

typedef struct {
    int m, n, k;
    const float *x, *w;
    int64_t x_row, w_row;
    gemm_addend addend;
    float *y;
    int64_t y_row;
} product;

/* What is left behind whole vectors, then zeros. */
static inline lanes rest_of(const float *from, int count) {
    lanes v = {0};
    memcpy(&v, from, (size_t)count * sizeof(float));
    return v;
}

/* Y[row, column + j], j < columns, from one sum for each of COLUMNS. */
static inline void finish(const product *p, int row, int column, int columns, sums s) {
    const gemm_addend *add = &p->addend;
    size_t bytes = (size_t)columns * sizeof(float);
    sums scale = {0}, bias = {0}, residual = {0};
    scale += add->bias_scale ? add->bias_scale[row] : 1.0f;
    if (add->bias) {
        memcpy(&bias, add->bias + column, bytes);
        s = step_sums(scale, bias, s);
    }
    if (add->residual) {
        memcpy(&residual, add->residual + (int64_t)row * add->residual_stride + column, bytes);
        s += residual;
    }
    memcpy(p->y + row * p->y_row + column, &s, bytes);
}

/* `rows` rows of X by COLUMNS rows of W, which begin at w[0], w[1], ...; asks: for the rows of W behind them.
 */
static inline __attribute__((always_inline)) void tile(const product *p, int row, int column, int columns,
                                                       const float *const w[COLUMNS], const int rows,
                                                       const bool asks) {
    const float *x = p->x + row * p->x_row;
    int64_t ahead = COLUMNS * p->w_row;
    int whole = p->k / LANES * LANES, rest = p->k - whole;
    lanes s[ROWS][COLUMNS] = {{{0}}};
    for (int k = 0; k < whole; k += LANES) {
#pragma GCC unroll 8
        for (int c = 0; c < COLUMNS; c++) {
            lanes b = *(const lanes *)(w[c] + k);
            if (asks) __builtin_prefetch(w[c] + ahead + k, 0, 2);
#pragma GCC unroll 3
            for (int r = 0; r < rows; r++) s[r][c] = step(*(const lanes *)(x + r * p->x_row + k), b, s[r][c]);
        }
    }
    for (int c = 0; c < COLUMNS && rest > 0; c++) {
        lanes b = rest_of(w[c] + whole, rest);
        for (int r = 0; r < rows; r++) s[r][c] = step(rest_of(x + r * p->x_row + whole, rest), b, s[r][c]);
    }
    for (int r = 0; r < rows; r++) finish(p, row + r, column, columns, FOLD_ALL(s[r]));
}

static void tile_of(const product *p, int row, int column, int columns, const float *const w[COLUMNS],
                    int rows, bool asks) {
    if (rows >= 3)
        asks ? tile(p, row, column, columns, w, 3, true) : tile(p, row, column, columns, w, 3, false);
    else if (rows == 2)
        asks ? tile(p, row, column, columns, w, 2, true) : tile(p, row, column, columns, w, 2, false);
    else
        asks ? tile(p, row, column, columns, w, 1, true) : tile(p, row, column, columns, w, 1, false);
}

void gemm_stream(int m, int n, int k, const float *x, int ldx, const float *w, int ldw, gemm_addend addend,
                 float *y, int ldy) {
    product p = {m, n, k, x, w, ldx, ldw, addend, y, ldy};
    for (int column = 0; column < n; column += COLUMNS) {
        int columns = n - column < COLUMNS ? n - column : COLUMNS;
        const float *rows_of_w[COLUMNS];
        /* columns that do not exist repeat the last one */
        for (int c = 0; c < COLUMNS; c++)
            rows_of_w[c] = w + (int64_t)(column + (c < columns ? c : columns - 1)) * ldw;
        for (int row = 0; row < m; row += ROWS)
            tile_of(&p, row, column, columns, rows_of_w, m - row, row == 0 && column + COLUMNS < n);
    }
}
