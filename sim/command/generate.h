/* generate.h - `cohort generate RESULT|CONFIG`: prints what devices write after a prompt. */
#ifndef COHORT_GENERATE_H
#define COHORT_GENERATE_H

#include "command/cli.h"
#include "support/problems.h"

exit_code generate_texts(const cli_arguments *a, problems *list);

#endif
