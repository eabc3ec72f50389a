/* build.c - `cohort data`: text files -> train_<i>.bin, valid_<i>.bin, test_<i>.bin (bytes as uint16 tokens)
 * and sources.json. Examples are made into shards by build_examples.c.
 *
 * Whole files are assigned in the order of their content's hash, so that a page is never in two splits and
 * neither names nor the file system decide: a file goes to test while that brings test nearer its share, else
 * to valid likewise, else to train; small files first. A source that is one file is cut instead, at ends of
 * lines: its beginning is train, then valid, then test. A folder of shards is always whole (output_folder.h).
 */
#include <errno.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/build_examples.h"
#include "data/data.h"
#include "data/parts.h"
#include "data/text_files.h"
#include "support/output_folder.h"

enum { SEPARATOR = '\n', BYTE_IDS = 256 };

static exit_code check_options(const data_build *o, problems *list) {
    exit_code code = EXIT_OK;
    if (o->n_sources < 1)
        code = problem(list, EXIT_INPUT, "no source is given; write NAME=PATH, PATH a text file or a folder");
    if (!(o->valid_share > 0 && o->test_share > 0 && o->valid_share + o->test_share < 1))
        code = problem(list, EXIT_INPUT,
                       "shares of %g (valid) and %g (test) leave a split empty; both must be above 0 and sum "
                       "to less than 1",
                       o->valid_share, o->test_share);
    for (int i = 0; i < o->n_sources; i++) {
        if (o->names[i][0] == '\0')
            code = problem(list, EXIT_INPUT, "the source %s has no name; write NAME=%s", o->paths[i],
                           o->paths[i]);
        for (int j = 0; j < i; j++)
            if (strcmp(o->names[i], o->names[j]) == 0)
                code = problem(list, EXIT_INPUT, "the name %s is given to both %s and %s; names must differ",
                               o->names[i], o->paths[j], o->paths[i]);
    }
    exit_code place = output_folder_check(o->out, "the shards", list);
    return THEN(code, place);
}

/* Deals files of at most `most` bytes to `part` as long as each brings it nearer to its share; returns the
 * bytes still missing. */
static double assign_files(text_files *t, data_part part, double missing, double most) {
    for (int i = 0; i < t->count; i++) {
        text_file *file = &t->files[i];
        double bytes = (double)file->bytes;
        if (file->part != DATA_TRAIN || bytes > most || bytes >= 2 * missing) continue;
        file->part = part;
        missing -= bytes;
    }
    return missing;
}

/* Small files first, so that no single page makes up a split; where all files are large, the smallest one. */
static void assign_part(text_files *t, data_part part, double share) {
    double wanted = share * (double)t->bytes;
    double missing = assign_files(t, part, wanted, wanted / 4);
    if (assign_files(t, part, missing, wanted) < wanted) return;
    text_file *smallest = NULL;
    for (int i = 0; i < t->count; i++)
        if (t->files[i].part == DATA_TRAIN && (!smallest || t->files[i].bytes < smallest->bytes))
            smallest = &t->files[i];
    if (smallest) smallest->part = part;
}

static exit_code write_text(FILE *to, const unsigned char *text, int64_t bytes, const char *path,
                            problems *list) {
    enum { CHUNK = 4096 };
    uint16_t tokens[CHUNK];
    for (int64_t first = 0; first < bytes; first += CHUNK) {
        size_t n = (size_t)(bytes - first < CHUNK ? bytes - first : CHUNK);
        for (size_t i = 0; i < n; i++) tokens[i] = text[first + (int64_t)i];
        if (fwrite(tokens, sizeof *tokens, n, to) != n)
            return problem(list, EXIT_ENVIRONMENT, "%s: its tokens cannot be written: %s", path,
                           strerror(errno));
    }
    return EXIT_OK;
}

/* The ranges [first, last) of a single file's splits, in the order of data_part. */
static void cut_file(const unsigned char *text, int64_t bytes, const data_build *o,
                     int64_t ends[DATA_SPLITS]) {
    double shares[DATA_SPLITS] = {1 - o->valid_share - o->test_share, 1 - o->test_share, 1};
    for (int part = 0; part < DATA_SPLITS; part++) {
        int64_t end = (int64_t)(shares[part] * (double)bytes);
        while (end < bytes && end > 0 && text[end - 1] != SEPARATOR) end++;
        ends[part] = part == DATA_TEST ? bytes : end;
    }
}

