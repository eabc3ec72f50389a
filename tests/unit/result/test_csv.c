/* CSV files as other programs write them, and what is none. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "result/csv.h"
#include "unit/trace_fixture.h"

static char *path;

static exit_code read_text(const char *text, csv_file *out, problems *list) {
    path = fixture_path(fixture_folder(), "file.csv");
    FILE *file = fopen(path, "w");
    cr_assert_not_null(file);
    fputs(text, file);
    cr_assert_eq(fclose(file), 0);
    return csv_read(path, out, list);
}

static const char *cell(const csv_file *f, int row, int column) {
    return f->cells[row * f->n_columns + column];
}

Test(csv, quotes_hold_commas_quotes_and_line_breaks) {
    csv_file f;
    problems *list = fixture_problems();
    cr_assert_eq(read_text("name,\"a, b\",c\n\"x \"\"y\"\", z\",\"two\nlines\",\nlast,,7", &f, list),
                 EXIT_OK);
    cr_assert(f.n_columns == 3 && f.n_rows == 2);
    cr_expect_eq(csv_column(&f, "a, b"), 1);
    cr_expect_eq(csv_column(&f, "b"), -1);
    cr_expect_str_eq(cell(&f, 0, 0), "x \"y\", z");
    cr_expect_str_eq(cell(&f, 0, 1), "two\nlines");
    cr_expect_str_eq(cell(&f, 0, 2), "");
    cr_expect_str_eq(cell(&f, 1, 2), "7");
    cr_expect(f.lines[0] == 2 && f.lines[1] == 4, "lines %d and %d", f.lines[0], f.lines[1]);
    csv_free(&f);
}

Test(csv, lines_may_end_as_in_windows) {
    csv_file f;
    problems *list = fixture_problems();
    cr_assert_eq(read_text("a,b\r\n1,2\r\n", &f, list), EXIT_OK);
    cr_assert(f.n_columns == 2 && f.n_rows == 1);
    cr_expect_eq(csv_column(&f, "b"), 1);
    cr_expect_str_eq(cell(&f, 0, 1), "2");
    csv_free(&f);
}

Test(csv, what_is_none_is_refused_with_its_line) {
    static const struct {
        const char *text, *message;
    } cases[] = {{"a,b\n1,2\n3\n", ":3: has 1 cells, and the first line names 2 columns"},
                 {"a,b\n1,2,3\n", ":2: has 3 cells, and the first line names 2 columns"},
                 {"a,b\n\n", ":2: has 1 cells"},
                 {"a,b\n1,\"2\n", ":2: a quote is not closed"},
                 {"a,\"b\n1,2\n", ":1: a quote is not closed"},
                 {"a,b,a\n", "the column a is there twice"},
                 {"", "is empty"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        csv_file f;
        problems *list = fixture_problems();
        cr_expect_eq(read_text(cases[i].text, &f, list), EXIT_INPUT, "%s", cases[i].text);
        cr_expect(problems_count(list) == 1 && strstr(problems_message(list, 0), cases[i].message), "%s",
                  problems_count(list) ? problems_message(list, 0) : "no message");
        csv_free(&f);
    }
}
