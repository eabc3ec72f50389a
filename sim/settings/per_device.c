#include "settings/per_device.h"

#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(int64_t) == sizeof(double), "numbers of either kind are compared byte by byte");

void per_device_reduce(per_device *x, int devices) {
    if (x->n == 0 || x->n != devices) return;
    for (int i = 0; i < x->n; i++)
        if (memcmp(&x->list[i], &x->value, sizeof x->value) != 0) return;
    free(x->list);
    x->list = NULL;
    x->n = 0;
}

void per_device_free(per_device *x) {
    free(x->list);
    *x = (per_device){0};
}
