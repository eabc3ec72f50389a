/* cli_check.c - what the options of a command must satisfy together. */
#include <string.h>

#include "command/cli.h"

static void check_export(const cli_arguments *a, problems *list) {
    bool selects = a->population || a->one_seed || a->device >= 0;
    if (!a->table && !a->adapters)
        problem(list, EXIT_INPUT,
                "export: say what: --table NAME or --adapters DIR; `cohort export --help` lists the tables");
    if (selects && !a->adapters)
        problem(list, EXIT_INPUT,
                "export: --population, --seed and --device choose adapters; write --adapters DIR too");
    if (a->out && !a->table)
        problem(list, EXIT_INPUT, "export: --out is for a table; write --table NAME too");
    if (a->table && strcmp(a->table, "all") == 0 && !a->out)
        problem(list, EXIT_INPUT, "export: all tables need a folder; write --out DIR too");
    if (a->adapters && a->adapters[0] == '\0')
        problem(list, EXIT_INPUT, "export: --adapters is empty; give a folder");
}

static void check_data(const cli_arguments *a, problems *list) {
    if (!a->out)
        problem(list, EXIT_INPUT,
                "data: --out is missing; name the folder to write, for example --out data/NAME");
}

void cli_check_together(const cli_arguments *a, problems *list) {
    if (a->command == COMMAND_EXPORT) check_export(a, list);
    if (a->command == COMMAND_DATA) check_data(a, list);
    if (a->command == COMMAND_PRETRAIN && a->population && !a->out)
        problem(list, EXIT_INPUT, "pretrain: --population chooses what --out writes; write --out DIR too");
    if (a->command == COMMAND_GENERATE && a->n_prompts == 0)
        problem(list, EXIT_INPUT, "generate: --prompt is missing; `cohort generate --help` shows an example");
}
