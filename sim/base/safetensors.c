/* The header's checks. What the file says is not believed before it was compared with the file's size and
 * with itself. */
#include "base/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LENGTH_BYTES = 8, MAX_MESSAGES = 24 };

struct safetensors {
    char *path_owned;
    json_t *header_owned; /* owns the names */
    safetensor *tensors_owned;
    int64_t count;
    int fd;               /* -1: the bytes are the caller's */
    const uint8_t *bytes; /* of the whole file, where fd is -1 */
};

typedef struct {
    const char *path;
    problems *list;
    int messages;
    uint64_t data_begin; /* first byte after the header */
    size_t data_bytes;
} reader;

typedef struct {
    safetensor tensor;
    uint64_t begin, end; /* offsets into the data */
} entry;

static const struct {
    const char *name;
    safetensors_dtype dtype;
    size_t bytes;
} known_dtypes[] = {
    {"F32", SAFETENSORS_F32, 4},       {"F16", SAFETENSORS_F16, 2},       {"BF16", SAFETENSORS_BF16, 2},
    {"F64", SAFETENSORS_OTHER, 8},     {"I64", SAFETENSORS_OTHER, 8},     {"U64", SAFETENSORS_OTHER, 8},
    {"I32", SAFETENSORS_OTHER, 4},     {"U32", SAFETENSORS_OTHER, 4},     {"I16", SAFETENSORS_OTHER, 2},
    {"U16", SAFETENSORS_OTHER, 2},     {"I8", SAFETENSORS_OTHER, 1},      {"U8", SAFETENSORS_OTHER, 1},
    {"F8_E5M2", SAFETENSORS_OTHER, 1}, {"F8_E4M3", SAFETENSORS_OTHER, 1}, {"BOOL", SAFETENSORS_OTHER, 1}};

const char *safetensors_shown(const char *name, char out[SAFETENSORS_SHOWN_BYTES]) {
    size_t n = 0;
    for (; n < SAFETENSORS_SHOWN_BYTES - 4 && name[n]; n++) {
        unsigned char c = (unsigned char)name[n];
        out[n] = c < 0x20 || c >= 0x7f ? '?' : name[n];
    }
    memcpy(out + n, name[n] ? "..." : "", name[n] ? 4 : 1);
    return out;
}

static exit_code bad_tensor(reader *r, const char *name, const char *what) {
    char shown[SAFETENSORS_SHOWN_BYTES];
    if (r->messages++ >= MAX_MESSAGES) return EXIT_INPUT;
    return problem(r->list, EXIT_INPUT, "%s: tensor \"%s\": %s", r->path, safetensors_shown(name, shown),
                   what);
}

/* N, checked against the file's size. */
static exit_code header_length(const uint8_t *bytes, size_t size, const char *path, size_t *length,
                               problems *list) {
    if (size < LENGTH_BYTES)
        return problem(
            list, EXIT_INPUT,
            "%s: %zu bytes is too short for a safetensors file, which starts with 8 bytes of header length",
            path, size);
    uint64_t n = 0;
    for (int i = LENGTH_BYTES - 1; i >= 0; i--) n = n << 8 | bytes[i];
    if (n > SAFETENSORS_MAX_HEADER_BYTES)
        return problem(
            list, EXIT_INPUT,
            "%s: header length %llu is above the format's limit of %d bytes; is this a safetensors file?",
            path, (unsigned long long)n, SAFETENSORS_MAX_HEADER_BYTES);
    if (n > size - LENGTH_BYTES)
        return problem(list, EXIT_INPUT,
                       "%s: header length %llu does not fit into the file of %zu bytes; the file is "
                       "truncated or damaged",
                       path, (unsigned long long)n, size);
    *length = (size_t)n;
    return EXIT_OK;
}

static exit_code parse_json(const uint8_t *text, size_t length, const char *path, json_t **out,
                            problems *list) {
    char shown[SAFETENSORS_SHOWN_BYTES];
    if (length == 0 || text[0] != '{')
        return problem(list, EXIT_INPUT, "%s: the header must be JSON that starts with '{'", path);
    json_error_t error;
    *out = json_loadb((const char *)text, length, JSON_REJECT_DUPLICATES, &error);
    if (!*out)
        return problem(list, EXIT_INPUT, "%s: the header is not valid JSON: %s, at header byte %d", path,
                       safetensors_shown(error.text, shown), error.position);
    return EXIT_OK;
}

