/* bank.h - a population's experts in words and in the cells of its tables. */
#ifndef COHORT_TRACE_BANK_H
#define COHORT_TRACE_BANK_H

#include <stdio.h>

/* "1G1S"; "1G1-3S" where devices differ in their specialists. */
enum { BANK_TEXT_BYTES = 40 };
void bank_text(char out[BANK_TEXT_BYTES], int generalists, int least_specialists, int most_specialists);

/* Specialists of n devices: one number where all have as many, else a number for each device with a space
 * between. */
void bank_cell(FILE *out, const int *specialists, int n);

#endif
