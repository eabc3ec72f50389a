/* Devices that join late: the keys that say so, and what is refused of them. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "config/config.h"
#include "schedule/participation.h"
#include "unit/configuration.h"

#define ONE "populations:\n  - {name: a, method: comigs, devices: 4}\n"

static const struct {
    const char *text, *message;
} REFUSED[] = {
    {"populations:\n  - {name: a, method: comigs, devices: 4, held_out: {devices: 4, rounds: 1}}\n",
     "c.yaml:2: populations.0.held_out.devices: 4 of 4 devices are held out, and nobody is there for them to "
     "join; held_out.devices must be at most 3"},
    {"held_out: {devices: 4, rounds: 1}\n" ONE,
     "c.yaml:3: populations.0.devices: 4 of 4 devices are held out"},
    {"populations:\n  - {name: a, method: comigs, devices: 4, held_out: {devices: 1, rounds: 21}}\n",
     "c.yaml:2: populations.0.held_out.rounds: 21 rounds are more than the run has (train.rounds: 20); give "
     "at "
     "most 20"},
    {"train: {rounds: 3}\nheld_out: {devices: 1, rounds: 4}\n" ONE,
     "c.yaml:2: held_out.rounds: 4 rounds are more than the run has (train.rounds: 3)"},
    {"populations:\n  - {name: a, method: comigs, devices: 4, held_out: {devices: 1}}\n",
     "c.yaml:2: populations.0.held_out.rounds: is missing"},
    {"populations:\n  - {name: a, method: comigs, devices: 4, held_out: {rounds: 2}}\n",
     "c.yaml:2: populations.0.held_out.rounds: says when held-out devices join, and there are none"},
    {"held_out: {devices: 1}\n" ONE, "c.yaml:1: held_out.rounds: is missing"},
    {"held_out: {rounds: 2}\n" ONE,
     "c.yaml:1: held_out.rounds: says when held-out devices join, and no population has any"},
    {"populations:\n  - {name: a, method: centralized, devices: 4, held_out: {devices: 1, rounds: 2}}\n",
     "c.yaml:2: populations.0.held_out.devices: method centralized has one model for the text of all "
     "devices"},
    {"held_out: {devices: 1, rounds: 2}\n" ONE "  - {name: b, method: centralized, devices: 4}\n",
     "c.yaml:4: populations.1.method: method centralized has one model for the text of all devices"},
    {ONE "held_out: {devices: -1, rounds: 2}\n", "c.yaml:3: held_out.devices: '-1' is out of range"},
    {ONE "held_out: {devices: 1, rounds: 0}\n", "c.yaml:3: held_out.rounds: '0' is out of range"},
};

Test(held_out, each_mistake_has_its_one_message) {
    for (size_t i = 0; i < sizeof REFUSED / sizeof *REFUSED; i++)
        configuration_must_fail(REFUSED[i].text, REFUSED[i].message);
}

Test(held_out, a_population_has_its_own_or_those_of_the_run) {
    settings *s =
        configuration_must_load("held_out: {devices: 1, rounds: 2}\n" ONE
                                "  - {name: b, method: comigs, devices: 4, held_out: {devices: 2}}\n"
                                "  - {name: c, method: comigs, devices: 4, held_out: {rounds: 5}}\n"
                                "  - {name: d, method: centralized, devices: 4, held_out: {devices: 0}}\n");
    const int expected[4][2] = {{1, 2}, {2, 2}, {1, 5}, {0, 0}};
    for (int i = 0; i < 4; i++) {
        cr_expect_eq(s->populations[i].held_out.devices, expected[i][0], "population %d", i);
        cr_expect_eq(s->populations[i].held_out.rounds, expected[i][1], "population %d", i);
    }
    settings_destroy(s);
}

/* Three devices, of which the last joins in the fourth of five rounds. */
Test(held_out, rounds_that_a_device_is_in) {
    const population_settings p = {.devices = 3, .held_out = {.devices = 1, .rounds = 2}};
    for (int round = 1; round <= 5; round++) {
        participation there = schedule_participation(&p, 1, round, 5),
                      late = schedule_participation(&p, 2, round, 5);
        cr_expect(there.present && there.sends && there.receives && !schedule_joins_next(there));
        cr_expect_eq(late.present, round >= 4, "round %d", round);
        cr_expect(!late.sends, "round %d", round);
        cr_expect_eq(late.receives, round >= 3, "round %d", round);
        cr_expect_eq(schedule_joins_next(late), round == 3, "round %d", round);
    }
    cr_expect_eq(schedule_first_round(&p, 0, 5), 1);
    cr_expect_eq(schedule_first_round(&p, 2, 5), 4);
}
