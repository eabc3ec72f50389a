#include "result/own_file.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "result/trace.h"
#include "support/output_file.h"

static bool same_entry(const char *a, const char *b) {
    struct stat one, two;
    return stat(a, &one) == 0 && stat(b, &two) == 0 && one.st_dev == two.st_dev && one.st_ino == two.st_ino;
}

exit_code own_file_refuse(const char *command, const char *result, const char *path, problems *list) {
    static const char *const names[] = {"trace.h5", "checkpoint.h5", "config.yaml", BASE_NAME, "summary.csv"};
    char own[OUTPUT_PATH_BYTES], parent[OUTPUT_PATH_BYTES], target[OUTPUT_PATH_BYTES];
    int descriptor = -1;
    exit_code code = output_file_target(path, target, &descriptor, list);
    if (code != EXIT_OK || descriptor >= 0) return code;
    const char *slash = strrchr(target, '/'), *last = slash ? slash + 1 : target;
    snprintf(parent, sizeof parent, "%.*s", slash ? (int)(slash + 1 - target) : 1, slash ? target : ".");
    if (same_entry(target, result))
        return problem(list, EXIT_INPUT, "%s: --out %s is %s itself; give another file for the table",
                       command, path, result);
    bool beside = same_entry(parent, result);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(own, sizeof own, "%s/%s", result, names[i]);
        if (same_entry(target, own) || (beside && strcmp(last, names[i]) == 0))
            return problem(list, EXIT_INPUT,
                           "%s: --out %s is the result's own %s; give another file for the table", command,
                           path, names[i]);
    }
    return EXIT_OK;
}
