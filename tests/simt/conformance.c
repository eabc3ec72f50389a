/* The conformance cases without a test framework:
 *
 *     PROGRAM [--limits pairs|all] [--f32] [TAP_FILE|- [TEXT [WAVE]]]
 *
 * runs the cases whose "group::name" contains TEXT on every usable backend, in every precision that it has,
 * one line each and a comment with a hash of the results' bits; on the waves of the table whose name contains
 * WAVE. For machines that have no more than a compiler, and for tests/simt.
 *
 * --limits runs the CUDA backend under settings of COHORT_CUDA_LIMITS that between them have every two limits
 * in all four combinations of their large and small values; without it, as the variable says. With "pairs"
 * each case has each wave under a setting and under the opposite one, and its waves have different ones:
 * where devices may also learn only in part, all learn under the one and some under the other. Whole models
 * in two precisions, which take longest, have every wave in one of them, in turn; of those that learn, all devices learn
 * on every other of these waves, and some on the others. With "all" every case runs on all waves under every
 * setting.
 *
 * --f32 leaves out bf16: in pairs, whole models then have half of the waves. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conformance/cases.h"
#include "cuda/limits_table.h"

typedef enum { LIMITS_GIVEN, LIMITS_PAIRS, LIMITS_ALL } limits_mode;

typedef struct {
    FILE *out;
    const char *filter, *backend;
    limits_mode mode;
    ck_precision last; /* precisions up to it */
    bool both;         /* the case at hand is for both precisions */
    int count, failed;
} runner;

/* ---- Settings. 0: all large, 5: all small; k + 1 has small those limits whose number has bit k, k + 6 the
 * others. So settings s and s + 5 are opposite, and of two limits, whose numbers differ in a bit, each is
 * small where the other is not in a setting of the pair. */

enum { LIMIT_BITS = 4, SETTINGS = 2 * (LIMIT_BITS + 1) };

static const struct {
    const char *name;
    int64_t small;
} limits[] = {
#define X(name, large, small, least, most) {#name, small},
    CUDA_LIMITS(X)
#undef X
};
enum { N_LIMITS = sizeof limits / sizeof *limits };
_Static_assert(N_LIMITS <= 1 << LIMIT_BITS, "each limit needs a number of LIMIT_BITS bits");

static void setting_text(int setting, char *text, size_t size) {
    int bit = setting % (LIMIT_BITS + 1) - 1, length = 0;
    bool opposite = setting > LIMIT_BITS;
    snprintf(text, size, "%s", opposite ? "small" : "large");
    for (int i = 0; i < N_LIMITS && bit >= 0; i++)
        if ((i >> bit & 1) != opposite)
            length += snprintf(text + length, size - (size_t)length, "%s%s=%lld", length ? "," : "",
                               limits[i].name, (long long)limits[i].small);
}

static void choose_setting(int setting) {
    char text[1024];
    setting_text(setting, text, sizeof text);
    setenv("COHORT_CUDA_LIMITS", text, 1);
}

static void print_settings(const runner *r) {
    char text[1024];
    for (int s = 0; s < SETTINGS && r->mode != LIMITS_GIVEN; s++) {
        setting_text(s, text, sizeof text);
        fprintf(r->out, "# setting %d: COHORT_CUDA_LIMITS=%s\n", s, text);
    }
}

/* ---- Cases */

/* setting: its number, or -1: what the variable says. */
static void run_wave(const runner *r, const conformance_case *which, ck_precision precision, int wave,
                     learn_pattern learn, int setting, verdict *v) {
    ck_backend *backend;
    int failures = v->failures;
    if (setting >= 0) choose_setting(setting);
    if (ck_open(r->backend, 0, &backend) != CK_OK) {
        verdict_fail(v, "%s", ck_last_error(NULL));
        return;
    }
    conformance_run_on(which, backend, precision, wave, learn, v);
    ck_close(backend);
    if (v->failures > failures && setting >= 0)
        verdict_fail(v, "that was on wave '%s' with setting %d", wave_specs[wave].name, setting);
}

static void report(runner *r, const conformance_case *which, ck_precision precision, const char *under,
                   const verdict *v) {
    r->count++;
    if (v->comparisons == 0 && v->failures == 0 && conformance_wave_text[0]) {
        fprintf(r->out, "ok - %s::%s, %s, %s%s # SKIP these waves have nothing of it\n", which->group,
                which->variant.name, r->backend, precision == CK_BF16 ? "bf16" : "f32", under);
        return;
    }
    r->failed += !verdict_passed(v);
    fprintf(r->out, "%sok - %s::%s, %s, %s%s\n", verdict_passed(v) ? "" : "not ", which->group,
            which->variant.name, r->backend, precision == CK_BF16 ? "bf16" : "f32", under);
    fprintf(r->out, "# bits %016llx\n", (unsigned long long)v->bits);
    if (!verdict_passed(v))
        fprintf(r->out, "  %d of %d comparisons failed\n%s\n", v->failures, v->comparisons, v->message);
    fflush(r->out);
}

/* number: of the case. turn: 0 or 1, of the two settings that a wave has. */
static int setting_of(const runner *r, int number, int wave, ck_precision precision, int turn) {
    if (r->mode == LIMITS_GIVEN) return -1;
    bool opposite = (precision == CK_BF16) != (turn == 1);
    return (number + wave + (opposite ? SETTINGS / 2 : 0)) % SETTINGS;
}

