/* Collected problems keep their order, their text and the first one's code. */
#include <criterion/criterion.h>
#include <string.h>

#include "problems.h"

Test(problems, empty_list_is_ok) {
    problems *list = problems_create();
    cr_assert_eq(problems_count(list), 0);
    cr_assert_eq(problems_code(list), EXIT_OK);
    problems_destroy(list);
    problems_destroy(NULL);
}

Test(problems, adding_returns_the_code_and_the_first_code_stays) {
    problems *list = problems_create();
    cr_assert_eq(problem(list, EXIT_ENVIRONMENT, "no %s", "GPU"), EXIT_ENVIRONMENT);
    cr_assert_eq(problem(list, EXIT_INPUT, "line %d", 7), EXIT_INPUT);
    cr_assert_eq(problems_count(list), 2);
    cr_assert_str_eq(problems_message(list, 0), "no GPU");
    cr_assert_str_eq(problems_message(list, 1), "line 7");
    cr_assert_eq(problems_code(list), EXIT_ENVIRONMENT);
    problems_destroy(list);
}

Test(problems, a_prefix_goes_before_messages_from_there_on) {
    problems *list = problems_create();
    problem(list, EXIT_INPUT, "first");
    problem(list, EXIT_INPUT, "second");
    problem(list, EXIT_INPUT, "third");
    problems_prefix(list, 1, "%s:%d: ", "a.yaml", 7);
    problems_prefix(list, 3, "none");
    cr_assert_eq(problems_count(list), 3);
    cr_assert_str_eq(problems_message(list, 0), "first");
    cr_assert_str_eq(problems_message(list, 1), "a.yaml:7: second");
    cr_assert_str_eq(problems_message(list, 2), "a.yaml:7: third");
    problems_destroy(list);
}

Test(problems, many_and_long_messages_are_kept_whole) {
    static char text[5000];
    problems *list = problems_create();
    memset(text, 'x', sizeof text - 1);
    for (int i = 0; i < 1000; i++) problem(list, EXIT_RUN, "%d %s", i, text);
    cr_assert_eq(problems_count(list), 1000);
    cr_assert_eq(strlen(problems_message(list, 0)), sizeof text - 1 + 2);
    cr_assert_eq(strncmp(problems_message(list, 999), "999 xxx", 7), 0);
    problems_destroy(list);
}
