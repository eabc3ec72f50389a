/* The conformance cases without a test framework: PROGRAM [TAP_FILE|- [TEXT [WAVE]]] runs the cases whose "group::name" contains TEXT on
 * every usable backend, in every precision that it has, one line each and a comment with a hash of the results' bits; on the waves of the
 * table whose name contains WAVE. For machines that have no more than a compiler, and for tests/simt. */
#include <stdio.h>
#include <string.h>

#include "conformance/cases.h"

typedef struct {
    FILE *out;
    const char *filter;
    int count, failed;
} runner;

static void run_case(runner *r, ck_backend *backend, const conformance_group *group, const conformance_case *which,
                     ck_precision precision) {
    char name[256];
    check c = {0};
    snprintf(name, sizeof name, "%s::%s", group->name, which->name);
    if (strstr(name, r->filter) == NULL || !conformance_applies(which, backend, precision)) return;
    conformance_run(which, backend, precision, &c);
    r->count++;
    r->failed += !check_passed(&c);
    fprintf(r->out, "%sok - %s::%s, %s, %s\n", check_passed(&c) ? "" : "not ", group->name, which->name, ck_name(backend),
            precision == CK_BF16 ? "bf16" : "f32");
    fprintf(r->out, "# bits %016llx\n", (unsigned long long)c.bits);
    if (!check_passed(&c)) fprintf(r->out, "  %d of %d comparisons failed\n%s\n", c.failures, c.comparisons, c.message);
    fflush(r->out);
}

static void run_backend(runner *r, const char *name) {
    ck_backend *backend;
    if (ck_open(name, 0, &backend) != CK_OK) {
        fprintf(r->out, "not ok - backend::%s opens\n  %s\n", name, ck_last_error(NULL));
        r->count++, r->failed++;
        return;
    }
    for (int g = 0; g < n_conformance_groups; g++)
        for (int i = 0; i < conformance_groups[g]->n_cases; i++)
            for (ck_precision precision = CK_F32; precision <= CK_BF16; precision++)
                run_case(r, backend, conformance_groups[g], &conformance_groups[g]->cases[i], precision);
    ck_close(backend);
}

int main(int argc, char **argv) {
    bool to_file = argc > 1 && strcmp(argv[1], "-") != 0;
    runner r = {.out = to_file ? fopen(argv[1], "w") : stdout, .filter = argc > 2 ? argv[2] : ""};
    int count, usable = 0;
    const ck_backend_info *backends = ck_backends(&count);
    if (argc > 3) conformance_wave_text = argv[3];
    if (r.out == NULL) {
        fprintf(stderr, "cannot write %s\n", argv[1]);
        return 2;
    }
    for (int b = 0; b < count; b++) {
        if (backends[b].unavailable != NULL) {
            fprintf(r.out, "# backend %s: %s\n", backends[b].name, backends[b].unavailable);
            continue;
        }
        usable++;
        run_backend(&r, backends[b].name);
    }
    if (usable == 0) fprintf(r.out, "not ok - backend::one is usable\n"), r.count++, r.failed++;
    fprintf(r.out, "1..%d\n", r.count);
    if (to_file && fclose(r.out) != 0) return 2;
    return r.failed > 0;
}
