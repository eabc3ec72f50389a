/* numbers.c - a number for all devices, or a list with one for each, as YAML. */
#include <stdlib.h>
#include <string.h>

#include "config/table.h"

static bool read_one(const setting_row *row, const node *value, double *out, const char *key,
                     problems *list) {
    setting_row one = *row;
    int64_t whole = 0;
    one.offset = 0;
    one.type = row->whole ? VALUE_INT64 : VALUE_DOUBLE;
    if (!value_read(&one, value, row->whole ? (void *)&whole : (void *)out, key, list)) return false;
    if (row->whole) *out = (double)whole;
    return true;
}

bool numbers_read(const setting_row *row, const node *value, device_numbers *out, const char *key,
                  problems *list) {
    bool is_list = value->kind == NODE_LIST, good = true;
    int count = is_list ? value->count : 1;
    if (count == 0 || count > SETTINGS_MAX_SPECIALISTS_LIST) {
        problem_at(
            list, value->where, key,
            "the list has %d entries; write one for each device (at most %d), or a single number for all",
            count, SETTINGS_MAX_SPECIALISTS_LIST);
        return false;
    }
    numbers_free(out);
    *out = (device_numbers){.count = count,
                            .is_list = is_list,
                            .values = config_memory(calloc((size_t)count, sizeof *out->values))};
    for (int i = 0; i < count; i++) {
        const node *entry = is_list ? value->entries[i].value : value;
        good = read_one(row, entry, &out->values[i], key, list) && good;
    }
    return good;
}

void numbers_write(const device_numbers *numbers, FILE *out) {
    const setting_row one = {.type = VALUE_DOUBLE};
    if (numbers->is_list) fputc('[', out);
    for (int i = 0; i < numbers->count; i++) {
        if (i > 0) fputs(", ", out);
        value_write(&one, &numbers->values[i], out);
    }
    if (numbers->is_list) fputc(']', out);
}

void numbers_copy(device_numbers *to, const device_numbers *from) {
    *to = *from;
    if (from->count == 0) return;
    size_t bytes = (size_t)from->count * sizeof *from->values;
    to->values = config_memory(malloc(bytes));
    memcpy(to->values, from->values, bytes);
}

void numbers_free(device_numbers *numbers) {
    free(numbers->values);
    *numbers = (device_numbers){0};
}
