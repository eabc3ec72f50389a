/* tap.hpp - the few lines of a test runner: PROGRAM [TAP_FILE [TEXT]] runs the tests whose "group::name"
 * contains TEXT. */
#ifndef COHORT_SIMT_TAP_HPP
#define COHORT_SIMT_TAP_HPP

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct tap_test {
    const char *name;
    void (*run)();
};

static char tap_message[2048];

/* The first failure of the running test. */
__attribute__((format(printf, 1, 2))) static inline void tap_fail(const char *format, ...) {
    va_list arguments;
    if (tap_message[0]) return;
    va_start(arguments, format);
    vsnprintf(tap_message, sizeof tap_message, format, arguments);
    va_end(arguments);
}

#define TAP_CHECK(condition, ...)                                                                            \
    do {                                                                                                     \
        if (!(condition)) tap_fail(__VA_ARGS__);                                                             \
    } while (0)

static inline bool tap_selected(const char *group, const char *name, const char *filter) {
    char full[256];
    snprintf(full, sizeof full, "%s::%s", group, name);
    return strstr(full, filter) != nullptr;
}

static inline int tap_main(int argc, char **argv, const char *group, const tap_test *tests, int n_tests) {
    FILE *out = argc > 1 ? fopen(argv[1], "w") : stdout;
    const char *filter = argc > 2 ? argv[2] : "";
    int planned = 0, failed = 0;
    if (!out) {
        fprintf(stderr, "cannot write %s\n", argv[1]);
        return 2;
    }
    for (int i = 0; i < n_tests; i++) planned += tap_selected(group, tests[i].name, filter);
    fprintf(out, "1..%d\n", planned);
    for (int i = 0; i < n_tests; i++) {
        if (!tap_selected(group, tests[i].name, filter)) continue;
        tap_message[0] = 0;
        fflush(out);
        tests[i].run();
        failed += tap_message[0] != 0;
        fprintf(out, "%sok - %s::%s\n", tap_message[0] ? "not " : "", group, tests[i].name);
        if (tap_message[0]) fprintf(out, "  %s\n", tap_message);
    }
    if (out != stdout) fclose(out);
    return failed > 0;
}

#endif
