/* corpus.c - a folder of shards, or the synthetic corpus, behind one face. */
#include "data/corpus.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "data/examples.h"
#include "data/parts.h"
#include "data/shard.h"
#include "data/shard_files.h"
#include "data/sources.h"
#include "data/synthetic.h"
#include "settings/corpus_folder.h"

/* What corpus_shard() shows of the endless synthetic text: train, valid, test tokens of a source. */
static const int64_t SYNTHETIC_SHARD[DATA_SPLITS] = {1 << 20, 1 << 17, 1 << 17};

struct corpus {
    char *path;
    int n_sources;
    char **names;
    shard *(*shards)[DATA_SPLITS]; /* [n_sources] */
    synthetic_text *synthetic;     /* NULL: a folder */
};

static exit_code allocate(corpus *c, int n_sources, problems *list) {
    c->names = calloc((size_t)n_sources, sizeof *c->names);
    c->shards = calloc((size_t)n_sources, sizeof *c->shards);
    if (!c->names || !c->shards)
        return problem(list, EXIT_ENVIRONMENT, "%s: no memory for %d sources", c->path, n_sources);
    c->n_sources = n_sources;
    return EXIT_OK;
}

static exit_code open_synthetic(const data_settings *d, int vocabulary, corpus *c, problems *list) {
    exit_code code = synthetic_create(d, vocabulary, &c->synthetic, list);
    THEN(code, allocate(c, d->synthetic.topics, list));
    for (int i = 0; i < c->n_sources && code == EXIT_OK; i++) {
        char name[32];
        snprintf(name, sizeof name, "topic-%d", i);
        c->names[i] = strdup(name);
        if (!c->names[i]) code = problem(list, EXIT_ENVIRONMENT, "data.synthetic: no memory for a name");
        for (int part = 0; part < DATA_SPLITS && code == EXIT_OK; part++)
            code = synthetic_range(c->synthetic, i, (data_part)part, 0, SYNTHETIC_SHARD[part],
                                   &c->shards[i][part], list);
    }
    return code;
}

/* `name` itself, or data/<name> below the current folder. */
static exit_code resolve(const char *name, char **path, problems *list) {
    struct stat status;
    *path = corpus_folder(name);
    if (*path) return EXIT_OK;
    if (stat(name, &status) == 0)
        return problem(
            list, EXIT_INPUT,
            "the corpus %s is a file; a corpus is a folder of shards, which `cohort data NAME=%s` makes",
            name, name);
    if (strcmp(name, "multilingual") == 0 || strcmp(name, "english") == 0)
        return problem(list, EXIT_INPUT,
                       "there is no corpus %s yet (neither the folder %s nor data/%s); "
                       "configs/data/multilingual.sh makes it",
                       name, name, name);
    return problem(list, EXIT_INPUT,
                   "there is no corpus %s (neither the folder %s nor data/%s); `cohort data` makes one from "
                   "text, and `synthetic` needs none",
                   name, name, name);
}

static exit_code open_shards(corpus *c, const shard_files *files, int vocabulary, problems *list) {
    exit_code code = EXIT_OK;
    for (int64_t i = 0; i < files->count; i++) {
        char path[PATH_ROOM];
        const shard_file *file = &files->files[i];
        bool fits = snprintf(path, sizeof path, "%s/%s", c->path, file->name) < (int)sizeof path;
        exit_code one = fits ? shard_open(path, vocabulary, &c->shards[file->number][file->part], list)
                             : problem(list, EXIT_INPUT, "%s: the path is too long", c->path);
        THEN(code, one);
    }
    return code;
}

static exit_code name_sources(corpus *c, problems *list) {
    source_notes notes;
    exit_code code = sources_read(c->path, &notes, list);
    if (code == EXIT_OK && notes.count != 0 && notes.count != c->n_sources)
        code = problem(
            list, EXIT_INPUT,
            "%s/sources.json: lists %d source(s), but there are shards for %d; repair or remove the file",
            c->path, notes.count, c->n_sources);
    for (int i = 0; i < c->n_sources && code == EXIT_OK; i++) {
        char number[32];
        snprintf(number, sizeof number, "%d", i);
        c->names[i] = strdup(notes.count ? notes.notes[i].name : number);
        if (!c->names[i]) code = problem(list, EXIT_ENVIRONMENT, "%s: no memory for a name", c->path);
    }
    sources_free(&notes);
    return code;
}

