/* reference.c - the reference page of all settings, from the table. */
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "config/table.h"

static const char PREFACE[] = "# Settings\n\n"
                              "A configuration is one YAML file, a map of the keys below. Keys not written "
                              "have the default; unknown and repeated keys are\n"
                              "refused. Whole numbers are digits (`1_000_000` is fine); paths are relative "
                              "to the current directory. Any key can be set on\n"
                              "the command line: `--set train.rounds=5`, `--set populations.0.rank=4`.\n\n"
                              "    seed: 42\n"
                              "    base: {layers: 4, width: 128, heads: 4, pretrain: {text: synthetic, "
                              "tokens: 5_000_000}}   # or {checkpoint: FOLDER}\n"
                              "    data: {corpus: synthetic, tokens_per_device: 40_000, sequence: 128}\n"
                              "    train: {rounds: 20, local_steps: 10, batch: 8, learning_rate: 2e-3, "
                              "router: {every: 30, steps: 10}}\n"
                              "    populations:\n"
                              "      - {name: comigs-1g1s, method: comigs, generalists: 1, specialists: 1, "
                              "rank: 8, devices: 4, seeds: [42, 45, 47]}\n";

static const char SWEEP[] =
    "\n## A sweep\n\n"
    "`sweep` makes populations that are the points of a grid. An axis is any key of a population, in dots, "
    "and "
    "a list of its values:\n\n"
    "    sweep:\n"
    "      population: {devices: 4}                            # keys that all points have\n"
    "      cross:                                              # all combinations, the last axis fastest\n"
    "        - {method: [local, fedavg, comigs]}               # an axis\n"
    "        - {data.dirichlet: [0.1, 1, 100]}                 # another one\n"
    "        - {zip: {generalists: [1, 2], specialists: [1, 0]}}   # keys that change together\n"
    "      points: [{method: fedsa, data.dirichlet: 1}]        # points one by one, after cross or instead\n"
    "      seeds: [42, 45]                                     # of every point\n"
    "      name: \"{method}-a{data.dirichlet}-{generalists}g\"  # without it: made from the axes\n"
    "      exclude: [{method: local, data.dirichlet: 100}]     # points that have all these values\n\n"
    "Where a key takes a list with a number for each device, such a list is a value: `{specialists: [[1, 2], "
    "[2, 1]]}`. In summary.csv every\naxis is a column. Beside a list of `populations`, `sweep: {axes: "
    "[method, data.dirichlet]}` says which keys they are compared by. A sweep\nhas at most 5,000 "
    "populations. "
    "`cohort check` prints them.\n";

static const char TUNE[] =
    "\n## Values that are tried first\n\n"
    "`tune` tries values of keys of populations before the run, and gives each method the best of them by "
    "validation loss:\n\n"
    "    tune:\n"
    "      train.learning_rate: [5e-4, 1e-3, 2e-3, 4e-3]       # a key that is a number; several are "
    "crossed\n"
    "      rounds: 5                                           # of each trial; without it a quarter of "
    "train.rounds\n"
    "      per: method                                         # or population: one choice for each name\n\n"
    "The first population of each method, or of each name, is tried with every value. A trial is a run of so "
    "many rounds, over which its learning\nrates go down; what counts is the mean validation loss after its "
    "last round, and of equal ones the smaller value. A trial that diverges is never\nchosen. Keys that a "
    "population writes itself are refused here, as are `devices` and those of `data`. At most 64 "
    "combinations. "
    "The trials are the\nresult in FOLDER/tuning, the choice is in FOLDER/tuning.csv, and FOLDER/config.yaml "
    "has the chosen values and no `tune`.\n";

static void write_default(FILE *out, const setting_row *row) {
    if (row->required)
        fputs("required", out);
    else if (row->initial)
        fprintf(out, "`%s`", row->initial);
    else
        fputs(row->otherwise, out);
}

static const char *type_in_words(value_type type) {
    switch (type) {
    case VALUE_INT:
    case VALUE_INT64:
        return "whole number";
    case VALUE_SEED:
        return "seed";
    case VALUE_DOUBLE:
        return "number";
    case VALUE_TEXT:
        return "text";
    case VALUE_WORD:
    case VALUE_CHOICE:
        return "word";
    case VALUE_COUNTS:
        return "whole number, or one for each device";
    case VALUE_NUMBERS:
        return "number, or one for each device";
    case VALUE_SEEDS:
        break;
    }
    return "list of seeds";
}

static void write_line(FILE *out, const setting_row *row) {
    char *limits = value_limits(row);
    fprintf(out, "| `%s` | %s | ", row->path, type_in_words(row->type));
    write_default(out, row);
    fprintf(out, " | %s | %s | %s |\n", limits, row->unit ? row->unit : "", row->help);
    free(limits);
}

static void write_table(FILE *out, row_scope scope) {
    int count = 0;
    const setting_row *rows = table_rows(&count);
    fputs("\n| key | type | default | limits | unit | meaning |\n|---|---|---|---|---|---|\n", out);
    for (int i = 0; i < count; i++)
        if (rows[i].scope == scope) write_line(out, &rows[i]);
}

char *settings_reference(void) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = config_memory(open_memstream(&text, &bytes));
    fputs(PREFACE, out);
    fputs("\n## Of the run: at the top level only\n", out);
    write_table(out, SCOPE_RUN);
    fputs("\n## Of the run or of one population\n\nAt the top level: the default of all populations. In an "
          "entry of `populations`: its "
          "own.\n",
          out);
    write_table(out, SCOPE_BOTH);
    fputs("\n## Of an entry of `populations`\n", out);
    write_table(out, SCOPE_POPULATION);
    fputs(SWEEP, out);
    fputs(TUNE, out);
    return fclose(out) == 0 ? config_memory(text) : NULL;
}
