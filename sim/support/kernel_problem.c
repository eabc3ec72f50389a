#include "support/kernel_problem.h"

#include <omp.h>

exit_code kernel_problem(problems *list, const ck_backend *backend, ck_status status, const char *doing) {
    if (status == CK_OK) return EXIT_OK;
    exit_code code = status == CK_NO_MEMORY || status == CK_UNAVAILABLE ? EXIT_ENVIRONMENT : EXIT_RUN;
    return problem(list, code, "%s: %s", doing, ck_last_error(backend));
}

void kernel_share_threads(const ck_backend *backend) {
    omp_set_num_threads(ck_threads(backend));
}

exit_code kernel_open(const char *name, int threads, ck_backend **out, problems *list) {
    exit_code code = kernel_problem(list, NULL, ck_open(name, threads, out), "opening the backend");
    if (code == EXIT_OK) kernel_share_threads(*out);
    return code;
}
