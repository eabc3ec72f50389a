/* main.c - cohort-bench: its command line. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "job.h"
#include "peers.h"
#include "steps.h"

static const char HELP[] =
    "cohort-bench - measures Cohort\n"
    "\n"
    "  cohort-bench peers [--shape small|gpt2|tiny] [--devices N] [--batch B] [--steps N] [--rounds R] [--minutes M] [--threads N]\n"
    "                     [--python PATH] [--json FILE] [--keep FOLDER]\n"
    "      the same expert steps in Cohort and in PyTorch programs, in turn on this machine: tokens a second and memory, as ratios\n"
    "      --shape    small: 4 layers, width 128, 64 devices x 1 window; gpt2: GPT-2 124M, 2 x 1; tiny: a check of the bench itself\n"
    "      --steps    AdamW steps of a run (20), all of which must agree in their losses\n"
    "      --rounds   at most so many runs of each program (5), fewer if the ratios settle; none starts after --minutes (60)\n"
    "      --threads  the larger of the thread settings (1 and this), and Cohort's threads; default: one per core\n"
    "      --python   a Python with PyTorch; default: $COHORT_PYTHON, else python3\n"
    "      --keep     a new folder in which all inputs and outputs stay\n"
    "  cohort-bench steps CONFIG [--threads N] [--steps N]\n"
    "      what peers runs for Cohort: expert steps of a configuration, a JSON line each\n";

typedef struct {
    const char *name, **text;
    int *whole;
    double *real;
    int least;
} option;

static exit_code read_value(const option *o, const char *value, problems *list) {
    char *end = NULL;
    if (o->text) {
        *o->text = value;
        return EXIT_OK;
    }
    double number = strtod(value, &end);
    if (end == value || *end || !(number >= o->least && number <= 1e6))
        return problem(list, EXIT_INPUT, "%s %s: must be a number from %d to 1000000", o->name, value, o->least);
    if (o->whole && number != (int)number) return problem(list, EXIT_INPUT, "%s %s: must be a whole number", o->name, value);
    if (o->whole)
        *o->whole = (int)number;
    else
        *o->real = number;
    return EXIT_OK;
}

/* Options end with a row without a name; one word that is no option goes to *word where that is wanted. */
static exit_code read_options(int n, char **words, const option *options, const char **word, problems *list) {
    for (int i = 0; i < n; i++) {
        const option *o = options;
        while (o->name && strcmp(o->name, words[i]) != 0) o++;
        if (!o->name && words[i][0] != '-' && word && !*word) {
            *word = words[i];
            continue;
        }
        if (!o->name) return problem(list, EXIT_INPUT, "'%s' is not understood; cohort-bench help shows what is", words[i]);
        if (i + 1 == n) return problem(list, EXIT_INPUT, "%s needs a value", words[i]);
        exit_code code = read_value(o, words[++i], list);
        if (code != EXIT_OK) return code;
    }
    return EXIT_OK;
}

static exit_code peers(int n, char **words, problems *list) {
    peers_options o = {.shape = "small", .rounds = 5, .minutes = 60};
    const option options[] = {
        {.name = "--shape", .text = &o.shape},
        {.name = "--devices", .whole = &o.devices, .least = 1},
        {.name = "--batch", .whole = &o.batch, .least = 1},
        {.name = "--steps", .whole = &o.steps, .least = 1},
        {.name = "--rounds", .whole = &o.rounds, .least = 1},
        {.name = "--minutes", .real = &o.minutes},
        {.name = "--threads", .whole = &o.threads, .least = 1},
        {.name = "--python", .text = &o.python},
        {.name = "--json", .text = &o.json},
        {.name = "--keep", .text = &o.keep},
        {0},
    };
    exit_code code = read_options(n, words, options, NULL, list);
    return code == EXIT_OK ? peers_run(&o, list) : code;
}

static exit_code steps(int n, char **words, problems *list) {
    const char *config = NULL;
    int threads = 0, most = 0;
    const option options[] = {{.name = "--threads", .whole = &threads, .least = 1}, {.name = "--steps", .whole = &most, .least = 1}, {0}};
    exit_code code = read_options(n, words, options, &config, list);
    if (code == EXIT_OK && !config) code = problem(list, EXIT_INPUT, "steps: which configuration?");
    return code == EXIT_OK ? steps_run(config, threads, most, list) : code;
}

int main(int argc, char **argv) {
    problems *list = problems_create();
    const char *command = argc > 1 ? argv[1] : "help";
    exit_code code = EXIT_OK;
    if (strcmp(command, "peers") == 0)
        code = peers(argc - 2, argv + 2, list);
    else if (strcmp(command, "steps") == 0)
        code = steps(argc - 2, argv + 2, list);
    else if (strcmp(command, "help") == 0 || strcmp(command, "--help") == 0 || strcmp(command, "-h") == 0)
        fputs(HELP, stdout);
    else
        code = problem(list, EXIT_INPUT, "no command '%s'; it is peers, steps or help", command);
    for (int i = 0; i < problems_count(list); i++) fprintf(stderr, "cohort-bench: %s\n", problems_message(list, i));
    problems_destroy(list);
    return code;
}
