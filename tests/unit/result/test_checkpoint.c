/* test_checkpoint.c - a checkpoint comes back bit for bit, or is refused with a reason. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "unit/trace_fixture.h"

enum { PARAMETERS = 1000, DEVICES = 3 };

/* HDF5 itself loses some memory when it meets a damaged file. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:libhdf5";
}

const char *__lsan_default_options(void);
const char *__lsan_default_options(void) {
    return "print_suppressions=0";
}

typedef struct {
    checkpoint c;
    float parameters[PARAMETERS + 1], moment1[PARAMETERS + 1], moment2[PARAMETERS + 1];
    int64_t expert_steps[DEVICES + 1], router_steps[DEVICES + 1], up[DEVICES + 1], down[DEVICES + 1];
    int64_t variant_version[DEVICES + 1];
    double joined_loss[DEVICES + 1];
    uint8_t stopped[DEVICES + 1];
} state;

static state *state_create(int64_t n_parameters, int n_devices) {
    state *s = fixture_array(1, sizeof *s);
    s->c = (checkpoint){.n_parameters = n_parameters,
                        .n_devices = n_devices,
                        .parameters = s->parameters,
                        .moment1 = s->moment1,
                        .moment2 = s->moment2,
                        .state = {[STATE_EXPERT_STEPS] = s->expert_steps,
                                  [STATE_ROUTER_STEPS] = s->router_steps,
                                  [STATE_BYTES_UP] = s->up,
                                  [STATE_BYTES_DOWN] = s->down,
                                  [STATE_VARIANT_VERSION] = s->variant_version,
                                  [STATE_JOINED_LOSS] = s->joined_loss,
                                  [STATE_STOPPED] = s->stopped}};
    return s;
}

static state *state_filled(void) {
    state *s = state_create(PARAMETERS, DEVICES);
    strcpy(s->c.config_hash, "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef");
    s->c.round = 7;
    s->c.expert_step = INT64_C(5000000000);
    s->c.router_step = 20;
    for (int i = 0; i < PARAMETERS; i++) {
        s->parameters[i] = 1.0f / (float)(i + 1);
        s->moment1[i] = -(float)i;
        s->moment2[i] = (float)i * (float)i;
    }
    s->parameters[3] = NAN;
    s->parameters[4] = -0.0f;
    for (int i = 0; i < DEVICES; i++) {
        s->expert_steps[i] = 70 + i;
        s->router_steps[i] = 20 + i;
        s->up[i] = INT64_C(1) << (40 + i);
        s->down[i] = i;
        s->variant_version[i] = 3 - i;
        s->joined_loss[i] = i == 0 ? NAN : 3.5 - i;
        s->stopped[i] = i == 1;
    }
    return s;
}

static char *write_checkpoint(const state *s) {
    char *path = fixture_path(fixture_folder(), "checkpoint.h5");
    problems *list = fixture_problems();
    cr_assert_eq(checkpoint_write(path, &s->c, list), EXIT_OK, "%s",
                 problems_count(list) ? problems_message(list, 0) : "");
    return path;
}

static exit_code read_checkpoint(const char *path, state *s, char message[1000]) {
    problems *list = problems_create();
    exit_code code = checkpoint_read(path, &s->c, list);
    cr_assert_eq(problems_count(list), code == EXIT_OK ? 0 : 1);
    snprintf(message, 1000, "%s", code == EXIT_OK ? "" : problems_message(list, 0));
    problems_destroy(list);
    return code;
}

static bool same(const state *a, const state *b) {
    return memcmp(a->parameters, b->parameters,
                  offsetof(state, stopped) + sizeof a->stopped - offsetof(state, parameters)) == 0 &&
           a->c.round == b->c.round && a->c.expert_step == b->c.expert_step &&
           a->c.router_step == b->c.router_step && strcmp(a->c.config_hash, b->c.config_hash) == 0;
}

Test(checkpoint, comes_back_bit_for_bit) {
    char message[1000];
    state *written = state_filled(), *found = state_create(PARAMETERS, DEVICES);
    char *path = write_checkpoint(written);
    cr_assert_eq(read_checkpoint(path, found, message), EXIT_OK, "%s", message);
    cr_assert(same(written, found));
}

Test(checkpoint, peeking_reads_hash_and_round_only) {
    state *written = state_filled();
    char *path = write_checkpoint(written);
    checkpoint c = {0};
    problems *list = fixture_problems();
    cr_assert_eq(checkpoint_peek(path, &c, list), EXIT_OK);
    cr_assert_eq(c.round, 7);
    cr_assert_str_eq(c.config_hash, written->c.config_hash);
    cr_assert_eq(c.n_parameters, 0);
}

Test(checkpoint, the_next_one_takes_its_place) {
    char message[1000];
    state *s = state_filled(), *found = state_create(PARAMETERS, DEVICES);
    char *path = write_checkpoint(s), temporary[4200];
    problems *list = fixture_problems();
    s->c.round = 8;
    s->parameters[0] = 2.0f;
    cr_assert_eq(checkpoint_write(path, &s->c, list), EXIT_OK);
    cr_assert_eq(read_checkpoint(path, found, message), EXIT_OK, "%s", message);
    cr_assert(same(s, found));
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    cr_assert_eq(access(temporary, F_OK), -1);
}

Test(checkpoint, a_fleet_without_parameters_is_fine) {
    char message[1000];
    state *s = state_create(0, 1), *found = state_create(0, 1);
    char *path = write_checkpoint(s);
    cr_assert_eq(read_checkpoint(path, found, message), EXIT_OK, "%s", message);
}

Test(checkpoint, other_sizes_are_refused_and_both_named) {
    char message[1000];
    char *path = write_checkpoint(state_filled());
    cr_assert_eq(read_checkpoint(path, state_create(PARAMETERS - 1, DEVICES), message), EXIT_INPUT);
    cr_assert(strstr(message, "1000 parameters") && strstr(message, "999") && strstr(message, path), "%s",
              message);
    cr_assert_eq(read_checkpoint(path, state_create(PARAMETERS, DEVICES - 1), message), EXIT_INPUT);
    cr_assert(strstr(message, "3 devices") && strstr(message, "has 2"), "%s", message);
}

Test(checkpoint, another_configuration_is_refused) {
    char message[1000];
    char *path = write_checkpoint(state_filled());
    state *s = state_create(PARAMETERS, DEVICES);
    strcpy(s->c.config_hash, "ffff");
    cr_assert_eq(read_checkpoint(path, s, message), EXIT_INPUT);
    cr_assert(strstr(message, "0123456789ab") && strstr(message, "ffff"), "%s", message);
}

/* Gradients that wait are in the file only where a configuration has any. */
Test(checkpoint, carried_gradients_of_another_configuration_are_refused) {
    char message[1000];
    float carried[4] = {1, 2, 3, 4}, found[4];
    state *with = state_filled(), *expecting = state_create(PARAMETERS, DEVICES);
    char *without = write_checkpoint(with);
    with->c.n_carried = expecting->c.n_carried = 4;
    with->c.carried = carried;
    expecting->c.carried = found;
    char *path = write_checkpoint(with);
    cr_assert_eq(read_checkpoint(path, expecting, message), EXIT_OK, "%s", message);
    cr_assert_arr_eq(found, carried, sizeof carried);
    cr_assert_eq(read_checkpoint(path, state_create(PARAMETERS, DEVICES), message), EXIT_INPUT);
    cr_assert(strstr(message, "4 carried gradients") && strstr(message, "another configuration"), "%s",
              message);
    cr_assert_eq(read_checkpoint(without, expecting, message), EXIT_INPUT);
    cr_assert(strstr(message, "0 carried gradients") && strstr(message, "another configuration"), "%s",
              message);
}

