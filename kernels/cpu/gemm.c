/* gemm.c - the products of the CPU backend, for the shapes that sequences of tokens make: M of a sequence
 * (about 100), K and N of the model.
 *
 *   C[i,j] = alpha sum_k A[i,k] B[k,j] + addend[i,j]
 *
 * Floor: 2 M N K FLOPs, 2 LANES a cycle and FMA unit; 4 (M K + K N + 2 M N) bytes. A general BLAS first
 * copies A and B into its own order, which pays where an element is used a thousand times; at M = 128 the
 * copies are a tenth of the work. Here C is cut into tiles of ROWS x WIDTH that live in registers. A is read
 * where it lies, element by element, and so is B where its rows are runs of columns (nn, tn). Only nt copies:
 * WIDTH rows of B become a panel [K][WIDTH], transposed in registers by blocks of 8 x 8 (0.2 cycles an
 * element, against 8 of arithmetic); it stays in L1 or L2 while all rows of A pass. K is cut into blocks of
 * DEPTH, so that a panel and the rows of A fit the caches whatever K is. What the next tiles want is asked
 * for ahead: weights come from L3 or memory at every step.
 *
 * Compiled without FMA and registers of 8 floats, OpenBLAS does the work: it chooses its instructions at run
 * time.
 */
#include "gemm.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#if defined __FMA__ && (defined __AVX512F__ || defined __AVX2__)
#include <immintrin.h>
#include <math.h>

const bool gemm_is_own = true;

#ifdef __AVX512F__
enum { LANES = 16, ROWS = 8 }; /* 16 of 32 registers hold sums */
#else
enum { LANES = 8, ROWS = 6 }; /* 12 of 16 */
#endif
enum { HALF = 8, WIDTH = 2 * LANES, DEPTH = 256, SHALLOW = 32, LINE = 16 };

typedef float wide __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));
typedef float half __attribute__((vector_size(HALF * sizeof(float)), aligned(4), may_alias));

/* sum + a b, rounded once. Written out: compilers split it in some tiles and not in others, whose bits would
 * differ. */
static inline half half_step(float a, half b, half sum) {
    return (half)_mm256_fmadd_ps(_mm256_set1_ps(a), (__m256)b, (__m256)sum);
}
#ifdef __AVX512F__
static inline wide wide_step(float a, wide b, wide sum) {
    return (wide)_mm512_fmadd_ps(_mm512_set1_ps(a), (__m512)b, (__m512)sum);
}
#else
static inline wide wide_step(float a, wide b, wide sum) {
    return (wide)_mm256_fmadd_ps(_mm256_set1_ps(a), (__m256)b, (__m256)sum);
}
#endif

/* Element (i, k) of A is a[i a_row + k a_step]; row k of B starts at b + k b_row, or column k where B is
 * transposed. */
typedef struct {
    int m, n, k;
    float alpha;
    const float *a, *b;
    int64_t a_row, a_step, b_row;
    bool b_transposed;
    gemm_addend addend;
    float *c;
    int64_t c_row;
} product;

/* A row or a column of tiles: tile i lies at a + i a_next, b + i b_next, c + i c_next and so on. */
typedef struct {
    int tiles, k, columns; /* columns of a tile: fewer than it is wide at the right edge */
    float alpha;
    const float *a, *b;
    int64_t a_row, a_step, b_row, a_next, b_next;
    const float *bias, *bias_scale, *residual;
    int64_t residual_row, residual_next, bias_next, bias_scale_next;
    float *c;
    int64_t c_row, c_next;
    /* [ahead_rows][ahead_columns] of B that the next tiles will want; a tile asks for ahead_share rows */
    const float *ahead;
    int64_t ahead_row;
    int ahead_rows, ahead_columns, ahead_share;
} run;

/* Asks for the run's next share of what lies ahead. */
static inline void look_ahead(run *r) {
    int rows = r->ahead_share < r->ahead_rows ? r->ahead_share : r->ahead_rows;
    for (int i = 0; i < rows; i++, r->ahead += r->ahead_row)
        for (int j = 0; j < r->ahead_columns; j += LINE) __builtin_prefetch(r->ahead + j, 0, 2);
    r->ahead_rows -= rows;
}

/* The columns of a tile that do not fill it: one row of c = sums + addend. */
static void finish_columns(const run *r, int row, const float *sums) {
    float scale = r->bias_scale ? r->bias_scale[row] : 1.0f;
    for (int j = 0; j < r->columns; j++) {
        float sum = sums[j];
        if (r->bias) sum = fmaf(scale, r->bias[j], sum);
        if (r->residual) sum += r->residual[row * r->residual_row + j];
        r->c[row * r->c_row + j] = sum;
    }
}

