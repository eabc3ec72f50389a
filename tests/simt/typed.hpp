/* typed.hpp - activations of f32 or bf16 as tests hold them: device memory, the numbers that went in or came
 * out, and untouched padding. */
#ifndef COHORT_SIMT_TYPED_HPP
#define COHORT_SIMT_TYPED_HPP

#include <math.h>

#include "cuda/ops.cuh"
#include "device.hpp"

extern "C" {
#include "conformance/waves.h"
#include "oracle/oracle.h"
#include "rig/verdict.h"
}

/* Round to nearest, ties to even, as kernels do; on either side of the compiler. */
static inline void set_value(float *to, float value) {
    *to = value;
}
static inline void set_value(bf16 *to, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint16_t high = (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
    memcpy((void *)to, &high, sizeof high);
}
static inline float get_value(const float *from) {
    return *from;
}
static inline float get_value(const bf16 *from) {
    uint16_t high;
    float value;
    memcpy(&high, (const void *)from, sizeof high);
    uint32_t bits = (uint32_t)high << 16;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* An activation [rows, columns] with `padding` more columns that belong to nobody, and the ck_tensor that ops
 * know it by. */
template <typename T> struct activation : device_buffer<T> {
    int64_t rows;
    int columns, padding;
    ck_tensor tensor;

    activation(const ck_program *program, int64_t rows_, int columns_, int padding_, const char *name)
        : device_buffer<T>(rows_ * (columns_ + padding_), name), rows(rows_), columns(columns_),
          padding(padding_), tensor() {
        tensor.name = name;
        tensor.columns = columns + padding;
        tensor.program = const_cast<ck_program *>(program);
        tensor.data = this->device;
        this->poison();
    }
    T *at(int64_t row, int column) {
        return &this->host[(size_t)(row * (columns + padding) + column)];
    }
    /* Random numbers, rounded to T; padding stays NaN. */
    void draw(uint64_t seed, double scale) {
        for (int64_t r = 0; r < rows; r++) {
            for (int c = 0; c < columns; c++) set_value(at(r, c), (float)wave_draw(&seed, scale));
        }
        this->put();
    }
    void set(int64_t first, const std::vector<double> &values) {
        for (size_t i = 0; i < values.size(); i++)
            set_value(at(first + (int64_t)i / columns, (int)((int64_t)i % columns)), (float)values[i]);
        this->put();
    }
    std::vector<double> take(int64_t first, int64_t count) {
        std::vector<double> out;
        for (int64_t r = first; r < first + count; r++) {
            for (int c = 0; c < columns; c++) out.push_back((double)get_value(at(r, c)));
        }
        return out;
    }
    /* Whether any element of the padding was written. */
    bool padding_written() {
        for (int64_t r = 0; r < rows; r++) {
            for (int c = columns; c < columns + padding; c++) {
                const unsigned char *bytes = reinterpret_cast<const unsigned char *>(at(r, c));
                for (size_t i = 0; i < sizeof(T); i++)
                    if (bytes[i] != 0xff) return true;
            }
        }
        return false;
    }
};

template <typename T> static constexpr double tolerance_of() {
    return sizeof(T) == 2 ? 1e-2 : 1e-5;
}

template <typename T>
static inline void compare_rows(verdict *c, const char *where, activation<T> *out, int64_t first,
                                int64_t count, const std::vector<double> &expected, double tolerance) {
    std::vector<float> got;
    for (double v : out->take(first, count)) got.push_back((float)v);
    verdict_near(c, where, got.data(), expected.data(), (int64_t)got.size(), tolerance);
}

#endif
