#include "command/options.h"

#include <stdlib.h>
#include <string.h>

static const double LARGEST = 1e6;

static exit_code read_number(const option *o, const char *value, problems *list) {
    char *end = NULL;
    double number = strtod(value, &end);
    if (end == value || *end || !(number >= o->least && number <= LARGEST))
        return problem(list, EXIT_INPUT, "%s %s: must be a number from %g to 1000000", o->name, value,
                       o->least);
    if (o->whole && number != (int)number)
        return problem(list, EXIT_INPUT, "%s %s: must be a whole number", o->name, value);
    if (o->whole)
        *o->whole = (int)number;
    else
        *o->real = number;
    return EXIT_OK;
}

static exit_code read_value(const option *o, const char *value, problems *list) {
    if (o->take) return o->take(o->into, o->name, value, list);
    if (!o->text) return read_number(o, value, list);
    *o->text = value;
    return EXIT_OK;
}

exit_code options_read(int n, char **arguments, const option *options, int most, const char **words,
                       int *n_words, problems *list) {
    for (int i = 0; i < n; i++) {
        const option *o = options;
        while (o->name && strcmp(o->name, arguments[i]) != 0) o++;
        if (!o->name && arguments[i][0] != '-' && *n_words < most) {
            words[(*n_words)++] = arguments[i];
            continue;
        }
        if (!o->name)
            return problem(list, EXIT_INPUT, "'%s' is not understood; cohort-bench help shows what is",
                           arguments[i]);
        if (o->flag) {
            *o->flag = true;
            continue;
        }
        if (i + 1 == n) return problem(list, EXIT_INPUT, "%s needs a value", arguments[i]);
        exit_code code = read_value(o, arguments[++i], list);
        if (code != EXIT_OK) return code;
    }
    return EXIT_OK;
}
