/* report.cu - which op failed. A GPU tells of a failed kernel when it is waited for, which may be many ops
 * later, and then fails whatever comes next. COHORT_CUDA_SYNC=1 has every op of a program waited for, outside
 * graphs, so that the op itself is named. */
#include "driver.hpp"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool cuda_waits_for_each_op() {
    const char *wanted = getenv("COHORT_CUDA_SYNC");
    return wanted && strcmp(wanted, "1") == 0;
}

static const char *name_of(const ck_op *op) {
    switch (op->kind) {
#define X(name)                                                                                              \
    case CK_OP_##name:                                                                                       \
        return #name;
        CK_OPS(X)
#undef X
    case CK_OP_COUNT:
        break;
    }
    return "an unknown op";
}

/* -1: it belongs to no layer. */
static int layer_of(const ck_op *op) {
    switch (op->kind) {
#define X(name)                                                                                              \
    case CK_OP_##name:                                                                                       \
        return op->as.name.layer;
        CK_ADAPTER_OPS(X)
#undef X
#define X(name) case CK_OP_##name:
        CK_BASE_OPS(X)
        CK_TIED_OPS(X)
        CK_GLOBAL_OPS(X)
#undef X
    case CK_OP_COUNT:
        break;
    }
    return -1;
}

const char *cuda_describe_op(const cuda_program *p, int step, char *text, size_t size) {
    const ck_op *op = &p->steps[step].op;
    char layer[24] = "";
    if (layer_of(op) >= 0) snprintf(layer, sizeof layer, ", layer %d", layer_of(op));
    snprintf(text, size, "op %d of %d (%s%s)", step + 1, p->n_steps, name_of(op), layer);
    return text;
}

void cuda_note_run(cuda_stream *stream, const cuda_program *p) {
    if (p->n_steps > 0) cuda_describe_op(p, p->n_steps - 1, stream->last_op, sizeof stream->last_op);
}

const char *cuda_explain_wait(cuda_stream *stream, const char *problem) {
    if (!problem || !stream->last_op[0]) return problem;
    snprintf(stream->explanation, sizeof stream->explanation,
             "%s, in or before %s of the last program; COHORT_CUDA_SYNC=1 waits after each op and names the "
             "one that fails",
             problem, stream->last_op);
    return stream->explanation;
}

/* After a failed kernel every call fails: what comes later says where it began. */
ck_status cuda_status(ck_backend *backend, ck_status status, const char *what, const char *problem) {
    if (!problem) return CK_OK;
    cuda_backend *own = reinterpret_cast<cuda_backend *>(backend);
    if (own->first_problem[0])
        return ck_fail(backend, status, "%s: %s (this backend's first failure was %s)", what, problem,
                       own->first_problem);
    if (status == CK_FAILED) snprintf(own->first_problem, sizeof own->first_problem, "%s: %s", what, problem);
    return ck_fail(backend, status, "%s: %s", what, problem);
}
