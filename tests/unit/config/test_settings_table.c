/* The table itself: every row has what its users rely on, and its limits hold on both sides. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "config/nearest.h"
#include "config/table.h"

static bool is_number(const setting_row *row) {
    return row->type == VALUE_INT || row->type == VALUE_INT64 || row->type == VALUE_DOUBLE ||
           table_is_per_device(row);
}

static bool is_real(const setting_row *row) {
    return row->type == VALUE_DOUBLE || row->type == VALUE_NUMBERS;
}

/* Reads `text` as the row's value into fresh settings. */
static bool accepts(const setting_row *row, const char *text) {
    settings run = {0};
    population_settings population = {0};
    problems *list = problems_create();
    node value = {.kind = NODE_SCALAR, .text = (char *)text, .where = {.source = "c.yaml", .line = 1}};
    void *base = row->in_population ? (void *)&population : (void *)&run;
    bool good = value_read(row, &value, base, row->path, list);
    if (row->type == VALUE_TEXT || row->type == VALUE_WORD) free(*(char **)((char *)base + row->offset));
    cr_assert_eq(good, problems_count(list) == 0, "%s: %s", row->path, text);
    problems_destroy(list);
    return good;
}

static bool accepts_number(const setting_row *row, double value) {
    char text[64];
    snprintf(text, sizeof text, is_real(row) ? "%.17g" : "%.0f", value);
    return accepts(row, text);
}

Test(settings_table, every_row_is_complete) {
    int count = 0;
    const setting_row *rows = table_rows(&count);
    cr_assert_gt(count, 50);
    for (int i = 0; i < count; i++) {
        const setting_row *row = &rows[i];
        cr_assert(row->path && row->help && strlen(row->help) > 5, "row %d", i);
        cr_assert_eq((row->initial != NULL) + (row->otherwise != NULL) + row->required, 1, "%s: one default",
                     row->path);
        cr_assert(!is_number(row) || row->least < row->most, "%s: limits", row->path);
        cr_assert_eq(row->choices != NULL, row->type == VALUE_WORD || row->type == VALUE_CHOICE,
                     "%s: choices", row->path);
        cr_assert(row->scope == SCOPE_RUN || row->in_population, "%s: scope", row->path);
        for (int j = 0; j < i; j++)
            cr_assert(strcmp(rows[j].path, row->path) != 0 || rows[j].scope != row->scope, "%s: twice",
                      row->path);
        if (row->alias_of)
            cr_assert_eq(table_find(row->alias_of, true)->offset, row->offset, "%s: alias", row->path);
    }
}

Test(settings_table, defaults_are_within_their_limits) {
    int count = 0;
    const setting_row *rows = table_rows(&count);
    for (int i = 0; i < count; i++)
        cr_assert(!rows[i].initial || accepts(&rows[i], rows[i].initial), "%s", rows[i].path);
}

/* The neighbour in that direction, of the numbers that the row's type has. */
static double next_inside(const setting_row *row, double limit, int direction) {
    if (!is_real(row)) return limit + direction;
    return row->single ? (double)nextafterf((float)limit, (float)direction * 1e30F)
                       : nextafter(limit, direction * 1e300);
}

Test(settings_table, limits_hold_on_both_sides) {
    int count = 0, checked = 0;
    const setting_row *rows = table_rows(&count);
    for (int i = 0; i < count; i++) {
        const setting_row *row = &rows[i];
        if (!is_number(row)) continue;
        bool real = is_real(row);
        cr_assert_eq(accepts_number(row, row->least), !row->above_least, "%s: %g", row->path, row->least);
        cr_assert_eq(accepts_number(row, row->most), !row->below_most, "%s: %g", row->path, row->most);
        cr_assert(!accepts_number(row, real ? nextafter(row->least, -1e300) : row->least - 1), "%s: below",
                  row->path);
        cr_assert(!accepts_number(row, real ? nextafter(row->most, 1e300) : row->most + 1), "%s: above",
                  row->path);
        cr_assert(accepts_number(row, next_inside(row, row->least, 1)), "%s: inside", row->path);
        cr_assert(accepts_number(row, next_inside(row, row->most, -1)), "%s: inside", row->path);
        checked++;
    }
    cr_assert_gt(checked, 30);
}

