/* main.c - the command line: the only place that prints problems and decides the exit code. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "collective/collective.h"
#include "command/cli.h"
#include "command/generate.h"
#include "command/launch.h"
#include "command/plot.h"
#include "config/config.h"
#include "data/data.h"
#include "instructions.h"
#include "kernels.h"
#include "methods/method.h"
#include "model/obtain_base.h"
#include "model/save_variant.h"
#include "result/export.h"
#include "result/own_file.h"
#include "result/peft_result.h"
#include "result/table.h"
#include "result/trace.h"
#include "run/run.h"
#include "run/tune.h"
#include "support/kernel_open.h"
#include "support/output_file.h"
#include "support/problems.h"
#include "support/processes.h"

static exit_code load(const cli_arguments *a, settings **out, problems *list) {
    return settings_load(a->words[0], a->n_overrides, (const char *const *)a->overrides, out, list);
}

/* What was typed, and the processes that typed it. */
typedef struct {
    int argc;
    char **argv;
    cli_arguments arguments;
    ck_collective *collective;
} command_line;

static exit_code check_processes(const command_line *c, problems *list) {
    int typed = c->arguments.processes, found = ck_processes(c->collective);
    if (!ck_under_mpirun() || typed == 0 || typed == found) return EXIT_OK;
    return problem(list, EXIT_INPUT,
                   "run: --processes %d, but mpirun has started %d; leave --processes away, or mpirun", typed,
                   found);
}

/* Processes that cannot be joined would each do the whole run, in the same folder, or start further ones
 * without end. */
static exit_code check_launcher(problems *list) {
    bool speaks = true;
    const char *why = ck_foreign_launcher(&speaks);
    if (ck_under_mpirun() || (!why && !launch_was_here())) return EXIT_OK;
    if (!speaks) return EXIT_ENVIRONMENT;
    if (!launch_was_here()) return problem(list, EXIT_ENVIRONMENT, "run: %s", why);
    return problem(list, EXIT_ENVIRONMENT,
                   "--processes needs Open MPI's mpirun (Debian: openmpi-bin), and the mpirun that is found "
                   "first is another one; put Open MPI's "
                   "in front of it in PATH");
}

/* Process 0 reads the configuration, which may be a pipe, and tells the others. */
static exit_code read_configuration(const command_line *c, char **text, size_t *bytes, problems *list) {
    bool first = ck_process(c->collective) == 0;
    if (first)
        *text = settings_read(launch_was_here() ? LAUNCH_CONFIGURATION : c->arguments.words[0], bytes, list);
    exit_code code = processes_agree(c->collective, first && !*text ? EXIT_INPUT : EXIT_OK, list);
    return THEN(code, processes_share_text(c->collective, text, bytes, list));
}

/* Several processes are started once the configuration is known to be good; each of them comes here again,
 * under mpirun. */
static exit_code run(const command_line *c, problems *list) {
    const cli_arguments *a = &c->arguments;
    settings *s = NULL;
    char *text = NULL;
    size_t bytes = 0;
    run_options options = {.out = a->out,
                           .resume = a->resume,
                           .quiet = a->quiet,
                           .collective = c->collective,
                           .retry_failed = a->retry_failed};
    exit_code code = check_launcher(list);
    if (a->retry_failed && !a->resume)
        THEN(code,
             problem(list, EXIT_INPUT, "run: --retry-failed is for a result that is there: add --resume"));
    THEN(code, check_processes(c, list));
    THEN(code, read_configuration(c, &text, &bytes, list));
    THEN(code, settings_parse(a->words[0], text, bytes, a->n_overrides, (const char *const *)a->overrides, &s,
                              list));
    code = processes_agree(c->collective, code, list);
    if (code == EXIT_OK && a->processes > 1 && !ck_under_mpirun())
        code = launch_processes(c->argc, c->argv, a->processes, text, bytes, list);
    else
        THEN(code, tune_and_run(s, &options, list));
    settings_destroy(s);
    free(text);
    return code;
}

static exit_code check(const cli_arguments *a, problems *list) {
    settings *s = NULL;
    exit_code code = load(a, &s, list);
    THEN(code, run_check(s, a->processes > 0 ? a->processes : 1, !a->unmeasured, list));
    settings_destroy(s);
    return code;
}

static exit_code pretrain(const cli_arguments *a, problems *list) {
    settings *s = NULL;
    ck_backend *backend = NULL;
    base_model *model = NULL;
    base_variant *variant = NULL;
    base_shape shape;
    exit_code code = load(a, &s, list);
    if (code != EXIT_OK) goto cleanup;
    code = kernel_open(s->backend, s->threads, &backend, list);
    if (code == EXIT_OK && a->population) code = run_base_shape(s, &shape, list);
    if (code == EXIT_OK && a->population)
        code = save_variant_open(s, a->population, &shape, a->out, &variant, list);
    if (code != EXIT_OK) goto cleanup;
    code = run_obtain_base(s, backend, a->quiet, variant ? NULL : a->out, &model, list);
    if (code == EXIT_OK && variant) code = save_variant(variant, model, a->out, list);
    if (code == EXIT_OK && a->out && !a->quiet) printf("%s\n", a->out);
cleanup:
    base_variant_close(variant);
    base_destroy(model);
    ck_close(backend);
    settings_destroy(s);
    return code;
}

/* NAME=PATH into a name (owned) and a path. */
static exit_code split_source(const char *word, char **name, const char **path, problems *list) {
    const char *equals = strchr(word, '=');
    if (!equals || equals == word || equals[1] == '\0')
        return problem(list, EXIT_INPUT, "data: '%s' is not NAME=PATH; write for example german=texts/de",
                       word);
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
                        .test_share = a->test_share,
                        .shares_given = a->shares_given,
                        .by_task = a->by_task,
                        .longest = a->longest,
                        .vocabulary = a->vocabulary,
                        .ends = a->end >= 0,
                        .end = a->end};
    THEN(code, data_build_shards(&build, list));
    if (!a->quiet) THEN(code, data_print_table(build.out, stdout, list));
    for (int i = 0; i < a->n_words; i++) free(names[i]);
    return code;
}

