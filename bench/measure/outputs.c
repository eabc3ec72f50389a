#include "measure/outputs.h"

#include <stdlib.h>

#include "oracle/oracle.h"

static bool is_output(array_role role) {
    return role == OUTPUT || role == IN_PLACE;
}

outputs outputs_take(const rig *r) {
    outputs o = {0};
    for (int i = 0; i < TENSORS; i++)
        if (is_output(r->tensor[i].role))
            o.tensor[i] = oracle_from_floats(r->tensor[i].after, r->n_tokens * r->tensor[i].columns);
    for (int i = 0; i < BUFFERS; i++)
        if (is_output(r->buffer[i].role))
            o.buffer[i] = oracle_from_floats(r->buffer[i].after, r->buffer[i].count);
    for (int m = 0; m < PACK_MEMORIES; m++)
        for (int d = 0; d < r->n_checked && rig_has_memory(r, (pack_memory)m); d++)
            o.pack[m][d] = oracle_from_floats(r->pack_after[m][d], r->shapes[0].total);
    return o;
}

/* Padding between the tensors of a pack belongs to nobody. */
static void compare_pack(const rig *r, verdict *v, const float *out, const double *known) {
    for (int part = 0; part < ORACLE_PARTS; part++) {
        oracle_range range = oracle_part_range(&r->shapes[0], 0, (oracle_part)part);
        if (range.count)
            verdict_compare(v, oracle_part_name((oracle_part)part), out + range.offset, known + range.offset,
                            range.count);
    }
}

void outputs_compare(const rig *r, verdict *v, const outputs *known) {
    for (int i = 0; i < TENSORS; i++)
        if (known->tensor[i])
            verdict_compare(v, r->tensor[i].name, r->tensor[i].after, known->tensor[i],
                            r->n_tokens * r->tensor[i].columns);
    for (int i = 0; i < BUFFERS; i++)
        if (known->buffer[i])
            verdict_compare(v, r->buffer[i].name, r->buffer[i].after, known->buffer[i], r->buffer[i].count);
    for (int m = 0; m < PACK_MEMORIES; m++)
        for (int d = 0; d < r->n_checked; d++)
            if (known->pack[m][d]) compare_pack(r, v, r->pack_after[m][d], known->pack[m][d]);
}

void outputs_free(outputs *o) {
    for (int i = 0; i < TENSORS; i++) free(o->tensor[i]);
    for (int i = 0; i < BUFFERS; i++) free(o->buffer[i]);
    for (int m = 0; m < PACK_MEMORIES; m++)
        for (int d = 0; d < MOST_CHECKED; d++) free(o->pack[m][d]);
}
