/* What each method shares. */
#include <criterion/criterion.h>
#include <string.h>

#include "methods/method.h"

typedef struct {
    const char *name;
    int generalists, specialists; /* -1: the defaults */
    /* of generalists (G), specialists (S), the attention LoRA (L), the router (R) */
    const char *shares;
    ck_gates gates;
    schedule_list schedule;
    bool pooled;
    aggregate_weights weights;
} table_row;

static const table_row TABLE[] = {
    {"local", -1, -1, "", CK_GATES_MEAN, schedule_experts, false, WEIGHTS_OF_METHOD},
    {"fedavg", -1, -1, "GSL", CK_GATES_MEAN, schedule_experts, false, WEIGHTS_TOKENS},
    {"fedprox", -1, -1, "GSL", CK_GATES_MEAN, schedule_experts, false, WEIGHTS_TOKENS},
    {"centralized", -1, -1, "", CK_GATES_MEAN, schedule_experts, true, WEIGHTS_OF_METHOD},
    {"pfedmoe", -1, -1, "GL", CK_GATES_TOP_K, NULL, false, WEIGHTS_UNIFORM},
    {"comigs", -1, -1, "GL", CK_GATES_TOP_K, schedule_two_levels, false, WEIGHTS_UNIFORM},
    {"comigs", 1, 3, "GL", CK_GATES_TOP_K, schedule_two_levels, false, WEIGHTS_UNIFORM},
    {"comigs", 2, 0, "GL", CK_GATES_TOP_K, schedule_two_levels, false, WEIGHTS_UNIFORM},
    {"comigs", 0, 2, "", CK_GATES_TOP_K, schedule_two_levels, false, WEIGHTS_UNIFORM},
};

static bool shares(const method *m, ck_site site, ck_factor factor, int expert, int generalists) {
    ck_part part = {.site = site, .factor = factor, .expert = expert};
    return m->shares(&part, generalists);
}

/* Both factors of a LoRA must have the same answer. */
static void expect_shared(const method *m, const table_row *row, char letter, ck_site site, int expert,
                          int generalists) {
    for (int factor = CK_FACTOR_A; factor <= CK_FACTOR_B; factor++)
        cr_expect_eq(shares(m, site, (ck_factor)factor, expert, generalists),
                     strchr(row->shares, letter) != NULL, "%s: %c, factor %d", row->name, letter, factor);
}

Test(methods, share_the_parts_that_their_papers_say) {
    for (size_t i = 0; i < sizeof TABLE / sizeof *TABLE; i++) {
        const table_row *row = &TABLE[i];
        const method *m = method_find(row->name);
        cr_assert_not_null(m, "%s is not in the list", row->name);
        int g = row->generalists < 0 ? m->default_generalists : row->generalists;
        int s = row->specialists < 0 ? m->default_specialists : row->specialists;
        for (int e = 0; e < g; e++) expect_shared(m, row, 'G', CK_SITE_FC, e, g);
        for (int e = g; e < g + s; e++) expect_shared(m, row, 'S', CK_SITE_PR, e, g);
        expect_shared(m, row, 'L', CK_SITE_QKV, -1, g);
        expect_shared(m, row, 'L', CK_SITE_OUT, -1, g);
        for (int factor = CK_FACTOR_ROUTER; factor <= CK_FACTOR_ROUTER_OUT; factor++)
            cr_expect_eq(shares(m, CK_NO_SITE, (ck_factor)factor, -1, g), strchr(row->shares, 'R') != NULL,
                         "%s: router, factor %d", row->name, factor);
        cr_expect_eq(m->gates, row->gates, "%s: gates", row->name);
        if (row->schedule) cr_expect_eq(m->schedule, row->schedule, "%s: schedule", row->name);
        cr_expect_eq(m->pooled, row->pooled, "%s: pooled", row->name);
        cr_expect_eq(m->weights, row->weights, "%s: weights", row->name);
    }
}

Test(methods, fedsa_shares_factor_a_alone) {
    const method *m = method_find("fedsa");
    for (int expert = -1; expert < 3; expert++) {
        ck_site site = expert < 0 ? CK_SITE_QKV : CK_SITE_PR;
        cr_expect(shares(m, site, CK_FACTOR_A, expert, 1));
        cr_expect_not(shares(m, site, CK_FACTOR_B, expert, 1));
    }
}

Test(methods, have_the_papers_number_of_experts) {
    static const struct {
        const char *name;
        int generalists, specialists;
    } defaults[] = {{"local", 0, 2},   {"fedavg", 2, 0}, {"fedprox", 2, 0}, {"centralized", 2, 0},
                    {"pfedmoe", 1, 1}, {"comigs", 1, 1}, {"fedsa", 1, 0}};
    int count;
    method_list(&count);
    cr_assert_eq(count, (int)(sizeof defaults / sizeof *defaults));
    for (int i = 0; i < count; i++) {
        const method *m = method_find(defaults[i].name);
        cr_assert_not_null(m, "%s is not in the list", defaults[i].name);
        cr_expect_eq(m->default_generalists, defaults[i].generalists, "%s: %d generalists", m->name,
                     m->default_generalists);
        cr_expect_eq(m->default_specialists, defaults[i].specialists, "%s: %d specialists", m->name,
                     m->default_specialists);
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
