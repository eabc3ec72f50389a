#include "command/side_by_side.h"

#include <stddef.h>

#include "command/options.h"
#include "side_by_side/peers.h"
#include "side_by_side/steps.h"

const char SIDE_BY_SIDE_HELP[] =
    "  cohort-bench peers [--shape NAME] [--devices N] [--batch B] [--steps N] [--rounds R]\n"
    "                     [--minutes M] [--threads N] [--python PATH] [--json FILE] [--keep FOLDER]\n"
    "      the same expert steps in Cohort and in PyTorch programs, in turn on this machine: tokens a\n"
    "      second and memory, as ratios\n"
    "      --shape    small: a GPT-2 of 4 layers, width 128, 64 devices x 1 window; gpt2: GPT-2 124M, 2 x "
    "1;\n"
    "                 llama: 4 layers, width 128, half as many heads of keys, 64 x 1; smollm: SmolLM-135M's\n"
    "                 shape, 2 x 1; tiny, tiny_llama: checks of the bench itself\n"
    "      --steps    AdamW steps of a run (20), all of which must agree in their losses\n"
    "      --rounds   at most so many runs of each program (5), fewer if the ratios settle; none starts\n"
    "                 after --minutes (60)\n"
    "      --threads  the larger of the thread settings (1 and this), and Cohort's threads; default: one\n"
    "                 per core\n"
    "      --python   a Python with PyTorch; default: $COHORT_PYTHON, else python3\n"
    "      --keep     a new folder in which all inputs and outputs stay\n"
    "  cohort-bench steps CONFIG [--threads N] [--steps N]\n"
    "      what peers runs for Cohort: expert steps of a configuration, a JSON line each\n";

exit_code side_by_side_peers(int n, char **arguments, problems *list) {
    peers_options o = {.shape = "small", .rounds = 5, .minutes = 60};
    int n_words = 0;
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
    exit_code code = options_read(n, arguments, options, 0, NULL, &n_words, list);
    return THEN(code, peers_run(&o, list));
}

exit_code side_by_side_steps(int n, char **arguments, problems *list) {
    const char *config = NULL;
    int threads = 0, most = 0, n_words = 0;
    const option options[] = {{.name = "--threads", .whole = &threads, .least = 1},
                              {.name = "--steps", .whole = &most, .least = 1},
                              {0}};
    exit_code code = options_read(n, arguments, options, 1, &config, &n_words, list);
    if (code == EXIT_OK && !config) code = problem(list, EXIT_INPUT, "steps: which configuration?");
    return THEN(code, steps_run(config, threads, most, list));
}
