#define XXH_INLINE_ALL
#include "data/example_lines.h"

#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { MOST_PROBLEMS = 100 };

/* The line that is being read. */
typedef struct {
    const char *path;
    int64_t number;
    problems *list;
} line_place;

#define REFUSE(at, format, ...)                                                                              \
    problem((at)->list, EXIT_INPUT, "%s:%lld: " format, (at)->path, (long long)(at)->number, __VA_ARGS__)

static exit_code no_memory(const line_place *at) {
    return problem(at->list, EXIT_ENVIRONMENT, "%s: no memory for its examples", at->path);
}

/* ---- Prompt and response ---- */

static exit_code make_room(example_lines *r, const line_place *at, int64_t more, int64_t used) {
    if (used + more > INT32_MAX)
        return REFUSE(at, "the example has more than %d tokens; leave it out, or cut it", INT32_MAX);
    if (used + more <= r->room) return EXIT_OK;
    int64_t room = 2 * (used + more);
    uint32_t *grown = realloc(r->buffer, (size_t)room * sizeof *grown);
    if (!grown) return no_memory(at);
    r->buffer = grown;
    r->room = room;
    return EXIT_OK;
}

static exit_code take_text(example_lines *r, const line_place *at, const json_t *value, int64_t *used) {
    const unsigned char *bytes = (const unsigned char *)json_string_value(value);
    int64_t n = (int64_t)json_string_length(value);
    exit_code code = make_room(r, at, n, *used);
    for (int64_t i = 0; i < n && code == EXIT_OK; i++) r->buffer[(*used)++] = bytes[i];
    return code;
}

static exit_code take_ids(example_lines *r, const line_place *at, const char *key, const json_t *value,
                          int64_t *used) {
    int64_t n = (int64_t)json_array_size(value), most = r->vocabulary > 0 ? r->vocabulary : INT32_MAX;
    exit_code code = make_room(r, at, n, *used);
    for (int64_t i = 0; i < n && code == EXIT_OK; i++) {
        const json_t *id = json_array_get(value, (size_t)i);
        if (!json_is_integer(id))
            return REFUSE(at, "\"%s\" is a list, and its entry %lld is no number; write token ids, or text",
                          key, (long long)i);
        int64_t number = json_integer_value(id);
        if (number < 0 || number >= most)
            return REFUSE(at, "token %lld of \"%s\" is %lld; ids must be from 0 to %lld%s", (long long)i, key,
                          (long long)number, (long long)most - 1, r->vocabulary > 0 ? " (--vocabulary)" : "");
        r->buffer[(*used)++] = (uint32_t)number;
    }
    return code;
}

/* One kind in all files, for bytes and ids of a tokenizer are different alphabets. */
static exit_code check_kind(example_lines *r, const line_place *at, const char *key, bool ids) {
    if (!r->any) {
        r->any = true;
        r->ids = ids;
        snprintf(r->first, sizeof r->first, "%s:%lld", at->path, (long long)at->number);
    }
    if (r->ids == ids) return EXIT_OK;
    return REFUSE(at, "\"%s\" is %s, but %s has %s; write all as text, or all as token ids", key,
                  ids ? "a list of token ids" : "text", r->first, r->ids ? "token ids" : "text");
}

/* Appends the tokens of a key to r->buffer. */
static exit_code take_key(example_lines *r, const line_place *at, const json_t *object, const char *key,
                          int64_t *used) {
    const json_t *value = json_object_get(object, key);
    int64_t before = *used;
    if (!value)
        return REFUSE(at, "has no \"%s\"; an example is {\"prompt\": .., \"response\": ..}%s", key,
                      json_object_get(object, "text")
                          ? "; of running text take the text out, for example with jq -r .text FILE"
                          : "");
    if (!json_is_string(value) && !json_is_array(value))
        return REFUSE(at, "\"%s\" must be text or a list of token ids", key);
    exit_code code = check_kind(r, at, key, json_is_array(value));
    THEN(code, json_is_array(value) ? take_ids(r, at, key, value, used) : take_text(r, at, value, used));
    if (code == EXIT_OK && *used == before)
        return REFUSE(at, "the %s is empty; %s", key,
                      strcmp(key, "prompt") == 0 ? "the first token of a response is predicted from a prompt"
                                                 : "there is nothing to learn from it");
    return code;
}

/* ---- Task ---- */

static bool is_name(const json_t *value) {
    return json_is_string(value) && json_string_length(value) > 0 &&
           strlen(json_string_value(value)) == json_string_length(value);
}

/* "summary+german". */
static exit_code take_tasks(const example_lines *r, const line_place *at, const json_t *object, char **out) {
    const json_t *task = json_object_get(object, "task");
    size_t n = json_is_array(task) ? json_array_size(task) : 1, length = 0;
    *out = NULL;
    if (!task && !r->needs_tasks) return EXIT_OK;
    if (!task) return REFUSE(at, "has no \"%s\", by which --by-task would tell the sources apart", "task");
    bool good = n > 0;
    for (size_t i = 0; i < n && good; i++) {
        const json_t *one = json_is_array(task) ? json_array_get(task, i) : task;
        good = is_name(one);
        if (good) length += json_string_length(one) + 1;
    }
    if (!good) return REFUSE(at, "\"%s\" must be a name, or a list of names that are not empty", "task");
    char *joined = *out = calloc(1, length + 1);
    if (!joined) return no_memory(at);
    for (size_t i = 0; i < n; i++) {
        if (i > 0) strcat(joined, "+");
        strcat(joined, json_string_value(json_is_array(task) ? json_array_get(task, i) : task));
    }
    return EXIT_OK;
}

