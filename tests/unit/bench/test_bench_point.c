/* Axes, sweeps and points of the microbenchmarks. */
#include <criterion/criterion.h>
#include <string.h>

#include "rig/point.h"

static sweep defaults(void) {
    sweep s = {0};
    sweep_defaults(&s, false);
    return s;
}

static exit_code set(sweep *s, const char *key, const char *text, problems **list) {
    *list = problems_create();
    return sweep_set(s, "--", key, text, *list);
}

static void expect_refusal(const char *key, const char *text, const char *message) {
    sweep s = {0};
    problems *list;
    cr_assert_eq(set(&s, key, text, &list), EXIT_INPUT, "%s %s was taken", key, text);
    cr_assert_eq(problems_count(list), 1);
    cr_assert(strstr(problems_message(list, 0), message), "'%s' does not say '%s'", problems_message(list, 0),
              message);
    problems_destroy(list);
}

Test(bench_point, a_list_is_values_of_its_axis) {
    sweep s = {0};
    problems *list;
    cr_assert_eq(set(&s, "tokens", "4096,65536", &list), EXIT_OK);
    cr_assert_eq(s.n_values[AXIS_TOKENS], 2);
    cr_assert_eq(s.values[AXIS_TOKENS][1], 65536);
    cr_assert_eq(sweep_set(&s, "", "precision", "bf16,f32", list), EXIT_OK);
    cr_assert_eq(s.values[AXIS_PRECISION][0], CK_BF16);
    problems_destroy(list);
}

Test(bench_point, a_value_given_twice_is_measured_once_but_ranks_may_repeat) {
    sweep s = {0};
    problems *list;
    cr_assert_eq(set(&s, "width", "32,16,32", &list), EXIT_OK);
    cr_assert_eq(sweep_set(&s, "", "width", "16,64", list), EXIT_OK);
    cr_assert(s.n_values[AXIS_WIDTH] == 3 && s.values[AXIS_WIDTH][0] == 32 && s.values[AXIS_WIDTH][1] == 16 &&
              s.values[AXIS_WIDTH][2] == 64);
    cr_assert_eq(sweep_set(&s, "", "ranks", "4,4,8", list), EXIT_OK);
    cr_assert_eq(s.n_mixed, 3);
    problems_destroy(list);
}

Test(bench_point, bad_values_are_refused_with_what_would_be_right) {
    expect_refusal("tokens", "4k", "from 1 to");
    expect_refusal("tokens", "", "from 1 to");
    expect_refusal("tokens", "1,,2", "from 1 to");
    expect_refusal("tokens", "99999999999999999999", "from 1 to");
    expect_refusal("experts", "17", "from 1 to 16");
    expect_refusal("rank", "0", "from 1 to 512");
    expect_refusal("precision", "f16", "f32, bf16");
    expect_refusal("distribution", "normal", "uniform, zipf, skew, one-token");
    expect_refusal("direction", "sideways", "forward, backward, update, step");
    expect_refusal("colour", "red", "is no axis");
    expect_refusal("rank", "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17", "at most 16");
}

Test(bench_point, points_are_all_combinations_of_the_axes_in_use) {
    sweep s = defaults();
    problems *list;
    s.n_values[AXIS_TOKENS] = s.n_values[AXIS_WIDTH] = 0;
    set(&s, "tokens", "64,128", &list);
    sweep_set(&s, "", "width", "32,64,96", list);
    unsigned both = 1 << AXIS_TOKENS | 1 << AXIS_WIDTH;
    cr_assert_eq(sweep_points(&s, both), 6);
    cr_assert_eq(sweep_points(&s, 1 << AXIS_TOKENS), 2);
    cr_assert_eq(sweep_points(&s, 0), 1);
    point first = sweep_point(&s, both, 0), last = sweep_point(&s, both, 5),
          other = sweep_point(&s, 1 << AXIS_TOKENS, 1);
    cr_assert(first.value[AXIS_TOKENS] == 64 && first.value[AXIS_WIDTH] == 32);
    cr_assert(last.value[AXIS_TOKENS] == 128 && last.value[AXIS_WIDTH] == 96);
    cr_assert(other.value[AXIS_TOKENS] == 128 && other.value[AXIS_WIDTH] == 32);
    problems_destroy(list);
}