static int turns_of(const runner *r, const conformance_case *which) {
    if (r->mode == LIMITS_PAIRS) return which->whole ? 1 : 2;
    return which->learns ? 2 : 1;
}

static bool alternates(const runner *r, const conformance_case *which) {
    return r->mode == LIMITS_PAIRS && which->whole && r->both;
}

static bool has_wave(const runner *r, const conformance_case *which, int wave, ck_precision precision) {
    return !alternates(r, which) || (wave % 2 == 1) == (precision == CK_BF16);
}

static learn_pattern pattern_of(const runner *r, const conformance_case *which, int wave, int turn) {
    bool mixed = alternates(r, which) ? wave / 2 % 2 == 1 : turn == 1;
    return which->learns && mixed ? LEARN_MIXED : LEARN_ALL;
}

static void run_case(runner *r, const conformance_case *which, int number, ck_precision precision) {
    for (int s = 0; s < (r->mode == LIMITS_ALL ? (int)SETTINGS : 1); s++) {
        verdict v = {0};
        char under[32] = "";
        if (r->mode == LIMITS_ALL) snprintf(under, sizeof under, ", setting %d", s);
        for (int w = 0; w < n_wave_specs; w++)
            for (int turn = 0; turn < turns_of(r, which) && has_wave(r, which, w, precision); turn++)
                run_wave(r, which, precision, w, pattern_of(r, which, w, turn),
                         r->mode == LIMITS_ALL ? s : setting_of(r, number, w, precision, turn), &v);
        report(r, which, precision, under, &v);
    }
}

static bool is_selected(const runner *r, const conformance_case *which) {
    char name[256];
    snprintf(name, sizeof name, "%s::%s", which->group, which->variant.name);
    return strstr(name, r->filter) != NULL;
}

static void run_backend(runner *r) {
    ck_backend *backend;
    if (ck_open(r->backend, 0, &backend) != CK_OK) {
        fprintf(r->out, "not ok - backend::%s opens\n  %s\n", r->backend, ck_last_error(NULL));
        r->count++, r->failed++;
        return;
    }
    int n;
    const conformance_case *all = conformance_cases(&n);
    for (int i = 0; i < n; i++) {
        r->both =
            conformance_applies(&all[i], backend, CK_F32) && conformance_applies(&all[i], backend, CK_BF16);
        for (ck_precision precision = CK_F32; precision <= r->last; precision++)
            if (is_selected(r, &all[i]) && conformance_applies(&all[i], backend, precision))
                run_case(r, &all[i], i, precision);
    }
    if (ck_note(backend)[0]) fprintf(r->out, "# %s: %s\n", r->backend, ck_note(backend));
    ck_close(backend);
}

static void run_backends(runner *r) {
    int count, usable = 0;
    const ck_backend_info *backends = ck_backends(&count);
    print_settings(r);
    for (int b = 0; b < count; b++) {
        if (backends[b].unavailable != NULL) {
            fprintf(r->out, "# backend %s: %s\n", backends[b].name, backends[b].unavailable);
            continue;
        }
        usable++;
        r->backend = backends[b].name;
        runner of_backend = *r;
        if (strcmp(r->backend, "cuda") != 0) of_backend.mode = LIMITS_GIVEN;
        run_backend(&of_backend);
        r->count = of_backend.count, r->failed = of_backend.failed;
    }
    if (usable == 0) fprintf(r->out, "not ok - backend::one is usable\n"), r->count++, r->failed++;
    fprintf(r->out, "1..%d\n", r->count);
}

/* Takes --limits and its value off the arguments; false: the value is unknown. */
static bool read_mode(int *argc, char ***argv, limits_mode *mode) {
    *mode = LIMITS_GIVEN;
    if (*argc < 2 || strcmp((*argv)[1], "--limits") != 0) return true;
    const char *text = *argc > 2 ? (*argv)[2] : "";
    *mode = strcmp(text, "pairs") == 0 ? LIMITS_PAIRS : strcmp(text, "all") == 0 ? LIMITS_ALL : LIMITS_GIVEN;
    *argc -= 2, *argv += 2;
    return *mode != LIMITS_GIVEN;
}

int main(int argc, char **argv) {
    limits_mode mode;
    if (!read_mode(&argc, &argv, &mode)) {
        fprintf(stderr, "--limits must be pairs or all\n");
        return 2;
    }
    ck_precision last = CK_BF16;
    if (argc > 1 && strcmp(argv[1], "--f32") == 0) last = CK_F32, argc--, argv++;
    bool to_file = argc > 1 && strcmp(argv[1], "-") != 0;
    runner r = {.out = to_file ? fopen(argv[1], "w") : stdout,
                .filter = argc > 2 ? argv[2] : "",
                .mode = mode,
                .last = last};
    if (argc > 3) conformance_wave_text = argv[3];
    if (r.out == NULL) {
        fprintf(stderr, "cannot write %s\n", argv[1]);
        return 2;
    }
    run_backends(&r);
    if (to_file && fclose(r.out) != 0) return 2;
    return r.failed > 0;
}
