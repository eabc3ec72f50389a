/* build_examples.c - `cohort data`: JSON Lines -> shards of examples.
 *
 * Examples are put in the order of their prompts' hash, then of their own, so that neither the order of lines
 * nor their file's name decides who is where; copies are left out. A file is divided in that order: the
 * beginning is test, then valid, the rest train, each by its share of the examples and up to a change of
 * prompt, so that no prompt is in two splits. A folder's three files are the splits themselves.
 *
 * Tokens wait in a file without a name below the folder that is written, so that each line is parsed once and
 * memory holds no text. */
#include "data/build_examples.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/example_lines.h"
#include "data/examples.h"
#include "data/parts.h"

/* ---- Files ---- */

static bool ends_with(const char *path, const char *ending) {
    size_t length = strlen(path), of_ending = strlen(ending);
    return length >= of_ending && strcasecmp(path + length - of_ending, ending) == 0;
}

static bool is_folder(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

/* FOLDER/train.jsonl and its like; "" where that is too long. */
static void part_file(const char *folder, int part, char out[PATH_ROOM]) {
    if (snprintf(out, PATH_ROOM, "%s/%s.jsonl", folder, part_name(part)) >= PATH_ROOM) out[0] = '\0';
}

bool examples_are_at(const char *path) {
    char file[PATH_ROOM];
    if (!is_folder(path)) return ends_with(path, ".jsonl") || ends_with(path, ".ndjson");
    for (int part = 0; part < DATA_SPLITS; part++) {
        part_file(path, part, file);
        if (access(file, F_OK) == 0) return true;
    }
    return false;
}

bool examples_are_divided(const char *path) {
    return is_folder(path) && examples_are_at(path);
}

static exit_code read_source(example_lines *r, const char *path, line_examples *out, problems *list) {
    exit_code code = EXIT_OK;
    if (!is_folder(path)) return example_lines_read(r, path, DATA_SPLITS, out, list);
    for (int part = 0; part < DATA_SPLITS; part++) {
        char file[PATH_ROOM];
        part_file(path, part, file);
        exit_code one =
            access(file, F_OK) == 0
                ? example_lines_read(r, file, (data_part)part, out, list)
                : problem(list, EXIT_INPUT,
                          "%s: has no %s.jsonl; a folder of examples has train.jsonl, valid.jsonl "
                          "and test.jsonl (a single file is divided)",
                          path, part_name(part));
        THEN(code, one);
    }
    return code;
}

/* ---- Order, copies, splits ---- */

static int by_text(const void *a, const void *b) {
    return strcmp(((const line_example *)a)->tasks, ((const line_example *)b)->tasks);
}

static int compare_hash(const uint64_t a[2], const uint64_t b[2]) {
    for (int i = 0; i < 2; i++)
        if (a[i] != b[i]) return a[i] < b[i] ? -1 : 1;
    return 0;
}

/* By part, as far as it is given. Among copies the first line is kept. */
static int by_content(const void *a, const void *b) {
    const line_example *x = a, *y = b;
    if (x->part != y->part) return x->part < y->part ? -1 : 1;
    int prompts = compare_hash(x->prompt_hash, y->prompt_hash), all = compare_hash(x->hash, y->hash);
    if (prompts || all) return prompts ? prompts : all;
    return (x->line > y->line) - (x->line < y->line);
}

/* Moves copies behind the `kept` that are returned. */
static int64_t drop_copies(line_example *items, int64_t count) {
    int64_t kept = 0;
    for (int64_t i = 0; i < count; i++) {
        bool copy = kept > 0 && items[kept - 1].part == items[i].part &&
                    compare_hash(items[kept - 1].hash, items[i].hash) == 0;
        if (copy) continue;
        line_example moved = items[kept];
        items[kept++] = items[i];
        if (kept - 1 != i) items[i] = moved;
    }
    return kept;
}

/* Gives the examples from `first` on to a part: its share of them, to the end of a prompt. Returns where the
 * rest begins. */
static int64_t assign(line_example *items, int64_t count, int64_t first, data_part part, double share) {
    int64_t wanted = (int64_t)(share * (double)count + 0.5), end = first + (wanted > 0 ? wanted : 1);
    while (end < count && compare_hash(items[end - 1].prompt_hash, items[end].prompt_hash) == 0) end++;
    for (int64_t i = first; i < end && i < count; i++) items[i].part = part;
    return end < count ? end : count;
}

static void divide(line_example *items, int64_t count, const data_build *o) {
    int64_t next = assign(items, count, 0, DATA_TEST, o->test_share);
    if (next < count) next = assign(items, count, next, DATA_VALID, o->valid_share);
    for (; next < count; next++) items[next].part = DATA_TRAIN;
}

/* ---- A source ---- */

typedef struct {
    const char *name, *path;
    line_example *items; /* [count], those of one part neighbours */
    int64_t count;
    int64_t copies, longer; /* left out */
} example_source;

typedef struct {
    const data_build *options;
    const char *folder;
    example_lines lines;
    json_t *sources; /* borrowed */
    problems *list;
} build;

static exit_code write_tokens(build *b, examples_writer *w, const line_example *items, int64_t count) {
    int file = fileno(b->lines.tokens);
    for (int64_t i = 0; i < count; i++) {
        size_t bytes = (size_t)items[i].tokens * sizeof *b->lines.buffer;
        ssize_t n = pread(file, b->lines.buffer, bytes, items[i].at * (off_t)sizeof *b->lines.buffer);
        if (n != (ssize_t)bytes)
            return problem(b->list, EXIT_ENVIRONMENT, "%s: tokens cannot be read back: %s", b->folder,
                           n < 0 ? strerror(errno) : "they are gone");
        if (examples_put_tokens(w, b->lines.buffer, items[i].tokens) != 0)
            return problem(b->list, EXIT_ENVIRONMENT, "%s: tokens cannot be written: %s", b->folder,
                           strerror(errno));
    }
    return EXIT_OK;
}

static exit_code write_shard(build *b, int source, data_part part, const line_example *items, int64_t count,
                             int64_t tokens) {
    char path[PATH_ROOM];
    FILE *file = shard_path(b->folder, part, source, path) == 0 ? fopen(path, "wb") : NULL;
    examples_writer w = {0};
    exit_code code = EXIT_OK;
    if (!file)
        return problem(b->list, EXIT_ENVIRONMENT, "%s: a shard cannot be created: %s", b->folder,
                       strerror(errno));
    int status = examples_begin(&w, file, count, tokens, b->lines.largest < 65536 ? 2 : 4);
    for (int64_t i = 0; i < count && status == 0; i++)
        status = examples_put_record(&w, items[i].prompt, items[i].tokens, items[i].line);
    if (status == 0) code = write_tokens(b, &w, items, count);
    status |= examples_end(&w);
    status |= fclose(file);
    if (code == EXIT_OK && status != 0)
        code = problem(b->list, EXIT_ENVIRONMENT, "%s: cannot be written: %s", path, strerror(errno));
    return code;
}

static exit_code describe(build *b, const example_source *s, const int64_t examples[DATA_SPLITS],
                          const int64_t tokens[DATA_SPLITS]) {
    json_t *e = json_object(), *t = json_object();
    for (int part = 0; part < DATA_SPLITS; part++) {
        json_object_set_new(e, part_name(part), json_integer(examples[part]));
        json_object_set_new(t, part_name(part), json_integer(tokens[part]));
    }
    json_t *left = json_pack("{s:I, s:I}", "copies", (json_int_t)s->copies, "longer", (json_int_t)s->longer);
    json_t *described =
        json_pack("{s:s, s:o, s:o, s:o}", "name", s->name, "examples", e, "tokens", t, "left_out", left);
    if (!described)
        return problem(b->list, EXIT_INPUT, "the source name %s is not valid UTF-8; give it another name",
                       s->name);
    json_array_append_new(b->sources, described);
    return EXIT_OK;
}

static exit_code write_source(build *b, const example_source *s) {
    int source = (int)json_array_size(b->sources);
    int64_t examples[DATA_SPLITS] = {0}, tokens[DATA_SPLITS] = {0};
    exit_code code = EXIT_OK;
    for (int64_t i = 0; i < s->count; i++) {
        examples[s->items[i].part]++;
        tokens[s->items[i].part] += s->items[i].tokens;
    }
    for (int part = 0; part < DATA_SPLITS; part++)
        if (examples[part] == 0)
            code =
                problem(b->list, EXIT_INPUT,
                        "%s: source %s has %lld example(s), too few different prompts for three splits: %s "
                        "stays empty; give more",
                        s->path, s->name, (long long)s->count, part_name(part));
    const line_example *next = s->items;
    for (int i = 0; i < DATA_SPLITS && code == EXIT_OK; i++) {
        data_part part = s->count > 0 ? next->part : DATA_TRAIN;
        code = write_shard(b, source, part, next, examples[part], tokens[part]);
        next += examples[part];
    }
    return THEN(code, describe(b, s, examples, tokens));
}

/* items [count] are all of one source. */
static exit_code build_source(build *b, const char *name, const char *path, line_example *items,
                              int64_t count, int64_t longer) {
    example_source s = {.name = name, .path = path, .items = items, .longer = longer};
    if (count > 0) qsort(items, (size_t)count, sizeof *items, by_content);
    s.count = drop_copies(items, count);
    s.copies = count - s.count;
    if (s.count > 0 && items[0].part == DATA_SPLITS) divide(items, s.count, b->options);
    return write_source(b, &s);
}

/* A source for each list of tasks: NAME/summary+german. What was left out is counted with the first. */
static exit_code build_by_task(build *b, const char *name, const char *path, line_examples *e) {
    exit_code code = EXIT_OK;
    if (e->count > 0) qsort(e->items, (size_t)e->count, sizeof *e->items, by_text);
    for (int64_t first = 0, end; first < e->count && code != EXIT_ENVIRONMENT; first = end) {
        char *whole = NULL;
        for (end = first + 1; end < e->count && by_text(&e->items[first], &e->items[end]) == 0;) end++;
        exit_code one =
            asprintf(&whole, "%s/%s", name, e->items[first].tasks) < 0
                ? problem(b->list, EXIT_ENVIRONMENT, "%s: no memory for a name", path)
                : build_source(b, whole, path, e->items + first, end - first, first == 0 ? e->longer : 0);
        THEN(code, one);
        free(whole);
    }
    return code;
}

/* All are read before anything is written: a shard's ids are as wide as the largest of all. */
static exit_code build_all(build *b, line_examples *read) {
    const data_build *o = b->options;
    exit_code code = EXIT_OK;
    for (int i = 0; i < o->n_sources; i++) {
        exit_code one = read_source(&b->lines, o->paths[i], &read[i], b->list);
        THEN(code, one);
    }
    if (code == EXIT_OK && o->vocabulary > 0 && b->lines.largest >= o->vocabulary)
        code =
            problem(b->list, EXIT_INPUT, "--vocabulary %lld: the text has the byte %lld; give at least %lld",
                    (long long)o->vocabulary, (long long)b->lines.largest, (long long)b->lines.largest + 1);
    if (code == EXIT_OK && fflush(b->lines.tokens) != 0)
        code = problem(b->list, EXIT_ENVIRONMENT, "%s: tokens cannot be written: %s", b->folder,
                       strerror(errno));
    if (code != EXIT_OK) return code;
    for (int i = 0; i < o->n_sources; i++) {
        exit_code one =
            o->by_task && read[i].count > 0
                ? build_by_task(b, o->names[i], o->paths[i], &read[i])
                : build_source(b, o->names[i], o->paths[i], read[i].items, read[i].count, read[i].longer);
        THEN(code, one);
    }
    return code;
}

/* A file without a name, on the disk where the shards come to lie. */
static FILE *open_spool(const char *folder) {
    char path[PATH_ROOM];
    if (snprintf(path, sizeof path, "%s/tokens", folder) >= (int)sizeof path) return NULL;
    FILE *file = fopen(path, "w+b");
    if (file) unlink(path);
    return file;
}

exit_code build_examples(const data_build *o, const char *folder, json_t *sources, int64_t *vocabulary,
                         problems *list) {
    build b = {.options = o, .folder = folder, .sources = sources, .list = list};
    b.lines = (example_lines){.vocabulary = o->vocabulary,
                              .ends = o->ends,
                              .end = o->end,
                              .longest = o->longest,
                              .needs_tasks = o->by_task,
                              .tokens = open_spool(folder),
                              .largest = -1};
    line_examples *read = calloc((size_t)o->n_sources, sizeof *read);
    exit_code code = EXIT_OK;
    if (!read || !b.lines.tokens)
        code = problem(list, EXIT_ENVIRONMENT, "%s: no memory or no disk for the examples: %s", folder,
                       strerror(errno));
    THEN(code, build_all(&b, read));
    *vocabulary = o->vocabulary > 0 ? o->vocabulary : b.lines.largest + 1;
    if (!b.lines.ids && *vocabulary < 256) *vocabulary = 256;
    for (int i = 0; read && i < o->n_sources; i++) line_examples_free(&read[i]);
    free(read);
    example_lines_free(&b.lines);
    if (b.lines.tokens) fclose(b.lines.tokens);
    return code;
}
