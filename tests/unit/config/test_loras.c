/* LoRAs that every token uses: attention.rank for all linears of attention, or lora for each linear. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "config/config.h"
#include "unit/configuration.h"

static settings *load(const char *top, const char *population) {
    char text[512];
    snprintf(text, sizeof text, "%s\npopulations:\n  - {name: a, method: fedavg, devices: 2, %s}\n", top,
             population);
    return configuration_must_load(text);
}

/* The ranks q, k, v, qkv, out, gate, up, down of the one population. */
static void expect_ranks(const char *top, const char *population, int attention, const char *ranks) {
    settings *s = load(top, population);
    const population_settings *p = &s->populations[0];
    char found[64];
    int used = 0;
    for (int site = 0; site < CK_SITES; site++)
        used += snprintf(found + used, sizeof found - (size_t)used, site ? " %d" : "%d", p->lora.rank[site]);
    cr_expect_str_eq(found, ranks, "%s, %s", top, population);
    cr_expect_eq(p->attention_rank, attention, "%s, %s", top, population);
    settings_destroy(s);
}

Test(loras, are_on_all_of_attention_unless_its_linears_are_written) {
    expect_ranks("seed: 1", "rank: 8", 8, "0 0 0 0 0 0 0 0");
    expect_ranks("lora: {up: 4, down: 2}", "rank: 8", 8, "0 0 0 0 0 0 4 2");
    expect_ranks("lora: {q: 8, v: 4}", "rank: 8", 0, "8 0 4 0 0 0 0 0");
    expect_ranks("seed: 1", "lora: {qkv: 3}", 0, "0 0 0 3 0 0 0 0");
    expect_ranks("lora: {q: 8, up: 1}", "attention: {rank: 4}", 4, "0 0 0 0 0 0 1 0");
    expect_ranks("attention: {rank: 4}", "lora: {out: 2}", 0, "0 0 0 0 2 0 0 0");
    expect_ranks("lora: {q: 8}", "lora: {q: 0, v: 2}", 0, "0 0 2 0 0 0 0 0");
    expect_ranks("attention: {rank: 0}", "lora: {out: 2}", 0, "0 0 0 0 2 0 0 0");
}

Test(loras, have_alphas_of_their_own_or_that_of_the_experts) {
    settings *s = load("experts: {alpha: 4}\nlora: {alpha: {q: 32}}", "lora: {alpha: {v: 2}}");
    const lora_settings *lora = &s->populations[0].lora;
    cr_expect_eq(lora->alpha[CK_SITE_Q], 32);
    cr_expect_eq(lora->alpha[CK_SITE_V], 2);
    cr_expect_eq(lora->alpha[CK_SITE_PR], 4);
    settings_destroy(s);
}

/* Each population's own, whatever the first one has. */
Test(loras, are_written_back_as_they_were_read) {
    settings *first =
        configuration_must_load("populations:\n"
                                "  - {name: a, method: local, devices: 1, lora: {q: 8, alpha: {q: 2}}}\n"
                                "  - {name: b, method: local, devices: 1}\n"
                                "  - {name: c, method: local, devices: 1, lora: {v: 4, down: 3}}\n"
                                "  - {name: d, method: local, devices: 1, attention: {rank: 0}}\n");
    char *yaml = settings_to_yaml(first);
    settings *second = configuration_must_load(yaml);
    for (int i = 0; i < 4; i++) {
        const population_settings *p = &first->populations[i], *q = &second->populations[i];
        cr_expect_eq(p->attention_rank, q->attention_rank, "%s", p->name);
        cr_expect_arr_eq(p->lora.rank, q->lora.rank, sizeof p->lora.rank, "%s", p->name);
        cr_expect_arr_eq(p->lora.alpha, q->lora.alpha, sizeof p->lora.alpha, "%s", p->name);
    }
    free(yaml);
    settings_destroy(first);
    settings_destroy(second);
}

Test(loras, of_one_linear_twice_are_refused) {
    configuration_must_fail("attention: {rank: 4}\nlora: {out: 2}\n"
                            "populations: [{name: a, method: local, devices: 1}]\n",
                            "attention.rank: gives all linears of attention a LoRA, and lora.out");
}

Test(loras, may_take_the_place_of_experts) {
    settings *s = load("attention: {rank: 0}\nlora: {down: 2}", "generalists: 0, specialists: 0");
    cr_expect_eq(s->populations[0].generalists.value, 0);
    settings_destroy(s);
    configuration_must_fail(
        "attention: {rank: 0}\n"
        "populations: [{name: a, method: fedavg, devices: 1, generalists: 0, specialists: 0}]\n",
        "no experts and no LoRA");
}

Test(loras, of_all_layers_name_their_linears) {
    static const struct {
        const char *linears;
        ck_site site;
        bool named;
    } cases[] = {{"all", CK_SITE_PR, true},       {"all", CK_SITE_Q, true},     {"q v down", CK_SITE_V, true},
                 {"q v down", CK_SITE_K, false},  {"  down", CK_SITE_PR, true}, {"qkv", CK_SITE_Q, false},
                 {"qkv  out ", CK_SITE_OUT, true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cr_expect_eq(settings_names_linear(cases[i].linears, cases[i].site), cases[i].named, "%s",
                     cases[i].linears);
        cr_expect(settings_names_linear(cases[i].linears, CK_NO_SITE), "%s", cases[i].linears);
    }
    static const char *const wrong[] = {"q bogus", "bogus q", "all q", "", " ", "q,v", "Q"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        cr_expect_not(settings_names_linear(wrong[i], CK_NO_SITE), "'%s'", wrong[i]);
}

Test(loras, of_all_layers_are_enough_to_learn) {
    settings *s = load("attention: {rank: 0}", "generalists: 0, specialists: 0, tied: {vector: column_bias}");
    const tied_settings *tied = &s->populations[0].tied;
    cr_expect_eq(tied->vector, CK_COLUMN_BIAS);
    cr_expect_eq(tied->alpha, 16);
    cr_expect_str_eq(tied->linears, "all");
    settings_destroy(s);
    configuration_must_fail("tied: {rank: 2, linears: q w}\n"
                            "populations: [{name: a, method: local, devices: 1}]\n",
                            "c.yaml:1: tied.linears: 'q w' is neither all nor a list of linears; those that "
                            "there can be are q k v qkv out gate up down");
}
