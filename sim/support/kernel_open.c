#include "support/kernel_open.h"

#include <omp.h>

void kernel_share_threads(const ck_backend *backend) {
    omp_set_num_threads(ck_threads(backend));
}

exit_code kernel_open(const char *name, int threads, ck_backend **out, problems *list) {
    exit_code code = kernel_problem(list, NULL, ck_open(name, threads, out), "opening the backend");
    if (code == EXIT_OK) kernel_share_threads(*out);
    return code;
}
