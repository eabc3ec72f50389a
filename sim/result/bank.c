#include "result/bank.h"

#include <inttypes.h>

void bank_count(bank_span *span, int value, bool first) {
    if (first || value < span->least) span->least = value;
    if (first || value > span->most) span->most = value;
}

void bank_span_text(char out[SPAN_TEXT_BYTES], bank_span span) {
    if (span.least == span.most)
        snprintf(out, SPAN_TEXT_BYTES, "%d", span.most);
    else
        snprintf(out, SPAN_TEXT_BYTES, "%d-%d", span.least, span.most);
}

void bank_text(char out[BANK_TEXT_BYTES], bank_span generalists, bank_span specialists) {
    char shared[SPAN_TEXT_BYTES], own[SPAN_TEXT_BYTES];
    bank_span_text(shared, generalists);
    bank_span_text(own, specialists);
    snprintf(out, BANK_TEXT_BYTES, "%sG%sS", shared, own);
}

void bank_cell(FILE *out, const int64_t *values, int n) {
    int equal = 0;
    while (equal < n && values[equal] == values[0]) equal++;
    for (int i = 0; i < (equal == n ? 1 : n); i++) fprintf(out, i == 0 ? "%" PRId64 : " %" PRId64, values[i]);
}
