/* usage.h - what this process' threads had of the processor, and what others took from them; how busy the
 * machine is. */
#ifndef COHORT_BENCH_USAGE_H
#define COHORT_BENCH_USAGE_H

#include <stdint.h>

typedef struct {
    double cpu_seconds; /* of all threads */
    /* that threads were ready but had no core, all together; 0 where the system does not tell */
    double queued_seconds;
    int64_t preemptions; /* involuntary context switches of all threads */
} usage;

/* So far. */
usage usage_now(void);
/* From `begin` until now. */
usage usage_since(const usage *begin);

/* Programs that wanted a core: means over 1, 5 and 15 minutes; as many as the system tells. */
typedef struct {
    int count;
    double average[3];
} load_average;

load_average load_now(void);

#endif
