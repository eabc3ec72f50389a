#include "command/microbenchmarks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cases/ops.h"
#include "command/options.h"
#include "command/sweep_file.h"
#include "compare/compare.h"
#include "measure/all_reduce.h"
#include "measure/bench.h"

const char MICROBENCHMARKS_HELP[] =
    "  cohort-bench [kernels] [FILTER] [axes] [options]\n"
    "      every operation alone and a whole expert layer: verified against float64, then timed, beside\n"
    "      the floor that bandwidth and the best matrix product set on this machine\n"
    "      FILTER: part of a case's name, such as route or lora/backward; --list names all\n"
    "    axes, each a list of values; all combinations are measured\n"
    "      --tokens 4096,65536   --sequence 128   --width 768,2048   --devices 16,256   --experts 2,8\n"
    "      --top-k 1,2   --rank 4,64   --ranks 4,8,16 (in turn within a device)   --attention-rank 8\n"
    "      --mlp gelu,swiglu   --vocabulary 50257   --layers 12   --precision f32,bf16\n"
    "      --distribution uniform,zipf,skew,one-token   --direction forward|backward|update|step\n"
    "      --sweep FILE      several sweeps in YAML, see configs/bench/; instead of the axes above\n"
    "    options\n"
    "      --backend auto|cpu|cuda   --threads N\n"
    "      --noise PERCENT   samples have settled when their middle half lies within so much of the\n"
    "                        median (2)\n"
    "      --seconds S       for each measurement at most (1); what has not settled by then says so\n"
    "                        (samples that other programs disturbed do not count, unless there is no other)\n"
    "      --samples N       at least (10)\n"
    "      --warm            leave out times with a cold cache\n"
    "      --json FILE       in the format of Google Benchmark        --csv FILE\n"
    "      --peers           the same work in PyTorch, in turn with Cohort's\n"
    "      --python PATH     a Python with PyTorch (default $COHORT_PYTHON, else python3)\n"
    "      --peer MODULE:FUNCTION   another kernel beside these, see bench/peers/kernels.py; implies\n"
    "                        --peers\n"
    "      --list            names, floors and axes of all cases; measures nothing\n"
    "  mpirun -n 2 cohort-bench all-reduce [--most-mib N] [--backend B] [--threads N] [--noise P]\n"
    "                        [--seconds S] [--samples N] [--json FILE]\n"
    "      the sum of a packed buffer over processes, verified, with algorithm and bus bandwidth as\n"
    "      nccl-tests defines them; sizes from 4 KiB to --most-mib (16)\n"
    "  cohort-bench --compare A.json B.json [--threshold PERCENT] [--fail-on-slower]\n"
    "      B against A, case by case: same, faster, slower or unclear, from the spread of both;\n"
    "      --threshold: less is the same (2). Samples that other programs disturbed have no say\n";

typedef struct {
    sweep axes;
    const char *file;
    bench_options o;
    int n_peers;
    double noise, seconds;
    bool list, warm, axes_given;
} command;

static exit_code take_axis(void *into, const char *name, const char *value, problems *list) {
    command *c = into;
    c->axes_given = true;
    return sweep_set(&c->axes, "--", name + 2, value, list);
}

static exit_code take_peer(void *into, const char *name, const char *value, problems *list) {
    bench_options *o = into;
    const char *colon = strchr(value, ':');
    if (!colon || colon == value || !colon[1])
        return problem(list, EXIT_INPUT, "%s %s: must be MODULE:FUNCTION", name, value);
    if (o->n_peers == BENCH_MOST_PEERS)
        return problem(list, EXIT_INPUT, "%s: at most %d are possible", name, BENCH_MOST_PEERS);
    o->peer[o->n_peers++] = value;
    o->peers = true;
    return EXIT_OK;
}

enum { MOST_OPTIONS = AXES + 24 };

static char axis_names[AXES][32];