static exit_code write_file(FILE *const to[DATA_SPLITS], const text_file *file, bool cut, const data_build *o,
                            int64_t tokens[DATA_SPLITS], problems *list) {
    unsigned char *text = NULL;
    int64_t bytes = 0, ends[DATA_SPLITS], first = 0;
    exit_code code = text_file_read(file->path, &text, &bytes, list);
    if (code != EXIT_OK) return code;
    if (cut) cut_file(text, bytes, o, ends);
    for (int part = 0; part < DATA_SPLITS && code == EXIT_OK; part++) {
        if (!cut && part != (int)file->part) continue;
        int64_t last = cut ? ends[part] : bytes;
        code = write_text(to[part], text + first, last - first, file->path, list);
        tokens[part] += last - first;
        first = last;
    }
    free(text);
    return code;
}

static exit_code write_separator(FILE *to, int64_t *tokens, problems *list) {
    const unsigned char separator = SEPARATOR;
    (*tokens)++;
    return write_text(to, &separator, 1, "a shard", list);
}

static exit_code write_splits(const text_files *t, FILE *const to[DATA_SPLITS], const data_build *o,
                              int64_t tokens[DATA_SPLITS], int files[DATA_SPLITS], problems *list) {
    bool cut = t->count == 1;
    exit_code code = EXIT_OK;
    for (int i = 0; i < t->count && code == EXIT_OK; i++) {
        data_part part = t->files[i].part;
        if (files[part] > 0) code = write_separator(to[part], &tokens[part], list);
        THEN(code, write_file(to, &t->files[i], cut, o, tokens, list));
        files[part]++;
    }
    for (int part = 0; part < DATA_SPLITS && cut; part++) files[part] = 1;
    return code;
}

static exit_code check_splits(const data_build *o, int source, const int64_t tokens[DATA_SPLITS], int files,
                              problems *list) {
    exit_code code = EXIT_OK;
    for (int part = 0; part < DATA_SPLITS; part++)
        if (tokens[part] == 0)
            code =
                problem(list, EXIT_INPUT,
                        "%s: too little text in %d file(s) for three splits, %s stays empty; give more files",
                        o->paths[source], files, part_name(part));
    return code;
}

static int open_shards(const char *folder, int source, FILE *to[DATA_SPLITS]) {
    for (int part = 0; part < DATA_SPLITS; part++) {
        char path[PATH_ROOM];
        if (shard_path(folder, part, source, path) != 0) return -1;
        to[part] = fopen(path, "wb");
        if (!to[part]) return -1;
    }
    return 0;
}

static int close_shards(FILE *to[DATA_SPLITS]) {
    int failed = 0;
    for (int part = 0; part < DATA_SPLITS; part++)
        if (to[part] && fclose(to[part]) != 0) failed = -1;
    return failed;
}

static json_t *describe(const char *name, const int files[DATA_SPLITS], const int64_t tokens[DATA_SPLITS],
                        const left_out *left) {
    json_t *f = json_object(), *t = json_object();
    for (int part = 0; part < DATA_SPLITS; part++) {
        json_object_set_new(f, part_name(part), json_integer(files[part]));
        json_object_set_new(t, part_name(part), json_integer(tokens[part]));
    }
    json_t *l =
        json_pack("{s:i, s:i, s:i}", "empty", left->empty, "copies", left->copies, "hidden", left->hidden);
    return json_pack("{s:s, s:o, s:o, s:o}", "name", name, "files", f, "tokens", t, "left_out", l);
}