static exit_code check_metadata(reader *r, json_t *metadata) {
    const char *key;
    json_t *value;
    if (!json_is_object(metadata)) return bad_tensor(r, "__metadata__", "must be an object of strings");
    json_object_foreach(metadata, key, value) if (!json_is_string(value)) return bad_tensor(
        r, "__metadata__", "all values must be strings");
    return EXIT_OK;
}

static exit_code parse_dtype(reader *r, const char *name, json_t *value, safetensor *t,
                             size_t *element_bytes) {
    const char *text = json_string_value(value);
    for (size_t i = 0; text && i < sizeof known_dtypes / sizeof *known_dtypes; i++) {
        if (strcmp(text, known_dtypes[i].name)) continue;
        t->dtype = known_dtypes[i].dtype;
        *element_bytes = known_dtypes[i].bytes;
        return EXIT_OK;
    }
    return bad_tensor(r, name,
                      "\"dtype\" must be one of the format's types, such as \"F32\", \"F16\" or \"BF16\"");
}

/* Dimensions, and the bytes they make: *bytes = element_bytes * product, without overflow. */
static exit_code parse_shape(reader *r, const char *name, json_t *value, safetensor *t, size_t element_bytes,
                             uint64_t *bytes) {
    if (!json_is_array(value) || json_array_size(value) > SAFETENSORS_MAX_DIMS)
        return bad_tensor(r, name, "\"shape\" must be a list of at most 8 dimensions");
    t->n_dims = (int)json_array_size(value);
    int64_t product = (int64_t)element_bytes;
    bool overflow = false;
    for (int i = 0; i < t->n_dims; i++) {
        json_t *dim = json_array_get(value, (size_t)i);
        t->dims[i] = json_integer_value(dim);
        if (!json_is_integer(dim) || t->dims[i] < 0)
            return bad_tensor(r, name, "dimensions in \"shape\" must be integers, 0 or more");
        if (__builtin_mul_overflow(product, t->dims[i], &product)) overflow = true;
    }
    if (overflow) return bad_tensor(r, name, "\"shape\" describes more bytes than any file can hold");
    *bytes = (uint64_t)product;
    return EXIT_OK;
}

static exit_code parse_offsets(reader *r, const char *name, json_t *value, entry *e) {
    json_t *begin = json_array_get(value, 0), *end = json_array_get(value, 1);
    if (json_array_size(value) != 2 || !json_is_integer(begin) || !json_is_integer(end))
        return bad_tensor(r, name, "\"data_offsets\" must be a list of two integers, [begin, end]");
    if (json_integer_value(begin) < 0 || json_integer_value(end) < json_integer_value(begin))
        return bad_tensor(r, name, "\"data_offsets\" must satisfy 0 <= begin <= end");
    e->begin = (uint64_t)json_integer_value(begin);
    e->end = (uint64_t)json_integer_value(end);
    if (e->end > r->data_bytes)
        return bad_tensor(r, name, "\"data_offsets\" end beyond the file; the file is truncated or damaged");
    return EXIT_OK;
}

static exit_code parse_tensor(reader *r, const char *name, json_t *value, entry *e) {
    size_t element_bytes = 0;
    uint64_t bytes = 0;
    if (!json_is_object(value))
        return bad_tensor(r, name, "must be an object with \"dtype\", \"shape\" and \"data_offsets\"");
    e->tensor.name = name;
    exit_code code = parse_dtype(r, name, json_object_get(value, "dtype"), &e->tensor, &element_bytes);
    if (!code)
        code = parse_shape(r, name, json_object_get(value, "shape"), &e->tensor, element_bytes, &bytes);
    if (!code) code = parse_offsets(r, name, json_object_get(value, "data_offsets"), e);
    if (code) return code;
    if (e->end - e->begin != bytes)
        return bad_tensor(
            r, name, "\"data_offsets\" span a different number of bytes than \"dtype\" and \"shape\" need");
    e->tensor.begin = r->data_begin + e->begin;
    e->tensor.bytes = (size_t)bytes;
    return EXIT_OK;
}