#ifdef __AVX512F__
#define EACH_ROW(X, vector)                                                                                  \
    X(0, vector) X(1, vector) X(2, vector) X(3, vector) X(4, vector) X(5, vector) X(6, vector) X(7, vector)
#else
#define EACH_ROW(X, vector) X(0, vector) X(1, vector) X(2, vector) X(3, vector) X(4, vector) X(5, vector)
#endif

/* Row i of a tile is left_i and, where `pair`, right_i: variables of their own, so that every compiler keeps
 * them in registers. */
#define LANES_OF(vector) (int)(sizeof(vector) / sizeof(float))
#define ZERO(i, vector)  vector left_##i = {0}, right_##i = {0};
/* The tile's part of C is asked for before the sums are made, and is there when they are. */
#define FETCH(i, vector)                                                                                     \
    if (i < rows) {                                                                                          \
        __builtin_prefetch(r.c + i * r.c_row, 1);                                                            \
        if (pair) __builtin_prefetch(r.c + i * r.c_row + LANES_OF(vector), 1);                               \
    }
#define MULTIPLY(i, vector)                                                                                  \
    if (i < rows) {                                                                                          \
        left_##i = vector##_step(a[i * r.a_row], left, left_##i);                                            \
        if (pair) right_##i = vector##_step(a[i * r.a_row], right, right_##i);                               \
    }
#define ADD_BIAS(i, vector)                                                                                  \
    if (i < rows) {                                                                                          \
        float scale = r.bias_scale ? r.bias_scale[i] : 1.0f;                                                 \
        left_##i = vector##_step(scale, *(const vector *)r.bias, left_##i);                                  \
        if (pair) right_##i = vector##_step(scale, *(const vector *)(r.bias + LANES_OF(vector)), right_##i); \
    }
#define ADD_RESIDUAL(i, vector)                                                                              \
    if (i < rows) {                                                                                          \
        left_##i += *(const vector *)(r.residual + i * r.residual_row);                                      \
        if (pair) right_##i += *(const vector *)(r.residual + i * r.residual_row + LANES_OF(vector));        \
    }
#define SCALE(i, vector) left_##i *= r.alpha, right_##i *= r.alpha;
#define STORE(i, vector)                                                                                     \
    if (i < rows) {                                                                                          \
        *(vector *)(r.c + i * r.c_row) = left_##i;                                                           \
        if (pair) *(vector *)(r.c + i * r.c_row + LANES_OF(vector)) = right_##i;                             \
    }
#define STORE_COLUMNS(i, vector)                                                                             \
    if (i < rows) {                                                                                          \
        *(vector *)sums = left_##i;                                                                          \
        if (pair) *(vector *)(sums + LANES_OF(vector)) = right_##i;                                          \
        finish_columns(&r, i, sums);                                                                         \
    }

#define DEFINE_TILES(name, vector)                                                                           \
    static inline __attribute__((always_inline)) void name(const run *all, const int rows,                   \
                                                           const bool pair) {                                \
        run r = *all;                                                                                        \
        for (int tile = 0; tile < r.tiles; tile++) {                                                         \
            EACH_ROW(ZERO, vector)                                                                           \
            EACH_ROW(FETCH, vector)                                                                          \
            look_ahead(&r);                                                                                  \
            const float *a = r.a, *b = r.b;                                                                  \
            for (int k = r.k; k > 0; k--, a += r.a_step, b += r.b_row) {                                     \
                vector left = *(const vector *)b,                                                            \
                       right = pair ? *(const vector *)(b + LANES_OF(vector)) : left;                        \
                EACH_ROW(MULTIPLY, vector)                                                                   \
            }                                                                                                \
            if (r.alpha != 1.0f) {                                                                           \
                EACH_ROW(SCALE, vector)                                                                      \
            }                                                                                                \
            if (r.columns < (pair ? 2 : 1) * LANES_OF(vector)) {                                             \
                float sums[2 * LANES_OF(vector)];                                                            \
                EACH_ROW(STORE_COLUMNS, vector)                                                              \
            } else {                                                                                         \
                if (r.bias) {                                                                                \
                    EACH_ROW(ADD_BIAS, vector)                                                               \
                }                                                                                            \
                if (r.residual) {                                                                            \
                    EACH_ROW(ADD_RESIDUAL, vector)                                                           \
                }                                                                                            \
                EACH_ROW(STORE, vector)                                                                      \
            }                                                                                                \
            r.a += r.a_next;                                                                                 \
            r.b += r.b_next;                                                                                 \
            r.c += r.c_next;                                                                                 \
            if (r.bias) r.bias += r.bias_next;                                                               \
            if (r.bias_scale) r.bias_scale += r.bias_scale_next;                                             \
            if (r.residual) r.residual += r.residual_next;                                                   \
        }                                                                                                    \
    }
DEFINE_TILES(wide_tiles, wide)
DEFINE_TILES(half_tiles, half)

