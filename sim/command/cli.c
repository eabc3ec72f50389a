/* cli.c - commands and options. */
#include "command/cli.h"

#include <getopt.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "command/help.h"
#include "command/option_values.h"
#include "config/nearest.h"
#include "config/tree.h"

#ifndef COHORT_GIT_REVISION
#define COHORT_GIT_REVISION "unknown"
#endif

const char *cli_version(void) {
    return "cohort 0.1.0 (" COHORT_GIT_REVISION ")";
}

/* ---- The tables ---- */

enum {
    ON_RUN = 1 << COMMAND_RUN,
    ON_CHECK = 1 << COMMAND_CHECK,
    ON_PRETRAIN = 1 << COMMAND_PRETRAIN,
    ON_DATA = 1 << COMMAND_DATA
};
enum { ON_EXPORT = 1 << COMMAND_EXPORT, ON_PLOT = 1 << COMMAND_PLOT, ON_GENERATE = 1 << COMMAND_GENERATE };
enum { ON_TABLE = 1 << COMMAND_TABLE };
enum { ON_ALL = (1 << (COMMAND_VERSION + 1)) - 1, ON_CONFIG = ON_RUN | ON_CHECK | ON_PRETRAIN | ON_GENERATE };

typedef struct {
    const char *name, *value; /* value: what it is called in help; NULL: takes none */
    unsigned commands;
    char letter; /* what getopt_long returns */
    const char *help;
} option_row;

static const option_row OPTIONS[] = {
    {"set", "KEY=VALUE", ON_CONFIG, 's', "override a setting; may be repeated (cohort help settings)"},
    {"out", "DIR", ON_RUN | ON_PRETRAIN, 'o', "folder to write, new or empty"},
    {"population", "NAME", ON_PRETRAIN, 'p',
     "with --out: the base with the base.variant of that population; its linears alone, if DIR ends in "
     ".safetensors"},
    {"out", "DIR", ON_DATA, 'o', "folder to write, new or empty, which data.corpus names (required)"},
    {"table", "NAME", ON_EXPORT, 'T',
     "populations, devices, mixture, loss, routing, tokens, traffic, windows, metrics, time, or all"},
    {"out", "PATH", ON_EXPORT, 'o',
     "CSV file for the table (default: standard output); folder for --table all"},
    {"adapters", "DIR", ON_EXPORT, 'a', "write devices' experts as PEFT folders into a new or empty folder"},
    {"population", "NAME", ON_EXPORT, 'p', "with --adapters: only populations of that name"},
    {"seed", "N", ON_EXPORT, 'S', "with --adapters: only populations of that seed"},
    {"device", "N", ON_EXPORT, 'd', "with --adapters: only the device of that number, from 0"},
    {"metric", "NAME,...", ON_TABLE, 'M',
     "columns of summary.csv that were measured (default: test_ppl_mean)"},
    {"rows", "KEY,...", ON_TABLE, 'R',
     "settings that make the rows (default: population; with --columns: method, and what else is needed)"},
    {"columns", "KEY", ON_TABLE, 'C', "a setting whose values make the columns (default: the metrics do)"},
    {"baseline", "NAME", ON_TABLE, 'N',
     "a population, or a method: differences to it over equal seeds, with a confidence interval"},
    {"markdown", NULL, ON_TABLE, 'D', "a table for Markdown"},
    {"latex", NULL, ON_TABLE, 'L', "a tabular for LaTeX"},
    {"csv", NULL, ON_TABLE, 'c', "a line for each population and metric, with all digits"},
    {"out", "FILE", ON_TABLE, 'o', "file to write (default: standard output)"},
    {"prompt", "TEXT", ON_GENERATE, 'm',
     "text to go on from, of a base whose tokens are bytes; may be repeated"},
    {"tokens", "N,N,...", ON_GENERATE, 'k', "token ids to go on from; prints ids; may be repeated"},
    {"population", "NAME", ON_GENERATE, 'p', "only populations of that name"},
    {"device", "N", ON_GENERATE, 'd', "only the device of that number, from 0 (default: all)"},
    {"max-tokens", "N", ON_GENERATE, 'n', "tokens to add, at most (default 64)"},
    {"temperature", "X", ON_GENERATE, 'u', "sample at this temperature (default 0: the likeliest token)"},
    {"top-k", "N", ON_GENERATE, 'K', "sample among the N likeliest tokens (default: all)"},
    {"seed", "N", ON_GENERATE, 'S', "of the sampling's random numbers (default 0)"},
    {"eos", "N", ON_GENERATE, 'E',
     "token id that ends a text (default: eos_token_id of the base's config.json)"},
    {"json", NULL, ON_GENERATE, 'j', "print JSON: text, token ids and the reason of the end, for each text"},
    {"speed", NULL, ON_GENERATE, 'V', "also measure: tokens a second, and the share of the memory's rate"},
    {"out", "DIR", ON_PLOT, 'o', "folder for the figures (default: RESULT/figures)"},
    {"metric", "COLUMN", ON_PLOT, 'M',
     "column of summary.csv that the figures of a sweep show (default: test_ppl_mean)"},
    {"axis", "KEY", ON_PLOT, 'x',
     "setting along which they show it (default: the number that takes most values)"},
    {"resume", NULL, ON_RUN, 'r',
     "go on from the last checkpoint in --out, or in the result that CONFIG is the config.yaml of; run "
     "populations that the result lacks"},
    {"retry-failed", NULL, ON_RUN, 'F', "with --resume: run populations that diverged again"},
    {"backend", "NAME", ON_CONFIG, 'b', "auto, cpu or cuda: short for --set backend=NAME"},
    {"threads", "N", ON_CONFIG, 't', "CPU threads: short for --set threads=N"},
    {"processes", "N", ON_RUN | ON_CHECK, 'P',
     "share the devices among N processes of this machine, started by mpirun"},
    {"no-measure", NULL, ON_CHECK, 'U', "do not time a few steps to say how long a run takes"},
    {"quiet", NULL, ON_RUN | ON_PRETRAIN | ON_DATA | ON_GENERATE, 'q', "print nothing but errors"},
    {"valid-share", "X", ON_DATA, 'v', "share of the text for validation (default 0.1)"},
    {"test-share", "X", ON_DATA, 'e', "share of the text for testing (default 0.1)"},
    {"by-task", NULL, ON_DATA, 'B', "examples: a source NAME/TASKS for each list of tasks"},
    {"longest", "N", ON_DATA, 'l', "examples: leave out those of more than N tokens, and count them"},
    {"end", "ID", ON_DATA, 'i', "examples: put this token behind every response"},
    {"vocabulary", "N", ON_DATA, 'w', "examples: refuse token ids that are not below N"},
    {"help", NULL, ON_ALL, 'h', "describe the command"},
};
enum { N_OPTIONS = sizeof OPTIONS / sizeof *OPTIONS };

