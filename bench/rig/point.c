#include "rig/point.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *key, *mark, *meaning;
    int least, most;
    const char *const *words; /* values by name, ended by NULL */
} axis_row;

static const char *const DISTRIBUTIONS[] = {"uniform", "zipf", "skew", "one-token", NULL};
static const char *const PRECISIONS[] = {"f32", "bf16", NULL};
static const char *const MLPS[] = {[CK_MLP_GELU] = "gelu", [CK_MLP_SWIGLU] = "swiglu", NULL};
static const char *const DIRECTIONS[] = {"forward", "backward", "update", "step", NULL};

static const axis_row ROWS[AXES] = {
    [AXIS_TOKENS] = {"tokens", "T", "tokens of the wave, all devices together", 1, 1 << 24, NULL},
    [AXIS_SEQUENCE] = {"sequence", "s", "longest sequence", 1, 1024, NULL},
    [AXIS_WIDTH] = {"width", "D",
                    "model width; the MLP is 4 times as wide, a head of attention has 64 columns", 16, 16384,
                    NULL},
    [AXIS_DEVICES] = {"devices", "N", "devices that share the tokens", 1, 1 << 20, NULL},
    [AXIS_EXPERTS] = {"experts", "E", "experts of a device", 1, CK_MAX_EXPERTS, NULL},
    [AXIS_TOP_K] = {"top-k", "k", "experts a token", 1, CK_MAX_TOP_K, NULL},
    [AXIS_RANK] = {"rank", "r", "LoRA rank of every expert", 1, CK_MAX_RANK_SUM, NULL},
    [AXIS_MLP] = {"mlp", "", "the base's MLP: gelu, or swiglu with two branches, gate and up", 0, 0, MLPS},
    [AXIS_ATTENTION_RANK] = {"attention-rank", "a", "LoRA rank on qkv", 1, CK_MAX_RANK_SUM, NULL},
    [AXIS_VOCABULARY] = {"vocabulary", "V", "columns of the head", 2, 1 << 20, NULL},
    [AXIS_LAYERS] = {"layers", "L", "layers of the whole model", 1, 256, NULL},
    [AXIS_DISTRIBUTION] =
        {"distribution", "",
         "tokens over devices: uniform, zipf, skew (device 0 has half), one-token (device 0 has the rest)", 0,
         0, DISTRIBUTIONS},
    [AXIS_PRECISION] = {"precision", "", "of activations and frozen weights: f32, bf16", 0, 0, PRECISIONS},
};

const char *axis_key(axis a) {
    return ROWS[a].key;
}

const char *axis_meaning(axis a) {
    return ROWS[a].meaning;
}

const char *axis_word(axis a, int value) {
    return ROWS[a].words ? ROWS[a].words[value] : NULL;
}

/* ---- Reading lists */

static exit_code word_value(const char *where, const axis_row *row, const char *text, int *value,
                            problems *list) {
    char known[128] = "";
    for (int i = 0; row->words[i]; i++) {
        if (strcmp(row->words[i], text) == 0) {
            *value = i;
            return EXIT_OK;
        }
        snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", i ? ", " : "", row->words[i]);
    }
    return problem(list, EXIT_INPUT, "%s%s: '%s' is none of %s", where, row->key, text, known);
}

static exit_code number_value(const char *where, const axis_row *row, const char *text, int *value,
                              problems *list) {
    char *end = NULL;
    errno = 0;
    long number = strtol(text, &end, 10);
    if (end == text || *end || errno || number < row->least || number > row->most)
        return problem(list, EXIT_INPUT, "%s%s: '%s' must be a whole number from %d to %d", where, row->key,
                       text, row->least, row->most);
    *value = (int)number;
    return EXIT_OK;
}

/* Adds each value of a list to values[*n]. */
static exit_code read_list(const char *where, const axis_row *row, const char *text, int most, int *n,
                           int *values, problems *list) {
    char *copy = strdup(text), *rest = copy;
    exit_code code = copy ? EXIT_OK : problem(list, EXIT_ENVIRONMENT, "out of memory");
    for (char *word; code == EXIT_OK && (word = strsep(&rest, ",")) != NULL;) {
        if (*n == most)
            code = problem(list, EXIT_INPUT, "%s%s: takes at most %d values", where, row->key, most);
        else
            code = row->words ? word_value(where, row, word, &values[*n], list)
                              : number_value(where, row, word, &values[*n], list);
        (*n)++;
    }
    free(copy);
    return code;
}

