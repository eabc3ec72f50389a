/* memory.h - how much memory this process has and may have. */
#ifndef COHORT_MEMORY_H
#define COHORT_MEMORY_H

#include <stddef.h>

size_t memory_resident(void); /* bytes of this process in memory */
/* What was freed goes back to the system, as far as it can: the allocator keeps some of it. */
void memory_give_back(void);
/* What it may still take: the smaller of the machine's available memory and what its control group leaves;
 * SIZE_MAX if unknown. */
size_t memory_available(void);

#endif