Test(bench_point, a_name_holds_the_axes_in_use) {
    sweep s = defaults();
    problems *list;
    char name[POINT_NAME_BYTES];
    unsigned used =
        1 << AXIS_TOKENS | 1 << AXIS_EXPERTS | 1 << AXIS_RANK | 1 << AXIS_DISTRIBUTION | 1 << AXIS_PRECISION;
    s.n_values[AXIS_RANK] = 0;
    set(&s, "ranks", "4,8,16", &list);
    point p = sweep_point(&s, used, 0);
    point_name(&p, used, name);
    cr_assert_str_eq(name, "/T1024/E2/r4+8+16/uniform/f32");
    point_name(&p, used | 1 << AXIS_MLP, name); /* names from before there was a choice stay as they are */
    cr_assert_str_eq(name, "/T1024/E2/r4+8+16/uniform/f32");
    p.value[AXIS_MLP] = CK_MLP_SWIGLU;
    point_name(&p, used | 1 << AXIS_MLP, name);
    cr_assert_str_eq(name, "/T1024/E2/r4+8+16/swiglu/uniform/f32");
    cr_assert_eq(sweep_set(&s, "", "ranks", "1,2", list), EXIT_INPUT);
    problems_destroy(list);
}

Test(bench_point, impossible_points_say_why) {
    sweep s = defaults();
    point p = sweep_point(&s, ~0u, 0);
    unsigned used =
        1 << AXIS_TOKENS | 1 << AXIS_DEVICES | 1 << AXIS_EXPERTS | 1 << AXIS_TOP_K | 1 << AXIS_RANK;
    cr_assert_null(point_problem(&p, used));
    p.value[AXIS_DEVICES] = 2000;
    cr_assert(strstr(point_problem(&p, used), "more devices"));
    cr_assert_null(point_problem(&p, 1 << AXIS_TOKENS));
    p.value[AXIS_DEVICES] = 2, p.value[AXIS_TOP_K] = 3;
    cr_assert(strstr(point_problem(&p, used), "more experts"));
    p.value[AXIS_TOP_K] = 1, p.value[AXIS_RANK] = 300;
    cr_assert(strstr(point_problem(&p, used), "512"));
    p.value[AXIS_RANK] = 129, p.value[AXIS_MLP] = CK_MLP_SWIGLU;
    cr_assert_null(point_problem(&p, used));
    cr_assert(strstr(point_problem(&p, used | 1 << AXIS_MLP), "256"));
    p.value[AXIS_RANK] = 128;
    cr_assert_null(point_problem(&p, used | 1 << AXIS_MLP));
}

static void distribute(token_distribution how, int n, int total, int *tokens) {
    point p = {.value = {[AXIS_TOKENS] = total, [AXIS_DEVICES] = n, [AXIS_DISTRIBUTION] = (int)how}};
    point_tokens(&p, tokens);
}

Test(bench_point, every_distribution_gives_all_tokens_and_each_device_one) {
    const int sizes[][2] = {{1, 1}, {1, 100}, {7, 7}, {7, 8}, {16, 1000}, {100, 101}, {128, 4096}};
    int tokens[128];
    for (int how = 0; how < TOKEN_DISTRIBUTIONS; how++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            int sum = 0, least = 1 << 30;
            distribute((token_distribution)how, sizes[i][0], sizes[i][1], tokens);
            for (int d = 0; d < sizes[i][0]; d++) {
                sum += tokens[d];
                if (tokens[d] < least) least = tokens[d];
            }
            cr_assert_eq(sum, sizes[i][1], "distribution %d of %d over %d gives %d", how, sizes[i][1],
                         sizes[i][0], sum);
            cr_assert(least >= 1);
        }
}

Test(bench_point, distributions_are_as_unequal_as_they_say) {
    int tokens[10];
    distribute(TOKENS_UNIFORM, 10, 1003, tokens);
    cr_assert(tokens[0] == 101 && tokens[2] == 101 && tokens[3] == 100 && tokens[9] == 100);
    distribute(TOKENS_SKEW, 10, 1000, tokens);
    cr_assert(tokens[0] >= 490 && tokens[0] <= 510, "device 0 has %d of 1000", tokens[0]);
    distribute(TOKENS_ONE_TOKEN, 10, 1000, tokens);
    cr_assert(tokens[0] == 991 && tokens[1] == 1 && tokens[9] == 1);
    distribute(TOKENS_ZIPF, 10, 10000, tokens);
    cr_assert(tokens[0] > 1.9 * tokens[1] && tokens[0] < 2.1 * tokens[1] && tokens[8] >= tokens[9]);
}