static int by_offset(const void *a, const void *b) {
    const entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const safetensor *)a)->name, ((const safetensor *)b)->name);
}

/* The data is covered exactly once: sorted by offset, each tensor starts where the last one ended, and the
 * last ends the file. */
static exit_code check_cover(reader *r, entry *entries, int64_t count) {
    uint64_t expected = 0;
    qsort(entries, (size_t)count, sizeof *entries, by_offset);
    for (int64_t i = 0; i < count; i++) {
        if (entries[i].begin < expected)
            return bad_tensor(r, entries[i].tensor.name, "its data overlaps another tensor's");
        if (entries[i].begin > expected)
            return bad_tensor(r, entries[i].tensor.name, "its data leaves a hole after the tensor before it");
        expected = entries[i].end;
    }
    if (expected == r->data_bytes) return EXIT_OK;
    return problem(r->list, EXIT_INPUT,
                   "%s: the tensors cover %llu bytes but the file holds %zu; the file is damaged or has "
                   "something appended",
                   r->path, (unsigned long long)expected, r->data_bytes);
}

static exit_code parse_entries(reader *r, json_t *header, entry *entries, int64_t *count) {
    const char *name;
    json_t *value;
    exit_code code = EXIT_OK;
    *count = 0;
    json_object_foreach(header, name, value) {
        exit_code one = strcmp(name, "__metadata__") ? parse_tensor(r, name, value, &entries[(*count)++])
                                                     : check_metadata(r, value);
        if (!code) code = one;
    }
    if (r->messages > MAX_MESSAGES)
        problem(r->list, EXIT_INPUT, "%s: %d more tensors are wrong", r->path, r->messages - MAX_MESSAGES);
    return code ? code : check_cover(r, entries, *count);
}

static exit_code build(reader *r, json_t *header, safetensors *file) {
    size_t capacity = json_object_size(header) + 1;
    entry *entries = calloc(capacity, sizeof *entries);
    file->tensors_owned = calloc(capacity, sizeof *file->tensors_owned);
    exit_code code;
    if (!entries || !file->tensors_owned)
        code = problem(r->list, EXIT_ENVIRONMENT, "%s: no memory for a header of %zu tensors", r->path,
                       capacity - 1);
    else
        code = parse_entries(r, header, entries, &file->count);
    if (code) goto cleanup;
    for (int64_t i = 0; i < file->count; i++) file->tensors_owned[i] = entries[i].tensor;
    qsort(file->tensors_owned, (size_t)file->count, sizeof *file->tensors_owned, by_name);
cleanup:
    free(entries);
    return code;
}

/* header: its `length` bytes. fd, bytes: where the data is; on failure still the caller's. */
static exit_code make(const uint8_t *header, size_t length, size_t size, const char *path, int fd,
                      const uint8_t *bytes, safetensors **out, problems *list) {
    safetensors *file = calloc(1, sizeof *file);
    if (!file || !(file->path_owned = strdup(path))) {
        free(file);
        return problem(list, EXIT_ENVIRONMENT, "%s: no memory", path);
    }
    file->fd = -1;
    file->bytes = bytes;
    exit_code code = parse_json(header, length, path, &file->header_owned, list);
    if (!code) {
        reader r = {.path = path,
                    .list = list,
                    .data_begin = LENGTH_BYTES + length,
                    .data_bytes = size - LENGTH_BYTES - length};
        code = build(&r, file->header_owned, file);
    }
    if (code) {
        safetensors_close(file);
        return code;
    }
    file->fd = fd;
    *out = file;
    return EXIT_OK;
}

exit_code safetensors_parse(const uint8_t *bytes, size_t size, const char *path, safetensors **out,
                            problems *list) {
    size_t length = 0;
    *out = NULL;
    exit_code code = header_length(bytes, size, path, &length, list);
    return code ? code : make(bytes + LENGTH_BYTES, length, size, path, -1, bytes, out, list);
}