Test(checkpoint, an_unfinished_row_comes_back_and_only_where_there_is_one) {
    char message[1000];
    uint8_t row[5] = {1, 2, 3, 254, 255};
    state *written = state_filled(), *found = state_create(PARAMETERS, DEVICES);
    written->c.unfinished = row;
    written->c.n_unfinished = 5;
    cr_assert_eq(read_checkpoint(write_checkpoint(written), found, message), EXIT_OK, "%s", message);
    cr_assert_eq(found->c.n_unfinished, 5);
    cr_assert_arr_eq(found->c.unfinished, row, sizeof row);
    cr_assert(same(written, found));
    free(found->c.unfinished);
    written->c.n_unfinished = 0;
    cr_assert_eq(read_checkpoint(write_checkpoint(written), found, message), EXIT_OK, "%s", message);
    cr_assert_eq(found->c.n_unfinished, 0);
    cr_assert_null(found->c.unfinished);
}

Test(checkpoint, a_missing_one_is_named) {
    char message[1000];
    cr_assert_eq(read_checkpoint("/nowhere/checkpoint.h5", state_create(1, 1), message), EXIT_INPUT);
    cr_assert(strstr(message, "/nowhere/checkpoint.h5"), "%s", message);
}

static long file_size(const char *path) {
    struct stat status;
    cr_assert_eq(stat(path, &status), 0);
    return (long)status.st_size;
}

