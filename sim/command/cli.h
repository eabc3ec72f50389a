/* cli.h - what was typed, understood: one table of commands, one of options. Prints nothing. */
#ifndef COHORT_CLI_H
#define COHORT_CLI_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "result/table.h"
#include "support/problems.h"

enum { CLI_MAX_WORDS = 1024, CLI_MAX_PROCESSES = 1024 };

typedef enum {
    COMMAND_RUN,
    COMMAND_CHECK,
    COMMAND_PRETRAIN,
    COMMAND_DATA,
    COMMAND_INFO,
    COMMAND_EXPORT,
    COMMAND_TABLE,
    COMMAND_PLOT,
    COMMAND_GENERATE,
    COMMAND_HELP,
    COMMAND_VERSION
} cli_command;

/* All strings are borrowed from argv, but for the overrides that options stand for. */
typedef struct {
    cli_command command;
    bool help;   /* --help: describe the command instead */
    int n_words; /* what is no option: CONFIG, RESULT, NAME=PATH... */
    const char *words[CLI_MAX_WORDS];
    int n_overrides;                /* --set, --backend and --threads in the order typed: "a.b=c" */
    char *overrides[CLI_MAX_WORDS]; /* owned */
    const char *out, *table, *adapters, *population, *metric;
    const char *rows, *columns, *baseline; /* of table */
    const char *axis;                      /* of plot */
    table_form form;
    bool resume, retry_failed, quiet, one_seed, unmeasured;
    uint64_t seed; /* where one_seed says that it was given */
    int device;    /* -1: not given */
    int processes; /* 0: not given */
    double valid_share, test_share;
    bool shares_given; /* one of them */
    /* of data, for examples; longest, vocabulary, end: 0, 0, -1: not given */
    bool by_task;
    int64_t longest, vocabulary, end;
    /* of generate; --seed is that of its random numbers */
    int n_prompts;
    const char *prompts[CLI_MAX_WORDS]; /* --prompt, or --tokens */
    bool tokens;                        /* they are ids */
    int max_tokens, top_k, end_token;   /* 0: all; -1: the base's */
    double temperature;
    bool json, speed;
} cli_arguments;

/* All problems are reported; words are counted only without --help. */
exit_code cli_parse(int argc, char **argv, cli_arguments *out, problems *list);
void cli_free(cli_arguments *arguments);
/* Part of cli_parse(): what options must satisfy together. */
void cli_check_together(const cli_arguments *a, problems *list);

/* Help on one command; on all of them. */
void cli_describe(cli_command command, FILE *out);
void cli_describe_all(FILE *out);
/* The command of that name, or -1. */
int cli_find(const char *name);

const char *cli_version(void); /* "cohort 0.1.0 (revision)" */

#endif
