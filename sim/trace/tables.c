/* tables.c - the schema of trace.h5 as data. A new table is a line here and its values in row_cells() of writer.c. */
#include "trace/tables.h"

#include <math.h>
#include <string.h>

const table_spec table_specs[TABLE_COUNT] = {
    [TABLE_TRAIN_LOSS] = {"/loss/train", "nats/token", TABLE_F64, AXES_DEVICE},
    [TABLE_VALID_LOSS] = {"/loss/valid", "nats/token", TABLE_F64, AXES_DEVICE},
    [TABLE_TEST_LOSS] = {"/loss/test", "nats/token", TABLE_F64, AXES_DEVICE},
    [TABLE_TEST_AFTER] = {"/loss/test_after", "nats/token", TABLE_F64, AXES_DEVICE},
    [TABLE_GATE_MEAN] = {"/routing/gate_mean", "1", TABLE_F32, AXES_EXPERT},
    [TABLE_TOKEN_SHARE] = {"/routing/token_share", "1", TABLE_F32, AXES_EXPERT},
    [TABLE_ROUTING_IDS] = {"/routing/tokens/ids", "token", TABLE_I32, AXES_TOKEN},
    [TABLE_ROUTING_GATES] = {"/routing/tokens/gates", "1", TABLE_F32, AXES_TOKEN_EXPERT},
    [TABLE_BYTES_UP] = {"/traffic/bytes_up", "bytes", TABLE_I64, AXES_DEVICE},
    [TABLE_BYTES_DOWN] = {"/traffic/bytes_down", "bytes", TABLE_I64, AXES_DEVICE},
    [TABLE_TRAIN_WINDOWS] = {"/sampling/windows/train", "token", TABLE_I64, AXES_TRAIN_WINDOW},
    [TABLE_VALID_WINDOWS] = {"/sampling/windows/valid", "token", TABLE_I64, AXES_VALID_WINDOW},
    [TABLE_TIME_TRAIN] = {"/time/train", "s", TABLE_F64, AXES_ROW},
    [TABLE_TIME_EVALUATE] = {"/time/evaluate", "s", TABLE_F64, AXES_ROW},
    [TABLE_TIME_AGGREGATE] = {"/time/aggregate", "s", TABLE_F64, AXES_ROW},
    [TABLE_TIME_TOTAL] = {"/time/total", "s", TABLE_F64, AXES_ROW},
    [TABLE_ROUNDS] = {"/rounds", "round", TABLE_I32, AXES_ROW},
};

trace_shape trace_shape_of(const trace_header *header) {
    return (trace_shape){.devices = header->n_devices,
                         .layers = header->n_layers,
                         .experts = header->max_experts,
                         .windows = header->routing_windows,
                         .sequence = header->sequence,
                         .sampling = header->sampling};
}

bool table_recorded(const table_spec *spec, const trace_shape *shape) {
    switch (spec->axes) {
    case AXES_TOKEN:
    case AXES_TOKEN_EXPERT:
        return shape->windows > 0;
    case AXES_TRAIN_WINDOW:
        return shape->sampling.train_steps > 0;
    case AXES_VALID_WINDOW:
        return shape->sampling.valid_steps > 0;
    default:
        return true;
    }
}

int table_dimensions(const table_spec *spec, const trace_shape *shape, hsize_t dims[TRACE_MAX_RANK]) {
    int rank = 0;
    bool of_train = spec->axes == AXES_TRAIN_WINDOW, sampled = of_train || spec->axes == AXES_VALID_WINDOW;
    dims[rank++] = 1;
    if (spec->axes == AXES_DEVICE || spec->axes == AXES_EXPERT || sampled) dims[rank++] = (hsize_t)shape->devices;
    if (sampled) {
        dims[rank++] = (hsize_t)(of_train ? shape->sampling.train_steps : shape->sampling.valid_steps);
        dims[rank++] = (hsize_t)(of_train ? shape->sampling.train_batch : shape->sampling.valid_batch);
    }
    if (spec->axes == AXES_TOKEN || spec->axes == AXES_TOKEN_EXPERT) {
        dims[rank++] = (hsize_t)shape->windows;
        dims[rank++] = (hsize_t)shape->sequence;
    }
    if (spec->axes == AXES_EXPERT || spec->axes == AXES_TOKEN_EXPERT) {
        dims[rank++] = (hsize_t)shape->layers;
        dims[rank++] = (hsize_t)shape->experts;
    }
    return rank;
}

