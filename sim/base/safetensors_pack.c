/* Tensors of a safetensors file -> a pack of f32, checked. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/safetensors.h"

enum { TILE = 32, MAX_UNEXPECTED = 8 };

static float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* f16 = sign(1) exponent(5, bias 15) fraction(10); subnormals are fraction * 2^-24. */
static float from_f16(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, magnitude = half & 0x7fffu;
    if (magnitude < 0x0400u) return (sign ? -1.0f : 1.0f) * ((float)magnitude * 0x1p-24f);
    if (magnitude >= 0x7c00u) return from_bits(sign | 0x7f800000u | magnitude << 13);
    return from_bits(sign | ((magnitude << 13) + (112u << 23)));
}

static size_t element_bytes(safetensors_dtype dtype) {
    return dtype == SAFETENSORS_F32 ? 4 : 2;
}

/* n elements at in (little-endian, any alignment) -> out. */
static void decode(safetensors_dtype dtype, const uint8_t *in, int64_t n, float *out) {
    if (dtype == SAFETENSORS_F32) {
        memcpy(out, in, (size_t)n * sizeof *out);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        uint16_t half = (uint16_t)(in[2 * i] | in[2 * i + 1] << 8);
        out[i] = dtype == SAFETENSORS_F16 ? from_f16(half) : from_bits((uint32_t)half << 16);
    }
}

/* Rows of a matrix that are decoded at once: a tile's height, or as many as make a piece of the file. */
enum { PIECE_BYTES = 1 << 20 };

static int64_t rows_at_once(const safetensor *t, int64_t cols, bool transposed) {
    int64_t rows = PIECE_BYTES / ((int64_t)element_bytes(t->dtype) * (cols > 0 ? cols : 1));
    return transposed || rows < TILE ? TILE : rows;
}

/* in [rows, cols] -> columns [first, first + rows) of out [cols, all_rows], a cache-sized tile at a time. */
static void decode_transposed(safetensors_dtype dtype, const uint8_t *in, int64_t rows, int64_t cols,
                              int64_t all_rows, float *out) {
    float tile[TILE];
    for (int64_t c0 = 0; c0 < cols; c0 += TILE) {
        int64_t n = c0 + TILE < cols ? TILE : cols - c0;
        for (int64_t r = 0; r < rows; r++) {
            decode(dtype, in + (size_t)(r * cols + c0) * element_bytes(dtype), n, tile);
            for (int64_t c = 0; c < n; c++) out[(c0 + c) * all_rows + r] = tile[c];
        }
    }
}

/* Decodes t [rows, cols] in pieces of whole rows. */
static exit_code read_rows(const safetensors *file, const safetensor *t, int64_t rows, int64_t cols,
                           bool transposed, float *out, problems *list) {
    int64_t most = rows_at_once(t, cols, transposed);
    size_t row_bytes = (size_t)cols * element_bytes(t->dtype);
    uint8_t *piece = malloc((size_t)most * row_bytes + 1);
    if (!piece) return problem(list, EXIT_ENVIRONMENT, "%s: no memory to read it", safetensors_path(file));
    exit_code code = EXIT_OK;
    for (int64_t first = 0; first < rows && !code; first += most) {
        int64_t n = rows - first < most ? rows - first : most;
        code = safetensors_data(file, t, (size_t)first * row_bytes, (size_t)n * row_bytes, piece, list);
        if (code) break;
        if (transposed)
            decode_transposed(t->dtype, piece, n, cols, rows, out + first);
        else
            decode(t->dtype, piece, n * cols, out + first * cols);
    }
    free(piece);
    return code;
}

/* Little-endian floats need no decoding. */
static exit_code read_tensor(const safetensors *file, const safetensor *t, const packed_tensor *p, float *out,
                             problems *list) {
    if (t->dtype == SAFETENSORS_F32 && !p->transposed)
        return safetensors_data(file, t, 0, t->bytes, out, list);
    int64_t rows = p->n_dims == 1 ? 1 : p->dims[0], cols = p->n_dims == 1 ? p->dims[0] : p->dims[1];
    return read_rows(file, t, rows, cols, p->transposed, out, list);
}

static int64_t first_not_finite(const float *values, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(values[i])) return i;
    return -1;
}

static exit_code refuse_not_finite(const safetensors *file, const packed_tensor *p, int64_t at, float value,
                                   problems *list) {
    const char *kind = isnan(value) ? "NaN" : "Inf";
    const char *advice = "weights must be finite numbers";
    if (p->n_dims == 1)
        return problem(list, EXIT_INPUT, "%s: tensor \"%s\": element [%lld] is %s; %s",
                       safetensors_path(file), p->name, (long long)at, kind, advice);
    int64_t inner = p->transposed ? p->dims[0] : p->dims[1];
    int64_t outer_index = at / inner, inner_index = at % inner;
    return problem(list, EXIT_INPUT, "%s: tensor \"%s\": element [%lld, %lld] is %s; %s",
                   safetensors_path(file), p->name, (long long)(p->transposed ? inner_index : outer_index),
                   (long long)(p->transposed ? outer_index : inner_index), kind, advice);
}

