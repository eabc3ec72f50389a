/* shard.h - shards as the other files of data/ make them. */
#ifndef COHORT_SHARD_H
#define COHORT_SHARD_H

#include "data/data.h"

/* Takes over `tokens` (malloc'd, [count]); NULL, and `tokens` freed, if there is no memory. */
shard *shard_of_memory(uint16_t *tokens_owned, int64_t count);

#endif
