/* values_write.c - one value as YAML: what values.c reads back to the same bits. */
#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "config/table.h"

static void write_double(FILE *out, double value) {
    char text[40];
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    fputs(text, out);
}

static bool needs_quotes(const char *text) {
    node plain = {.kind = NODE_SCALAR, .text = (char *)text};
    if (node_is_null(&plain) || !(isalpha((unsigned char)text[0]) || text[0] == '/' || text[0] == '.'))
        return true;
    for (const char *p = text; *p; p++)
        if (!isalnum((unsigned char)*p) && !strchr("._-/", *p)) return true;
    return false;
}

void text_write(const char *text, FILE *out) {
    if (!needs_quotes(text)) {
        fputs(text, out);
        return;
    }
    fputc('"', out);
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        if (*p == '"' || *p == '\\')
            fprintf(out, "\\%c", *p);
        else if (*p < 0x20 || *p == 0x7f)
            fprintf(out, "\\x%02x", *p);
        else
            fputc(*p, out);
    }
    fputc('"', out);
}

static void write_choice(FILE *out, const char *choices, int index) {
    const char *p = choices;
    for (; index > 0; index--) p = strchr(p, '|') + 1;
    fprintf(out, "%.*s", (int)strcspn(p, "|"), p);
}

static void write_one(FILE *out, const per_device *x, int device, bool whole) {
    if (whole)
        fprintf(out, "%" PRId64, per_device_at(x, device));
    else
        write_double(out, per_device_real_at(x, device));
}

static void write_per_device(FILE *out, const per_device *x, bool whole) {
    if (x->n == 0) write_one(out, x, 0, whole);
    for (int i = 0; i < x->n; i++) {
        fputs(i ? ", " : "[", out);
        write_one(out, x, i, whole);
    }
    if (x->n > 0) fputc(']', out);
}

void value_write(const setting_row *row, const void *base, FILE *out) {
    const void *at = (const char *)base + row->offset;
    switch (row->type) {
    case VALUE_INT:
        fprintf(out, "%d", *(const int *)at);
        break;
    case VALUE_INT64:
        fprintf(out, "%" PRId64, *(const int64_t *)at);
        break;
    case VALUE_SEED:
        fprintf(out, "%" PRIu64, *(const uint64_t *)at);
        break;
    case VALUE_DOUBLE:
        write_double(out, *(const double *)at);
        break;
    case VALUE_TEXT:
    case VALUE_WORD:
        text_write(*(char *const *)at, out);
        break;
    case VALUE_CHOICE:
        write_choice(out, row->choices, *(const int *)at);
        break;
    case VALUE_COUNTS:
    case VALUE_NUMBERS:
        write_per_device(out, at, row->type == VALUE_COUNTS);
        break;
    case VALUE_SEEDS:
        break; /* expanded */
    }
}

static double absent_number(const setting_row *row) {
    return row->above_least ? 0 : row->least - 1;
}

void value_remove(const setting_row *row, void *base) {
    void *at = (char *)base + row->offset;
    if (row->type == VALUE_DOUBLE) *(double *)at = absent_number(row);
    if (row->type == VALUE_COUNTS) ((per_device *)at)->value = -1;
}

bool value_is_absent(const setting_row *row, const void *base) {
    const void *at = (const char *)base + row->offset;
    if (row->type == VALUE_DOUBLE) return !row->initial && *(const double *)at == absent_number(row);
    if (row->type == VALUE_COUNTS) return !row->initial && ((const per_device *)at)->value < 0;
    if (row->type == VALUE_INT) return !row->initial && row->least > 0 && *(const int *)at == 0;
    return (row->type == VALUE_TEXT || row->type == VALUE_WORD) && !*(char *const *)at;
}

char *value_text(const setting_row *row, const void *base) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = config_memory(open_memstream(&text, &bytes));
    if (!value_is_absent(row, base)) value_write(row, base, out);
    fclose(out);
    return config_memory(text);
}

char *value_plain(const setting_row *row, const void *base) {
    bool text = row->type == VALUE_TEXT || row->type == VALUE_WORD;
    return text && !value_is_absent(row, base)
               ? config_text(*(char *const *)((const char *)base + row->offset))
               : value_text(row, base);
}

bool value_equal(const setting_row *row, const void *a, const void *b) {
    char *first = value_text(row, a), *second = value_text(row, b);
    bool equal = strcmp(first, second) == 0;
    free(first);
    free(second);
    return equal;
}
