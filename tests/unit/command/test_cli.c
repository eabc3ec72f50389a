/* What was typed, understood: commands, options in any order, and what is said about slips. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command/cli.h"

static cli_arguments arguments;

/* Parses a line of words. */
static problems *parse(const char *line, exit_code *code) {
    static char copy[512];
    static char *argv[64];
    int argc = 0;
    snprintf(copy, sizeof copy, "cohort %s", line);
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " ")) argv[argc++] = word;
    argv[argc] = NULL;
    problems *list = problems_create();
    *code = cli_parse(argc, argv, &arguments, list);
    return list;
}

static void must_parse(const char *line) {
    exit_code code;
    problems *list = parse(line, &code);
    cr_assert_eq(code, EXIT_OK, "%s: %s", line,
                 problems_count(list) ? problems_message(list, 0) : "no message");
    cr_assert_eq(problems_count(list), 0);
    problems_destroy(list);
}

Test(cli, run_takes_its_options_in_any_order) {
    must_parse("run --set train.rounds=3 c.yaml --resume --out=dir --backend cpu --set a.b=[1,2] --threads 4 "
               "--quiet");
    cr_assert_eq(arguments.command, COMMAND_RUN);
    cr_assert_eq(arguments.n_words, 1);
    cr_assert_str_eq(arguments.words[0], "c.yaml");
    cr_assert_str_eq(arguments.out, "dir");
    cr_assert(arguments.resume && arguments.quiet && !arguments.help);
    cr_assert_eq(arguments.n_overrides, 4);
    cr_assert_str_eq(arguments.overrides[0], "train.rounds=3");
    cr_assert_str_eq(arguments.overrides[1], "backend=cpu");
    cr_assert_str_eq(arguments.overrides[2], "a.b=[1,2]");
    cr_assert_str_eq(arguments.overrides[3], "threads=4");
    cli_free(&arguments);
}

Test(cli, data_takes_sources_and_shares) {
    must_parse("data --out d --valid-share 0.2 de=x fr=y --test-share .05");
    cr_assert_eq(arguments.command, COMMAND_DATA);
    cr_assert_eq(arguments.n_words, 2);
    cr_assert_eq(arguments.valid_share, 0.2);
    cr_assert_eq(arguments.test_share, 0.05);
    must_parse("data de=x --out d");
    cr_assert_eq(arguments.valid_share, 0.1);
    cr_assert_eq(arguments.test_share, 0.1);
}

Test(cli, export_takes_a_table_or_adapters) {
    must_parse("export r --table loss");
    cr_assert_eq(arguments.command, COMMAND_EXPORT);
    cr_assert_str_eq(arguments.table, "loss");
    cr_assert(!arguments.out && !arguments.adapters && !arguments.one_seed);
    cr_assert_eq(arguments.device, -1);
    must_parse("export --adapters dir r --population p --seed 18446744073709551615 --device 0");
    cr_assert_str_eq(arguments.adapters, "dir");
    cr_assert_str_eq(arguments.population, "p");
    cr_assert(arguments.one_seed && arguments.seed == UINT64_MAX);
    cr_assert_eq(arguments.device, 0);
    must_parse("plot r --out figures");
    cr_assert_eq(arguments.command, COMMAND_PLOT);
    cr_assert_str_eq(arguments.out, "figures");
    cr_assert(!arguments.metric && !arguments.axis);
    must_parse("plot r --metric test_ppl_after --axis data.dirichlet");
    cr_assert_str_eq(arguments.metric, "test_ppl_after");
    cr_assert_str_eq(arguments.axis, "data.dirichlet");
}

