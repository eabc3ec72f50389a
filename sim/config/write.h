/* write.h - settings as YAML: the resolved configuration, or the canonical text that hashes are taken of. */
#ifndef COHORT_WRITE_H
#define COHORT_WRITE_H

#include <stdbool.h>
#include <stdio.h>

#include "config/table.h"

/* Which rows to write, and how. */
typedef struct {
    bool numbers_only; /* leave out what changes no number */
    bool contents;     /* write files and folders as a hash of what they hold */
    const char *only;  /* NULL, or the one section wanted: "base" */
} write_options;

void write_settings(const settings *s, const write_options *options, FILE *out);

/* 16 hex digits of what lies at `path`: a file, or the files of a folder by name; of the path itself if nothing lies there. Of each
 * file the size and the first and last mebibyte count. */
enum { FINGERPRINT_BYTES = 17 };
void write_fingerprint(const char *path, char out[FINGERPRINT_BYTES]);

#endif
