/* fuzz_settings.c - any text as a configuration: refused with a message, or loaded; and what was loaded is
 * written so that it loads again to the same text, and differs from itself in no key.
 *
 *   input = YAML [ \0 --set override ]... */
#include <stdlib.h>
#include <string.h>

#include "config/compare.h"
#include "config/config.h"
#include "memory_file.h"

enum { MOST_OVERRIDES = 8 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Splits at zero bytes; the copy ends with one. Returns the number of overrides. */
static int split(char *text, size_t size, const char *overrides[MOST_OVERRIDES]) {
    int n = 0;
    for (char *at = text + strlen(text); at < text + size && n < MOST_OVERRIDES; at += strlen(at))
        overrides[n++] = ++at;
    return n;
}

static settings *load(const char *text, size_t size, int n, const char *const *overrides) {
    char path[MEMORY_PATH_BYTES];
    settings *s = NULL;
    problems *list = problems_create();
    memory_file(text, size, path);
    exit_code code = settings_load(path, n, overrides, &s, list);
    if ((code == EXIT_OK) != (s != NULL) || (code == EXIT_OK) != (problems_count(list) == 0)) abort();
    problems_destroy(list);
    return s;
}

static void expect_round_trip(const settings *s) {
    char *text = settings_to_yaml(s);
    settings *again = load(text, strlen(text), 0, NULL);
    if (!again) abort();
    char *second = settings_to_yaml(again);
    char *differences = settings_differences(s, again);
    if (strcmp(text, second) != 0 || differences[0] != '\0') abort();
    free(differences);
    settings_destroy(again);
    free(second);
    free(text);
}

/* What --resume would say if the overrides were new. */
static void name_overrides(const settings *s, const char *text) {
    settings *plain = load(text, strlen(text), 0, NULL);
    if (plain) free(settings_differences(plain, s));
    settings_destroy(plain);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *overrides[MOST_OVERRIDES];
    char *text = malloc(size + 1);
    memcpy(text, data, size);
    text[size] = '\0';
    int n = split(text, size, overrides);
    settings *s = load(text, strlen(text), n, overrides);
    if (s) expect_round_trip(s);
    if (s && n > 0) name_overrides(s, text);
    settings_destroy(s);
    free(text);
    return 0;
}