/* All options, the axes among them. */
static void fill_options(command *c, option *table) {
    int n = 0;
    for (int a = 0; a < AXES; a++) {
        snprintf(axis_names[a], sizeof axis_names[a], "--%s", axis_key((axis)a));
        table[n++] = (option){.name = axis_names[a], .take = take_axis, .into = c};
    }
    const option others[] = {
        {.name = "--ranks", .take = take_axis, .into = c},
        {.name = "--direction", .take = take_axis, .into = c},
        {.name = "--sweep", .text = &c->file},
        {.name = "--backend", .text = &c->o.backend},
        {.name = "--threads", .whole = &c->o.threads, .least = 1},
        {.name = "--noise", .real = &c->noise},
        {.name = "--seconds", .real = &c->seconds},
        {.name = "--samples", .whole = &c->o.rule.least_samples, .least = 1},
        {.name = "--warm", .flag = &c->warm},
        {.name = "--json", .text = &c->o.json},
        {.name = "--csv", .text = &c->o.csv},
        {.name = "--peers", .flag = &c->o.peers},
        {.name = "--python", .text = &c->o.python},
        {.name = "--peer", .take = take_peer, .into = &c->o},
        {.name = "--list", .flag = &c->list},
        {0},
    };
    memcpy(table + n, others, sizeof others);
}

static exit_code read_sweeps(command *c, sweep **sweeps, int *n, problems *list) {
    if (c->file && c->axes_given)
        return problem(list, EXIT_INPUT, "--sweep %s: axes on the command line have no place beside it",
                       c->file);
    *sweeps = calloc(BENCH_MOST_SWEEPS, sizeof **sweeps);
    if (!*sweeps) return problem(list, EXIT_ENVIRONMENT, "out of memory");
    if (!c->file) {
        (*sweeps)[0] = c->axes;
        *n = 1;
        return EXIT_OK;
    }
    exit_code code = sweep_file_read(c->file, BENCH_MOST_SWEEPS, *sweeps, n, list);
    for (int i = 0; i < *n && c->axes.filter[0]; i++)
        if (!(*sweeps)[i].filter[0]) memcpy((*sweeps)[i].filter, c->axes.filter, sizeof c->axes.filter);
    return code;
}

exit_code microbenchmarks_run(int n, char **arguments, problems *list) {
    command c = {.o = {.rule = BENCH_RULE}, .noise = 100 * BENCH_RULE.noise, .seconds = BENCH_RULE.seconds};
    option table[MOST_OPTIONS];
    const char *filter = NULL;
    int n_words = 0;
    sweep *sweeps = NULL;
    fill_options(&c, table);
    exit_code code = options_read(n, arguments, table, 1, &filter, &n_words, list);
    if (code == EXIT_OK && filter) code = sweep_set(&c.axes, "", "filter", filter, list);
    if (code == EXIT_OK && c.list) {
        bench_list(stdout, OP_CASES);
        return EXIT_OK;
    }
    THEN(code, read_sweeps(&c, &sweeps, &c.o.n_sweeps, list));
    if (code == EXIT_OK) {
        c.o.rule.noise = c.noise / 100;
        c.o.rule.seconds = c.seconds;
        c.o.sweeps = sweeps;
        c.o.cold = !c.warm;
        code = bench_run(&c.o, OP_CASES, list);
    }
    free(sweeps);
    return code;
}

exit_code microbenchmarks_all_reduce(int n, char **arguments, problems *list) {
    all_reduce_options o = {.rule = BENCH_RULE, .threads = 1};
    double noise = 100 * BENCH_RULE.noise, mib = 16;
    int n_words = 0;
    const option table[] = {
        {.name = "--most-mib", .real = &mib, .least = 0.004},
        {.name = "--backend", .text = &o.backend},
        {.name = "--threads", .whole = &o.threads, .least = 1},
        {.name = "--noise", .real = &noise},
        {.name = "--seconds", .real = &o.rule.seconds},
        {.name = "--samples", .whole = &o.rule.least_samples, .least = 1},
        {.name = "--json", .text = &o.json},
        {0},
    };
    exit_code code = options_read(n, arguments, table, 0, NULL, &n_words, list);
    o.rule.noise = noise / 100;
    o.most_bytes = mib * 1048576;
    return THEN(code, all_reduce_run(&o, list));
}

exit_code microbenchmarks_compare(int n, char **arguments, problems *list) {
    double threshold = 2;
    bool fail_on_slower = false;
    const char *files[2];
    int n_files = 0, slower = 0;
    const option table[] = {{.name = "--threshold", .real = &threshold},
                            {.name = "--fail-on-slower", .flag = &fail_on_slower},
                            {0}};
    exit_code code = options_read(n, arguments, table, 2, files, &n_files, list);
    if (code == EXIT_OK && n_files != 2)
        code = problem(list, EXIT_INPUT, "--compare needs two files: A.json B.json");
    THEN(code, compare_files(stdout, files[0], files[1], threshold / 100, &slower, list));
    if (code == EXIT_OK && fail_on_slower && slower)
        code = problem(list, EXIT_RUN, "%d cases are slower", slower);
    return code;
}
