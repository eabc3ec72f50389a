#include "command/option_values.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>

uint64_t read_whole(const char *command, const char *option, const char *text, uint64_t least, uint64_t most,
                    problems *list) {
    char *end = NULL;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (!isdigit((unsigned char)text[0]) || *end != '\0' || errno != 0 || value < least || value > most)
        problem(list, EXIT_INPUT, "%s: --%s '%s' must be a whole number from %llu to %llu", command, option,
                text, (unsigned long long)least, (unsigned long long)most);
    return value;
}

double read_share(const char *option, const char *text, problems *list) {
    char *end = NULL;
    double share = strtod(text, &end);
    bool whole = isdigit((unsigned char)text[0]) || text[0] == '.';
    if (!whole || *end != '\0' || !(share > 0 && share < 1))
        problem(list, EXIT_INPUT, "data: --%s '%s' is no share; it must be above 0, below 1 (0.1)", option,
                text);
    return share;
}

double read_temperature(const char *text, problems *list) {
    char *end = NULL;
    double value = strtod(text, &end);
    bool whole = isdigit((unsigned char)text[0]) || text[0] == '.';
    if (!whole || *end != '\0' || !(value >= 0 && value <= 1e6))
        problem(list, EXIT_INPUT,
                "generate: --temperature '%s' must be a number from 0 to 1000000, such as 0.8", text);
    return value;
}
