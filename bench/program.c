#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "statistics.h"

extern char **environ;
static volatile pid_t running; /* 0: none */
static volatile sig_atomic_t stopped;

/* ---- Running */

void program_stop(void) {
    stopped = 1;
    if (running > 0) kill(running, SIGTERM);
}

/* `added` before what is there: the first of two equal names is the one that programs see. */
static char **join_environment(const char *const *added) {
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
    char out_path[JOB_PATH_BYTES], error_path[JOB_PATH_BYTES];
    posix_spawn_file_actions_t actions;
    snprintf(out_path, sizeof out_path, "%s.out", out);
    snprintf(error_path, sizeof error_path, "%s.err", out);
    int error = posix_spawn_file_actions_init(&actions);
    if (error) return error;
    const int flags = O_WRONLY | O_CREAT | O_TRUNC;
    error = posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    if (!error) error = posix_spawn_file_actions_addopen(&actions, 1, out_path, flags, 0666);
    if (!error) error = posix_spawn_file_actions_addopen(&actions, 2, error_path, flags, 0666);
    if (!error) error = posix_spawnp(process, arguments[0], &actions, NULL, (char *const *)arguments, environment);
    posix_spawn_file_actions_destroy(&actions);
    return error;
}

exit_code program_start(const char *const *arguments, const char *const *environment, const char *out, int *status, problems *list) {
    pid_t process = 0;
    char **joined = join_environment(environment);
    if (!joined) return problem(list, EXIT_ENVIRONMENT, "out of memory");
    int error = spawn(arguments, joined, out, &process);
    free(joined);
    if (error) return problem(list, EXIT_ENVIRONMENT, "%s: cannot be started: %s", arguments[0], strerror(error));
    running = process;
    if (stopped) program_stop(); /* asked for between two programs, when there was none to end */
    do error = waitpid(process, status, 0) < 0 ? errno : 0;
    while (error == EINTR);
    running = 0;
    return error ? problem(list, EXIT_ENVIRONMENT, "%s: %s", arguments[0], strerror(error)) : EXIT_OK;
}

/* ---- Reading */

static void last_words(const char *out, char *words, size_t size) {
    char path[JOB_PATH_BYTES], line[512];
    snprintf(path, sizeof path, "%s.err", out);
    snprintf(words, size, "it said nothing");
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = '\0';
        if (line[0]) snprintf(words, size, "%s", line);
    }
    if (file) fclose(file);
}

static bool read_numbers(const json_t *array, int count, double *out) {
    if (json_array_size(array) != (size_t)count) return false;
    for (int i = 0; i < count; i++) {
        const json_t *value = json_array_get(array, (size_t)i);
        if (!json_is_number(value)) return false;
        out[i] = json_number_value(value);
    }
    return true;
}

/* True if the line belongs; *got counts the steps read. */
static bool read_line(const char *line, program_result *r, int *got) {
    json_t *root = json_loads(line, 0, NULL);
    bool ok = false;
    const json_t *loss = json_object_get(root, "loss");
    if (loss && *got < r->steps)
        ok = read_numbers(loss, r->devices, r->loss + (size_t)(*got)++ * (size_t)r->devices);
    else if (root && !loss && !r->end) {
        r->end = json_incref(root);
        r->start_bytes = json_number_value(json_object_get(root, "start_bytes"));
        r->peak_bytes = json_number_value(json_object_get(root, "peak_bytes"));
        ok = read_numbers(json_object_get(root, "step_seconds"), r->steps, r->seconds);
    }
    json_decref(root);
    return ok;
}

static exit_code read_result(const char *name, const char *out, program_result *r, problems *list) {
    char path[JOB_PATH_BYTES], *line = NULL;
    size_t room = 0;
    int got = 0, number = 0;
    exit_code code = EXIT_OK;
    snprintf(path, sizeof path, "%s.out", out);
    FILE *file = fopen(path, "r");
    if (!file) return problem(list, EXIT_ENVIRONMENT, "%s: cannot be read: %s", path, strerror(errno));
    while (code == EXIT_OK && getline(&line, &room, file) >= 0) {
        number++;
        if (!read_line(line, r, &got)) code = problem(list, EXIT_RUN, "%s: line %d of its output is no result", name, number);
    }
    if (code == EXIT_OK && (got < r->steps || !r->end))
        code = problem(list, EXIT_RUN, "%s: printed %d of %d steps%s", name, got, r->steps, r->end ? "" : " and no end");
    free(line);
    fclose(file);
    return code;
}

/* What messages call it: the last part of OUT. */
static const char *name_of(const char *out) {
    const char *slash = strrchr(out, '/');
    return slash ? slash + 1 : out;
}

exit_code program_run(const char *const *arguments, const char *const *environment, const char *out, int steps, int devices,
                      program_result *result, problems *list) {
    int status = 0;
    char words[512];
    *result = (program_result){.steps = steps, .devices = devices};
    result->loss = calloc((size_t)steps * (size_t)devices, sizeof *result->loss);
    result->seconds = calloc((size_t)steps, sizeof *result->seconds);
    if (!result->loss || !result->seconds) return problem(list, EXIT_ENVIRONMENT, "out of memory for losses");
    exit_code code = program_start(arguments, environment, out, &status, list);
    if (code != EXIT_OK) return code;
    if (status == 0) return read_result(name_of(out), out, result, list);
    last_words(out, words, sizeof words);
    return problem(list, EXIT_RUN, "%s: ended with %s %d: %s", name_of(out), WIFSIGNALED(status) ? "signal" : "code",
                   WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), words);
}

void program_free(program_result *r) {
    free(r->loss);
    free(r->seconds);
    json_decref(r->end);
    *r = (program_result){0};
}

/* ---- Comparing */

difference program_difference(const program_result *a, const program_result *b) {
    difference d = {0};
    int steps = a->steps < b->steps ? a->steps : b->steps;
    for (int i = 0; i < steps * a->devices; i++) {
        double distance = fabs(a->loss[i] - b->loss[i]);
        if (distance <= d.largest) continue;
        d = (difference){.largest = distance, .step = i / a->devices, .device = i % a->devices};
        if (isnan(distance)) break;
    }
    return d;
}

double program_rate(const program_result *r, const job *j) {
    int warmup = j->warmup < r->steps ? j->warmup : r->steps - 1;
    return job_tokens_a_step(j) / statistics_median(r->seconds + warmup, r->steps - warmup);
}
