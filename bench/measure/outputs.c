#include "measure/outputs.h"

#include <stdlib.h>

#include "oracle/oracle.h"

static bool is_output(array_role role) {
    return role == OUTPUT || role == IN_PLACE;
}

static bool has_memory(const world *w, int memory) {
    const unsigned need[PACK_MEMORIES] = {NEED_PACKS, NEED_GRADIENTS, NEED_MOMENTS, NEED_MOMENTS};
    return (w->needs & need[memory]) != 0;
}

outputs outputs_take(const world *w) {
    outputs o = {0};
    for (int i = 0; i < TENSORS; i++)
        if (is_output(w->tensor[i].role))
            o.tensor[i] = oracle_from_floats(w->tensor[i].after, w->n_tokens * w->tensor[i].columns);
    for (int i = 0; i < BUFFERS; i++)
        if (is_output(w->buffer[i].role))
            o.buffer[i] = oracle_from_floats(w->buffer[i].after, w->buffer[i].count);
    for (int m = 0; m < PACK_MEMORIES; m++)
        for (int d = 0; d < w->n_checked && has_memory(w, m); d++)
            o.pack[m][d] = oracle_from_floats(w->pack_after[m][d], w->shape.total);
    return o;
}

/* Padding between the tensors of a pack belongs to nobody. */
static void compare_pack(const world *w, verdict *v, const float *out, const double *known) {
    for (int part = 0; part < ORACLE_PARTS; part++) {
        oracle_range range = oracle_part_range(&w->shape, 0, (oracle_part)part);
        if (range.count)
            verdict_compare(v, oracle_part_name((oracle_part)part), out + range.offset, known + range.offset,
                            range.count);
    }
}

void outputs_compare(const world *w, verdict *v, const outputs *known) {
    for (int i = 0; i < TENSORS; i++)
        if (known->tensor[i])
            verdict_compare(v, w->tensor[i].name, w->tensor[i].after, known->tensor[i],
                            w->n_tokens * w->tensor[i].columns);
    for (int i = 0; i < BUFFERS; i++)
        if (known->buffer[i])
            verdict_compare(v, w->buffer[i].name, w->buffer[i].after, known->buffer[i], w->buffer[i].count);
    for (int m = 0; m < PACK_MEMORIES; m++)
        for (int d = 0; d < w->n_checked; d++)
            if (known->pack[m][d]) compare_pack(w, v, w->pack_after[m][d], known->pack[m][d]);
}

void outputs_free(outputs *o) {
    for (int i = 0; i < TENSORS; i++) free(o->tensor[i]);
    for (int i = 0; i < BUFFERS; i++) free(o->buffer[i]);
    for (int m = 0; m < PACK_MEMORIES; m++)
        for (int d = 0; d < MOST_CHECKED; d++) free(o->pack[m][d]);
}
