#include "trace/bank.h"

void bank_text(char out[BANK_TEXT_BYTES], int generalists, int least_specialists, int most_specialists) {
    if (least_specialists == most_specialists)
        snprintf(out, BANK_TEXT_BYTES, "%dG%dS", generalists, most_specialists);
    else
        snprintf(out, BANK_TEXT_BYTES, "%dG%d-%dS", generalists, least_specialists, most_specialists);
}

void bank_cell(FILE *out, const int *specialists, int n) {
    int equal = 0;
    while (equal < n && specialists[equal] == specialists[0]) equal++;
    for (int i = 0; i < (equal == n ? 1 : n); i++) fprintf(out, i == 0 ? "%d" : " %d", specialists[i]);
}