typedef struct {
    const char *name, *words;
    int least_words, most_words;
    const char *summary, *help;
} command_row;

static const command_row COMMANDS[] = {
    [COMMAND_RUN] = {"run", "CONFIG", 1, 1, "run an experiment", RUN_HELP},
    [COMMAND_CHECK] = {"check", "CONFIG", 1, 1,
                       "validate a configuration, print its memory plan and a run's time", CHECK_HELP},
    [COMMAND_PRETRAIN] = {"pretrain", "CONFIG", 1, 1, "make the base a configuration describes",
                          PRETRAIN_HELP},
    [COMMAND_DATA] = {"data", "NAME=PATH...", 1, CLI_MAX_WORDS, "text into token shards", DATA_HELP},
    [COMMAND_INFO] = {"info", "RESULT", 1, 1, "what a result holds", INFO_HELP},
    [COMMAND_EXPORT] = {"export", "RESULT", 1, 1, "a result's tables as CSV, its adapters as PEFT folders",
                        EXPORT_HELP},
    [COMMAND_TABLE] = {"table", "RESULT...", 1, CLI_MAX_WORDS, "results side by side, over their seeds",
                       TABLE_HELP},
    [COMMAND_PLOT] = {"plot", "RESULT", 1, 1, "a result's figures", PLOT_HELP},
    [COMMAND_GENERATE] = {"generate", "RESULT|CONFIG", 1, 1, "text from devices of a result", GENERATE_HELP},
    [COMMAND_HELP] = {"help", "[TOPIC]", 0, 1, "this page, a command, settings or methods", HELP_HELP},
    [COMMAND_VERSION] = {"version", "", 0, 0, "version and revision", VERSION_HELP},
};
enum { N_COMMANDS = sizeof COMMANDS / sizeof *COMMANDS };