/* ---- Lines ---- */

static void hash_ids(const uint32_t *ids, int64_t count, uint64_t seed, uint64_t out[2]) {
    XXH128_hash_t hash = XXH3_128bits_withSeed(ids, (size_t)count * sizeof *ids, seed);
    out[0] = hash.high64;
    out[1] = hash.low64;
}

static exit_code append(line_examples *e, const line_example *item, const line_place *at) {
    if (e->count == e->room) {
        int64_t room = 2 * e->room + 64;
        line_example *grown = realloc(e->items, (size_t)room * sizeof *grown);
        if (!grown) return no_memory(at);
        e->items = grown;
        e->room = room;
    }
    e->items[e->count++] = *item;
    return EXIT_OK;
}

/* The example in r->buffer. */
static exit_code keep(example_lines *r, const line_place *at, line_example *item, line_examples *out) {
    hash_ids(r->buffer, item->prompt, 0, item->prompt_hash);
    hash_ids(r->buffer, item->tokens, (uint64_t)item->prompt, item->hash);
    item->at = r->written;
    for (int32_t i = 0; i < item->tokens; i++)
        if (r->buffer[i] > r->largest) r->largest = r->buffer[i];
    if (fwrite(r->buffer, sizeof *r->buffer, (size_t)item->tokens, r->tokens) != (size_t)item->tokens)
        return problem(at->list, EXIT_ENVIRONMENT, "%s: its tokens cannot be written: %s", at->path,
                       strerror(errno));
    r->written += item->tokens;
    return append(out, item, at);
}

static exit_code take_object(example_lines *r, const line_place *at, const json_t *object, data_part part,
                             line_examples *out) {
    line_example item = {.line = at->number, .part = part};
    int64_t used = 0;
    exit_code code = take_key(r, at, object, "prompt", &used);
    item.prompt = (int32_t)used;
    THEN(code, take_key(r, at, object, "response", &used));
    if (code == EXIT_OK && r->ends) code = make_room(r, at, 1, used);
    if (code == EXIT_OK && r->ends) r->buffer[used++] = (uint32_t)r->end;
    item.tokens = (int32_t)used;
    THEN(code, take_tasks(r, at, object, &item.tasks));
    bool longer = code == EXIT_OK && r->longest > 0 && used > r->longest;
    out->longer += longer;
    if (code == EXIT_OK && !longer) {
        code = keep(r, at, &item, out);
        if (code == EXIT_OK) return code;
    }
    free(item.tasks);
    return code;
}

static exit_code take_line(example_lines *r, const line_place *at, const char *line, size_t length,
                           data_part part, line_examples *out) {
    json_error_t error;
    json_t *object = json_loadb(line, length, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    exit_code code;
    if (!object)
        code = REFUSE(at, "is not valid JSON: %s (column %d)", error.text, error.column);
    else if (!json_is_object(object))
        code = REFUSE(at, "is no object; write one a line: %s", "{\"prompt\": .., \"response\": ..}");
    else
        code = take_object(r, at, object, part, out);
    json_decref(object);
    return code;
}

/* What stands in a line, without the mark that some editors put before UTF-8; false: nothing. */
static bool strip(char **line, size_t *length, int64_t number) {
    if (number == 1 && *length >= 3 && memcmp(*line, "\xEF\xBB\xBF", 3) == 0) {
        *line += 3;
        *length -= 3;
    }
    while (*length > 0 && isspace((unsigned char)(*line)[*length - 1])) --*length;
    size_t i = 0;
    while (i < *length && isspace((unsigned char)(*line)[i])) i++;
    return i < *length;
}

exit_code example_lines_read(example_lines *r, const char *path, data_part part, line_examples *out,
                             problems *list) {
    FILE *file = fopen(path, "rb");
    char *text = NULL;
    size_t room = 0;
    ssize_t length;
    int before = problems_count(list);
    int64_t count = out->count + out->longer;
    exit_code code = EXIT_OK;
    if (!file) return problem(list, EXIT_INPUT, "%s: cannot be read: %s", path, strerror(errno));
    line_place at = {.path = path, .number = 1, .list = list};
    for (; code != EXIT_ENVIRONMENT && (length = getline(&text, &room, file)) >= 0; at.number++) {
        char *line = text;
        size_t bytes = (size_t)length;
        if (!strip(&line, &bytes, at.number)) continue;
        exit_code one = take_line(r, &at, line, bytes, part, out);
        if (one != EXIT_OK) code = one;
        if (problems_count(list) - before < MOST_PROBLEMS) continue;
        problem(list, EXIT_INPUT, "%s: %d of its lines are wrong up to line %lld; the rest was not read",
                path, MOST_PROBLEMS, (long long)at.number);
        break;
    }
    if (ferror(file)) code = problem(list, EXIT_INPUT, "%s: cannot be read: %s", path, strerror(errno));
    if (code == EXIT_OK && out->count + out->longer == count)
        code = problem(list, EXIT_INPUT, "%s: holds no example; an example is a line %s", path,
                       "{\"prompt\": .., \"response\": ..}");
    free(text);
    fclose(file);
    return code;
}

void example_lines_free(example_lines *r) {
    free(r->buffer);
    r->buffer = NULL;
}

void line_examples_free(line_examples *e) {
    for (int64_t i = 0; i < e->count; i++) free(e->items[i].tasks);
    free(e->items);
    *e = (line_examples){0};
}
