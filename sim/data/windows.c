#include "data/windows.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char FIRST_LINE[] = "device,part,step,index,offset";

static int by_place(const void *a, const void *b) {
    const window_row *x = a, *y = b;
    if (x->part != y->part) return x->part < y->part ? -1 : 1;
    if (x->step != y->step) return x->step < y->step ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

/* Fills `row`; 0 if the line is not one. */
static int parse_line(const char *line, int *device, window_row *row) {
    char part[6];
    int end = 0;
    char numbers[4][20];
    if (sscanf(line, "%19[0-9],%5[a-z],%19[0-9],%19[0-9],%19[0-9] %n", numbers[0], part, numbers[1], numbers[2], numbers[3], &end) != 5)
        return 0;
    int64_t device_number = strtoll(numbers[0], NULL, 10), index = strtoll(numbers[2], NULL, 10);
    if (line[end] != '\0' || device_number > INT_MAX || index > INT_MAX) return 0;
    *device = (int)device_number;
    row->step = strtoull(numbers[1], NULL, 10);
    row->index = (int)index;
    row->offset = strtoll(numbers[3], NULL, 10);
    if (row->offset == INT64_MAX) return 0;
    row->part = strcmp(part, "valid") == 0 ? DATA_VALID : DATA_TRAIN;
    return strcmp(part, "valid") == 0 || strcmp(part, "train") == 0;
}

static exit_code append(const char *path, const window_row *row, window_table *t, int64_t *room, problems *list) {
    if (t->count == *room) {
        *room = 2 * *room + 64;
        window_row *grown = realloc(t->rows, (size_t)*room * sizeof *grown);
        if (!grown) return problem(list, EXIT_ENVIRONMENT, "%s: no memory for its windows", path);
        t->rows = grown;
    }
    t->rows[t->count++] = *row;
    return EXIT_OK;
}

static exit_code read_lines(FILE *file, const char *path, int device, int devices, window_table *t, problems *list) {
    char line[256];
    int64_t room = 0;
    exit_code code = EXIT_OK;
    for (int number = 1; code == EXIT_OK && fgets(line, sizeof line, file); number++) {
        window_row row = {.line = number};
        int of_device;
        line[strcspn(line, "\r\n")] = '\0';
        if (number == 1) {
            if (strcmp(line, FIRST_LINE) != 0) code = problem(list, EXIT_INPUT, "%s:1: the first line must be %s", path, FIRST_LINE);
        } else if (!parse_line(line, &of_device, &row)) {
            code = problem(list, EXIT_INPUT, "%s:%d: is not a window; write %s, with part train or valid and numbers from 0", path, number,
                           FIRST_LINE);
        } else if (of_device >= devices) {
            code = problem(list, EXIT_INPUT, "%s:%d: device %d is not there; the population has %d, numbered from 0", path, number,
                           of_device, devices);
        } else if (of_device == device) {
            code = append(path, &row, t, &room, list);
        }
    }
    return code;
}

exit_code windows_read(const char *path, int device, int devices, window_table *out, problems *list) {
    *out = (window_table){0};
    FILE *file = fopen(path, "r");
    if (!file) return problem(list, EXIT_INPUT, "data.windows: %s cannot be opened: %s", path, strerror(errno));
    exit_code code = read_lines(file, path, device, devices, out, list);
    if (ferror(file)) code = problem(list, EXIT_INPUT, "data.windows: %s cannot be read: %s", path, strerror(errno));
    fclose(file);
    if (out->count > 0) qsort(out->rows, (size_t)out->count, sizeof *out->rows, by_place);
    for (int64_t i = 1; i < out->count && code == EXIT_OK; i++)
        if (by_place(&out->rows[i - 1], &out->rows[i]) == 0)
            code = problem(list, EXIT_INPUT, "%s:%d: the window of line %d again; one line a window", path,
                           out->rows[i].line > out->rows[i - 1].line ? out->rows[i].line : out->rows[i - 1].line,
                           out->rows[i].line > out->rows[i - 1].line ? out->rows[i - 1].line : out->rows[i].line);
    if (code != EXIT_OK) windows_free(out);
    return code;
}

void windows_free(window_table *t) {
    free(t->rows);
    *t = (window_table){0};
}

const window_row *windows_find(const window_table *t, data_part part, uint64_t step, int index) {
    window_row wanted = {.part = part, .step = step, .index = index};
    return t->count ? bsearch(&wanted, t->rows, (size_t)t->count, sizeof wanted, by_place) : NULL;
}
