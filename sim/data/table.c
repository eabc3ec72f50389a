/* table.c - the closing table of `cohort data`. */
#include <stdbool.h>
#include <string.h>

#include "data/corpus.h"
#include "data/parts.h"
#include "data/sources.h"

/* "2 empty files" and its like, behind what was put before. */
static bool put_count(FILE *to, bool first, int count, const char *one, const char *many) {
    if (count == 0) return first;
    fprintf(to, "%s%d %s", first ? " " : ", ", count, count == 1 ? one : many);
    return false;
}

static void print_left_out(FILE *to, const source_note *n) {
    const left_out *left = &n->left_out;
    bool examples = n->examples[DATA_TRAIN] >= 0;
    if (left->empty + left->copies + left->hidden + n->longer == 0) return;
    fprintf(to, "%s: left out", n->name);
    bool first = put_count(to, true, left->empty, "empty file", "empty files");
    first = put_count(to, first, (int)n->longer, "example with more tokens than --longest",
                      "examples with more tokens than --longest");
    first = put_count(to, first, left->copies, examples ? "copy of another example" : "copy of another file",
                      examples ? "copies of other examples" : "copies of other files");
    put_count(to, first, left->hidden, "hidden file or folder", "hidden files or folders");
    fputc('\n', to);
}

exit_code data_print_table(const char *folder, FILE *to, problems *list) {
    source_notes notes;
    int64_t sums[DATA_SPLITS] = {0};
    exit_code code = sources_read(folder, &notes, list);
    if (code != EXIT_OK) return code;
    if (notes.count == 0)
        return problem(list, EXIT_INPUT, "%s/sources.json: is missing; `cohort data` writes it", folder);
    bool examples = notes.notes[0].examples[DATA_TRAIN] >= 0;
    fprintf(to, "%-14s %8s %12s %12s %12s\n", "source", examples ? "examples" : "files", "train", "valid",
            "test");
    for (int i = 0; i < notes.count; i++) {
        const source_note *n = &notes.notes[i];
        const int64_t *items = examples ? n->examples : n->files;
        fprintf(to, "%-14s %8lld", n->name,
                (long long)(items[DATA_TRAIN] + items[DATA_VALID] + items[DATA_TEST]));
        for (int part = 0; part < DATA_SPLITS; part++) {
            fprintf(to, " %12lld", (long long)n->tokens[part]);
            sums[part] += n->tokens[part];
        }
        fputc('\n', to);
    }
    fprintf(to, "%-23s %12lld %12lld %12lld  tokens\n", "all", (long long)sums[DATA_TRAIN],
            (long long)sums[DATA_VALID], (long long)sums[DATA_TEST]);
    for (int i = 0; i < notes.count; i++) print_left_out(to, &notes.notes[i]);
    sources_free(&notes);
    return EXIT_OK;
}
