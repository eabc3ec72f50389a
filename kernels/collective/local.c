/* local.c - one process: all that it could be told it knows. */
#include <string.h>

#include "collective/driver.h"

static const char *local_unavailable(void) {
    return NULL;
}

static ck_status local_exchange(ck_collective *c, const void *own, size_t bytes, void *all) {
    (void)c;
    if (bytes > 0) memcpy(all, own, bytes);
    return CK_OK;
}

static ck_status local_broadcast(ck_collective *c, void *values, size_t bytes) {
    (void)c, (void)values, (void)bytes;
    return CK_OK;
}

static ck_status local_sum(ck_collective *c, float *values, float *scratch, int count) {
    (void)c, (void)values, (void)scratch, (void)count;
    return CK_OK;
}

/* There is nobody to send to, to receive from, or to end with it. */
const collective_driver collective_local = {.name = "local",
                                            .unavailable = local_unavailable,
                                            .exchange = local_exchange,
                                            .broadcast = local_broadcast,
                                            .sum = local_sum};
