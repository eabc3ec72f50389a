#include "train/memory.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

size_t memory_resident(void) {
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file) return 0;
    unsigned long total = 0, resident = 0;
    int n = fscanf(file, "%lu %lu", &total, &resident);
    fclose(file);
    return n == 2 ? (size_t)resident * (size_t)sysconf(_SC_PAGESIZE) : 0;
}

/* The number of a file that holds one ("max" and a missing file: false). */
static bool read_number(const char *path, uint64_t *out) {
    FILE *file = fopen(path, "r");
    if (!file) return false;
    int n = fscanf(file, "%" SCNu64, out);
    fclose(file);
    return n == 1;
}

/* The number behind `key` in a file of "key number" lines. */
static uint64_t read_entry(const char *path, const char *key) {
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    char name[64];
    uint64_t value = 0, found = 0;
    while (fscanf(file, "%63s %" SCNu64 "%*[^\n]", name, &value) == 2)
        if (strcmp(name, key) == 0) found = value;
    fclose(file);
    return found;
}

/* Pages of files that the kernel would drop first are not in the way. */
static size_t left_in_group(const char *limit_path, const char *used_path, const char *stat_path, const char *reclaimable) {
    uint64_t limit, used;
    if (!read_number(limit_path, &limit) || !read_number(used_path, &used)) return SIZE_MAX;
    uint64_t files = read_entry(stat_path, reclaimable);
    used = used > files ? used - files : 0;
    return limit > used ? (size_t)(limit - used) : 0;
}

size_t memory_available(void) {
    uint64_t machine = read_entry("/proc/meminfo", "MemAvailable:") * 1024;
    size_t least = machine > 0 ? (size_t)machine : SIZE_MAX;
    size_t v2 = left_in_group("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat", "inactive_file");
    size_t v1 = left_in_group("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes",
                              "/sys/fs/cgroup/memory/memory.stat", "total_inactive_file");
    if (v2 < least) least = v2;
    return v1 < least ? v1 : least;
}
