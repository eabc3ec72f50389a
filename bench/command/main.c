/* main.c - cohort-bench: which command. */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "command/microbenchmarks.h"
#include "instructions.h"
#include "kernels.h"
#include "support/problems.h"

/* A build without sim/ and its libraries has the microbenchmarks only. */
#ifdef COHORT_SIM
#include "command/side_by_side.h"
#endif

static void help(void) {
    fputs("cohort-bench - measures Cohort\n\n", stdout);
    fputs(MICROBENCHMARKS_HELP, stdout);
#ifdef COHORT_SIM
    fputs(SIDE_BY_SIDE_HELP, stdout);
#endif
    fputc('\n', stdout);
    exit_codes_describe(stdout);
}

/* `cohort-bench help`, or --help anywhere. */
static bool asks_for_help(int argc, char **argv) {
    bool asks = argc > 1 && strcmp(argv[1], "help") == 0;
    for (int i = 1; i < argc && !asks; i++)
        asks = strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0;
    return asks;
}

static exit_code command(int argc, char **argv, problems *list) {
    const char *word = argc > 1 ? argv[1] : "kernels";
    if (asks_for_help(argc, argv)) {
        help();
        return EXIT_OK;
    }
#ifdef COHORT_SIM
    if (strcmp(word, "peers") == 0) return side_by_side_peers(argc - 2, argv + 2, list);
    if (strcmp(word, "steps") == 0) return side_by_side_steps(argc - 2, argv + 2, list);
#else
    if (strcmp(word, "peers") == 0 || strcmp(word, "steps") == 0)
        return problem(list, EXIT_ENVIRONMENT, "this cohort-bench was built without sim/: it has no %s",
                       word);
#endif
    if (strcmp(word, "all-reduce") == 0) return microbenchmarks_all_reduce(argc - 2, argv + 2, list);
    if (strcmp(word, "--compare") == 0) return microbenchmarks_compare(argc - 2, argv + 2, list);
    int skipped = argc > 1 && strcmp(word, "kernels") == 0 ? 2 : 1;
    return microbenchmarks_run(argc - skipped, argv + skipped, list);
}

static exit_code lacks(const char *instructions) {
    fprintf(stderr,
            "cohort-bench: this program was compiled for a CPU with %s, which this one lacks; build it here: "
            "./cohort build\n",
            instructions);
    return EXIT_ENVIRONMENT;
}

int main(int argc, char **argv) {
    if (ck_instructions_missing()) return lacks(ck_instructions_missing());
    ck_wait_asleep(argv);
    problems *list = problems_create();
    exit_code code = command(argc, argv, list);
    fflush(stdout);
    problems_condense(list);
    for (int i = 0; i < problems_count(list); i++)
        fprintf(stderr, "cohort-bench: %s\n", problems_message(list, i));
    problems_destroy(list);
    return code;
}
