#include "instructions.h"

#include <stddef.h>

#define TEXT_OF(macro)      #macro
#define WANTED(name, macro) TEXT_OF(macro),

const char *const ck_instructions_wanted[] = {INSTRUCTION_SETS(WANTED) NULL};
