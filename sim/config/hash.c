/* hash.c - XXH3 of the canonical text of settings. */
#include <dirent.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "config/config.h"
#include "config/paths.h"
#include "config/write.h"

enum { SAMPLE_BYTES = 1 << 20 };

/* Parts are hashed one by one and folded in order: an XXH3 of each part, seeded by what came before. */
static uint64_t fold(uint64_t so_far, const void *part, size_t bytes) {
    return XXH3_64bits_withSeed(part, bytes, so_far);
}

static uint64_t fold_sample(uint64_t hash, FILE *file, off_t first, unsigned char *buffer) {
    if (fseeko(file, first, SEEK_SET) != 0) return hash;
    return fold(hash, buffer, fread(buffer, 1, SAMPLE_BYTES, file));
}

static uint64_t fold_file(uint64_t hash, const char *path, off_t bytes) {
    int64_t size = bytes;
    FILE *file = fopen(path, "rb");
    if (!file) return fold(hash, path, strlen(path));
    unsigned char *buffer = config_memory(malloc(SAMPLE_BYTES));
    hash = fold(hash, &size, sizeof size);
    hash = fold_sample(hash, file, 0, buffer);
    if (bytes > SAMPLE_BYTES) hash = fold_sample(hash, file, bytes - SAMPLE_BYTES, buffer);
    free(buffer);
    fclose(file);
    return hash;
}

/* What `cohort export --adapters` writes has three levels of folders. */
enum { MOST_LEVELS = 4 };

static uint64_t fold_folder(uint64_t hash, const char *folder, int level) {
    struct dirent **entries = NULL;
    int n = scandir(folder, &entries, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        char path[4096];
        struct stat info;
        bool hidden = entries[i]->d_name[0] == '.';
        snprintf(path, sizeof path, "%s/%s", folder, entries[i]->d_name);
        if (stat(path, &info) != 0) info.st_mode = 0;
        if (S_ISREG(info.st_mode)) {
            hash = fold(hash, entries[i]->d_name, strlen(entries[i]->d_name));
            hash = fold_file(hash, path, info.st_size);
        } else if (S_ISDIR(info.st_mode) && !hidden && level < MOST_LEVELS) {
            hash = fold(hash, entries[i]->d_name, strlen(entries[i]->d_name));
            hash = fold_folder(hash, path, level + 1);
        }
        free(entries[i]);
    }
    free(entries);
    return hash;
}

void write_fingerprint(const setting_row *row, const void *base, char out[FINGERPRINT_BYTES]) {
    struct stat info;
    uint64_t hash = 0;
    char *path = setting_path(row, base), *text = path ? NULL : value_text(row, base);
    if (!path || stat(path, &info) != 0)
        hash = fold(1, path ? path : text, strlen(path ? path : text));
    else if (S_ISDIR(info.st_mode))
        hash = fold_folder(2, path, 1);
    else
        hash = fold_file(3, path, info.st_size);
    free(path);
    free(text);
    snprintf(out, FINGERPRINT_BYTES, "%016llx", (unsigned long long)hash);
}

bool write_same_content(const setting_row *row, const void *a, const void *b) {
    char first[FINGERPRINT_BYTES], second[FINGERPRINT_BYTES];
    if (value_equal(row, a, b)) return true;
    if (!setting_is_path(row, a) || !setting_is_path(row, b)) return false;
    write_fingerprint(row, a, first);
    write_fingerprint(row, b, second);
    return strcmp(first, second) == 0;
}

static void hash_text(const char *text, size_t bytes, char out[SETTINGS_HASH_BYTES]) {
    XXH128_hash_t hash = XXH3_128bits(text, bytes);
    snprintf(out, SETTINGS_HASH_BYTES, "%016llx%016llx", (unsigned long long)hash.high64,
             (unsigned long long)hash.low64);
}

/* The synthetic text's own settings, where the base learns from it. */
static void write_synthetic_text(const settings *s, FILE *out) {
    int count = 0;
    const setting_row *rows = table_rows(&count);
    population_settings base = {.data = s->data};
    if (s->base.checkpoint || strcmp(s->base.pretrain.text, "synthetic") != 0) return;
    for (int i = 0; i < count; i++) {
        if (strncmp(rows[i].path, "data.synthetic.", 15) != 0) continue;
        fprintf(out, "%s: ", rows[i].path);
        value_write(&rows[i], &base, out);
        fputc('\n', out);
    }
}

static void write_base(const settings *s, FILE *out) {
    write_options options = {.numbers_only = true, .contents = true, .only = "base"};
    write_settings(s, &options, out);
    write_synthetic_text(s, out);
}

void settings_base_hash(const settings *s, char out[SETTINGS_HASH_BYTES]) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *stream = config_memory(open_memstream(&text, &bytes));
    write_base(s, stream);
    fclose(stream);
    hash_text(text, bytes, out);
    free(text);
}

void settings_values_hash(const population_settings *p, char out[SETTINGS_HASH_BYTES]) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *stream = config_memory(open_memstream(&text, &bytes));
    write_point(p, false, false, stream);
    fclose(stream);
    hash_text(text, bytes, out);
    free(text);
}

void settings_point_hash(const settings *s, int index, char out[SETTINGS_HASH_BYTES]) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *stream = config_memory(open_memstream(&text, &bytes));
    write_base(s, stream);
    write_run_numbers(s, stream);
    write_point(&s->populations[index], true, true, stream);
    fclose(stream);
    hash_text(text, bytes, out);
    free(text);
}

void settings_hash(const settings *s, char out[SETTINGS_HASH_BYTES]) {
    char *text = NULL;
    size_t bytes = 0;
    write_options options = {.numbers_only = true, .contents = true};
    FILE *stream = config_memory(open_memstream(&text, &bytes));
    write_settings(s, &options, stream);
    fclose(stream);
    hash_text(text, bytes, out);
    free(text);
}
