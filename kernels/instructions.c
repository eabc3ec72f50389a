#include "instructions.h"

#include <stdio.h>
#include <string.h>

static char missing[512];

static void __attribute__((unused)) need(const char *name, int there, const char *wanted) {
    size_t used = strlen(missing);
    if (!there && strcmp(wanted, "1") == 0)
        snprintf(missing + used, sizeof missing - used, "%s%s", used > 0 ? ", " : "", name);
}

const char *ck_instructions_missing(void) {
    const char *const *wanted = ck_instructions_wanted;
    missing[0] = '\0';
#define NEED(name, macro) need(name, __builtin_cpu_supports(name), *wanted++);
    INSTRUCTION_SETS(NEED)
    (void)wanted;
    return missing[0] ? missing : NULL;
}
