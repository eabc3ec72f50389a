#include "settings/per_device.h"

#include <stdlib.h>
#include <string.h>

bool per_device_equal(const per_device *a, const per_device *b) {
    if (a->n != b->n) return false;
    return a->n == 0 ? a->value == b->value : memcmp(a->list, b->list, (size_t)a->n * sizeof *a->list) == 0;
}

void per_device_reduce(per_device *x, int devices) {
    if (x->n == 0 || x->n != devices) return;
    for (int i = 0; i < x->n; i++)
        if (x->list[i] != x->value) return;
    free(x->list);
    x->list = NULL;
    x->n = 0;
}