/* Files are read, not mapped: a mapped file that becomes shorter ends the program. */
static exit_code read_at(int fd, const char *path, uint64_t first, size_t count, void *out, problems *list) {
    for (size_t done = 0; done < count;) {
        ssize_t got = pread(fd, (char *)out + done, count - done, (off_t)(first + done));
        if (got > 0) {
            done += (size_t)got;
        } else if (got == 0) {
            return problem(list, EXIT_INPUT,
                           "%s: became shorter while it was read; try again when it is whole", path);
        } else if (errno != EINTR) {
            return problem(list, EXIT_INPUT, "%s: cannot be read: %s", path, strerror(errno));
        }
    }
    return EXIT_OK;
}

static exit_code open_file(const char *path, int *fd, size_t *size, problems *list) {
    struct stat status;
    *fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* a pipe is refused, not waited for */
    if (*fd < 0 || fstat(*fd, &status))
        return problem(list, EXIT_INPUT, "%s: cannot be read: %s", path, strerror(errno));
    if (!S_ISREG(status.st_mode))
        return problem(list, EXIT_INPUT, "%s: is not a regular file; a safetensors file is expected", path);
    *size = (size_t)status.st_size;
    return EXIT_OK;
}

static exit_code open_checked(int fd, size_t size, const char *path, safetensors **out, problems *list) {
    uint8_t start[LENGTH_BYTES] = {0};
    size_t length = 0;
    exit_code code = read_at(fd, path, 0, size < LENGTH_BYTES ? size : LENGTH_BYTES, start, list);
    if (!code) code = header_length(start, size, path, &length, list);
    if (code) return code;
    uint8_t *header = malloc(length + 1);
    if (!header) return problem(list, EXIT_ENVIRONMENT, "%s: no memory for its header", path);
    code = read_at(fd, path, LENGTH_BYTES, length, header, list);
    if (!code) code = make(header, length, size, path, fd, NULL, out, list);
    free(header);
    return code;
}

exit_code safetensors_open(const char *path, safetensors **out, problems *list) {
    int fd = -1;
    size_t size = 0;
    *out = NULL;
    exit_code code = open_file(path, &fd, &size, list);
    if (!code) code = open_checked(fd, size, path, out, list);
    if (code && fd >= 0) close(fd);
    return code;
}

void safetensors_close(safetensors *file) {
    if (!file) return;
    if (file->fd >= 0) close(file->fd);
    json_decref(file->header_owned);
    free(file->tensors_owned);
    free(file->path_owned);
    free(file);
}

exit_code safetensors_data(const safetensors *file, const safetensor *tensor, size_t first, size_t count,
                           void *out, problems *list) {
    uint64_t at = tensor->begin + first;
    if (file->fd >= 0) return read_at(file->fd, file->path_owned, at, count, out, list);
    memcpy(out, file->bytes + at, count);
    return EXIT_OK;
}

exit_code safetensors_same_data(const safetensors *file, const safetensor *tensor,
                                const safetensors *other_file, const safetensor *other, bool *same,
                                problems *list) {
    enum { PIECE = 65536 };
    uint8_t ours[PIECE], theirs[PIECE];
    *same = tensor->dtype == other->dtype && tensor->bytes == other->bytes;
    for (size_t first = 0; first < tensor->bytes && *same; first += PIECE) {
        size_t count = tensor->bytes - first < PIECE ? tensor->bytes - first : PIECE;
        exit_code code = safetensors_data(file, tensor, first, count, ours, list);
        if (!code) code = safetensors_data(other_file, other, first, count, theirs, list);
        if (code) return code;
        *same = memcmp(ours, theirs, count) == 0;
    }
    return EXIT_OK;
}

const char *safetensors_path(const safetensors *file) {
    return file->path_owned;
}

int64_t safetensors_count(const safetensors *file) {
    return file->count;
}

const safetensor *safetensors_at(const safetensors *file, int64_t index) {
    return &file->tensors_owned[index];
}

const safetensor *safetensors_find(const safetensors *file, const char *name) {
    safetensor key = {.name = name};
    return bsearch(&key, file->tensors_owned, (size_t)file->count, sizeof key, by_name);
}
