/* csv.h - cells of a CSV file (RFC 4180). */
#ifndef COHORT_CSV_H
#define COHORT_CSV_H

#include <stdio.h>

/* Quoted where it holds a comma, a quote or a line break. */
void csv_text(FILE *out, const char *text);

#endif
