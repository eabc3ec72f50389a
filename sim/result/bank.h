/* bank.h - a population's experts in words and in the cells of its tables. */
#ifndef COHORT_TRACE_BANK_H
#define COHORT_TRACE_BANK_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* The least and the most of something on the devices of a population. */
typedef struct {
    int least, most;
} bank_span;
void bank_count(bank_span *span, int value, bool first); /* one more device's */

/* "1G1S"; "1G1-3S" where devices differ. */
enum { BANK_TEXT_BYTES = 72 };
void bank_text(char out[BANK_TEXT_BYTES], bank_span generalists, bank_span specialists);
/* "8", or "4-16". */
enum { SPAN_TEXT_BYTES = 32 };
void bank_span_text(char out[SPAN_TEXT_BYTES], bank_span span);

/* A number for each of n devices: one number where all are equal, else all with a space between. */
void bank_cell(FILE *out, const int64_t *values, int n);

#endif
