#include "schedule/participation.h"

bool schedule_is_held_out(const population_settings *p, int index) {
    return index >= p->devices - p->held_out.devices;
}

int schedule_first_round(const population_settings *p, int index, int rounds) {
    return schedule_is_held_out(p, index) ? rounds - p->held_out.rounds + 1 : 1;
}

participation schedule_participation(const population_settings *p, int index, int round, int rounds) {
    int first = schedule_first_round(p, index, rounds);
    bool present = round >= first;
    return (participation){.present = present,
                           .sends = present && !schedule_is_held_out(p, index),
                           .receives = round + 1 >= first};
}