static exit_code build_source(const data_build *o, int source, const char *folder, json_t *sources,
                              problems *list) {
    text_files t = {0};
    FILE *to[DATA_SPLITS] = {0};
    int64_t tokens[DATA_SPLITS] = {0};
    int files[DATA_SPLITS] = {0};
    exit_code code = text_files_find(o->paths[source], &t, list);
    if (code != EXIT_OK) goto cleanup;
    if (t.count > 1) {
        assign_part(&t, DATA_TEST, o->test_share);
        assign_part(&t, DATA_VALID, o->valid_share);
    }
    if (open_shards(folder, source, to) != 0) {
        code = problem(list, EXIT_ENVIRONMENT, "%s: a shard cannot be created: %s", folder, strerror(errno));
        goto cleanup;
    }
    code = write_splits(&t, to, o, tokens, files, list);
    THEN(code, check_splits(o, source, tokens, t.count, list));
    json_t *described = describe(o->names[source], files, tokens, &t.left_out);
    if (!described && code == EXIT_OK)
        code = problem(list, EXIT_INPUT, "the source name %s is not valid UTF-8; give it another name",
                       o->names[source]);
    if (described) json_array_append_new(sources, described);
cleanup:
    if (close_shards(to) != 0 && code == EXIT_OK)
        code = problem(list, EXIT_ENVIRONMENT, "%s: a shard cannot be written: %s", folder, strerror(errno));
    text_files_free(&t);
    return code;
}

static exit_code write_sources(const char *folder, const json_t *sources, int64_t vocabulary,
                               problems *list) {
    char path[PATH_ROOM];
    if (sources_path(folder, path) != 0) return problem(list, EXIT_INPUT, "%s: the path is too long", folder);
    json_t *root = json_pack("{s:I, s:O}", "vocabulary", (json_int_t)vocabulary, "sources", sources);
    exit_code code = EXIT_OK;
    if (!root || json_dump_file(root, path, JSON_INDENT(2)) != 0)
        code = problem(list, EXIT_ENVIRONMENT, "%s: cannot be written: %s", path, strerror(errno));
    json_decref(root);
    return code;
}

/* Options and sources that do not go together. */
static exit_code check_kinds(const data_build *o, int of_examples, problems *list) {
    exit_code code = EXIT_OK;
    for (int i = 0; i < o->n_sources && of_examples > 0 && of_examples < o->n_sources; i++)
        if (!examples_are_at(o->paths[i]))
            code =
                problem(list, EXIT_INPUT,
                        "%s: is no JSON Lines, but other sources are; make text and examples into folders of "
                        "their own",
                        o->paths[i]);
    for (int i = 0; i < o->n_sources && o->shares_given && code == EXIT_OK; i++)
        if (examples_are_divided(o->paths[i]))
            code = problem(list, EXIT_INPUT,
                           "%s: is divided already, into train.jsonl, valid.jsonl and test.jsonl; leave out "
                           "--valid-share and --test-share, or give a single file of JSON Lines",
                           o->paths[i]);
    bool given = o->by_task || o->longest > 0 || o->vocabulary > 0 || o->ends;
    if (given && of_examples == 0)
        code =
            problem(list, EXIT_INPUT,
                    "--by-task, --longest, --vocabulary and --end are of examples; give a file of JSON Lines "
                    "(.jsonl), or a folder with train.jsonl, valid.jsonl and test.jsonl");
    if (o->vocabulary > 0 && o->ends && o->end >= o->vocabulary)
        code = problem(list, EXIT_INPUT, "--end %lld is no id below --vocabulary %lld", (long long)o->end,
                       (long long)o->vocabulary);
    return code;
}

static exit_code build_text(const data_build *o, const char *folder, json_t *sources, problems *list) {
    exit_code code = EXIT_OK;
    for (int i = 0; i < o->n_sources; i++) {
        exit_code of_source = build_source(o, i, folder, sources, list);
        THEN(code, of_source);
    }
    return code;
}

exit_code data_build_shards(const data_build *o, problems *list) {
    output_folder folder;
    json_t *sources = NULL;
    int of_examples = 0;
    int64_t vocabulary = BYTE_IDS;
    for (int i = 0; i < o->n_sources; i++) of_examples += examples_are_at(o->paths[i]);
    exit_code code = check_options(o, list);
    THEN(code, check_kinds(o, of_examples, list));
    if (code != EXIT_OK) return code;
    code = output_folder_begin(o->out, &folder, list);
    if (code != EXIT_OK) return code;
    sources = json_array();
    code = of_examples > 0 ? build_examples(o, folder.work, sources, &vocabulary, list)
                           : build_text(o, folder.work, sources, list);
    THEN(code, write_sources(folder.work, sources, vocabulary, list));
    json_decref(sources);
    return output_folder_end(&folder, code, list);
}
