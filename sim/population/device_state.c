#include "population/device_state.h"

#include <stdint.h>
#include <string.h>

#include "population/fleet.h"

const device_state device_states[DEVICE_STATES] = {
    [STATE_EXPERT_STEPS] = {.path = "/device_expert_steps",
                            .type = STATE_I64,
                            .offset = offsetof(device, expert_steps),
                            .of_owner = true,
                            .with_packs = true},
    [STATE_ROUTER_STEPS] = {.path = "/device_router_steps",
                            .type = STATE_I64,
                            .offset = offsetof(device, router_steps),
                            .of_owner = true,
                            .with_packs = true},
    [STATE_BYTES_UP] = {.path = "/bytes_up",
                        .type = STATE_I64,
                        .offset = offsetof(device, bytes_up),
                        .column = "bytes_up"},
    [STATE_BYTES_DOWN] = {.path = "/bytes_down",
                          .type = STATE_I64,
                          .offset = offsetof(device, bytes_down),
                          .column = "bytes_down"},
    [STATE_VARIANT_VERSION] = {.path = "/variant_version",
                               .type = STATE_I64,
                               .offset = offsetof(device, variant_version)},
    [STATE_JOINED_LOSS] = {.path = "/joined_loss",
                           .type = STATE_F64,
                           .offset = offsetof(device, joined_loss),
                           .of_owner = true},
    [STATE_STOPPED] = {.path = "/stopped", .type = STATE_U8, .offset = offsetof(device, stopped)},
};

_Static_assert(sizeof(double) == sizeof(int64_t), "both have eight bytes");
_Static_assert(sizeof(bool) == sizeof(uint8_t), "device.stopped is kept as a byte");

size_t device_state_bytes(device_state_id id) {
    return device_states[id].type == STATE_U8 ? sizeof(uint8_t) : sizeof(int64_t);
}

size_t device_state_all_bytes(void) {
    size_t bytes = 0;
    for (device_state_id id = 0; id < DEVICE_STATES; id++) bytes += device_state_bytes(id);
    return bytes;
}

void device_state_get(const device *d, device_state_id id, void *value) {
    memcpy(value, (const char *)d + device_states[id].offset, device_state_bytes(id));
}

void device_state_set(device *d, device_state_id id, const void *value) {
    memcpy((char *)d + device_states[id].offset, value, device_state_bytes(id));
}