Test(cli, help_and_version_need_nothing) {
    static const struct {
        const char *line;
        cli_command command;
        bool help;
    } cases[] = {{"", COMMAND_HELP, false},
                 {"help", COMMAND_HELP, false},
                 {"--help", COMMAND_HELP, false},
                 {"-h", COMMAND_HELP, false},
                 {"--version", COMMAND_VERSION, false},
                 {"run --help", COMMAND_RUN, true},
                 {"check -h", COMMAND_CHECK, true},
                 {"help settings", COMMAND_HELP, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        must_parse(cases[i].line);
        cr_assert_eq(arguments.command, cases[i].command, "%s", cases[i].line);
        cr_assert_eq(arguments.help, cases[i].help, "%s", cases[i].line);
    }
}

Test(cli, every_slip_has_its_message) {
    static const struct {
        const char *line, *expected;
    } cases[] = {
        {"rnu c.yaml", "unknown command 'rnu'; did you mean run?"},
        {"xylophone", "unknown command 'xylophone'; `cohort help` lists them"},
        {"run", "run: CONFIG is missing"},
        {"run a b", "run: 'b' is one word too many"},
        {"run a --outt b", "run: unknown option --outt; did you mean --out?"},
        {"run a --outt=b", "run: unknown option --outt; did you mean --out?"},
        {"run --xylophone a", "run: unknown option --xylophone; `cohort run --help` lists them"},
        {"run a --out", "run: --out has no value; write --out DIR"},
        {"run a --set", "run: --set has no value; write --set KEY=VALUE"},
        {"run a --resume=3", "run: --resume takes no value"},
        {"run a -z", "run: unknown option -z"},
        {"run a --out=", "run: --out is empty"},
        {"info a --quiet", "info: unknown option --quiet"},
        {"check a --out b", "check: unknown option --out"},
        {"export r", "export: say what: --table NAME or --adapters DIR"},
        {"export r --table all", "export: all tables need a folder"},
        {"export r --table loss --seed 4", "export: --population, --seed and --device choose adapters"},
        {"export r --adapters a --out b", "export: --out is for a table"},
        {"export r --adapters a --device -1", "export: --device '-1' must be a whole number from 0"},
        {"export r --adapters a --seed 18446744073709551616",
         "export: --seed '18446744073709551616' must be a whole number"},
        {"export r --out", "export: --out has no value; write --out PATH"},
        {"plot r --table loss", "plot: unknown option --table"},
        {"plot r --axis", "plot: --axis has no value; write --axis KEY"},
        {"plot r --axis a --axis b", "plot: --axis is given twice (again as 'b')"},
        {"info r --metric test_ppl_mean", "info: unknown option --metric"},
        {"data", "data: NAME=PATH... is missing"},
        {"data a=b", "data: --out is missing"},
        {"data a=b --valid-share 1", "data: --valid-share '1' is no share"},
        {"data a=b --test-share nan", "data: --test-share 'nan' is no share"},
        {"data a=b --test-share 0.1x", "data: --test-share '0.1x' is no share"},
        {"data a=b --test-share -0.1", "data: --test-share '-0.1' is no share"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        exit_code code;
        problems *list = parse(cases[i].line, &code);
        cr_assert_eq(code, EXIT_INPUT, "%s", cases[i].line);
        cr_assert_eq(problems_count(list), 1, "%s: %d problems", cases[i].line, problems_count(list));
        cr_assert_not_null(strstr(problems_message(list, 0), cases[i].expected), "%s: %s", cases[i].line,
                           problems_message(list, 0));
        problems_destroy(list);
        cli_free(&arguments);
    }
}

Test(cli, several_slips_are_reported_together) {
    exit_code code;
    problems *list = parse("data a=b --valid-share x --test-share y --quit", &code);
    cr_assert_eq(problems_count(list), 3);
    problems_destroy(list);
    list = parse("run a --foo --bar", &code);
    cr_assert_eq(problems_count(list), 2);
    problems_destroy(list);
}

/* Every command's page has an example and lists its options. */
Test(cli, every_command_describes_itself) {
    static const char *const names[] = {"run", "check", "pretrain", "data", "info", "export", "plot", "help"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *text = NULL, example[32];
        size_t bytes = 0;
        FILE *out = open_memstream(&text, &bytes);
        int command = cli_find(names[i]);
        cr_assert_geq(command, 0);
        cli_describe((cli_command)command, out);
        fclose(out);
        snprintf(example, sizeof example, "\n  cohort %s ", names[i]);
        cr_assert_not_null(strstr(text, example), "%s", text);
        cr_assert_not_null(strstr(text, "--help"), "%s", text);
        free(text);
    }
    cr_assert_eq(cli_find("nothing"), -1);
    cr_assert_eq(strncmp(cli_version(), "cohort 0.1.0 (", 14), 0);
}
