/* values.c - reading one value within its limits, and the limits in words. */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "config/table.h"

/* ---- Numbers ---- */

/* Digits, with underscores between them ("1_000_000"); the digits alone go to `digits`. */
static bool is_whole_number(const char *text, char *digits, size_t bytes) {
    size_t n = 0;
    const char *p = text;
    if (*p == '-' || *p == '+') digits[n++] = *p++;
    if (*p == '0' && p[1] != '\0') return false;
    for (; *p; p++) {
        bool joins = *p == '_' && p > text && isdigit((unsigned char)p[-1]) && isdigit((unsigned char)p[1]);
        if (!isdigit((unsigned char)*p) && !joins) return false;
        if (*p != '_' && n + 1 < bytes) digits[n++] = *p;
    }
    digits[n] = '\0';
    return n > 0 && isdigit((unsigned char)digits[n - 1]);
}

static bool read_int64(const char *text, int64_t *out) {
    char digits[32];
    if (!is_whole_number(text, digits, sizeof digits)) return false;
    errno = 0;
    *out = strtoll(digits, NULL, 10);
    return true; /* out of range saturates, and the limits refuse it */
}

bool value_read_seed(const node *value, uint64_t *out) {
    char digits[32];
    if (value->kind != NODE_SCALAR || value->quoted || value->text[0] == '-') return false;
    if (!is_whole_number(value->text, digits, sizeof digits)) return false;
    errno = 0;
    *out = strtoull(digits, NULL, 10);
    return errno == 0;
}

/* [sign] digits [. digits] [e [sign] digits]: what strtod reads less hexadecimals, infinities and NaN. */
static bool read_double(const char *text, double *out) {
    const char *p = text;
    int digits = 0;
    if (*p == '-' || *p == '+') p++;
    for (; isdigit((unsigned char)*p); p++) digits++;
    if (*p == '.') p++;
    for (; isdigit((unsigned char)*p); p++) digits++;
    if (digits == 0) return false;
    if (*p == 'e' || *p == 'E') {
        p++;
        if (*p == '-' || *p == '+') p++;
        if (!isdigit((unsigned char)*p)) return false;
        while (isdigit((unsigned char)*p)) p++;
    }
    if (*p != '\0') return false;
    *out = strtod(text, NULL);
    return isfinite(*out);
}

/* ---- Limits in words ---- */

/* "16777216" as "16,777,216". */
static void write_limit(FILE *out, double value) {
    char digits[64];
    snprintf(digits, sizeof digits, value == floor(value) ? "%.0f" : "%g", value);
    if (value != floor(value)) {
        fputs(digits, out);
        return;
    }
    size_t n = strlen(digits);
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && (n - i) % 3 == 0) fputc(',', out);
        fputc(digits[i], out);
    }
}

static void write_choices(FILE *out, const char *choices) {
    for (const char *p = choices; *p; p++) {
        if (*p != '|')
            fputc(*p, out);
        else
            fputs(strchr(p + 1, '|') ? ", " : " or ", out);
    }
}

static void write_range(FILE *out, const setting_row *row) {
    if (row->above_least || row->below_most) {
        fputs(row->above_least ? "above " : "at least ", out);
        write_limit(out, row->least);
        fputs(row->below_most ? ", below " : ", at most ", out);
    } else {
        write_limit(out, row->least);
        fputs(" to ", out);
    }
    write_limit(out, row->most);
    if (row->unit) fprintf(out, " %s", row->unit);
}

char *value_limits(const setting_row *row) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = config_memory(open_memstream(&text, &bytes));
    switch (row->type) {
    case VALUE_INT:
    case VALUE_INT64:
    case VALUE_DOUBLE:
    case VALUE_COUNTS:
    case VALUE_NUMBERS:
        write_range(out, row);
        break;
    case VALUE_SEED:
    case VALUE_SEEDS:
        fputs("0 to 2^64 - 1", out);
        break;
    case VALUE_WORD:
    case VALUE_CHOICE:
        write_choices(out, row->choices);
        break;
    case VALUE_TEXT:
        break;
    }
    fclose(out);
    return config_memory(text);
}

