/* draw.h - reproducible numbers: elements of stream `seed`, uniform with mean 0 and a given standard
 * deviation. Never zeros: matrix products of zeros are quicker than others on some hardware. */
#ifndef COHORT_BENCH_DRAW_H
#define COHORT_BENCH_DRAW_H

#include <stdbool.h>
#include <stdint.h>

uint64_t draw_bits(uint64_t seed, uint64_t i);
/* bf16: rounded to 8 significant bits, so that a bf16 program gets what its reference gets. */
void draw_fill(uint64_t seed, double deviation, bool bf16, float *out, int64_t count);
float draw_bf16(float value); /* nearest, ties to even */

#endif
