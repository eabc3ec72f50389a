/* Collected problems keep their order, their text and the first one's code; a flood of alike ones is cut
 * short. */
#include <criterion/criterion.h>
#include <string.h>

#include "support/problems.h"

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

/* Numbers and the place before the first ": " may differ. */
Test(problems, of_many_alike_a_few_are_kept_and_the_rest_is_counted) {
    problems *list = problems_create();
    for (int i = 0; i < 65540; i++)
        problem(list, EXIT_INPUT, "users/%s_%d.bin: has %d tokens", i % 2 ? "train" : "test", i, 7 * i);
    problem(list, EXIT_INPUT, "users/train_1.bin: has 9 token");
    problem(list, EXIT_INPUT, "users/train_1.bin: has no tokens");
    problems_condense(list);
    cr_assert_eq(problems_count(list), PROBLEMS_ALIKE + 2);
    cr_expect_str_eq(problems_message(list, 0), "users/test_0.bin: has 0 tokens");
    cr_expect_str_eq(problems_message(list, PROBLEMS_ALIKE - 1),
                     "users/train_7.bin: has 49 tokens (and 65,532 more like it)");
    cr_expect_str_eq(problems_message(list, PROBLEMS_ALIKE), "users/train_1.bin: has 9 token");
    cr_expect_str_eq(problems_message(list, PROBLEMS_ALIKE + 1), "users/train_1.bin: has no tokens");
    problems_destroy(list);
}

Test(problems, condensing_again_adds_to_what_was_left_out) {
    problems *list = problems_create();
    for (int i = 0; i < PROBLEMS_ALIKE + 2; i++) problem(list, EXIT_INPUT, "%d", i);
    problems_condense(list);
    problems_condense(list);
    cr_expect_str_eq(problems_message(list, PROBLEMS_ALIKE - 1), "7 (and 2 more like it)");
    for (int i = 0; i < 1000; i++) problem(list, EXIT_INPUT, "%d", i);
    problems_prefix(list, PROBLEMS_ALIKE - 1, "a.yaml:7: ");
    problems_condense(list);
    cr_assert_eq(problems_count(list), 2 * PROBLEMS_ALIKE - 1, "what a prefix tells apart is not alike");
    cr_expect_str_eq(problems_message(list, PROBLEMS_ALIKE - 1), "a.yaml:7: 7 (and 2 more like it)");
    cr_expect_str_eq(problems_message(list, 2 * PROBLEMS_ALIKE - 2), "a.yaml:7: 6 (and 993 more like it)");
    problems_destroy(list);
}

Test(problems, few_or_different_messages_stay_as_they_are) {
    problems *list = problems_create();
    for (int i = 0; i < PROBLEMS_ALIKE; i++) problem(list, EXIT_INPUT, "c.yaml:%d: is wrong", i);
    for (int i = 0; i < 26; i++) problem(list, EXIT_INPUT, "c.yaml:3: data.%c: unknown key", 'a' + i);
    problems_condense(list);
    cr_expect_eq(problems_count(list), PROBLEMS_ALIKE + 26);
    cr_expect_str_eq(problems_message(list, PROBLEMS_ALIKE - 1), "c.yaml:7: is wrong");
    problems_destroy(list);
}

Test(problems, what_is_said_word_for_word_twice_is_said_once) {
    problems *list = problems_create();
    for (int i = 0; i < 20; i++)
        problem(list, EXIT_INPUT, "c.yaml:5: population '%c': is wrong", 'a' + i % 2);
    problems_condense(list);
    cr_assert_eq(problems_count(list), 2);
    cr_expect_str_eq(problems_message(list, 1), "c.yaml:5: population 'b': is wrong");
    problems_destroy(list);
}
