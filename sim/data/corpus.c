/* corpus.c - a folder of shards, or the synthetic corpus, behind one face. */
#include "data/corpus.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "data/parts.h"
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
    if (code == EXIT_OK) code = allocate(c, d->synthetic.topics, list);
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
        if (code == EXIT_OK) code = one;
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
    if (code == EXIT_OK) code = allocate(c, files.sources, list);
    if (code == EXIT_OK) code = open_shards(c, &files, vocabulary, list);
    shard_files_free(&files);
    if (code == EXIT_OK) code = name_sources(c, list);
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

exit_code corpus_text(const corpus *c, int source, data_part part, int64_t first, int64_t count,
                      text_range *out, problems *list) {
    const shard *text = c->shards[source][part];
    *out = (text_range){.text = text, .first = first, .count = count, .source = source};
    if (first + count <= shard_tokens(text)) return EXIT_OK;
    exit_code code = synthetic_range(c->synthetic, source, part, first, count, &out->owned, list);
    out->text = out->owned;
    out->first = 0;
    return code;
}
