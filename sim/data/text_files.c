#define XXH_INLINE_ALL
#include "data/text_files.h"

#include <errno.h>
#include <fts.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "data/text_check.h"

exit_code text_file_read(const char *path, unsigned char **content, int64_t *bytes, problems *list) {
    struct stat status;
    exit_code code = EXIT_OK;
    unsigned char *text = NULL;
    FILE *file = fopen(path, "rb");
    if (!file || fstat(fileno(file), &status) != 0) {
        code = problem(list, EXIT_INPUT, "%s: cannot be read: %s", path, strerror(errno));
        goto cleanup;
    }
    text = malloc((size_t)status.st_size + 1);
    if (!text) {
        code = problem(list, EXIT_ENVIRONMENT, "%s: no memory for its %lld bytes", path,
                       (long long)status.st_size);
        goto cleanup;
    }
    if (fread(text, 1, (size_t)status.st_size, file) != (size_t)status.st_size) {
        code = problem(list, EXIT_INPUT, "%s: ended before its %lld bytes were read", path,
                       (long long)status.st_size);
        goto cleanup;
    }
    *content = text;
    *bytes = status.st_size;
    text = NULL;
cleanup:
    free(text);
    if (file) fclose(file);
    return code;
}

static exit_code add_file(text_files *t, const char *path, problems *list) {
    unsigned char *content = NULL;
    int64_t bytes = 0;
    exit_code code = text_file_read(path, &content, &bytes, list);
    THEN(code, text_check(path, content, bytes, list));
    if (code == EXIT_OK && bytes == 0) t->left_out.empty++;
    if (code != EXIT_OK || bytes == 0) goto cleanup;
    text_file *grown = realloc(t->files, (size_t)(t->count + 1) * sizeof *grown);
    char *name = strdup(path);
    if (grown) t->files = grown;
    if (!grown || !name) {
        free(name);
        code = problem(list, EXIT_ENVIRONMENT, "%s: no memory to list it", path);
        goto cleanup;
    }
    XXH128_hash_t hash = XXH3_128bits(content, (size_t)bytes);
    t->files[t->count++] =
        (text_file){.hash = {hash.high64, hash.low64}, .bytes = bytes, .part = DATA_TRAIN, .path = name};
cleanup:
    free(content);
    return code;
}

static int by_name(const FTSENT **a, const FTSENT **b) {
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

static exit_code visit(FTS *walk, FTSENT *entry, text_files *t, problems *list) {
    if (entry->fts_level > FTS_ROOTLEVEL && entry->fts_name[0] == '.') {
        /* a folder that is skipped comes again when it is left */
        t->left_out.hidden += entry->fts_info != FTS_DP;
        fts_set(walk, entry, FTS_SKIP);
        return EXIT_OK;
    }
    switch (entry->fts_info) {
    case FTS_F:
        return add_file(t, entry->fts_path, list);
    case FTS_DC:
        return problem(list, EXIT_INPUT, "%s: links back to %.*s, which it lies in; remove the link",
                       entry->fts_path, (int)entry->fts_cycle->fts_pathlen,
                       entry->fts_path); /* all entries share one path, to their own length */
    case FTS_SLNONE:
        return problem(list, EXIT_INPUT, "%s: is a link to nothing; repair or remove it", entry->fts_path);
    case FTS_DEFAULT:
        return problem(list, EXIT_INPUT, "%s: is neither a file nor a folder; write its text to a file",
                       entry->fts_path);
    case FTS_DNR:
    case FTS_ERR:
    case FTS_NS:
        return problem(list, EXIT_INPUT, "%s: cannot be read: %s", entry->fts_path,
                       strerror(entry->fts_errno));
    default:
        return EXIT_OK;
    }
}

/* By content first, so that neither names nor the file system's order decide a split; by path among copies,
 * so that the same copy is always the one kept. */
static int by_hash(const void *a, const void *b) {
    const text_file *x = a, *y = b;
    for (int i = 0; i < 2; i++)
        if (x->hash[i] != y->hash[i]) return x->hash[i] < y->hash[i] ? -1 : 1;
    return strcmp(x->path, y->path);
}

static void order_and_drop_copies(text_files *t) {
    if (t->count > 0) qsort(t->files, (size_t)t->count, sizeof *t->files, by_hash);
    int kept = 0;
    t->bytes = 0;
    for (int i = 0; i < t->count; i++) {
        text_file *file = &t->files[i];
        if (kept > 0 && memcmp(file->hash, t->files[kept - 1].hash, sizeof file->hash) == 0) {
            free(file->path);
            t->left_out.copies++;
            continue;
        }
        t->bytes += file->bytes;
        t->files[kept++] = *file;
    }
    t->count = kept;
}

exit_code text_files_find(const char *path, text_files *out, problems *list) {
    exit_code code = EXIT_OK;
    char *root = strdup(path);
    char *roots[] = {root, NULL};
    *out = (text_files){0};
    FTS *walk = root ? fts_open(roots, FTS_LOGICAL | FTS_NOCHDIR, by_name) : NULL;
    if (!walk) {
        code = problem(list, EXIT_ENVIRONMENT, "%s: cannot be walked: %s", path, strerror(errno));
        goto cleanup;
    }
    for (FTSENT *entry = fts_read(walk); entry && code != EXIT_ENVIRONMENT; entry = fts_read(walk)) {
        exit_code one = visit(walk, entry, out, list);
        if (one != EXIT_OK) code = one;
    }
    if (code != EXIT_OK) goto cleanup;
    order_and_drop_copies(out);
    if (out->count == 0)
        code = problem(list, EXIT_INPUT,
                       "%s: holds no text; give a text file, or a folder with text files in it", path);
cleanup:
    if (code != EXIT_OK) text_files_free(out);
    if (walk) fts_close(walk);
    free(root);
    return code;
}

void text_files_free(text_files *t) {
    for (int i = 0; i < t->count; i++) free(t->files[i].path);
    free(t->files);
    *t = (text_files){0};
}
