#include "measure/process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

enum { PATH_BYTES = 4096 };

extern char **environ;
static volatile pid_t running; /* 0: none */
static volatile sig_atomic_t stopped;

void program_stop(void) {
    stopped = 1;
    if (running > 0) kill(running, SIGTERM);
}

/* The first of two equal names is the one that programs see. */
char **program_environment(const char *const *added) {
    size_t n = 0, n_added = 0;
    while (environ[n]) n++;
    while (added[n_added]) n_added++;
    char **joined = malloc((n + n_added + 1) * sizeof *joined);
    if (!joined) return NULL;
    memcpy(joined, added, n_added * sizeof *joined);
    memcpy(joined + n_added, environ, (n + 1) * sizeof *joined);
    return joined;
}

static int spawn(const char *const *arguments, char **environment, const char *out, pid_t *process) {
    char out_path[PATH_BYTES], error_path[PATH_BYTES];
    posix_spawn_file_actions_t actions;
    snprintf(out_path, sizeof out_path, "%s.out", out);
    snprintf(error_path, sizeof error_path, "%s.err", out);
    int error = posix_spawn_file_actions_init(&actions);
    if (error) return error;
    const int flags = O_WRONLY | O_CREAT | O_TRUNC;
    error = posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    if (!error) error = posix_spawn_file_actions_addopen(&actions, 1, out_path, flags, 0666);
    if (!error) error = posix_spawn_file_actions_addopen(&actions, 2, error_path, flags, 0666);
    if (!error)
        error = posix_spawnp(process, arguments[0], &actions, NULL, (char *const *)arguments, environment);
    posix_spawn_file_actions_destroy(&actions);
    return error;
}

exit_code program_start(const char *const *arguments, const char *const *environment, const char *out,
                        int *status, problems *list) {
    pid_t process = 0;
    char **joined = program_environment(environment);
    if (!joined) return problem(list, EXIT_ENVIRONMENT, "out of memory");
    int error = spawn(arguments, joined, out, &process);
    free(joined);
    if (error)
        return problem(list, EXIT_ENVIRONMENT, "%s: cannot be started: %s", arguments[0], strerror(error));
    running = process;
    if (stopped) program_stop(); /* asked for between two programs, when there was none to end */
    do error = waitpid(process, status, 0) < 0 ? errno : 0;
    while (error == EINTR);
    running = 0;
    return error ? problem(list, EXIT_ENVIRONMENT, "%s: %s", arguments[0], strerror(error)) : EXIT_OK;
}
