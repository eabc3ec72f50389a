#include "measure/python.h"

#include <stdbool.h>
#include <stdlib.h>

#include "measure/process.h"

const char PYTHON_ADVICE[] = "no Python with PyTorch was found. It is optional; to have the comparison:\n"
                             "  python3 -m venv ~/.venv/peers\n"
                             "  ~/.venv/peers/bin/pip install torch\n"
                             "  COHORT_PYTHON=~/.venv/peers/bin/python ./cohort bench peers      (or: "
                             "./cohort bench kernels --peers)\n";

static bool has_torch(const char *python, const char *scratch) {
    const char *arguments[] = {python, "-c", "import torch", NULL}, *environment[] = {NULL};
    problems *unused = problems_create();
    int status = 1;
    exit_code code = program_start(arguments, environment, scratch, &status, unused);
    problems_destroy(unused);
    return code == EXIT_OK && status == 0;
}

exit_code python_find(const char *wanted, const char *scratch, const char **python, problems *list) {
    const char *of_environment = getenv("COHORT_PYTHON");
    *python = NULL;
    if (wanted && has_torch(wanted, scratch))
        *python = wanted;
    else if (wanted)
        return problem(list, EXIT_INPUT, "--python %s: it cannot import torch", wanted);
    else if (of_environment && has_torch(of_environment, scratch))
        *python = of_environment;
    else if (has_torch("python3", scratch))
        *python = "python3";
    return EXIT_OK;
}
