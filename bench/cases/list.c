#include "cases/ops.h"

const op_case *const OP_CASES[] = {
#define X(name) &name,
    OP_LIST(X)
#undef X
        NULL,
};