static bool is_within(const setting_row *row, double value) {
    bool low = row->above_least ? value > row->least : value >= row->least;
    bool high = row->below_most ? value < row->most : value <= row->most;
    return low && high;
}

/* ---- Reading ---- */

static bool refuse(const setting_row *row, const node *value, const char *key, const char *what,
                   problems *list) {
    char *limits = value_limits(row);
    problem_at(list, value->where, key, "'%s' %s; it must be %s", value->text, what, limits);
    free(limits);
    return false;
}

static int choice_index(const char *choices, const char *word) {
    size_t length = strlen(word);
    int index = 0;
    for (const char *p = choices; p; p = strchr(p, '|'), index++) {
        if (*p == '|') p++;
        if (strncmp(p, word, length) == 0 && (p[length] == '|' || p[length] == '\0')) return index;
    }
    return -1;
}

static bool read_whole(const setting_row *row, const node *value, int64_t *out, const char *key,
                       problems *list) {
    if (!read_int64(value->text, out))
        return refuse(row, value, key, "is not a whole number in digits (1_000_000 is fine)", list);
    return is_within(row, (double)*out) || refuse(row, value, key, "is out of range", list);
}

/* A number that is used in single precision is what it is there: one that rounds to 0, or onto a limit, is
 * that. */
static bool check_number(const setting_row *row, const node *value, double real, const char *key,
                         problems *list) {
    float used = (float)real;
    if (!is_within(row, real)) return refuse(row, value, key, "is out of range", list);
    if (!row->single) return true;
    if (used == 0.0F && real != 0.0)
        return refuse(row, value, key, "is 0 in single precision, in which it is used", list);
    return is_within(row, (double)used) ||
           refuse(row, value, key, "rounds to a limit in single precision, in which it is used", list);
}

static bool read_number(const setting_row *row, const node *value, void *at, const char *key,
                        problems *list) {
    int64_t whole = 0;
    double real = 0;
    if (value->quoted) return refuse(row, value, key, "is text because of its quotes, not a number", list);
    if (row->type == VALUE_DOUBLE) {
        if (!read_double(value->text, &real)) return refuse(row, value, key, "is not a finite number", list);
        if (!check_number(row, value, real, key, list)) return false;
        *(double *)at = real;
        return true;
    }
    if (!read_whole(row, value, &whole, key, list)) return false;
    if (row->type == VALUE_INT64)
        *(int64_t *)at = whole;
    else
        *(int *)at = (int)whole;
    return true;
}

/* Another key of the same section that has the word among its choices; NULL: none. */
static const setting_row *neighbour_with_choice(const setting_row *row, const char *word) {
    int count = 0;
    const setting_row *rows = table_rows(&count);
    size_t section = (size_t)(strrchr(row->path, '.') ? strrchr(row->path, '.') - row->path + 1 : 0);
    for (int i = 0; i < count && section > 0; i++)
        if (&rows[i] != row && rows[i].choices && strcmp(rows[i].choices, "false|true") != 0 &&
            strncmp(rows[i].path, row->path, section) == 0 && choice_index(rows[i].choices, word) >= 0)
            return &rows[i];
    return NULL;
}

static bool read_word(const setting_row *row, const node *value, void *at, const char *key, problems *list) {
    int index = choice_index(row->choices, value->text);
    if (index < 0) {
        char what[128] = "is not one of the choices";
        const setting_row *neighbour = neighbour_with_choice(row, value->text);
        if (neighbour) snprintf(what, sizeof what, "is a choice of %s, not of this key", neighbour->path);
        return refuse(row, value, key, what, list);
    }
    if (row->type == VALUE_CHOICE) {
        *(int *)at = index;
        return true;
    }
    free(*(char **)at);
    *(char **)at = config_text(value->text);
    return true;
}

