/* safetensors.h - reads and writes safetensors files.
 *
 *   file = u64 little-endian N | N bytes of JSON header | data
 *   header = {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ..., "__metadata__":
 *       {string: string}}
 *
 * Two layers. `safetensors` is a file whose header has been checked from the first byte to the last: after a
 * successful open or parse, every tensor's data lies inside the file and is exactly as long as its dtype and
 * shape say. `packed_tensor` says where a tensor of a file lives in one buffer of floats; base models and
 * adapters are each a list of them, for both directions. */
#ifndef COHORT_SAFETENSORS_H
#define COHORT_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "support/problems.h"

enum { SAFETENSORS_MAX_DIMS = 8, SAFETENSORS_MAX_HEADER_BYTES = 100000000, PACKED_NAME_BYTES = 96 };

typedef enum { SAFETENSORS_F32, SAFETENSORS_F16, SAFETENSORS_BF16, SAFETENSORS_OTHER } safetensors_dtype;

typedef struct {
    const char *name; /* any UTF-8 text: never a path, never printed unescaped */
    safetensors_dtype dtype;
    int n_dims;
    int64_t dims[SAFETENSORS_MAX_DIMS];
    uint64_t begin; /* of its data in the file */
    size_t bytes;
} safetensor;

typedef struct safetensors safetensors;

/* Opens the file and checks its header; the data stays in the file until it is asked for. Every problem found
 * is reported, up to a few tens. */
exit_code safetensors_open(const char *path, safetensors **out, problems *list);
/* The same on bytes in memory, which must outlive *out; path is for messages only. */
exit_code safetensors_parse(const uint8_t *bytes, size_t size, const char *path, safetensors **out,
                            problems *list);
void safetensors_close(safetensors *file); /* NULL is fine */

const char *safetensors_path(const safetensors *file);
int64_t safetensors_count(const safetensors *file);
const safetensor *safetensors_at(const safetensors *file, int64_t index); /* in the order of their names */
const safetensor *safetensors_find(const safetensors *file, const char *name);
/* `count` bytes of a tensor's data, from byte `first` of it on. A file that has become shorter since it was
 * opened is refused. */
exit_code safetensors_data(const safetensors *file, const safetensor *tensor, size_t first, size_t count,
                           void *out, problems *list);
/* Whether two tensors, each of its file, have the same bytes. */
exit_code safetensors_same_data(const safetensors *file, const safetensor *tensor,
                                const safetensors *other_file, const safetensor *other, bool *same,
                                problems *list);

/* Copies `name` to `out` for a message: control characters and long tails replaced. Returns out. */
enum { SAFETENSORS_SHOWN_BYTES = 128 };
const char *safetensors_shown(const char *name, char out[SAFETENSORS_SHOWN_BYTES]);

typedef struct {
    char name[PACKED_NAME_BYTES];
    int n_dims;      /* 1 or 2 */
    int64_t dims[2]; /* as in the file */
    int64_t offset;  /* floats into the pack */
    bool transposed; /* the pack holds [dims[1], dims[0]] */
} packed_tensor;

/* Are these, and only these, tensors in the file, each with its shape and a float dtype? ignored (may be
 * NULL) says which other names may be there. */
exit_code safetensors_check(const safetensors *file, const packed_tensor *tensors, int n_tensors,
                            bool (*ignored)(const char *name), problems *list);
/* "PATH: tensor .. is missing; ..". */
exit_code safetensors_missing(const char *path, const packed_tensor *tensor, problems *list);
/* Of a tensor that is there: its shape and type. */
exit_code safetensors_check_one(const safetensors *file, const packed_tensor *tensor, problems *list);
/* Converts checked tensors to f32 into the pack; a NaN or an Inf is refused, naming tensor and element. */
exit_code safetensors_read(const safetensors *file, const packed_tensor *tensors, int n_tensors, float *pack,
                           problems *list);
/* Writes an F32 file through PATH.partial, fsync and rename. */
exit_code safetensors_write(const char *path, const packed_tensor *tensors, int n_tensors, const float *pack,
                            problems *list);

#endif