int cli_find(const char *name) {
    for (int i = 0; i < N_COMMANDS; i++)
        if (strcmp(COMMANDS[i].name, name) == 0) return i;
    return -1;
}

/* ---- Help ---- */

static bool takes(cli_command command, const option_row *option) {
    return option->commands >> command & 1;
}

/* Words from column `indent` on, in lines that end before column 100. */
static void put_wrapped(FILE *out, int indent, const char *text) {
    enum { COLUMNS = 100 };
    int column = indent;
    for (const char *word = text; *word;) {
        int length = (int)strcspn(word, " ");
        bool first = column == indent;
        if (!first && column + 1 + length >= COLUMNS) {
            fprintf(out, "\n%*s", indent, "");
            column = indent, first = true;
        }
        column += fprintf(out, "%s%.*s", first ? "" : " ", length, word);
        word += length + (int)strspn(word + length, " ");
    }
    fputc('\n', out);
}

void cli_describe(cli_command command, FILE *out) {
    const command_row *c = &COMMANDS[command];
    fprintf(out, "cohort %s %s - %s\n\n%s\n", c->name, c->words, c->summary, c->help);
    for (int i = 0; i < N_OPTIONS; i++) {
        char typed[40];
        if (!takes(command, &OPTIONS[i])) continue;
        snprintf(typed, sizeof typed, "--%s %s", OPTIONS[i].name, OPTIONS[i].value ? OPTIONS[i].value : "");
        fprintf(out, "  %-20s ", typed);
        put_wrapped(out, 23, OPTIONS[i].help);
    }
}

void cli_describe_all(FILE *out) {
    fputs("cohort - populations of on-device language models that learn together\n\n", out);
    for (int i = 0; i < N_COMMANDS; i++) {
        char typed[64];
        snprintf(typed, sizeof typed, "cohort %s %s", COMMANDS[i].name, COMMANDS[i].words);
        fprintf(out, "  %-26s %s\n", typed, COMMANDS[i].summary);
    }
    fputs("\nEvery command takes --help.\n\n"
          "  cohort run configs/quickstart.yaml\n\n",
          out);
    exit_codes_describe(out);
}

/* ---- Parsing ---- */

static exit_code unknown_command(const char *name, problems *list) {
    const char *names[N_COMMANDS];
    for (int i = 0; i < N_COMMANDS; i++) names[i] = COMMANDS[i].name;
    const char *near = nearest_word(name, names, N_COMMANDS);
    if (near) return problem(list, EXIT_INPUT, "unknown command '%s'; did you mean %s?", name, near);
    return problem(list, EXIT_INPUT, "unknown command '%s'; `cohort help` lists them", name);
}

/* The first word is the command; --help and --version work in its place. */
static exit_code find_command(int argc, char **argv, cli_arguments *out, problems *list) {
    const char *first = argc > 1 ? argv[1] : "help";
    if (strcmp(first, "--help") == 0 || strcmp(first, "-h") == 0) first = "help";
    if (strcmp(first, "--version") == 0) first = "version";
    int command = cli_find(first);
    if (command < 0) return unknown_command(first, list);
    out->command = (cli_command)command;
    return EXIT_OK;
}

static void unknown_option(cli_command command, const char *typed, problems *list) {
    const char *names[N_OPTIONS];
    char name[64];
    int n = 0;
    for (int i = 0; i < N_OPTIONS; i++)
        if (takes(command, &OPTIONS[i])) names[n++] = OPTIONS[i].name;
    snprintf(name, sizeof name, "%.*s", (int)strcspn(typed, "="), typed);
    const char *near = nearest_word(name + strspn(name, "-"), names, n);
    if (near)
        problem(list, EXIT_INPUT, "%s: unknown option %s; did you mean --%s?", COMMANDS[command].name, name,
                near);
    else
        problem(list, EXIT_INPUT, "%s: unknown option %s; `cohort %s --help` lists them",
                COMMANDS[command].name, name, COMMANDS[command].name);
}

/* What getopt_long did not take: a letter, a flag with a value, or a name it does not know. */
static void refuse_option(cli_command command, const char *typed, problems *list) {
    char letter[3] = {'-', (char)optopt, '\0'};
    if (optopt != 0 && strncmp(typed, "--", 2) == 0)
        problem(list, EXIT_INPUT, "%s: %.*s takes no value; write it alone", COMMANDS[command].name,
                (int)strcspn(typed, "="), typed);
    else
        unknown_option(command, optopt != 0 ? letter : typed, list);
}

