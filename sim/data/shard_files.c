#include "data/shard_files.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "data/parts.h"

enum { MOST_SOURCES = 16777216, MOST_DIGITS = 12, KEPT_OF_A_SHARD = 224 };

/* PART_DIGITS.bin; a number of too many digits is more than MOST_SOURCES. */
static bool parse_name(const char *name, shard_file *out) {
    int part = 0;
    while (part < DATA_SPLITS && strncmp(name, part_name(part), strlen(part_name(part))) != 0) part++;
    if (part == DATA_SPLITS) return false;
    const char *digits = name + strlen(part_name(part)), *end;
    if (*digits++ != '_' || !isdigit((unsigned char)*digits)) return false;
    while (digits[0] == '0' && isdigit((unsigned char)digits[1])) digits++;
    for (end = digits; isdigit((unsigned char)*end);) end++;
    if (strcmp(end, ".bin") != 0) return false;
    out->number = end - digits <= MOST_DIGITS ? strtoll(digits, NULL, 10) : INT64_MAX;
    out->part = (data_part)part;
    return true;
}

static exit_code append(const char *folder, const shard_file *file, const char *name, shard_files *s,
                        int64_t *room, problems *list) {
    if (file->number >= MOST_SOURCES)
        return problem(list, EXIT_INPUT,
                       "%s/%s: the number is too large; sources are numbered 0, 1, 2 and on, up to %d",
                       folder, name, MOST_SOURCES - 1);
    if (s->count == *room) {
        *room = 2 * *room + 64;
        shard_file *grown = realloc(s->files, (size_t)*room * sizeof *grown);
        if (!grown) return problem(list, EXIT_ENVIRONMENT, "%s: no memory to list its shards", folder);
        s->files = grown;
    }
    s->files[s->count] = *file;
    s->files[s->count].name = strdup(name);
    if (!s->files[s->count].name)
        return problem(list, EXIT_ENVIRONMENT, "%s: no memory to list its shards", folder);
    s->count++;
    return EXIT_OK;
}

static exit_code read_folder(const char *path, shard_files *s, problems *list) {
    DIR *folder = opendir(path);
    int64_t room = 0;
    exit_code code = EXIT_OK;
    if (!folder) return problem(list, EXIT_INPUT, "%s: cannot be read: %s", path, strerror(errno));
    for (struct dirent *entry = readdir(folder); entry; entry = readdir(folder)) {
        shard_file file;
        exit_code one =
            parse_name(entry->d_name, &file) ? append(path, &file, entry->d_name, s, &room, list) : EXIT_OK;
        THEN(code, one);
    }
    closedir(folder);
    return code;
}

static int by_number(const void *a, const void *b) {
    const shard_file *x = a, *y = b;
    if (x->number != y->number) return x->number < y->number ? -1 : 1;
    if (x->part != y->part) return x->part < y->part ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* The numbers from `first` to before `next` are nobody's. */
static exit_code refuse_gap(const char *folder, int64_t first, const shard_file *next, problems *list) {
    char missing[64];
    if (next->number - 1 == first)
        snprintf(missing, sizeof missing, "%lld", (long long)first);
    else
        snprintf(missing, sizeof missing, "%lld to %lld", (long long)first, (long long)next->number - 1);
    return problem(
        list, EXIT_INPUT,
        "%s: has %s, but no shards numbered %s; sources are numbered 0, 1, 2 and on, without a gap", folder,
        next->name, missing);
}

/* files[0 .. n) have one number. */
static exit_code check_source(const char *folder, const shard_file *files, int64_t n, problems *list) {
    const char *names[DATA_SPLITS] = {NULL};
    exit_code code = EXIT_OK;
    for (int64_t i = 0; i < n; i++) {
        const char **name = &names[files[i].part];
        if (*name)
            code = problem(list, EXIT_INPUT, "%s/%s: has the number of %s; give each shard its own", folder,
                           files[i].name, *name);
        else
            *name = files[i].name;
    }
    for (int part = 0; part < DATA_SPLITS; part++)
        if (!names[part])
            code = problem(
                list, EXIT_INPUT,
                "%s/%s_%lld.bin: is missing; there is %s, and a source has a train, a valid and a test shard",
                folder, part_name(part), (long long)files->number, files->name);
    return code;
}

static exit_code check_numbers(const char *folder, shard_files *s, problems *list) {
    int64_t expected = 0;
    exit_code code = EXIT_OK;
    for (int64_t i = 0, n = 0; i < s->count; i += n) {
        const shard_file *first = &s->files[i];
        for (n = 1; i + n < s->count && first[n].number == first->number;) n++;
        if (first->number > expected) code = refuse_gap(folder, expected, first, list);
        exit_code one = check_source(folder, first, n, list);
        THEN(code, one);
        expected = first->number + 1;
    }
    s->sources = (int)expected;
    return code;
}

exit_code shard_files_find(const char *folder, shard_files *out, problems *list) {
    *out = (shard_files){0};
    exit_code code = read_folder(folder, out, list);
    if (code == EXIT_OK && out->count == 0)
        code = problem(
            list, EXIT_INPUT,
            "%s: holds no shards train_<i>.bin, valid_<i>.bin, test_<i>.bin; `cohort data` makes them",
            folder);
    if (code != EXIT_OK) return code;
    qsort(out->files, (size_t)out->count, sizeof *out->files, by_number);
    return check_numbers(folder, out, list);
}

void shard_files_free(shard_files *s) {
    for (int64_t i = 0; i < s->count; i++) free(s->files[i].name);
    free(s->files);
    *s = (shard_files){0};
}

int64_t shard_files_bytes(const char *folder) {
    DIR *entries = opendir(folder);
    shard_file file;
    int64_t count = 0;
    for (struct dirent *entry = entries ? readdir(entries) : NULL; entry; entry = readdir(entries))
        count += parse_name(entry->d_name, &file);
    if (entries) closedir(entries);
    return count * (KEPT_OF_A_SHARD + (int64_t)strlen(folder));
}
