/* expect.hpp - what a launch on the simulated machine is expected to end with, and buffers that it checks. */
#ifndef COHORT_TESTS_SIMT_EXPECT_HPP
#define COHORT_TESTS_SIMT_EXPECT_HPP

#include <initializer_list>
#include <string.h>

#include "cuda/portable.cuh"
#include "tap.hpp"

static inline void expect_fine(const char *problem) {
    TAP_CHECK(!problem, "expected no failure, got: %s", problem);
}

/* The failure is of that kind, and its message names all of the (up to three) texts. */
static inline void expect_failure(const char *problem, simt_failure kind, const char *first,
                                  const char *second = "", const char *third = "") {
    TAP_CHECK(problem, "expected a failure that mentions '%s', got none", first);
    if (!problem) return;
    TAP_CHECK(simt_last_failure() == kind, "expected failure %d, got %d: %s", kind, simt_last_failure(),
              problem);
    for (const char *text : {first, second, third})
        TAP_CHECK(strstr(problem, text), "expected '%s' in: %s", text, problem);
}

template <typename T> struct buffer {
    T *data;
    int64_t count;
    explicit buffer(int64_t n)
        : data(static_cast<T *>(simt_alloc((size_t)n * sizeof(T), "buffer"))), count(n) {}
    ~buffer() {
        simt_free(data);
    }
    buffer(const buffer &) = delete;
    buffer &operator=(const buffer &) = delete;
};

#endif
