/* plot.c - finds the script and a Python that can run it, and waits for it. */
#include "command/plot.h"

#include <errno.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "result/trace.h"
#include "support/writable.h"

extern char **environ;

enum { PATH_BYTES = 4096, NO_PYTHON = 127 };

/* Exits with 0, or after naming the modules that are missing. */
static const char PROBE[] = "import importlib.util as u\n"
                            "missing = [m for m in ('h5py', 'matplotlib') if u.find_spec(m) is None]\n"
                            "print(' and '.join(missing), end='')\n"
                            "raise SystemExit(bool(missing))\n";

/* ---- The script ---- */

static bool place(char path[PATH_BYTES], const char *folder, size_t length, const char *name) {
    return snprintf(path, PATH_BYTES, "%.*s/%s", (int)length, folder, name) < PATH_BYTES &&
           access(path, R_OK) == 0;
}

/* Beside the program (build/cohort, or bin/cohort of an installation), else where this file was compiled. */
static bool find_script(char path[PATH_BYTES]) {
    char program[PATH_BYTES];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    program[length > 0 ? length : 0] = '\0';
    const char *slash = strrchr(program, '/');
    size_t folder = slash ? (size_t)(slash - program) : 0;
    const char *sim = strstr(__FILE__, "/sim/command/plot.c");
    return (slash && place(path, program, folder, "../results/plot.py")) ||
           (slash && place(path, program, folder, "../share/cohort/plot.py")) ||
           (sim && place(path, __FILE__, (size_t)(sim - __FILE__), "results/plot.py"));
}

/* ---- Python ---- */

/* Starts a program found along PATH; its standard output goes to `output`, its errors to `errors` (-1: where
 * ours go). */
static int start(const char *const *words, int output, int errors, pid_t *child) {
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    if (output >= 0) posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
    if (errors >= 0) posix_spawn_file_actions_adddup2(&actions, errors, STDERR_FILENO);
    int status = posix_spawnp(child, words[0], &actions, NULL, (char *const *)words, environ);
    posix_spawn_file_actions_destroy(&actions);
    return status;
}

static int wait_for(pid_t child) {
    int status = 0;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR) return NO_PYTHON;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* What this Python lacks, or an empty text. */
static void probe(const char *python, char missing[256]) {
    const char *const words[] = {python, "-c", PROBE, NULL};
    FILE *said = tmpfile();
    pid_t child = 0;
    missing[0] = '\0';
    int status = said ? start(words, fileno(said), fileno(said), &child) : errno;
    if (status != 0) {
        snprintf(missing, 256, "%s", strerror(status));
    } else if ((status = wait_for(child)) != 0) {
        rewind(said);
        missing[fread(missing, 1, 255, said)] = '\0';
        missing[strcspn(missing, "\n")] = '\0';
        if (missing[0] == '\0') snprintf(missing, 256, "exit status %d", status);
    }
    if (said) fclose(said);
}

static exit_code find_python(const char **python, problems *list) {
    const char *const candidates[] = {getenv("COHORT_PYTHON"), "/usr/bin/python3", "python3"};
    char reasons[1024] = "", missing[256];
    size_t used = 0;
    for (size_t i = 0; i < sizeof candidates / sizeof *candidates; i++) {
        if (!candidates[i] || candidates[i][0] == '\0') continue;
        *python = candidates[i];
        probe(candidates[i], missing);
        if (missing[0] == '\0') return EXIT_OK;
        if (used < sizeof reasons)
            used += (size_t)snprintf(reasons + used, sizeof reasons - used, "%s%s: %s", used ? "; " : "",
                                     candidates[i], missing);
    }
    return problem(list, EXIT_ENVIRONMENT,
                   "plot: no Python here has both h5py and matplotlib (missing: %s); apt-get install "
                   "python3-h5py python3-matplotlib, or "
                   "name another Python in COHORT_PYTHON",
                   reasons);
}

static exit_code check_place(const char *folder, const char *out, problems *list) {
    char figures[PATH_BYTES];
    if (snprintf(figures, sizeof figures, "%s/figures", folder) >= (int)sizeof figures)
        return problem(list, EXIT_INPUT, "%.60s...: the path is too long", folder);
    return writable_check(out ? out : figures, "the figures", list);
}

/* Runs the script, which has said what is wrong where it does not end well. */
static exit_code run_script(const char *python, const char *script, const char *folder,
                            const plot_options *options, problems *list) {
    const struct {
        const char *name, *value;
    } given[] = {{"--out", options->out}, {"--metric", options->metric}, {"--axis", options->axis}};
    const char *words[10] = {python, script, folder};
    size_t n = 3;
    for (size_t i = 0; i < sizeof given / sizeof *given; i++) {
        if (!given[i].value) continue;
        words[n++] = given[i].name;
        words[n++] = given[i].value;
    }
    pid_t child = 0;
    int status = start(words, -1, -1, &child);
    if (status != 0)
        return problem(list, EXIT_ENVIRONMENT, "%s: cannot be started: %s", python, strerror(status));
    status = wait_for(child);
    if (status == 0) return EXIT_OK;
    return problem(list, status == EXIT_INPUT ? EXIT_INPUT : EXIT_RUN, "%s %s: exit status %d (see above)",
                   python, script, status);
}

exit_code plot_result(const char *folder, const plot_options *options, problems *list) {
    char script[PATH_BYTES], found[PATH_BYTES];
    const char *python = NULL;
    exit_code code = trace_find(folder, found, sizeof found, list);
    THEN(code, trace_look(found, list));
    THEN(code, check_place(folder, options->out, list));
    if (code != EXIT_OK) return code;
    if (!find_script(script))
        return problem(list, EXIT_ENVIRONMENT,
                       "plot: results/plot.py is not beside the program; run it by hand");
    code = find_python(&python, list);
    THEN(code, run_script(python, script, folder, options, list));
    return code;
}