static exit_code export_tables(const cli_arguments *a, problems *list) {
    if (strcmp(a->table, "all") == 0) return trace_export_all(a->words[0], a->out, list);
    return trace_export(a->words[0], a->table, stdout, a->out, list);
}

static exit_code export_adapters(const cli_arguments *a, problems *list) {
    device_selection wanted = {
        .population = a->population, .one_seed = a->one_seed, .seed = a->seed, .device = a->device};
    peft_written written;
    exit_code code = peft_export(a->words[0], a->adapters, &wanted, &written, list);
    if (code != EXIT_OK || a->table) return code;
    printf("%s: %d expert%s of %d device%s, after round %d\n", a->adapters, written.folders,
           written.folders == 1 ? "" : "s", written.devices, written.devices == 1 ? "" : "s", written.round);
    if (written.diverged > 0)
        printf("%d of these devices belong to populations that diverged, and are as the last checkpoint "
               "before that has them\n",
               written.diverged);
    return code;
}

static exit_code export(const cli_arguments *a, problems *list) {
    exit_code code = a->adapters ? peft_check_place(a->adapters, list) : EXIT_OK;
    if (a->table) THEN(code, export_tables(a, list));
    if (a->adapters) THEN(code, export_adapters(a, list));
    return code;
}

static exit_code table(const cli_arguments *a, problems *list) {
    const table_request request = {.n_results = a->n_words,
                                   .results = a->words,
                                   .metrics = a->metric,
                                   .rows = a->rows,
                                   .columns = a->columns,
                                   .baseline = a->baseline,
                                   .form = a->form};
    output_file file;
    if (!a->out) return table_write(&request, stdout, list);
    exit_code code = EXIT_OK;
    for (int i = 0; i < a->n_words; i++) THEN(code, own_file_refuse("table", a->words[i], a->out, list));
    THEN(code, output_file_begin(a->out, &file, list));
    return code == EXIT_OK ? output_file_end(&file, table_write(&request, file.stream, list), list) : code;
}

static void print_methods(void) {
    int count = 0;
    const method *const *methods = method_list(&count);
    for (int i = 0; i < count; i++) {
        const char *weights = aggregate_weights_text(methods[i]->weights);
        printf("%-14s%s\n%14s%s\n", methods[i]->name, methods[i]->summary, "", methods[i]->source);
        if (weights[0]) printf("%14saggregate.weights: %s, unless it is written\n", "", weights);
    }
    printf("\naggregate.weights: how a device counts in an average. uniform: 1/N; tokens: its share of the "
           "population's training tokens.\n");
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

static exit_code execute(const command_line *c, problems *list) {
    const cli_arguments *a = &c->arguments;
    if (a->help) {
        cli_describe(a->command, stdout);
        return EXIT_OK;
    }
    switch (a->command) {
    case COMMAND_RUN:
        signal(SIGPIPE, SIG_IGN); /* whoever reads what it prints may leave */
        return run(c, list);
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
    case COMMAND_TABLE:
        return table(a, list);
    case COMMAND_PLOT:
        return plot_result(a->words[0], &(plot_options){a->out, a->metric, a->axis}, list);
    case COMMAND_GENERATE:
        return generate_texts(a, list);
    case COMMAND_HELP:
        return help(a, list);
    case COMMAND_VERSION:
        puts(cli_version());
        break;
    }
    return EXIT_OK;
}

/* Under mpirun only a run has work for more than process 0; and only process 0 speaks, unless it cannot be
 * reached. */
static exit_code execute_here(command_line *c, problems *list) {
    exit_code code = cli_parse(c->argc, c->argv, &c->arguments, list);
    bool works =
        ck_process(c->collective) == 0 || (c->arguments.command == COMMAND_RUN && !c->arguments.help);
    if (works) THEN(code, execute(c, list));
    if (fflush(stdout) != 0 && errno != EPIPE)
        code = problem(list, EXIT_RUN, "could not write everything to standard output (is the disk full?)");
    return code;
}

static void print_problems(problems *list) {
    problems_condense(list);
    for (int i = 0; i < problems_count(list); i++) fprintf(stderr, "cohort: %s\n", problems_message(list, i));
}

static exit_code lacks(const char *instructions) {
    fprintf(stderr,
            "cohort: this program was compiled for a CPU with %s, which this one lacks; build it here: "
            "./cohort build\n",
            instructions);
    return EXIT_ENVIRONMENT;
}

int main(int argc, char **argv) {
    static command_line line;
    if (ck_instructions_missing()) return lacks(ck_instructions_missing());
    ck_wait_asleep(argv);
    problems *list = problems_create();
    /* a file that may not grow is an error like a full disk, and is reported like one */
    signal(SIGXFSZ, SIG_IGN);
    line.argc = argc;
    line.argv = argv;
    exit_code code = EXIT_OK;
    if (ck_collective_open(&line.collective) != CK_OK)
        code = problem(list, EXIT_ENVIRONMENT, "the processes that mpirun started cannot be joined: %s",
                       ck_collective_error(NULL));
    THEN(code, execute_here(&line, list));
    if (ck_mpirun_process() == 0 || ck_collective_broken(line.collective)) print_problems(list);
    if (ck_collective_broken(line.collective)) ck_collective_abort(line.collective, code);
    ck_collective_close(line.collective);
    cli_free(&line.arguments);
    problems_destroy(list);
    return code;
}