/* The entries of a list into `out`; one that is not good is -1, which nothing judges further. */
static bool read_entries(const setting_row *one, const node *value, per_device *out, const char *key,
                         problems *list) {
    bool all_good = true, whole = one->type == VALUE_INT64;
    for (int i = 0; i < value->count; i++) {
        const node *entry = value->entries[i].value;
        bool good = entry->kind == NODE_SCALAR;
        if (whole)
            out->list[i] = -1;
        else
            out->reals[i] = -1;
        if (good)
            good = read_number(one, entry, whole ? (void *)&out->list[i] : &out->reals[i], key, list);
        else
            problem_at(list, entry->where, key, "entry %d is not a number; write one number for each device",
                       i);
        if (whole && out->list[i] > out->value) out->value = out->list[i];
        if (!whole && out->reals[i] > out->real) out->real = out->reals[i];
        all_good = all_good && good;
    }
    return all_good;
}

static bool read_per_device(const setting_row *row, const node *value, per_device *out, const char *key,
                            problems *list) {
    setting_row one = *row; /* of one of the numbers */
    one.type = row->type == VALUE_COUNTS ? VALUE_INT64 : VALUE_DOUBLE;
    free(out->list); /* of the default that this takes the place of */
    out->list = NULL;
    out->n = 0;
    if (value->kind == NODE_SCALAR) return read_number(&one, value, out, key, list);
    if (value->count == 0 || value->count > SETTINGS_MAX_PER_DEVICE) {
        problem_at(
            list, value->where, key,
            "the list has %d entries; write one for each device (at most %d), or a single number for all",
            value->count, SETTINGS_MAX_PER_DEVICE);
        return false;
    }
    *out =
        (per_device){.n = value->count, .list = config_memory(calloc((size_t)value->count, sizeof(int64_t)))};
    return read_entries(&one, value, out, key, list);
}

static const char *kind_in_words(const setting_row *row) {
    switch (row->type) {
    case VALUE_INT:
    case VALUE_INT64:
    case VALUE_SEED:
        return "one whole number";
    case VALUE_DOUBLE:
        return "one number";
    case VALUE_COUNTS:
    case VALUE_NUMBERS:
        return "a number, or a list of numbers";
    case VALUE_SEEDS:
        return "a list of seeds";
    case VALUE_TEXT:
    case VALUE_WORD:
    case VALUE_CHOICE:
        break;
    }
    return "one word or text";
}

bool value_read(const setting_row *row, const node *value, void *base, const char *key, problems *list) {
    void *at = (char *)base + row->offset;
    bool list_is_fine = table_is_per_device(row) && value->kind == NODE_LIST;
    if (value->kind != NODE_SCALAR && !list_is_fine) {
        problem_at(list, value->where, key, "a %s is written where %s is expected",
                   value->kind == NODE_LIST ? "list" : "map", kind_in_words(row));
        return false;
    }
    if (node_is_null(value)) {
        problem_at(list, value->where, key, "has no value; give %s, or remove the key", kind_in_words(row));
        return false;
    }
    switch (row->type) {
    case VALUE_INT:
    case VALUE_INT64:
    case VALUE_DOUBLE:
        return read_number(row, value, at, key, list);
    case VALUE_SEED:
        return value_read_seed(value, at) || refuse(row, value, key, "is not a seed", list);
    case VALUE_WORD:
    case VALUE_CHOICE:
        return read_word(row, value, at, key, list);
    case VALUE_COUNTS:
    case VALUE_NUMBERS:
        return read_per_device(row, value, at, key, list);
    case VALUE_TEXT:
        break;
    case VALUE_SEEDS:
        return false; /* read where populations are expanded */
    }
    if (value->text[0] == '\0') {
        problem_at(list, value->where, key, "is empty; give a text, or remove the key");
        return false;
    }
    free(*(char **)at);
    *(char **)at = config_text(value->text);
    return true;
}

void value_set_default(const setting_row *row, void *base) {
    if (!row->initial) {
        if (!row->alias_of) value_remove(row, base);
        return;
    }
    node value = {.kind = NODE_SCALAR, .text = (char *)row->initial};
    problems *none = problems_create();
    value_read(row, &value, base, row->path, none);
    problems_destroy(none);
}
