/* limits.cu - COHORT_CUDA_LIMITS (limits.hpp). */
#include "limits.hpp"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define X(name, large, small, least, most) large,
static constexpr cuda_limits_table LARGE = {CUDA_LIMITS(X)};
#undef X
#define X(name, large, small, least, most) small,
static constexpr cuda_limits_table SMALL = {CUDA_LIMITS(X)};
#undef X

cuda_limits_table cuda_limits = LARGE;

static const struct {
    const char *name;
    int64_t cuda_limits_table::*value;
    int64_t least, most;
} known[] = {
#define X(name, large, small, least, most) {#name, &cuda_limits_table::name, least, most},
    CUDA_LIMITS(X)
#undef X
};

static bool says(const char *item, size_t length, const char *name) {
    return strlen(name) == length && memcmp(item, name, length) == 0;
}

static bool unknown(const char *item, size_t length, char *message, size_t size) {
    int end = snprintf(
        message, size,
        "COHORT_CUDA_LIMITS: '%.*s' is not known; known are small, large, and name=value with the names",
        (int)(length < 40 ? length : 40), item);
    for (const auto &limit : known)
        if ((size_t)end < size)
            end +=
                snprintf(message + end, size - (size_t)end, "%s %s", &limit == known ? "" : ",", limit.name);
    return false;
}

static bool read_value(cuda_limits_table *into, const char *item, size_t length, char *message, size_t size) {
    const char *equals = static_cast<const char *>(memchr(item, '=', length));
    for (const auto &limit : known) {
        if (!equals || !says(item, (size_t)(equals - item), limit.name)) continue;
        char *end;
        errno = 0;
        long long value = strtoll(equals + 1, &end, 10);
        if (end == item + length && end > equals + 1 && errno == 0 && value >= limit.least &&
            value <= limit.most) {
            into->*limit.value = value;
            return true;
        }
        snprintf(message, size, "COHORT_CUDA_LIMITS: %s must be a whole number from %lld to %lld, not '%.*s'",
                 limit.name, (long long)limit.least, (long long)limit.most, (int)(item + length - equals - 1),
                 equals + 1);
        return false;
    }
    return unknown(item, length, message, size);
}

bool cuda_read_limits(const char *text, char *message, size_t size) {
    cuda_limits_table read = LARGE;
    for (const char *item = text; item && *item;) {
        size_t length = strcspn(item, ",");
        if (says(item, length, "large"))
            read = LARGE;
        else if (says(item, length, "small"))
            read = SMALL;
        else if (!read_value(&read, item, length, message, size))
            return false;
        item += length + (item[length] == ',');
    }
    cuda_limits = read;
    return true;
}