static void missing_value(cli_command command, char letter, problems *list) {
    for (int i = 0; i < N_OPTIONS; i++)
        if (takes(command, &OPTIONS[i]) && OPTIONS[i].letter == letter && OPTIONS[i].value)
            problem(list, EXIT_INPUT, "%s: --%s has no value; write --%s %s", COMMANDS[command].name,
                    OPTIONS[i].name, OPTIONS[i].name, OPTIONS[i].value);
}

static void add_override(cli_arguments *a, const char *key, const char *value, problems *list) {
    if (a->n_overrides == CLI_MAX_WORDS) {
        problem(list, EXIT_INPUT,
                "more than %d overrides on the command line; write them into the configuration",
                CLI_MAX_WORDS);
        return;
    }
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = config_memory(open_memstream(&text, &bytes));
    fprintf(out, "%s%s", key, value);
    fclose(out);
    a->overrides[a->n_overrides++] = config_memory(text);
}

/* Of two values one would be ignored. */
static void refuse_second(cli_command command, int letter, problems *list) {
    for (int i = 0; i < N_OPTIONS; i++)
        if (takes(command, &OPTIONS[i]) && OPTIONS[i].letter == letter && OPTIONS[i].value)
            problem(list, EXIT_INPUT, "%s: --%s is given twice (again as '%s'); write it once",
                    COMMANDS[command].name, OPTIONS[i].name, optarg);
}

static void take_data_option(cli_arguments *a, int letter, problems *list) {
    const char *command = COMMANDS[a->command].name;
    switch (letter) {
    case 'v':
        a->shares_given = true;
        a->valid_share = read_share("valid-share", optarg, list);
        break;
    case 'e':
        a->shares_given = true;
        a->test_share = read_share("test-share", optarg, list);
        break;
    case 'B':
        a->by_task = true;
        break;
    case 'l':
        a->longest = (int64_t)read_whole(command, "longest", optarg, 2, INT_MAX, list);
        break;
    case 'i':
        a->end = (int64_t)read_whole(command, "end", optarg, 0, INT_MAX - 1, list);
        break;
    case 'w':
        a->vocabulary = (int64_t)read_whole(command, "vocabulary", optarg, 1, INT_MAX, list);
        break;
    default:
        break;
    }
}

static void add_prompt(cli_arguments *a, bool tokens, const char *text, problems *list) {
    if (a->n_prompts > 0 && tokens != a->tokens)
        problem(list, EXIT_INPUT, "generate: --prompt and --tokens exclude each other; write one of them");
    if (a->n_prompts == CLI_MAX_WORDS) {
        problem(list, EXIT_INPUT, "generate: more than %d prompts", CLI_MAX_WORDS);
        return;
    }
    a->tokens = tokens;
    a->prompts[a->n_prompts++] = text;
}

static void take_generate_option(cli_arguments *a, int letter, problems *list) {
    const char *command = COMMANDS[a->command].name;
    switch (letter) {
    case 'm':
    case 'k':
        add_prompt(a, letter == 'k', optarg, list);
        break;
    case 'n':
        a->max_tokens = (int)read_whole(command, "max-tokens", optarg, 1, 1 << 24, list);
        break;
    case 'u':
        a->temperature = read_temperature(optarg, list);
        break;
    case 'K':
        a->top_k = (int)read_whole(command, "top-k", optarg, 1, INT_MAX, list);
        break;
    case 'E':
        a->end_token = (int)read_whole(command, "eos", optarg, 0, INT_MAX, list);
        break;
    case 'j':
        a->json = true;
        break;
    case 'V':
        a->speed = true;
        break;
    default:
        break;
    }
}

static void take_form(cli_arguments *a, table_form form, problems *list) {
    if (a->form != TABLE_TEXT && a->form != form)
        problem(list, EXIT_INPUT,
                "table: --markdown, --latex and --csv exclude each other; write one of them");
    a->form = form;
}

static void take_table_option(cli_arguments *a, int letter, problems *list) {
    switch (letter) {
    case 'M':
        a->metric = optarg;
        break;
    case 'R':
        a->rows = optarg;
        break;
    case 'C':
        a->columns = optarg;
        break;
    case 'N':
        a->baseline = optarg;
        break;
    case 'D':
        take_form(a, TABLE_MARKDOWN, list);
        break;
    case 'L':
        take_form(a, TABLE_LATEX, list);
        break;
    case 'c':
        take_form(a, TABLE_CSV, list);
        break;
    default:
        break;
    }
}

