#include "configuration.h"
#include "config/config.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

problems *configuration_load_with(const char *text, const char *const *overrides, settings **out) {
    char folder[512], path[600];
    const char *temporary = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/cohort-XXXXXX", temporary ? temporary : "/tmp");
    cr_assert_not_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/c.yaml", folder);
    FILE *file = fopen(path, "wb");
    cr_assert_not_null(file);
    fputs(text, file);
    fclose(file);
    int n = 0;
    while (overrides && overrides[n]) n++;
    problems *list = problems_create();
    exit_code code = settings_load(path, n, overrides, out, list);
    cr_assert_eq(code, problems_count(list) ? EXIT_INPUT : EXIT_OK);
    cr_assert_eq(*out == NULL, code != EXIT_OK);
    unlink(path);
    rmdir(folder);
    return list;
}

problems *configuration_load(const char *text, settings **out) {
    return configuration_load_with(text, NULL, out);
}

const char *configuration_messages(const problems *list) {
    static char *text;
    size_t bytes = 0;
    free(text);
    text = NULL;
    FILE *out = open_memstream(&text, &bytes);
    for (int i = 0; i < problems_count(list); i++) fprintf(out, "%s\n", problems_message(list, i));
    fclose(out);
    return text;
}

settings *configuration_must_load(const char *text) {
    settings *s = NULL;
    problems *list = configuration_load(text, &s);
    cr_assert_eq(problems_count(list), 0, "%s", configuration_messages(list));
    problems_destroy(list);
    return s;
}

int configuration_has(const problems *list, const char *expected) {
    for (int i = 0; i < problems_count(list); i++)
        if (strstr(problems_message(list, i), expected)) return 1;
    return 0;
}

void configuration_must_fail(const char *text, const char *expected) {
    settings *s = NULL;
    problems *list = configuration_load(text, &s);
    cr_assert_eq(problems_count(list), 1, "expected one problem (%s) with\n%s\ngot:\n%s", expected, text,
                 configuration_messages(list));
    cr_assert(configuration_has(list, expected), "expected %s, got: %s", expected, problems_message(list, 0));
    problems_destroy(list);
}