size_t table_value_bytes(const table_spec *spec) {
    return spec->type == TABLE_F64 || spec->type == TABLE_I64 ? 8 : 4;
}

size_t table_row_bytes(const table_spec *spec, const trace_shape *shape) {
    hsize_t dims[TRACE_MAX_RANK];
    int rank = table_dimensions(spec, shape, dims);
    size_t bytes = table_value_bytes(spec);
    for (int i = 0; i < rank; i++) bytes *= dims[i];
    return bytes;
}

hid_t table_memory_type(const table_spec *spec) {
    switch (spec->type) {
    case TABLE_F64:
        return H5T_NATIVE_DOUBLE;
    case TABLE_F32:
        return H5T_NATIVE_FLOAT;
    case TABLE_I64:
        return H5T_NATIVE_INT64;
    case TABLE_I32:
        return H5T_NATIVE_INT32;
    }
    return -1;
}

const void *table_fill(const table_spec *spec) {
    static const double f64 = NAN;
    static const float f32 = NAN;
    static const int64_t i64 = -1;
    static const int32_t i32 = -1;
    switch (spec->type) {
    case TABLE_F64:
        return &f64;
    case TABLE_F32:
        return &f32;
    case TABLE_I64:
        return &i64;
    case TABLE_I32:
        return &i32;
    }
    return NULL;
}

typedef struct {
    const char *name;
    size_t offset;
    hid_t type;
    size_t text_bytes; /* 0: not a text */
} field;

hid_t text_type(size_t bytes) {
    hid_t type = H5Tcopy(H5T_C_S1);
    if (type < 0 || H5Tset_size(type, bytes) < 0 || H5Tset_cset(type, H5T_CSET_UTF8) < 0) return -1;
    return type;
}

static hid_t compound(size_t bytes, const field *fields, size_t n, h5_error *error) {
    hid_t type = H5Tcreate(H5T_COMPOUND, bytes);
    for (size_t i = 0; i < n && type >= 0; i++) {
        hid_t member = fields[i].text_bytes ? text_type(fields[i].text_bytes) : fields[i].type;
        if (member < 0 || H5Tinsert(type, fields[i].name, fields[i].offset, member) < 0)
            return h5_failed(error, "cannot describe the column %s", fields[i].name);
        if (fields[i].text_bytes) H5Tclose(member);
    }
    return type;
}

#define TEXT(s, f)                                                                                                                         \
    { #f, offsetof(s, f), -1, sizeof(((s *)NULL)->f) }
#define NUMBER(s, f, t)                                                                                                                    \
    { #f, offsetof(s, f), t, 0 }

hid_t population_type(h5_error *error) {
    const field fields[] = {
        TEXT(population_record, name),
        TEXT(population_record, method),
        TEXT(population_record, split),
        NUMBER(population_record, seed, H5T_NATIVE_UINT64),
        NUMBER(population_record, tokens_per_device, H5T_NATIVE_INT64),
        NUMBER(population_record, devices, H5T_NATIVE_INT32),
        NUMBER(population_record, generalists, H5T_NATIVE_INT32),
        NUMBER(population_record, specialists, H5T_NATIVE_INT32),
        NUMBER(population_record, rank, H5T_NATIVE_INT32),
        NUMBER(population_record, top_k, H5T_NATIVE_INT32),
        TEXT(population_record, gates),
        NUMBER(population_record, first_source, H5T_NATIVE_INT32),
    };
    return compound(sizeof(population_record), fields, sizeof fields / sizeof *fields, error);
}

hid_t device_type(h5_error *error) {
    const field fields[] = {
        NUMBER(trace_device, population, H5T_NATIVE_INT),
        NUMBER(trace_device, index, H5T_NATIVE_INT),
        NUMBER(trace_device, source, H5T_NATIVE_INT),
        NUMBER(trace_device, experts, H5T_NATIVE_INT),
        NUMBER(trace_device, train_tokens, H5T_NATIVE_INT64),
        NUMBER(trace_device, valid_tokens, H5T_NATIVE_INT64),
        NUMBER(trace_device, test_tokens, H5T_NATIVE_INT64),
        NUMBER(trace_device, parameters_shared, H5T_NATIVE_INT64),
        NUMBER(trace_device, parameters_private, H5T_NATIVE_INT64),
        NUMBER(trace_device, entropy, H5T_NATIVE_DOUBLE),
    };
    return compound(sizeof(trace_device), fields, sizeof fields / sizeof *fields, error);
}
