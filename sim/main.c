/* main.c - the command line: the only place that prints problems and decides the exit code. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/peft.h"
#include "base/base.h"
#include "cli.h"
#include "config/settings.h"
#include "data/data.h"
#include "kernel_problem.h"
#include "kernels.h"
#include "methods/method.h"
#include "plot.h"
#include "problems.h"
#include "trace/export.h"
#include "trace/trace.h"
#include "train/run.h"

static exit_code load(const cli_arguments *a, settings **out, problems *list) {
    return settings_load(a->words[0], a->n_overrides, (const char *const *)a->overrides, out, list);
}

static exit_code run(const cli_arguments *a, problems *list) {
    settings *s = NULL;
    run_options options = {.out = a->out, .resume = a->resume, .quiet = a->quiet};
    exit_code code = load(a, &s, list);
    if (code == EXIT_OK) code = run_execute(s, &options, list);
    settings_destroy(s);
    return code;
}

static exit_code check(const cli_arguments *a, problems *list) {
    settings *s = NULL;
    exit_code code = load(a, &s, list);
    if (code == EXIT_OK) code = run_check(s, list);
    settings_destroy(s);
    return code;
}

static exit_code pretrain(const cli_arguments *a, problems *list) {
    settings *s = NULL;
    ck_backend *backend = NULL;
    base_model *model = NULL;
    exit_code code = load(a, &s, list);
    if (code != EXIT_OK) goto cleanup;
    code = kernel_problem(list, NULL, ck_open(s->backend, s->threads, &backend), "opening the backend");
    if (code != EXIT_OK) goto cleanup;
    code = run_obtain_base(s, backend, a->quiet, a->out, &model, list);
    if (code == EXIT_OK && a->out && !a->quiet) printf("%s\n", a->out);
cleanup:
    base_destroy(model);
    ck_close(backend);
    settings_destroy(s);
    return code;
}

/* NAME=PATH into a name (owned) and a path. */
static exit_code split_source(const char *word, char **name, const char **path, problems *list) {
    const char *equals = strchr(word, '=');
    if (!equals || equals == word || equals[1] == '\0')
        return problem(list, EXIT_INPUT, "data: '%s' is not NAME=PATH; write for example german=texts/de", word);
    *name = strndup(word, (size_t)(equals - word));
    *path = equals + 1;
    return *name ? EXIT_OK : problem(list, EXIT_ENVIRONMENT, "out of memory");
}

static exit_code build_data(const cli_arguments *a, problems *list) {
    const char *paths[CLI_MAX_WORDS] = {0};
    char *names[CLI_MAX_WORDS] = {0};
    exit_code code = EXIT_OK;
    for (int i = 0; i < a->n_words; i++)
        if (split_source(a->words[i], &names[i], &paths[i], list) != EXIT_OK) code = problems_code(list);
    data_build build = {.n_sources = a->n_words,
                        .names = (const char *const *)names,
                        .paths = paths,
                        .out = a->out,
                        .valid_share = a->valid_share,
                        .test_share = a->test_share};
    if (code == EXIT_OK) code = data_build_shards(&build, list);
    if (code == EXIT_OK && !a->quiet) code = data_print_table(build.out, stdout, list);
    for (int i = 0; i < a->n_words; i++) free(names[i]);
    return code;
}

static exit_code export_tables(const cli_arguments *a, problems *list) {
    if (strcmp(a->table, "all") == 0) return trace_export_all(a->words[0], a->out, list);
    return trace_export(a->words[0], a->table, stdout, a->out, list);
}

static exit_code export_adapters(const cli_arguments *a, problems *list) {
    peft_selection wanted = {.population = a->population, .one_seed = a->one_seed, .seed = a->seed, .device = a->device};
    peft_written written;
    exit_code code = peft_export(a->words[0], a->adapters, &wanted, &written, list);
    if (code == EXIT_OK && !a->table)
        printf("%s: %d expert%s of %d device%s, after round %d\n", a->adapters, written.folders, written.folders == 1 ? "" : "s",
               written.devices, written.devices == 1 ? "" : "s", written.round);
    return code;
}

static exit_code export(const cli_arguments *a, problems *list) {
    exit_code code = a->table ? export_tables(a, list) : EXIT_OK;
    return code == EXIT_OK && a->adapters ? export_adapters(a, list) : code;
}

static void print_methods(void) {
    int count = 0;
    const method *const *methods = method_list(&count);
    for (int i = 0; i < count; i++) printf("%-14s%s\n%14s%s\n", methods[i]->name, methods[i]->summary, "", methods[i]->source);
}

static exit_code help(const cli_arguments *a, problems *list) {
    const char *topic = a->n_words ? a->words[0] : NULL;
    int command = topic ? cli_find(topic) : -1;
    if (!topic)
        cli_describe_all(stdout);
    else if (strcmp(topic, "settings") == 0) {
        char *page = settings_reference();
        fputs(page, stdout);
        free(page);
    } else if (strcmp(topic, "methods") == 0)
        print_methods();
    else if (command >= 0)
        cli_describe((cli_command)command, stdout);
    else
        return problem(list, EXIT_INPUT, "help: no topic '%s'; it is a command, settings or methods", topic);
    return EXIT_OK;
}

static exit_code execute(const cli_arguments *a, problems *list) {
    if (a->help) {
        cli_describe(a->command, stdout);
        return EXIT_OK;
    }
    switch (a->command) {
    case COMMAND_RUN:
        return run(a, list);
    case COMMAND_CHECK:
        return check(a, list);
    case COMMAND_PRETRAIN:
        return pretrain(a, list);
    case COMMAND_DATA:
        return build_data(a, list);
    case COMMAND_INFO:
        return trace_print_info(a->words[0], list);
    case COMMAND_EXPORT:
        return export(a, list);
    case COMMAND_PLOT:
        return plot_result(a->words[0], a->out, list);
    case COMMAND_HELP:
        return help(a, list);
    case COMMAND_VERSION:
        puts(cli_version());
        break;
    }
    return EXIT_OK;
}

int main(int argc, char **argv) {
    static cli_arguments arguments;
    problems *list = problems_create();
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error like a full disk, and is reported like one */
    exit_code code = cli_parse(argc, argv, &arguments, list);
    if (code == EXIT_OK) code = execute(&arguments, list);
    if (fflush(stdout) != 0) code = problem(list, EXIT_RUN, "could not write everything to standard output (is the disk full?)");
    for (int i = 0; i < problems_count(list); i++) fprintf(stderr, "cohort: %s\n", problems_message(list, i));
    cli_free(&arguments);
    problems_destroy(list);
    return code;
}
