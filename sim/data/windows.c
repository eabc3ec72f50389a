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
    if (sscanf(line, "%19[0-9],%5[a-z],%19[0-9],%19[0-9],%19[0-9] %n", numbers[0], part, numbers[1],
               numbers[2], numbers[3], &end) != 5)
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

static exit_code append(const char *path, const window_row *row, window_table *t, problems *list) {
    if (t->count == t->room) {
        int64_t room = t->room + t->room / 2 + 64;
        window_row *grown = realloc(t->rows, (size_t)room * sizeof *grown);
        if (!grown) return problem(list, EXIT_ENVIRONMENT, "%s: no memory for its windows", path);
        t->rows = grown;
        t->room = room;
    }
    t->rows[t->count++] = *row;
    return EXIT_OK;
}

static exit_code take_line(const char *line, int number, const given_windows *w, problems *list) {
    window_row row = {.line = number};
    int device;
    if (!parse_line(line, &device, &row))
        return problem(list, EXIT_INPUT,
                       "%s:%d: is not a window; write %s, with part train or valid and numbers from 0",
                       w->path, number, FIRST_LINE);
    if (device >= w->devices)
        return problem(list, EXIT_INPUT,
                       "%s:%d: device %d is not there; the population has %d, numbered from 0", w->path,
                       number, device, w->devices);
    return w->tables[device].wanted ? append(w->path, &row, &w->tables[device], list) : EXIT_OK;
}

/* Without its end of line; of the first line without the mark that some editors put before UTF-8. */
static const char *strip(char *line, int number) {
    static const char mark[] = "\xEF\xBB\xBF";
    line[strcspn(line, "\r\n")] = '\0';
    return number == 1 && strncmp(line, mark, strlen(mark)) == 0 ? line + strlen(mark) : line;
}

static exit_code read_lines(FILE *file, const given_windows *w, problems *list) {
    char text[256];
    exit_code code = EXIT_OK;
    for (int number = 1; code == EXIT_OK && fgets(text, sizeof text, file); number++) {
        const char *line = strip(text, number);
        if (number == 1 && strcmp(line, FIRST_LINE) != 0)
            code = problem(list, EXIT_INPUT, "%s:1: the first line must be %s", w->path, FIRST_LINE);
        else if (number > 1 && line[strspn(line, " \t")] != '\0')
            code = take_line(line, number, w, list);
    }
    return code;
}

static exit_code sort_table(const char *path, window_table *t, problems *list) {
    if (t->count > 0) qsort(t->rows, (size_t)t->count, sizeof *t->rows, by_place);
    for (int64_t i = 1; i < t->count; i++) {
        int a = t->rows[i - 1].line, b = t->rows[i].line;
        if (by_place(&t->rows[i - 1], &t->rows[i]) == 0)
            return problem(list, EXIT_INPUT, "%s:%d: the window of line %d again; one line a window", path,
                           a > b ? a : b, a > b ? b : a);
    }
    return EXIT_OK;
}

static given_windows *create(const char *path, int devices, const bool *wanted) {
    given_windows *w = calloc(1, sizeof *w);
    if (!w) return NULL;
    *w = (given_windows){
        .path = path, .devices = devices, .tables = calloc((size_t)devices, sizeof *w->tables)};
    if (!w->tables) {
        free(w);
        return NULL;
    }
    for (int i = 0; i < devices; i++) w->tables[i].wanted = wanted[i];
    return w;
}

exit_code given_windows_read(const char *path, int devices, const bool *wanted, given_windows **out,
                             problems *list) {
    *out = NULL;
    FILE *file = fopen(path, "r");
    if (!file)
        return problem(list, EXIT_INPUT, "data.windows: %s cannot be opened: %s", path, strerror(errno));
    given_windows *w = create(path, devices, wanted);
    exit_code code = w ? read_lines(file, w, list)
                       : problem(list, EXIT_ENVIRONMENT, "%s: no memory for its windows", path);
    if (ferror(file))
        code = problem(list, EXIT_INPUT, "data.windows: %s cannot be read: %s", path, strerror(errno));
    fclose(file);
    for (int i = 0; i < devices && code == EXIT_OK; i++) code = sort_table(path, &w->tables[i], list);
    if (code == EXIT_OK)
        *out = w;
    else
        given_windows_destroy(w);
    return code;
}

void given_windows_destroy(given_windows *w) {
    if (!w) return;
    for (int i = 0; i < w->devices; i++) windows_free(&w->tables[i]);
    free(w->tables);
    free(w);
}

void windows_free(window_table *t) {
    free(t->rows);
    *t = (window_table){0};
}

const window_row *windows_find(const window_table *t, data_part part, uint64_t step, int index) {
    window_row wanted = {.part = part, .step = step, .index = index};
    return t->count ? bsearch(&wanted, t->rows, (size_t)t->count, sizeof wanted, by_place) : NULL;
}