static exit_code open_folder(const char *name, int vocabulary, corpus *c, problems *list) {
    free(c->path);
    c->path = NULL;
    exit_code code = resolve(name, &c->path, list);
    if (code != EXIT_OK) return code;
    shard_files files;
    code = shard_files_find(c->path, &files, list);
    THEN(code, allocate(c, files.sources, list));
    THEN(code, open_shards(c, &files, vocabulary, list));
    shard_files_free(&files);
    THEN(code, name_sources(c, list));
    return code;
}

int64_t corpus_bytes(const data_settings *d) {
    int64_t tokens = 0;
    if (strcmp(d->corpus, "synthetic") != 0) {
        char *path = corpus_folder(d->corpus);
        int64_t bytes = path ? shard_files_bytes(path) : 0;
        free(path);
        return bytes;
    }
    for (int part = 0; part < DATA_SPLITS; part++) tokens += SYNTHETIC_SHARD[part];
    return d->synthetic.topics * tokens * (int64_t)sizeof(uint16_t);
}

static bool is_of_examples(const char *path) {
    char beginning[8];
    FILE *file = fopen(path, "rb");
    bool known = file && fread(beginning, sizeof beginning, 1, file) == 1 && examples_known(beginning);
    if (file) fclose(file);
    return known;
}

bool corpus_is_of_examples(const char *name) {
    char path[PATH_ROOM], *folder = corpus_folder(name);
    problems *unreported = problems_create(); /* corpus_open() will say it */
    shard_files files = {0};
    bool found = folder && shard_files_find(folder, &files, unreported) == EXIT_OK;
    found = found && snprintf(path, sizeof path, "%s/%s", folder, files.files[0].name) < PATH_ROOM &&
            is_of_examples(path);
    shard_files_free(&files);
    problems_destroy(unreported);
    free(folder);
    return found;
}

exit_code corpus_open(const data_settings *d, int vocabulary, corpus **out, problems *list) {
    *out = NULL;
    corpus *c = calloc(1, sizeof *c);
    if (c) c->path = strdup(d->corpus);
    if (!c || !c->path) {
        free(c);
        return problem(list, EXIT_ENVIRONMENT, "%s: no memory to open it", d->corpus);
    }
    exit_code code = strcmp(d->corpus, "synthetic") == 0 ? open_synthetic(d, vocabulary, c, list)
                                                         : open_folder(d->corpus, vocabulary, c, list);
    if (code == EXIT_OK)
        *out = c;
    else
        corpus_close(c);
    return code;
}

/* Examples that do not fit. */
typedef struct {
    int64_t found;
    int64_t lines[3]; /* the lowest of them in the first shard that has any */
    int source, part; /* of that shard; source -1: none yet */
} misfits;

/* Of all examples of a corpus. */
typedef struct {
    int64_t examples;
    int32_t tokens, prompt; /* the most */
} longest_example;

static bool fits(const data_settings *d, int32_t prompt, int32_t tokens) {
    return tokens <= d->sequence + 1 || (d->truncate && prompt <= d->sequence);
}

static void note_line(int64_t line, misfits *m) {
    for (int i = 0; i < 3; i++)
        if (m->lines[i] == 0 || line < m->lines[i]) {
            int64_t other = m->lines[i];
            m->lines[i] = line;
            line = other;
            if (line == 0) return;
        }
}

static exit_code find_misfits(const corpus *c, int source, data_part part, const data_settings *d, misfits *m,
                              problems *list) {
    const shard *s = c->shards[source][part];
    if (fits(d, s->longest_prompt, s->longest_example)) return EXIT_OK;
    for (int64_t i = 0; i < s->examples; i++) {
        example e;
        exit_code code = shard_example(s, i, &e, list);
        if (code != EXIT_OK) return code;
        if (fits(d, e.prompt, e.tokens)) continue;
        if (m->found++ == 0) m->source = source, m->part = part;
        if (m->source == source && m->part == (int)part) note_line(e.line, m);
    }
    return EXIT_OK;
}

