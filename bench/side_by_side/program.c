#include "side_by_side/program.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "measure/folder.h"
#include "measure/statistics.h"

/* ---- Reading */

static void last_words(const char *out, char *words, size_t size) {
    char path[FOLDER_PATH_BYTES], line[512];
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
    char path[FOLDER_PATH_BYTES], *line = NULL;
    size_t room = 0;
    int got = 0, number = 0;
    exit_code code = EXIT_OK;
    snprintf(path, sizeof path, "%s.out", out);
    FILE *file = fopen(path, "r");
    if (!file) return problem(list, EXIT_ENVIRONMENT, "%s: cannot be read: %s", path, strerror(errno));
    while (code == EXIT_OK && getline(&line, &room, file) >= 0) {
        number++;
        if (!read_line(line, r, &got))
            code = problem(list, EXIT_RUN, "%s: line %d of its output is no result", name, number);
    }
    if (code == EXIT_OK && (got < r->steps || !r->end))
        code = problem(list, EXIT_RUN, "%s: printed %d of %d steps%s", name, got, r->steps,
                       r->end ? "" : " and no end");
    free(line);
    fclose(file);
    return code;
}

/* What messages call it: the last part of OUT. */
static const char *name_of(const char *out) {
    const char *slash = strrchr(out, '/');
    return slash ? slash + 1 : out;
}

exit_code program_run(const char *const *arguments, const char *const *environment, const char *out,
                      int steps, int devices, program_result *result, problems *list) {
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
    return problem(list, EXIT_RUN, "%s: ended with %s %d: %s", name_of(out),
                   WIFSIGNALED(status) ? "signal" : "code",
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
