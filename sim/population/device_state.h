/* device_state.h - what a device keeps from round to round beside its pack: one row for each such value.
 * Whatever handles all of them walks these rows: the checkpoint, the processes, resume, the memory plan,
 * summary.csv.
 *
 * To add one: a member of `device` (fleet.h), a name in device_state_id, and a row in device_state.c. */
#ifndef COHORT_DEVICE_STATE_H
#define COHORT_DEVICE_STATE_H

#include <stdbool.h>
#include <stddef.h>

struct device; /* fleet.h */

typedef enum {
    STATE_EXPERT_STEPS, /* int64_t, like the next four */
    STATE_ROUTER_STEPS,
    STATE_BYTES_UP,
    STATE_BYTES_DOWN,
    STATE_VARIANT_VERSION,
    STATE_JOINED_LOSS, /* double */
    STATE_STOPPED,     /* uint8_t */
    DEVICE_STATES
} device_state_id;

typedef enum { STATE_I64, STATE_F64, STATE_U8 } device_state_type;

typedef struct {
    const char *path; /* of the dataset [devices] in checkpoint.h5 */
    device_state_type type;
    size_t offset; /* in device */
    /* True: only the process that has the device knows the value, and tells it to process 0 before a
     * checkpoint. False: all processes know it. */
    bool of_owner;
    /* True: the value belongs to the state of the adapters. If a population has stopped, a checkpoint keeps
     * both as the checkpoint before had them. */
    bool with_packs;
    const char *column; /* of summary.csv: its total over a population's devices; NULL: none */
} device_state;
extern const device_state device_states[DEVICE_STATES];

size_t device_state_bytes(device_state_id id); /* of a value */
size_t device_state_all_bytes(void);           /* of a device */
/* Between a device and a value in an array of that type. */
void device_state_get(const struct device *d, device_state_id id, void *value);
void device_state_set(struct device *d, device_state_id id, const void *value);

#endif
