/* parts.h - the splits' names, and the files of a folder of shards. */
#ifndef COHORT_PARTS_H
#define COHORT_PARTS_H

#include <errno.h>
#include <stdio.h>

#include "data/data.h"

enum { PATH_ROOM = 4096 };

static inline const char *part_name(int part) {
    static const char *const names[DATA_SPLITS] = {"train", "valid", "test"};
    return names[part];
}

/* FOLDER/train_0.bin and its like, FOLDER/sources.json: 0, or -1 with errno where the path is too long. */
static inline int shard_path(const char *folder, int part, int source, char out[PATH_ROOM]) {
    int length = snprintf(out, PATH_ROOM, "%s/%s_%d.bin", folder, part_name(part), source);
    errno = ENAMETOOLONG;
    return length < PATH_ROOM ? 0 : -1;
}

static inline int sources_path(const char *folder, char out[PATH_ROOM]) {
    int length = snprintf(out, PATH_ROOM, "%s/sources.json", folder);
    errno = ENAMETOOLONG;
    return length < PATH_ROOM ? 0 : -1;
}

#endif