#define DEFINE_ROWS(rows, unused)                                                                            \
    static void tiles_of_##rows(const run *r, int width) {                                                   \
        if (width == WIDTH)                                                                                  \
            wide_tiles(r, rows + 1, true);                                                                   \
        else if (width == LANES)                                                                             \
            wide_tiles(r, rows + 1, false);                                                                  \
        else                                                                                                 \
            half_tiles(r, rows + 1, false);                                                                  \
    }
EACH_ROW(DEFINE_ROWS, )
#define NAME_ROWS(rows, unused) tiles_of_##rows,
static void (*const tiles_with_last_row[ROWS])(const run *, int width) = {EACH_ROW(NAME_ROWS, )};

/* to[k][j] = from[j][k] for 8 x 8 elements. */
static void transpose_block(const float *from, int64_t from_row, float *to, int to_row) {
    half r[8], s[8];
    for (int i = 0; i < 8; i++) r[i] = *(const half *)(from + i * from_row);
    for (int i = 0; i < 8; i += 2) {
        s[i] = __builtin_shufflevector(r[i], r[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        s[i + 1] = __builtin_shufflevector(r[i], r[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    for (int i = 0; i < 8; i += 4) {
        for (int j = 0; j < 2; j++) {
            r[i + 2 * j] = __builtin_shufflevector(s[i + j], s[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            r[i + 2 * j + 1] = __builtin_shufflevector(s[i + j], s[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
    }
    for (int i = 0; i < 4; i++) {
        *(half *)(to + i * to_row) = __builtin_shufflevector(r[i], r[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        *(half *)(to + (i + 4) * to_row) =
            __builtin_shufflevector(r[i], r[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}

/* panel[k][width] = columns [first, first + n) of B, zeros beyond them. */
static void pack_transposed(const product *p, int first, int n, int width, float *panel) {
    int whole = p->k / 8 * 8;
    for (int block = 0; block < width; block += 8) {
        const float *from = p->b + (first + block) * p->b_row;
        bool full = block + 8 <= n;
        for (int k = 0; k < whole && full; k += 8)
            transpose_block(from + k, p->b_row, panel + (int64_t)k * width + block, width);
        for (int j = 0; j < 8; j++) {
            bool exists = block + j < n;
            for (int k = full ? whole : 0; k < p->k; k++)
                panel[(int64_t)k * width + block + j] = exists ? from[j * p->b_row + k] : 0;
        }
    }
}

static void pack_rows(const product *p, int first, int n, int width, float *panel) {
    for (int k = 0; k < p->k; k++) {
        memcpy(panel + (int64_t)k * width, p->b + k * p->b_row + first, (size_t)n * sizeof(float));
        memset(panel + (int64_t)k * width + n, 0, (size_t)(width - n) * sizeof(float));
    }
}

static int least(int a, int b) {
    return a < b ? a : b;
}

/* The tile of a product at a row and a column, whose columns of B start at b. */
static run run_at(const product *p, int row, int column, const float *b, int64_t b_row) {
    const gemm_addend *add = &p->addend;
    return (run){
        .tiles = 1,
        .k = p->k,
        .alpha = p->alpha,
        .a = p->a + row * p->a_row,
        .a_row = p->a_row,
        .a_step = p->a_step,
        .b = b,
        .b_row = b_row,
        .bias = add->bias ? add->bias + column : NULL,
        .bias_scale = add->bias_scale ? add->bias_scale + row : NULL,
        .residual = add->residual ? add->residual + (int64_t)row * add->residual_stride + column : NULL,
        .residual_row = add->residual_stride,
        .c = p->c + row * p->c_row + column,
        .c_row = p->c_row,
    };
}

/* Columns [first, first + n), all rows: tile under tile. */
static void column_of_tiles(const product *p, int first, int n, int width) {
    _Alignas(64) float panel[DEPTH * WIDTH];
    const float *b = p->b + first;
    int64_t b_row = p->b_row;
    if (p->b_transposed || n < width) {
        if (p->b_transposed)
            pack_transposed(p, first, n, width, panel);
        else
            pack_rows(p, first, n, width, panel);
        b = panel;
        b_row = width;
    }
    int whole = p->m / ROWS;
    run r = run_at(p, 0, first, b, b_row);
    r.columns = n;
    r.tiles = whole;
    r.a_next = ROWS * p->a_row;
    r.bias_scale_next = ROWS;
    r.residual_next = ROWS * r.residual_row;
    r.c_next = ROWS * p->c_row;
    int next = least(p->n - first - n, width);
    if (next > 0) {
        r.ahead = p->b + (first + n) * (p->b_transposed ? p->b_row : 1);
        r.ahead_row = p->b_row;
        r.ahead_rows = p->b_transposed ? next : p->k;
        r.ahead_columns = p->b_transposed ? p->k : next;
        r.ahead_share = (r.ahead_rows + whole - 1) / (whole > 0 ? whole : 1);
    }
    tiles_with_last_row[ROWS - 1](&r, width);
    if (whole * ROWS == p->m) return;
    r = run_at(p, whole * ROWS, first, b, b_row);
    r.columns = n;
    tiles_with_last_row[p->m - whole * ROWS - 1](&r, width);
}

/* Rows of tiles as wide as they can be, over columns [0, n) of a B read in place: C is written from left to
 * right, which counts where the sums are short. */
static void rows_of_tiles(const product *p, int n) {
    for (int row = 0; row < p->m; row += ROWS) {
        run r = run_at(p, row, 0, p->b, p->b_row);
        r.columns = WIDTH;
        r.tiles = n / WIDTH;
        r.b_next = r.bias_next = r.residual_next = r.c_next = WIDTH;
        tiles_with_last_row[least(p->m - row, ROWS) - 1](&r, WIDTH);
    }
}

/* The widest tile that n columns (nearly) fill. */
static int width_for(int n) {
    return n > WIDTH - HALF ? WIDTH : n > HALF ? LANES : HALF;
}

static void multiply_block(const product *p) {
    int first = 0;
    if (!p->b_transposed && p->k <= SHALLOW) {
        first = p->n / WIDTH * WIDTH;
        rows_of_tiles(p, first);
    }
    while (first < p->n) {
        int width = width_for(p->n - first), n = least(p->n - first, width);
        column_of_tiles(p, first, n, width);
        first += n;
    }
}

static void multiply(const product *p) {
    product block = *p;
    if (p->m <= 0) return;
    for (int first = 0; first < p->k || first == 0; first += DEPTH) {
        block.k = least(p->k - first, DEPTH);
        multiply_block(&block);
        block.a += DEPTH * p->a_step;
        block.b += DEPTH * (p->b_transposed ? 1 : p->b_row);
        block.addend = (gemm_addend){.residual = p->c, .residual_stride = (int)p->c_row};
    }
}

static gemm_addend keep(float beta, const float *c, int ldc) {
    return (gemm_addend){.residual = beta != 0.0f ? c : NULL, .residual_stride = ldc};
}

void gemm_nt(int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb, float beta,
             float *c, int ldc) {
    multiply(&(product){m, n, k, alpha, a, b, lda, 1, ldb, true, keep(beta, c, ldc), c, ldc});
}

void gemm_nn(int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb, float beta,
             float *c, int ldc) {
    multiply(&(product){m, n, k, alpha, a, b, lda, 1, ldb, false, keep(beta, c, ldc), c, ldc});
}

void gemm_tn(int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb, float beta,
             float *c, int ldc) {
    multiply(&(product){m, n, k, alpha, a, b, 1, lda, ldb, false, keep(beta, c, ldc), c, ldc});
}

void gemm_linear(int m, int n, int k, const float *x, int ldx, const float *w, int ldw, gemm_addend addend,
                 float *y, int ldy) {
    multiply(&(product){m, n, k, 1, x, w, ldx, 1, ldw, true, addend, y, ldy});
}

#else
#include <cblas.h>

const bool gemm_is_own = false;

/* A matrix without columns has rows 0 floats apart, which OpenBLAS refuses. */
static int stride_of(int ld) {
    return ld > 0 ? ld : 1;
}

void gemm_nt(int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb, float beta,
             float *c, int ldc) {
    if (m > 0 && n > 0)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, alpha, a, stride_of(lda), b,
                    stride_of(ldb), beta, c, ldc);
}

void gemm_nn(int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb, float beta,
             float *c, int ldc) {
    if (m > 0 && n > 0)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, m, n, k, alpha, a, stride_of(lda), b,
                    stride_of(ldb), beta, c, ldc);
}

void gemm_tn(int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb, float beta,
             float *c, int ldc) {
    if (m > 0 && n > 0)
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, m, n, k, alpha, a, stride_of(lda), b,
                    stride_of(ldb), beta, c, ldc);
}

/* y starts as the addend; the product accumulates onto it. */
void gemm_linear(int m, int n, int k, const float *x, int ldx, const float *w, int ldw, gemm_addend addend,
                 float *y, int ldy) {
    for (int i = 0; i < m; i++) {
        float *row = y + (int64_t)i * ldy, scale = addend.bias_scale ? addend.bias_scale[i] : 1.0f;
        if (!addend.residual) memset(row, 0, (size_t)n * sizeof(float));
        for (int j = 0; j < n && addend.residual; j++)
            row[j] = addend.residual[(int64_t)i * addend.residual_stride + j];
        for (int j = 0; j < n && addend.bias; j++) row[j] += scale * addend.bias[j];
    }
    gemm_nt(m, n, k, 1, x, ldx, w, ldw, 1, y, ldy);
}
#endif