static void take_option(cli_arguments *a, int letter, problems *list) {
    const char *command = COMMANDS[a->command].name;
    switch (letter) {
    case 's':
        add_override(a, "", optarg, list);
        break;
    case 'b':
        add_override(a, "backend=", optarg, list);
        break;
    case 't':
        add_override(a, "threads=", optarg, list);
        break;
    case 'o':
        a->out = optarg;
        break;
    case 'T':
        a->table = optarg;
        break;
    case 'a':
        a->adapters = optarg;
        break;
    case 'p':
        a->population = optarg;
        break;
    case 'S':
        a->one_seed = true;
        a->seed = read_whole(command, "seed", optarg, 0, UINT64_MAX, list);
        break;
    case 'M':
        a->metric = optarg;
        break;
    case 'x':
        a->axis = optarg;
        break;
    case 'd':
        a->device = (int)read_whole(command, "device", optarg, 0, INT_MAX, list);
        break;
    case 'P':
        a->processes = (int)read_whole(command, "processes", optarg, 1, CLI_MAX_PROCESSES, list);
        break;
    case 'r':
        a->resume = true;
        break;
    case 'F':
        a->retry_failed = true;
        break;
    case 'q':
        a->quiet = true;
        break;
    case 'U':
        a->unmeasured = true;
        break;
    case 'h':
        a->help = true;
        break;
    default:
        if (a->command == COMMAND_DATA) take_data_option(a, letter, list);
        if (a->command == COMMAND_TABLE) take_table_option(a, letter, list);
        if (a->command == COMMAND_GENERATE) take_generate_option(a, letter, list);
        break;
    }
}

static void take_options(int argc, char **argv, cli_arguments *a, problems *list) {
    struct option allowed[N_OPTIONS + 1] = {0};
    bool given[UCHAR_MAX + 1] = {false};
    int n = 0;
    for (int i = 0; i < N_OPTIONS; i++)
        if (takes(a->command, &OPTIONS[i]))
            allowed[n++] = (struct option){
                OPTIONS[i].name, OPTIONS[i].value ? required_argument : no_argument, NULL, OPTIONS[i].letter};
    opterr = 0;
    optind = 0; /* GNU: start afresh */
    for (int letter; (letter = getopt_long(argc, argv, ":h", allowed, NULL)) != -1;) {
        if (letter == '?')
            refuse_option(a->command, argv[optind - 1], list);
        else if (letter == ':')
            missing_value(a->command, (char)optopt, list);
        else if (given[letter] && !strchr("smk", letter))
            refuse_second(a->command, letter, list);
        else
            take_option(a, letter, list);
        given[letter] = true;
    }
    for (int i = optind; i < argc && a->n_words < CLI_MAX_WORDS; i++) a->words[a->n_words++] = argv[i];
}

static void check_words(const cli_arguments *a, problems *list) {
    const command_row *c = &COMMANDS[a->command];
    if (a->n_words < c->least_words)
        problem(list, EXIT_INPUT, "%s: %s is missing; `cohort %s --help` shows an example", c->name, c->words,
                c->name);
    if (a->n_words > c->most_words)
        problem(list, EXIT_INPUT, "%s: '%s' is one word too many; `cohort %s --help` shows an example",
                c->name, a->words[c->most_words], c->name);
    if (a->out && a->out[0] == '\0') problem(list, EXIT_INPUT, "%s: --out is empty; give a folder", c->name);
}

exit_code cli_parse(int argc, char **argv, cli_arguments *out, problems *list) {
    int before = problems_count(list);
    *out = (cli_arguments){
        .valid_share = 0.1, .test_share = 0.1, .device = -1, .end = -1, .max_tokens = 64, .end_token = -1};
    exit_code code = find_command(argc, argv, out, list);
    if (code != EXIT_OK) return code;
    if (argc > 1) take_options(argc - 1, argv + 1, out, list);
    if (!out->help && problems_count(list) == before) check_words(out, list);
    if (!out->help && problems_count(list) == before) cli_check_together(out, list);
    return problems_count(list) > before ? EXIT_INPUT : EXIT_OK;
}

void cli_free(cli_arguments *arguments) {
    for (int i = 0; i < arguments->n_overrides; i++) free(arguments->overrides[i]);
    arguments->n_overrides = 0;
}
