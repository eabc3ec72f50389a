#include "data/sources.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "data/parts.h"

static int64_t count_of(const json_t *source, const char *what, int part) {
    const json_t *value = json_object_get(json_object_get(source, what), part_name(part));
    return json_is_integer(value) ? json_integer_value(value) : -1;
}

static int left_out_of(const json_t *source, const char *what) {
    return (int)json_integer_value(json_object_get(json_object_get(source, "left_out"), what));
}

static exit_code read_notes(const char *path, const json_t *root, source_notes *out, problems *list) {
    const json_t *sources = json_object_get(root, "sources");
    size_t n = json_array_size(sources);
    if (n == 0)
        return problem(
            list, EXIT_INPUT,
            "%s: has no list \"sources\"; write {\"sources\": [{\"name\": ..}, ..]}, or remove the file",
            path);
    out->notes = calloc(n, sizeof *out->notes);
    if (!out->notes) return problem(list, EXIT_ENVIRONMENT, "%s: no memory for %zu sources", path, n);
    for (size_t i = 0; i < n; i++) {
        const json_t *source = json_array_get(sources, i);
        const char *name = json_string_value(json_object_get(source, "name"));
        source_note *note = &out->notes[out->count];
        if (!name) return problem(list, EXIT_INPUT, "%s: sources[%zu] has no \"name\"; give it one", path, i);
        note->name = strdup(name);
        if (!note->name) return problem(list, EXIT_ENVIRONMENT, "%s: no memory for a name", path);
        out->count++;
        note->left_out = (left_out){left_out_of(source, "empty"), left_out_of(source, "copies"),
                                    left_out_of(source, "hidden")};
        note->longer = left_out_of(source, "longer");
        for (int part = 0; part < DATA_SPLITS; part++) {
            note->files[part] = count_of(source, "files", part);
            note->examples[part] = count_of(source, "examples", part);
            note->tokens[part] = count_of(source, "tokens", part);
        }
    }
    return EXIT_OK;
}

exit_code sources_read(const char *folder, source_notes *out, problems *list) {
    char path[PATH_ROOM];
    json_error_t error;
    *out = (source_notes){0};
    if (sources_path(folder, path) != 0) return problem(list, EXIT_INPUT, "%s: the path is too long", folder);
    if (access(path, F_OK) != 0) return EXIT_OK;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (!root)
        return problem(list, EXIT_INPUT, "%s:%d: %s; repair or remove the file", path, error.line,
                       error.text);
    exit_code code = read_notes(path, root, out, list);
    if (code != EXIT_OK) sources_free(out);
    json_decref(root);
    return code;
}

void sources_free(source_notes *s) {
    for (int i = 0; i < s->count; i++) free(s->notes[i].name);
    free(s->notes);
    *s = (source_notes){0};
}
