/* Quantity: each device has one source, as in the split natural. How much training text it has of it is
 * drawn from a log-normal distribution.
 *
 *   tokens(i) = t exp(sigma z_i - sigma^2 / 2),   z_i ~ N(0, 1)
 *
 * so that the expected number of tokens is t for every sigma (data.quantity). t is data.tokens_per_device;
 * where all text is asked for, t is the device's equal part of its source. Every device has at least a
 * window. */
#include <math.h>

#include "data/partition.h"
#include "data/splits/natural.h"

static double factor(const data_settings *d, uint64_t seed, int device) {
    rng_key key = {seed, device, RNG_MIXTURE, 0};
    float z;
    rng_fill_normal(&key, 1.0F, &z, 1);
    return exp(d->quantity * (double)z - d->quantity * d->quantity / 2);
}

const data_split split_quantity = {
    .unequal = true,
    .has_own = true,
    .parameter = "data.quantity",
    .parameter_default = 1.0,
    .factor = factor,
    .repeats = natural_repeats,
    .shares = natural_shares,
};
