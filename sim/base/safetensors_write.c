/* A pack of f32 -> a safetensors file. Tensors in the order of their names, header padded to 8 bytes, as the
 * reference writer does. */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/safetensors.h"

enum { STRIP_ROWS = 32 };

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensors are written as they lie in memory");

static int by_name(const void *a, const void *b) {
    return strcmp((*(const packed_tensor *const *)a)->name, (*(const packed_tensor *const *)b)->name);
}

static int64_t element_count(const packed_tensor *p) {
    return p->n_dims == 1 ? p->dims[0] : p->dims[0] * p->dims[1];
}

/* The header as text, padded with spaces to a multiple of 8 bytes; NULL without memory. */
static char *make_header(const packed_tensor *const *sorted, int n_tensors, size_t *length) {
    int64_t begin = 0;
    /* transformers refuses files that do not name their format */
    json_t *header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    for (int i = 0; header && i < n_tensors; i++) {
        const packed_tensor *p = sorted[i];
        int64_t end = begin + element_count(p) * (int64_t)sizeof(float);
        json_t *shape = p->n_dims == 1 ? json_pack("[I]", (json_int_t)p->dims[0])
                                       : json_pack("[I,I]", (json_int_t)p->dims[0], (json_int_t)p->dims[1]);
        json_object_set_new(header, p->name,
                            json_pack("{s:s, s:o, s:[I,I]}", "dtype", "F32", "shape", shape, "data_offsets",
                                      (json_int_t)begin, (json_int_t)end));
        begin = end;
    }
    char *text = header ? json_dumps(header, JSON_COMPACT) : NULL;
    json_decref(header);
    if (!text) return NULL;
    size_t n = strlen(text);
    *length = (n + 7) / 8 * 8;
    char *padded = realloc(text, *length + 1);
    if (!padded)
        free(text);
    else
        memset(padded + n, ' ', *length - n);
    return padded;
}

static bool write_length(FILE *out, size_t length) {
    uint8_t bytes[8];
    for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)((uint64_t)length >> (8 * i));
    return fwrite(bytes, 1, sizeof bytes, out) == sizeof bytes;
}

/* The pack holds [cols, rows]; the file wants [rows, cols]: a strip of rows is gathered at a time. */
static bool write_transposed(FILE *out, const packed_tensor *p, const float *data) {
    int64_t rows = p->dims[0], cols = p->dims[1];
    float *strip = malloc((size_t)(STRIP_ROWS * cols) * sizeof *strip);
    bool ok = strip != NULL;
    for (int64_t r0 = 0; ok && r0 < rows; r0 += STRIP_ROWS) {
        int64_t n = r0 + STRIP_ROWS < rows ? STRIP_ROWS : rows - r0;
        for (int64_t c = 0; c < cols; c++)
            for (int64_t r = 0; r < n; r++) strip[r * cols + c] = data[c * rows + r0 + r];
        ok = fwrite(strip, sizeof *strip, (size_t)(n * cols), out) == (size_t)(n * cols);
    }
    free(strip);
    return ok;
}

static bool write_tensor(FILE *out, const packed_tensor *p, const float *pack) {
    const float *data = pack + p->offset;
    size_t n = (size_t)element_count(p);
    return p->transposed ? write_transposed(out, p, data) : fwrite(data, sizeof *data, n, out) == n;
}

static bool write_file(FILE *out, const packed_tensor *const *sorted, int n_tensors, const float *pack) {
    size_t length = 0;
    char *header = make_header(sorted, n_tensors, &length);
    bool ok = header && write_length(out, length) && fwrite(header, 1, length, out) == length;
    for (int i = 0; ok && i < n_tensors; i++) ok = write_tensor(out, sorted[i], pack);
    free(header);
    return ok && fflush(out) == 0 && fsync(fileno(out)) == 0;
}

exit_code safetensors_write(const char *path, const packed_tensor *tensors, int n_tensors, const float *pack,
                            problems *list) {
    exit_code code = EXIT_OK;
    FILE *out = NULL;
    char *partial = NULL;
    const packed_tensor **sorted = malloc(((size_t)n_tensors + 1) * sizeof *sorted);
    if (!sorted || asprintf(&partial, "%s.partial", path) < 0) {
        partial = NULL;
        code = problem(list, EXIT_ENVIRONMENT, "%s: no memory to write it", path);
        goto cleanup;
    }
    for (int i = 0; i < n_tensors; i++) sorted[i] = &tensors[i];
    qsort(sorted, (size_t)n_tensors, sizeof *sorted, by_name);
    out = fopen(partial, "wb");
    bool ok = out && write_file(out, sorted, n_tensors, pack);
    if (out && fclose(out)) ok = false;
    if (!ok || rename(partial, path)) {
        code = problem(list, EXIT_ENVIRONMENT, "%s: cannot be written: %s", path, strerror(errno));
        unlink(partial);
    }
cleanup:
    free(partial);
    free(sorted);
    return code;
}
