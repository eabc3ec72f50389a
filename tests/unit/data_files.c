#include "unit/data_files.h"

#include "data/split.h"
#include <criterion/criterion.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char *data_folder(void) {
    char *folder = NULL;
    const char *root = getenv("TMPDIR");
    cr_assert_gt(asprintf(&folder, "%s/cohort-data-XXXXXX", root ? root : "/tmp"), 0);
    cr_assert_not_null(mkdtemp(folder));
    return folder;
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *where) {
    (void)status, (void)type, (void)where;
    return remove(path);
}

void data_folder_remove(char *folder) {
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(folder);
}

const char *data_path(const char *folder, const char *name) {
    static char paths[4][4096];
    static int used;
    char *path = paths[used++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

void data_write(const char *folder, const char *name, const void *bytes, size_t size) {
    FILE *file = fopen(data_path(folder, name), "wb");
    cr_assert_not_null(file, "%s/%s cannot be written", folder, name);
    cr_assert_eq(fwrite(bytes, 1, size, file), size);
    fclose(file);
}

void data_write_shard(const char *folder, const char *name, int first, int n) {
    uint16_t *ids = malloc((size_t)n * sizeof *ids + 1);
    for (int i = 0; i < n; i++) ids[i] = (uint16_t)((first + i) % 256);
    data_write(folder, name, ids, (size_t)n * sizeof *ids);
    free(ids);
}

int split_named(const char *name) {
    for (int i = 0; i < split_count(); i++)
        if (strcmp(split_name(i), name) == 0) return i;
    cr_assert_fail("there is no split %s", name);
    return -1;
}

data_settings data_settings_of(const char *folder) {
    return (data_settings){.corpus = (char *)(uintptr_t)folder,
                           .split = split_named("natural"),
                           .sources = {.value = -1},
                           .fraction = {.real = 1},
                           .sequence = 8};
}

exit_code data_open_device(const corpus *c, const data_settings *d, uint64_t seed, int device, int devices,
                           bool pooled, device_data **out, problems *list) {
    partition *p = NULL;
    *out = NULL;
    exit_code code = partition_open(c, d, seed, devices, &p, list);
    if (code == EXIT_OK) code = device_data_open(p, device, pooled, out, list);
    partition_close(p);
    return code;
}

int data_says(const problems *list, const char *part) {
    for (int i = 0; i < problems_count(list); i++)
        if (strstr(problems_message(list, i), part)) return 1;
    return 0;
}
