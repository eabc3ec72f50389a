#include "unit/checkpoints.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char *path_in(const char *folder, const char *name) {
    char *path;
    return asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : path;
}

char *temporary_folder(void) {
    const char *root = getenv("TMPDIR");
    char *path = path_in(root && *root ? root : "/tmp", "cohort-test-XXXXXX");
    return mkdtemp(path);
}

static void remove_tree(const char *path) {
    DIR *entries = opendir(path);
    for (struct dirent *e = entries ? readdir(entries) : NULL; e; e = readdir(entries)) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        char *child = path_in(path, e->d_name);
        if (unlink(child)) remove_tree(child);
        free(child);
    }
    if (entries) closedir(entries);
    rmdir(path);
}

void remove_folder(char *path) {
    remove_tree(path);
    free(path);
}

void write_text(const char *path, const char *text) {
    FILE *out = fopen(path, "wb");
    fputs(text, out);
    fclose(out);
}

uint8_t *raw_file(const char *header, const void *data, size_t data_bytes, size_t *size) {
    size_t n = strlen(header);
    uint8_t *bytes = calloc(8 + n + data_bytes + 1, 1);
    for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)((uint64_t)n >> (8 * i));
    memcpy(bytes + 8, header, n);
    if (data) memcpy(bytes + 8 + n, data, data_bytes);
    *size = 8 + n + data_bytes;
    return bytes;
}

bool mentions(const problems *list, const char *text) {
    for (int i = 0; i < problems_count(list); i++)
        if (strstr(problems_message(list, i), text)) return true;
    return false;
}

const char *all_messages(const problems *list) {
    static char text[4096];
    size_t used = 0;
    text[0] = 0;
    for (int i = 0; i < problems_count(list) && used < sizeof text - 1; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s\n", problems_message(list, i));
    return text;
}