static exit_code set_text(char *field, size_t size, const char *where, const char *key, const char *text,
                          problems *list) {
    if (strlen(text) >= size) return problem(list, EXIT_INPUT, "%s%s: '%s' is too long", where, key, text);
    strcpy(field, text);
    return EXIT_OK;
}

static exit_code set_ranks(sweep *s, const char *where, const char *text, problems *list) {
    const axis_row ranks = {.key = "ranks", .least = 1, .most = CK_MAX_RANK_SUM};
    if (s->n_mixed) return problem(list, EXIT_INPUT, "%sranks: is given twice", where);
    exit_code code = read_list(where, &ranks, text, CK_MAX_EXPERTS, &s->n_mixed, s->mixed, list);
    if (code != EXIT_OK) return code;
    if (s->n_values[AXIS_RANK] == AXIS_MOST_VALUES)
        return problem(list, EXIT_INPUT, "%srank: takes at most %d values", where, AXIS_MOST_VALUES);
    s->values[AXIS_RANK][s->n_values[AXIS_RANK]++] = RANK_MIXED;
    return EXIT_OK;
}

static exit_code set_direction(sweep *s, const char *where, const char *text, problems *list) {
    const axis_row row = {.key = "direction", .words = DIRECTIONS};
    int unused;
    exit_code code = word_value(where, &row, text, &unused, list);
    return THEN(code, set_text(s->direction, sizeof s->direction, where, "direction", text, list));
}

/* A value given twice is measured once. */
static void drop_repeated(int *n, int *values) {
    int kept = 0;
    for (int i = 0; i < *n; i++) {
        int first = 0;
        while (values[first] != values[i]) first++;
        if (first >= kept) values[kept++] = values[i];
    }
    *n = kept;
}

exit_code sweep_set(sweep *s, const char *where, const char *key, const char *text, problems *list) {
    if (strcmp(key, "filter") == 0) return set_text(s->filter, sizeof s->filter, where, key, text, list);
    if (strcmp(key, "direction") == 0) return set_direction(s, where, text, list);
    if (strcmp(key, "ranks") == 0) return set_ranks(s, where, text, list);
    for (int a = 0; a < AXES; a++) {
        if (strcmp(key, ROWS[a].key) != 0) continue;
        exit_code code =
            read_list(where, &ROWS[a], text, AXIS_MOST_VALUES, &s->n_values[a], s->values[a], list);
        drop_repeated(&s->n_values[a], s->values[a]);
        return code;
    }
    return problem(
        list, EXIT_INPUT,
        "%s'%s' is no axis; axes are tokens, sequence, width, devices, experts, top-k, rank, ranks, "
        "mlp, attention-rank, vocabulary, layers, distribution, precision, direction",
        where, key);
}

/* ---- Defaults and combinations */

static void set_default(sweep *s, axis a, int n, const int *values) {
    if (s->n_values[a]) return;
    s->n_values[a] = n;
    memcpy(s->values[a], values, (size_t)n * sizeof *values);
}

void sweep_defaults(sweep *s, bool gpu) {
#define DEFAULT(a, ...)                                                                                      \
    set_default(s, a, (int)(sizeof(const int[]){__VA_ARGS__} / sizeof(int)), (const int[]){__VA_ARGS__})
    if (gpu) {
        DEFAULT(AXIS_TOKENS, 65536);
        DEFAULT(AXIS_WIDTH, 768, 2048);
        DEFAULT(AXIS_DEVICES, 16, 256, 4096);
        DEFAULT(AXIS_EXPERTS, 8);
        DEFAULT(AXIS_RANK, 16);
        DEFAULT(AXIS_VOCABULARY, 50257);
        DEFAULT(AXIS_LAYERS, 12);
        DEFAULT(AXIS_PRECISION, CK_BF16);
    }
    DEFAULT(AXIS_TOKENS, 1024);
    DEFAULT(AXIS_SEQUENCE, 128);
    DEFAULT(AXIS_WIDTH, 128);
    DEFAULT(AXIS_DEVICES, 8);
    DEFAULT(AXIS_EXPERTS, 2);
    DEFAULT(AXIS_TOP_K, 2);
    DEFAULT(AXIS_RANK, 8);
    DEFAULT(AXIS_MLP, CK_MLP_GELU);
    DEFAULT(AXIS_ATTENTION_RANK, 8);
    DEFAULT(AXIS_VOCABULARY, 512);
    DEFAULT(AXIS_LAYERS, 2);
    DEFAULT(AXIS_DISTRIBUTION, TOKENS_UNIFORM);
    DEFAULT(AXIS_PRECISION, CK_F32);
#undef DEFAULT
}

