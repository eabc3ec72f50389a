/* SplitMix64 (Steele, Lea, Flood 2014) of a counter. */
#include "rig/draw.h"

#include <math.h>
#include <string.h>

uint64_t draw_bits(uint64_t seed, uint64_t i) {
    uint64_t z = (seed + 1) * 0xd1342543de82ef95u + (i + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

float draw_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits = (bits + 0x7fffu + (bits >> 16 & 1)) & 0xffff0000u;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* A large array repeats itself after a prime number of elements: no row of any width meets its copy, and
 * copying is ten times as quick. */
enum { PERIOD = 1048583 };

void draw_fill(uint64_t seed, double deviation, bool bf16, float *out, int64_t count) {
    float step = (float)(sqrt(12.0) * deviation / 16777216.0);
    int64_t drawn = count < PERIOD ? count : PERIOD;
    for (int64_t i = 0; i < drawn; i++) {
        float value = ((float)(draw_bits(seed, (uint64_t)i) >> 40) - 8388607.5f) * step;
        out[i] = bf16 ? draw_bf16(value) : value;
    }
    for (int64_t done = drawn; done < count; done += PERIOD)
        memcpy(out + done, out, (size_t)(count - done < PERIOD ? count - done : PERIOD) * sizeof *out);
}
