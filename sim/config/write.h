/* write.h - settings as YAML: the resolved configuration, with absolute paths, or the canonical text that
 * hashes are taken of. */
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

/* A line "path: value" for every row, as far as it changes numbers: of a population all but its name (and its
 * seed, where seed is false), of the run what is its alone, without the base and the default of seeds. Paths
 * as contents where contents is true. */
void write_point(const population_settings *p, bool seed, bool contents, FILE *out);
void write_run_numbers(const settings *s, FILE *out);

/* 16 hex digits of what lies where a setting_is_path() leads: a file, or the files of a folder by name; of
 * its text if nothing lies there. Of each file the size and the first and last mebibyte count. */
enum { FINGERPRINT_BYTES = 17 };
void write_fingerprint(const setting_row *row, const void *base, char out[FINGERPRINT_BYTES]);
/* Equal values; of paths, equal fingerprints. */
bool write_same_content(const setting_row *row, const void *a, const void *b);

#endif
