#include "support/kernel_problem.h"

exit_code kernel_problem(problems *list, const ck_backend *backend, ck_status status, const char *doing) {
    if (status == CK_OK) return EXIT_OK;
    exit_code code = status == CK_NO_MEMORY || status == CK_UNAVAILABLE ? EXIT_ENVIRONMENT : EXIT_RUN;
    return problem(list, code, "%s: %s", doing, ck_last_error(backend));
}
