/* table.h - the one table of settings: a row per key. Loading, limits, messages, writing back, hashing and
 * the reference page all walk it. To add a setting: a member in settings.h and a row in table.c;
 * sim/README.md says what else a row may need. */
#ifndef COHORT_TABLE_H
#define COHORT_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "config/tree.h"
#include "settings/settings.h"

typedef enum {
    VALUE_INT,     /* int */
    VALUE_INT64,   /* int64_t */
    VALUE_SEED,    /* uint64_t, the whole range */
    VALUE_DOUBLE,  /* double */
    VALUE_TEXT,    /* char *, owned */
    VALUE_WORD,    /* char *, owned: one of the choices */
    VALUE_CHOICE,  /* an enum: its choices in order */
    VALUE_COUNTS,  /* per_device: a whole number for all devices, or a list with one for each; -1: not written
                    * and without a default */
    VALUE_NUMBERS, /* per_device: the same of numbers that need not be whole (real) */
    VALUE_SEEDS    /* a list of seeds; exists only until populations are expanded */
} value_type;

typedef enum {
    SCOPE_RUN,       /* top level only */
    SCOPE_BOTH,      /* top level: default of the populations; in a population: its own */
    SCOPE_POPULATION /* in a population only */
} row_scope;

/* What a value is for: which hash it enters. */
typedef enum {
    MATTERS_NUMBERS, /* changes a run's numbers */
    MATTERS_NOT      /* where and how fast it runs */
} row_matter;

typedef struct {
    const char *path; /* within the top level or the population, dotted */
    value_type type;
    row_scope scope;
    row_matter matter;
    bool in_population;   /* offset is into population_settings, else into settings */
    bool required;        /* no default: must be written */
    bool names_a_path;    /* a file or folder: hashed by content, absolute in what is written (paths.h) */
    bool names_a_corpus;  /* a path with data/ to go before it */
    const char *word;     /* of names_a_path: the word that stands for no path; NULL: none does */
    const char *alias_of; /* this key is short for that one (same offset); never written back */
    size_t offset;
    const char *initial;   /* the default as it would be written; NULL: none, or found elsewhere: */
    const char *otherwise; /* what holds where it is not written, in words */
    double least, most;    /* numbers: inclusive unless said so below */
    bool above_least, below_most;
    bool single;         /* VALUE_DOUBLE: computed with in single precision, and judged as that */
    const char *unit;    /* "tokens"; NULL: a plain number */
    const char *choices; /* "auto|cpu|cuda" */
    const char *help;    /* one sentence for the reference page */
    const char *why_run; /* SCOPE_RUN: why a population cannot have its own */
} setting_row;

const setting_row *table_rows(int *count);
/* Whether the member of the row is a per_device. */
bool table_is_per_device(const setting_row *row);

/* The row of `path` that may be written at that level; NULL if none. */
const setting_row *table_find(const char *path, bool in_a_population);

/* ---- Values (values.c) ---- */

/* Reads a scalar (or what the row's type takes) into its place in `base`; false after reporting under the
 * name `key`. */
bool value_read(const setting_row *row, const node *value, void *base, const char *key, problems *list);
void value_set_default(const setting_row *row, void *base);
/* Writes the value as YAML that value_read() reads back to the same bits. */
void value_write(const setting_row *row, const void *base, FILE *out);
void text_write(const char *text, FILE *out);               /* quoted where YAML needs it */
char *value_text(const setting_row *row, const void *base); /* the same, malloc'd; empty where it is absent */
char *value_plain(const setting_row *row, const void *base); /* a text itself, unquoted; else value_text() */
bool value_equal(const setting_row *row, const void *a, const void *b);
/* Whether a value is absent. A text is absent if it is NULL. A number is absent only if its row has no
 * default: a VALUE_DOUBLE if it is just outside of the limits (0 where the row demands more than 0, else 1
 * below the least), VALUE_COUNTS if it is negative, and a VALUE_INT whose least is above 0 if it is 0. */
bool value_is_absent(const setting_row *row, const void *base);
void value_remove(const setting_row *row, void *base); /* makes such a number absent; other types stay */
/* "1 to 4,096 tokens", "above 0, at most 1", "auto, cpu or cuda"; malloc'd. */
char *value_limits(const setting_row *row);

/* One seed as written; false if it is none. */
bool value_read_seed(const node *value, uint64_t *out);

/* ---- Populations (population.c) ---- */

void population_copy(population_settings *to, const population_settings *from); /* owns copies of all texts */
void population_free(population_settings *p);

#endif