static int64_t element_count(const packed_tensor *p) {
    return p->n_dims == 1 ? p->dims[0] : p->dims[0] * p->dims[1];
}

exit_code safetensors_read(const safetensors *file, const packed_tensor *tensors, int n_tensors, float *pack,
                           problems *list) {
    exit_code code = EXIT_OK;
    for (int i = 0; i < n_tensors; i++) {
        const packed_tensor *p = &tensors[i];
        const safetensor *t = safetensors_find(file, p->name);
        float *out = pack + p->offset;
        exit_code one = read_tensor(file, t, p, out, list);
        if (one) return one;
        int64_t at = first_not_finite(out, element_count(p));
        if (at >= 0) code = refuse_not_finite(file, p, at, out[at], list);
    }
    return code;
}

/* "[2, 3]" */
static const char *show_shape(const int64_t *dims, int n_dims, char out[160]) {
    int length = snprintf(out, 160, "[");
    for (int i = 0; i < n_dims; i++)
        length += snprintf(out + length, 160 - (size_t)length, i ? ", %lld" : "%lld", (long long)dims[i]);
    snprintf(out + length, 160 - (size_t)length, "]");
    return out;
}

exit_code safetensors_missing(const char *path, const packed_tensor *p, problems *list) {
    char should_be[160];
    return problem(list, EXIT_INPUT, "%s: tensor \"%s\" is missing; it must be there with shape %s", path,
                   p->name, show_shape(p->dims, p->n_dims, should_be));
}

static exit_code check_one(const safetensors *file, const packed_tensor *p, const safetensor *t,
                           problems *list) {
    char is[160], should_be[160];
    const char *path = safetensors_path(file);
    if (!t) return safetensors_missing(path, p, list);
    exit_code code = EXIT_OK;
    if (t->n_dims != p->n_dims || memcmp(t->dims, p->dims, (size_t)p->n_dims * sizeof *p->dims))
        code = problem(list, EXIT_INPUT, "%s: tensor \"%s\" has shape %s; it must be %s", path, p->name,
                       show_shape(t->dims, t->n_dims, is), show_shape(p->dims, p->n_dims, should_be));
    if (t->dtype == SAFETENSORS_OTHER)
        code = problem(list, EXIT_INPUT, "%s: tensor \"%s\" must be F32, F16 or BF16", path, p->name);
    return code;
}

exit_code safetensors_check_one(const safetensors *file, const packed_tensor *tensor, problems *list) {
    return check_one(file, tensor, safetensors_find(file, tensor->name), list);
}

static exit_code check_unexpected(const safetensors *file, const bool *expected,
                                  bool (*ignored)(const char *name), problems *list) {
    char shown[SAFETENSORS_SHOWN_BYTES];
    int64_t unexpected = 0;
    for (int64_t i = 0; i < safetensors_count(file); i++) {
        const char *name = safetensors_at(file, i)->name;
        if (expected[i] || (ignored && ignored(name))) continue;
        if (unexpected++ < MAX_UNEXPECTED)
            problem(
                list, EXIT_INPUT,
                "%s: tensor \"%s\" has no place in this model; remove it, or correct the model's settings",
                safetensors_path(file), safetensors_shown(name, shown));
    }
    if (unexpected > MAX_UNEXPECTED)
        problem(list, EXIT_INPUT, "%s: %lld more tensors have no place in this model", safetensors_path(file),
                (long long)(unexpected - MAX_UNEXPECTED));
    return unexpected ? EXIT_INPUT : EXIT_OK;
}

exit_code safetensors_check(const safetensors *file, const packed_tensor *tensors, int n_tensors,
                            bool (*ignored)(const char *name), problems *list) {
    bool *expected = calloc((size_t)safetensors_count(file) + 1, sizeof *expected);
    if (!expected)
        return problem(list, EXIT_ENVIRONMENT, "%s: no memory to check its tensors", safetensors_path(file));
    exit_code code = EXIT_OK;
    for (int i = 0; i < n_tensors; i++) {
        const safetensor *t = safetensors_find(file, tensors[i].name);
        if (t) expected[t - safetensors_at(file, 0)] = true;
        if (check_one(file, &tensors[i], t, list)) code = EXIT_INPUT;
    }
    if (check_unexpected(file, expected, ignored, list)) code = EXIT_INPUT;
    free(expected);
    return code;
}