int sweep_points(const sweep *s, unsigned used) {
    int n = 1;
    for (int a = 0; a < AXES; a++)
        if (used >> a & 1) n *= s->n_values[a];
    return n;
}

/* The last axis changes fastest. */
point sweep_point(const sweep *s, unsigned used, int index) {
    point p = {.n_mixed = s->n_mixed};
    memcpy(p.mixed, s->mixed, sizeof p.mixed);
    for (int a = AXES - 1; a >= 0; a--) {
        int n = used >> a & 1 ? s->n_values[a] : 1;
        p.value[a] = s->values[a][index % n];
        index /= n;
    }
    return p;
}

/* ---- One point */

const char *point_problem(const point *p, unsigned used) {
    bool routed = (used >> AXIS_EXPERTS & 1) != 0;
    if (used >> AXIS_DEVICES & 1 && p->value[AXIS_DEVICES] > p->value[AXIS_TOKENS])
        return "there are more devices than tokens";
    if (routed && used >> AXIS_TOP_K & 1 && p->value[AXIS_TOP_K] > p->value[AXIS_EXPERTS])
        return "a token cannot choose more experts than there are";
    int sum = 0;
    for (int e = 0; routed && e < p->value[AXIS_EXPERTS]; e++)
        sum += p->value[AXIS_RANK] == RANK_MIXED ? p->mixed[e % p->n_mixed] : p->value[AXIS_RANK];
    if (sum > CK_MAX_RANK_SUM) return "the ranks of a device sum to more than 512";
    if (used >> AXIS_MLP & 1 && p->value[AXIS_MLP] == CK_MLP_SWIGLU && 2 * sum > CK_MAX_RANK_SUM)
        return "the ranks of a device sum to more than 256, which is the most with SwiGLU";
    return NULL;
}

void point_name(const point *p, unsigned used, char name[POINT_NAME_BYTES]) {
    size_t at = 0;
    name[0] = '\0';
    for (int a = 0; a < AXES; a++) {
        char *out = name + at;
        size_t room = POINT_NAME_BYTES - at;
        if (!(used >> a & 1) || (a == AXIS_MLP && p->value[a] == CK_MLP_GELU)) continue;
        if (ROWS[a].words)
            snprintf(out, room, "/%s", ROWS[a].words[p->value[a]]);
        else if (a == AXIS_RANK && p->value[a] == RANK_MIXED)
            for (int i = 0; i < p->n_mixed && i < 4; i++)
                snprintf(out + strlen(out), room - strlen(out), i ? "+%d" : "/r%d", p->mixed[i]);
        else
            snprintf(out, room, "/%s%d", ROWS[a].mark, p->value[a]);
        at += strlen(out);
    }
}

/* Of device d in shares that need not sum to one. */
static double weight_of(token_distribution how, int d, int n) {
    switch (how) {
    case TOKENS_ZIPF:
        return 1.0 / (1 + d);
    case TOKENS_SKEW:
        return d == 0 || n == 1 ? 1 : 1.0 / (n - 1);
    case TOKENS_ONE_TOKEN:
        return d == 0;
    default:
        return 1;
    }
}

void point_tokens(const point *p, int *tokens) {
    int n = p->value[AXIS_DEVICES], total = p->value[AXIS_TOKENS], left = total - n;
    token_distribution how = (token_distribution)p->value[AXIS_DISTRIBUTION];
    double sum = 0;
    for (int d = 0; d < n; d++) sum += weight_of(how, d, n);
    for (int d = 0; d < n; d++) {
        int extra = (int)((double)(total - n) * weight_of(how, d, n) / sum);
        tokens[d] = 1 + extra;
        left -= extra;
    }
    for (int d = 0; d < left; d++) tokens[d]++; /* rounding leaves less than one a device */
}
