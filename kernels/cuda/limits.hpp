/* limits.hpp - borders between the forms of the kernels, and how much is worked on at a time.
 *
 * COHORT_CUDA_LIMITS sets them when a backend is opened: "large", the default, fits large GPUs; with "small"
 * the waves of the tests take the forms that otherwise only large ones take. Or name=value, ..., with the
 * others as in "large", or as in a preset that comes before them. A program is planned and run with the same
 * limits: they do not change while there are programs. */
#ifndef COHORT_KERNELS_CUDA_LIMITS_HPP
#define COHORT_KERNELS_CUDA_LIMITS_HPP

#include <stddef.h>
#include <stdint.h>

#include "limits_table.h"

typedef struct {
#define X(name, large, small, least, most) int64_t name;
    CUDA_LIMITS(X)
#undef X
} cuda_limits_table;

extern cuda_limits_table cuda_limits;

/* Sets them by what the variable holds; NULL or "": large. False: nothing was changed, and `message` says
 * what was wrong. */
bool cuda_read_limits(const char *text, char *message, size_t size);

#endif