Test(settings_table, limits_name_their_unit) {
    char *limits = value_limits(table_find("train.batch", false));
    cr_assert_str_eq(limits, "1 to 65,536 windows");
    free(limits);
    limits = value_limits(table_find("experts.balance_importance", false));
    cr_assert_str_eq(limits, "above 0, below 1");
    free(limits);
    limits = value_limits(table_find("train.learning_rate", true));
    cr_assert_str_eq(limits, "above 0, at most 10");
    free(limits);
    limits = value_limits(table_find("backend", false));
    cr_assert_str_eq(limits, "auto, cpu or cuda");
    free(limits);
}

Test(settings_table, reference_names_every_key_default_and_unit) {
    int count = 0;
    const setting_row *rows = table_rows(&count);
    char *page = settings_reference(), line[256];
    for (int i = 0; i < count; i++) {
        snprintf(line, sizeof line, "| `%s` | ", rows[i].path);
        cr_assert_not_null(strstr(page, line), "%s", rows[i].path);
        cr_assert_not_null(strstr(page, rows[i].help), "%s", rows[i].path);
    }
    cr_assert_not_null(strstr(page, "| `train.batch` | whole number | `8` | 1 to 65,536 windows | windows |"),
                       "%s", page);
    cr_assert_not_null(strstr(page, "| `name` | text | required |"));
    free(page);
}

/* Doubles must come back to the same bits, however many digits that takes. */
Test(settings_table, numbers_are_written_exactly) {
    static const double values[] = {0.1, 1.0 / 3, 2e-3, 1e-8, 0.95, 0.9999999999999998, 5e-324};
    const setting_row *row = table_find("data.synthetic.purity", true);
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        population_settings p = {0}, q = {0};
        char *text = NULL;
        size_t bytes = 0;
        FILE *out = open_memstream(&text, &bytes);
        p.data.synthetic.purity = values[i];
        value_write(row, &p, out);
        fclose(out);
        problems *list = problems_create();
        node value = {.kind = NODE_SCALAR, .text = text};
        cr_assert(value_read(row, &value, &q, row->path, list), "%s", text);
        cr_assert_eq(q.data.synthetic.purity, values[i], "%s", text);
        cr_assert(value_equal(row, &p, &q));
        problems_destroy(list);
        free(text);
    }
}

Test(settings_table, edit_distance_counts_slips) {
    static const struct {
        const char *a, *b;
        int distance;
    } cases[] = {{"", "", 0},
                 {"", "abc", 3},
                 {"abc", "", 3},
                 {"rounds", "rounds", 0},
                 {"round", "rounds", 1},
                 {"ruonds", "rounds", 1},
                 {"xounds", "rounds", 1},
                 {"kitten", "sitting", 3},
                 {"chekc", "check", 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        cr_assert_eq(edit_distance(cases[i].a, cases[i].b), cases[i].distance, "%s, %s: %d", cases[i].a,
                     cases[i].b, edit_distance(cases[i].a, cases[i].b));
    char longer[200];
    memset(longer, 'a', sizeof longer);
    longer[199] = '\0';
    cr_assert_eq(edit_distance(longer, "a"), 64);
}

Test(settings_table, nearest_is_a_likely_slip_or_nothing) {
    static const char *const words[] = {"run", "check", "pretrain"};
    cr_assert_str_eq(nearest_word("chekc", words, 3), "check");
    cr_assert_str_eq(nearest_word("rnu", words, 3), "run");
    cr_assert_null(nearest_word("xylophone", words, 3));
}