static exit_code refuse_misfits(const corpus *c, const data_settings *d, const misfits *m,
                                const longest_example *most, problems *list) {
    char lines[96];
    int used =
        snprintf(lines, sizeof lines, "line%s %lld", m->lines[1] > 0 ? "s" : "", (long long)m->lines[0]);
    for (int i = 1; i < 3 && m->lines[i] > 0; i++)
        used += snprintf(lines + used, sizeof lines - (size_t)used, ", %lld", (long long)m->lines[i]);
    const char *name = c->names[m->source], *part = part_name(m->part);
    if (d->truncate)
        return problem(
            list, EXIT_INPUT,
            "%s: %lld of its %lld examples have a prompt of more than %d tokens (data.sequence), so "
            "that nothing of the response would be left (first of source %s, %s: %s); the longest "
            "prompt has %d: raise data.sequence, or leave them out with `cohort data --longest N`",
            c->path, (long long)m->found, (long long)most->examples, d->sequence, name, part, lines,
            most->prompt);
    return problem(
        list, EXIT_INPUT,
        "%s: %lld of its %lld examples have more than %d tokens (first of source %s, %s: %s); the "
        "longest has %d: write data.sequence: %d, or data.truncate: true to cut them, or leave them "
        "out with `cohort data --longest %d`",
        c->path, (long long)m->found, (long long)most->examples, d->sequence + 1, name, part, lines,
        most->tokens, most->tokens - 1, d->sequence + 1);
}

exit_code corpus_check_examples(const corpus *c, const data_settings *d, problems *list) {
    longest_example most = {0};
    misfits m = {.source = -1};
    exit_code code = EXIT_OK;
    for (int source = 0; source < c->n_sources && code == EXIT_OK; source++)
        for (int part = 0; part < DATA_SPLITS && code == EXIT_OK; part++) {
            const shard *s = c->shards[source][part];
            most.examples += s->examples;
            if (s->longest_example > most.tokens) most.tokens = s->longest_example;
            if (s->longest_prompt > most.prompt) most.prompt = s->longest_prompt;
            code = find_misfits(c, source, (data_part)part, d, &m, list);
        }
    return code == EXIT_OK && m.found > 0 ? refuse_misfits(c, d, &m, &most, list) : code;
}

void corpus_close(corpus *c) {
    if (!c) return;
    for (int i = 0; i < c->n_sources; i++) {
        free(c->names[i]);
        for (int part = 0; part < DATA_SPLITS; part++) shard_close(c->shards[i][part]);
    }
    synthetic_destroy(c->synthetic);
    free(c->shards);
    free(c->names);
    free(c->path);
    free(c);
}

int corpus_sources(const corpus *c) {
    return c->n_sources;
}

const char *corpus_source_name(const corpus *c, int source) {
    return c->names[source];
}

const shard *corpus_shard(const corpus *c, int source, data_part part) {
    return c->shards[source][part];
}

double corpus_entropy(const corpus *c, int source) {
    return c->synthetic ? synthetic_entropy(c->synthetic, source) : NAN;
}

const char *corpus_path(const corpus *c) {
    return c->path;
}

int64_t corpus_text_tokens(const corpus *c, int source, data_part part) {
    return c->synthetic ? SYNTHETIC_TOKENS : shard_tokens(c->shards[source][part]);
}

static exit_code take_examples(text_range *range, problems *list) {
    const shard *text = range->text;
    int64_t end = range->first + range->count, last = 0;
    example first = {0};
    exit_code code = shard_examples_before(text, range->first, &range->first_example, list);
    THEN(code, shard_examples_before(text, end, &last, list));
    range->examples = last - range->first_example;
    if (code != EXIT_OK || range->examples == 0) return code;
    code = shard_example(text, range->first_example, &first, list);
    range->first = first.first;
    return THEN(code, corpus_keep_examples(range, range->examples, list));
}

exit_code corpus_keep_examples(text_range *range, int64_t examples, problems *list) {
    example last = {.first = range->first};
    exit_code code = EXIT_OK;
    if (examples > 0) code = shard_example(range->text, range->first_example + examples - 1, &last, list);
    range->examples = examples;
    range->count = last.first + last.tokens - range->first;
    return code;
}

exit_code corpus_text(const corpus *c, int source, data_part part, int64_t first, int64_t count,
                      text_range *out, problems *list) {
    const shard *text = c->shards[source][part];
    *out = (text_range){.text = text, .first = first, .count = count, .source = source};
    if (shard_examples(text) > 0) return take_examples(out, list);
    if (first + count <= shard_tokens(text)) return EXIT_OK;
    exit_code code = synthetic_range(c->synthetic, source, part, first, count, &out->owned, list);
    out->text = out->owned;
    out->first = 0;
    return code;
}
