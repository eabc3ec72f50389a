/* What each method shares, against the table of the design (aggregation). */
#include <criterion/criterion.h>
#include <string.h>

#include "methods/method.h"

typedef struct {
    const char *name;
    int generalists, specialists; /* -1: the defaults */
    sharing shares;
    ck_gates gates;
    router_learning router;
    bool pooled;
    aggregate_weights weights;
} table_row;

static const table_row TABLE[] = {
    {"local", -1, -1, {0}, CK_GATES_MEAN, ROUTER_ABSENT, false, WEIGHTS_OF_METHOD},
    {"fedavg", -1, -1, {.generalists = true, .specialists = true, .attention = true}, CK_GATES_MEAN, ROUTER_ABSENT, false, WEIGHTS_TOKENS},
    {"centralized", -1, -1, {0}, CK_GATES_MEAN, ROUTER_ABSENT, true, WEIGHTS_OF_METHOD},
    {"pfedmoe", -1, -1, {.generalists = true, .attention = true}, CK_GATES_TOP_K, ROUTER_WITH_EXPERTS, false, WEIGHTS_UNIFORM},
    {"comigs", -1, -1, {.generalists = true, .attention = true}, CK_GATES_TOP_K, ROUTER_FROM_VALIDATION, false, WEIGHTS_UNIFORM},
    {"comigs", 1, 3, {.generalists = true, .attention = true}, CK_GATES_TOP_K, ROUTER_FROM_VALIDATION, false, WEIGHTS_UNIFORM},
    {"comigs", 2, 0, {.generalists = true, .attention = true}, CK_GATES_TOP_K, ROUTER_FROM_VALIDATION, false, WEIGHTS_UNIFORM},
    {"comigs", 0, 2, {0}, CK_GATES_TOP_K, ROUTER_FROM_VALIDATION, false, WEIGHTS_UNIFORM},
};

Test(methods, share_what_the_design_says) {
    for (size_t i = 0; i < sizeof TABLE / sizeof *TABLE; i++) {
        const table_row *row = &TABLE[i];
        const method *m = method_find(row->name);
        cr_assert_not_null(m, "%s is not in the list", row->name);
        int g = row->generalists < 0 ? m->default_generalists : row->generalists;
        int s = row->specialists < 0 ? m->default_specialists : row->specialists;
        sharing shares = m->shares(g, s);
        cr_expect_eq(shares.generalists, row->shares.generalists, "%s %dG%dS: generalists", row->name, g, s);
        cr_expect_eq(shares.specialists, row->shares.specialists, "%s %dG%dS: specialists", row->name, g, s);
        cr_expect_eq(shares.attention, row->shares.attention, "%s %dG%dS: attention", row->name, g, s);
        cr_expect_eq(shares.router, row->shares.router, "%s %dG%dS: router", row->name, g, s);
        cr_expect_eq(m->gates, row->gates, "%s: gates", row->name);
        cr_expect_eq(m->router, row->router, "%s: router's data", row->name);
        cr_expect_eq(m->pooled, row->pooled, "%s: pooled", row->name);
        cr_expect_eq(m->weights, row->weights, "%s: weights", row->name);
    }
}

Test(methods, have_the_papers_number_of_experts) {
    static const struct {
        const char *name;
        int generalists, specialists;
    } defaults[] = {{"local", 0, 2}, {"fedavg", 2, 0}, {"centralized", 2, 0}, {"pfedmoe", 1, 1}, {"comigs", 1, 1}};
    int count;
    method_list(&count);
    cr_assert_eq(count, (int)(sizeof defaults / sizeof *defaults));
    for (int i = 0; i < count; i++) {
        const method *m = method_find(defaults[i].name);
        cr_assert_not_null(m, "%s is not in the list", defaults[i].name);
        cr_expect_eq(m->default_generalists, defaults[i].generalists, "%s: %d generalists", m->name, m->default_generalists);
        cr_expect_eq(m->default_specialists, defaults[i].specialists, "%s: %d specialists", m->name, m->default_specialists);
    }
}

Test(methods, are_found_by_their_name_alone) {
    int count;
    const method *const *list = method_list(&count);
    for (int i = 0; i < count; i++) {
        cr_expect_eq(method_find(list[i]->name), list[i], "%s finds another method", list[i]->name);
        cr_expect(list[i]->summary && strlen(list[i]->summary) > 10, "%s has no summary", list[i]->name);
        cr_expect(list[i]->source && strlen(list[i]->source) > 10, "%s has no source", list[i]->name);
    }
    cr_expect_null(method_find("Comigs"));
    cr_expect_null(method_find("comig"));
    cr_expect_null(method_find(""));
}
