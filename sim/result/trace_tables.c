/* trace_tables.c - the HDF5 types and dimensions of metrics (numbers/metrics.h), and of the records of
 * populations and devices. */
#include "result/trace_tables.h"

#include <string.h>

metric_shape trace_shape_of(const trace_header *header) {
    return (metric_shape){.populations = header->n_populations,
                          .devices = header->n_devices,
                          .layers = header->n_layers,
                          .experts = header->max_experts,
                          .windows = header->routing_windows,
                          .sequence = header->sequence,
                          .sampling = header->sampling};
}

int table_dimensions(metric_id id, const metric_shape *shape, hsize_t dims[TRACE_MAX_RANK]) {
    int64_t of_round[METRIC_MAX_DIMS];
    int n = metric_dimensions(id, shape, of_round);
    dims[0] = 1;
    for (int i = 0; i < n; i++) dims[1 + i] = (hsize_t)of_round[i];
    return 1 + n;
}

hid_t table_memory_type(metric_id id) {
    switch (metrics[id].type) {
    case METRIC_F64:
        return H5T_NATIVE_DOUBLE;
    case METRIC_F32:
        return H5T_NATIVE_FLOAT;
    case METRIC_I64:
        return H5T_NATIVE_INT64;
    case METRIC_I32:
        return H5T_NATIVE_INT32;
    }
    return -1;
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

#define TEXT(s, f)                                                                                           \
    { #f, offsetof(s, f), -1, sizeof(((s *)NULL)->f) }
#define NUMBER(s, f, t)                                                                                      \
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
        TEXT(population_record, evaluation),
        TEXT(population_record, point),
        TEXT(population_record, revision),
    };
    return compound(sizeof(population_record), fields, sizeof fields / sizeof *fields, error);
}

hid_t device_type(h5_error *error) {
    const field fields[] = {
        NUMBER(trace_device, population, H5T_NATIVE_INT),
        NUMBER(trace_device, index, H5T_NATIVE_INT),
        NUMBER(trace_device, source, H5T_NATIVE_INT),
        NUMBER(trace_device, experts, H5T_NATIVE_INT),
        NUMBER(trace_device, generalists, H5T_NATIVE_INT),
        NUMBER(trace_device, specialists, H5T_NATIVE_INT),
        NUMBER(trace_device, rank, H5T_NATIVE_INT),
        NUMBER(trace_device, train_tokens, H5T_NATIVE_INT64),
        NUMBER(trace_device, valid_tokens, H5T_NATIVE_INT64),
        NUMBER(trace_device, test_tokens, H5T_NATIVE_INT64),
        NUMBER(trace_device, parameters_shared, H5T_NATIVE_INT64),
        NUMBER(trace_device, parameters_private, H5T_NATIVE_INT64),
        NUMBER(trace_device, entropy, H5T_NATIVE_DOUBLE),
        NUMBER(trace_device, held_out, H5T_NATIVE_INT),
    };
    return compound(sizeof(trace_device), fields, sizeof fields / sizeof *fields, error);
}
