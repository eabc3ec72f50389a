#include "support/memory.h"

#include <inttypes.h>
#include <malloc.h>
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

void memory_give_back(void) {
    malloc_trim(0);
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
static size_t left_in_group(const char *limit_path, const char *used_path, const char *stat_path,
                            const char *reclaimable) {
    uint64_t limit, used;
    if (!read_number(limit_path, &limit) || !read_number(used_path, &used)) return SIZE_MAX;
    uint64_t files = read_entry(stat_path, reclaimable);
    used = used > files ? used - files : 0;
    return limit > used ? (size_t)(limit - used) : 0;
}

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

/* Of the group `path` below `root`, and of all groups that it is in: the least that is left. */
static size_t left_in_groups(const char *root, const char *path, const char *const names[3],
                             const char *reclaimable) {
    enum { ROOM = 4096 };
    char group[ROOM], files[3][ROOM + 64];
    size_t least = SIZE_MAX;
    snprintf(group, sizeof group, "%s%s", root, path);
    for (size_t length = strlen(group); length >= strlen(root); length--) {
        if (length > strlen(root) && group[length] != '/' && group[length] != '\0') continue;
        group[length] = '\0';
        for (int i = 0; i < 3; i++) snprintf(files[i], sizeof files[i], "%s/%s", group, names[i]);
        least = smaller(least, left_in_group(files[0], files[1], files[2], reclaimable));
    }
    return least;
}

/* The groups that this process is in, as /proc/self/cgroup has them: "0::/path" of version 2,
 * "4:memory:/path" of version 1. In a container the path may be one of outside: its parents are looked at
 * too. */
static size_t left_in_own_groups(void) {
    static const char *const v2[3] = {"memory.max", "memory.current", "memory.stat"};
    static const char *const v1[3] = {"memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat"};
    char line[4096];
    size_t least = smaller(left_in_groups("/sys/fs/cgroup", "", v2, "inactive_file"),
                           left_in_groups("/sys/fs/cgroup/memory", "", v1, "total_inactive_file"));
    FILE *file = fopen("/proc/self/cgroup", "r");
    while (file && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = '\0';
        char *names = strchr(line, ':'), *path = names ? strchr(names + 1, ':') : NULL;
        if (!path) continue;
        *path++ = '\0';
        if (names[1] == '\0')
            least = smaller(least, left_in_groups("/sys/fs/cgroup", path, v2, "inactive_file"));
        if (strstr(names + 1, "memory"))
            least = smaller(least, left_in_groups("/sys/fs/cgroup/memory", path, v1, "total_inactive_file"));
    }
    if (file) fclose(file);
    return least;
}

size_t memory_available(void) {
    uint64_t machine = read_entry("/proc/meminfo", "MemAvailable:") * 1024;
    return smaller(machine > 0 ? (size_t)machine : SIZE_MAX, left_in_own_groups());
}