static void flip(const char *path, long at) {
    FILE *file = fopen(path, "r+b");
    fseek(file, at, SEEK_SET);
    int byte = fgetc(file);
    fseek(file, at, SEEK_SET);
    fputc(byte ^ 0x10, file);
    fclose(file);
}

/* A changed byte is refused, or it was one that holds nothing: then everything comes back as it was written.
 * One byte in 41 is tried: a step that goes through all places within a word. */
Test(checkpoint, no_changed_byte_goes_unnoticed) {
    char message[1000];
    state *written = state_filled();
    char *path = write_checkpoint(written);
    long size = file_size(path);
    int refused = 0, tried = 0;
    for (long at = 0; at < size; at += 41, tried++) {
        state *found = state_create(PARAMETERS, DEVICES);
        flip(path, at);
        if (read_checkpoint(path, found, message) == EXIT_OK)
            cr_assert(same(written, found), "byte %ld of %ld", at, size);
        else
            refused++;
        flip(path, at);
    }
    cr_assert_gt(refused, tried / 2, "%d of %d", refused, tried);
}

Test(checkpoint, a_changed_parameter_is_refused_with_a_reason) {
    char message[1000];
    state *written = state_filled();
    char *path = write_checkpoint(written);
    const float wanted = 1.0f / 500.0f;
    FILE *file = fopen(path, "rb");
    long at = 0;
    for (float value = 0; value != wanted; at++) {
        fseek(file, at, SEEK_SET);
        cr_assert_eq(fread(&value, sizeof value, 1, file), 1, "the parameter is not in the file");
    }
    fclose(file);
    flip(path, at - 1);
    cr_assert_eq(read_checkpoint(path, state_create(PARAMETERS, DEVICES), message), EXIT_INPUT);
    cr_assert(strstr(message, "does not match its hash"), "%s", message);
}

Test(checkpoint, a_torn_one_is_refused) {
    char message[1000];
    char *path = write_checkpoint(state_filled());
    for (long size = file_size(path) - 1; size > 0; size -= 311) {
        cr_assert_eq(truncate(path, size), 0);
        cr_assert_eq(read_checkpoint(path, state_create(PARAMETERS, DEVICES), message), EXIT_INPUT,
                     "%ld bytes", size);
    }
    cr_assert_eq(truncate(path, 0), 0);
    cr_assert_eq(read_checkpoint(path, state_create(PARAMETERS, DEVICES), message), EXIT_INPUT);
    cr_assert(strstr(message, "damaged"), "%s", message);
}

Test(checkpoint, a_folder_that_is_not_there_is_a_failure) {
    problems *list = fixture_problems();
    state *s = state_filled();
    cr_assert_eq(checkpoint_write("/nowhere/at/all/checkpoint.h5", &s->c, list), EXIT_RUN);
    cr_assert(strstr(problems_message(list, 0), "No such file"), "%s", problems_message(list, 0));
}
