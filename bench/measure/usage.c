#include "measure/usage.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

static double cpu_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* /proc/self/task/ID/schedstat: nanoseconds on a core, nanoseconds waiting for one, turns. */
static double queued_now(void) {
    DIR *tasks = opendir("/proc/self/task");
    long long sum = 0, queued;
    for (const struct dirent *task; tasks && (task = readdir(tasks));) {
        char path[300];
        if (task->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "/proc/self/task/%s/schedstat", task->d_name);
        FILE *file = fopen(path, "r");
        if (file && fscanf(file, "%*d %lld", &queued) == 1) sum += queued;
        if (file) fclose(file);
    }
    if (tasks) closedir(tasks);
    return 1e-9 * (double)sum;
}

static int64_t preemptions_now(void) {
    struct rusage all;
    return getrusage(RUSAGE_SELF, &all) == 0 ? all.ru_nivcsw : 0;
}

/* The CPU clock is read nearest to the work: reading the rest takes time itself. */
usage usage_now(void) {
    usage u = {.queued_seconds = queued_now(), .preemptions = preemptions_now()};
    u.cpu_seconds = cpu_now();
    return u;
}

usage usage_since(const usage *begin) {
    usage u = {.cpu_seconds = cpu_now() - begin->cpu_seconds,
               .preemptions = preemptions_now() - begin->preemptions};
    u.queued_seconds = queued_now() - begin->queued_seconds;
    if (u.queued_seconds < 0) u.queued_seconds = 0; /* a thread that has ended took its share with it */
    return u;
}

load_average load_now(void) {
    load_average now = {.count = 0};
    int known = getloadavg(now.average, 3);
    now.count = known > 0 ? known : 0;
    return now;
}
