/* summary.c - summary.csv: a row per population, whole or absent. Numbers have nine significant digits, text
 * that holds a comma, a quote or a line break is quoted (RFC 4180), a value that does not exist is an empty
 * cell. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "result/bank.h"
#include "result/trace.h"
#include "support/durable.h"

static const char header[] =
    "population,method,devices,test_ppl_mean,test_ppl_std,bytes_up,bytes_down,"
    "test_ppl_after,seed,generalists,specialists,rank,tokens_per_device,split,test_loss_mean,entropy_mean,"
    "aggregate_weights\n";

static void put_text(FILE *out, const char *text) {
    if (!text[strcspn(text, ",\"\r\n")]) {
        fputs(text, out);
        return;
    }
    fputc('"', out);
    for (; *text; text++) {
        if (*text == '"') fputc('"', out);
        fputc(*text, out);
    }
    fputc('"', out);
}

static void put_number(FILE *out, double value) {
    if (!isnan(value)) fprintf(out, "%.9g", value);
}

static void put_row(FILE *out, const summary_row *row) {
    put_text(out, row->population);
    fputc(',', out);
    put_text(out, row->method);
    fprintf(out, ",%d,", row->devices);
    put_number(out, row->test_ppl_mean);
    fputc(',', out);
    put_number(out, row->test_ppl_std);
    fprintf(out, ",%" PRId64 ",%" PRId64 ",", row->bytes_up, row->bytes_down);
    put_number(out, row->test_ppl_after);
    fprintf(out, ",%" PRIu64 ",%d,", row->seed, row->generalists);
    if (row->specialists_list)
        bank_cell(out, row->specialists_list, row->devices);
    else
        fprintf(out, "%d", row->specialists);
    fprintf(out, ",%d,%" PRId64 ",", row->rank, row->tokens_per_device);
    put_text(out, row->split);
    fputc(',', out);
    put_number(out, row->test_loss_mean);
    fputc(',', out);
    put_number(out, row->entropy_mean);
    fprintf(out, ",%s", row->weights);
    fputc('\n', out);
}

/* 0 or an errno. */
static int write_rows(const char *path, const summary_row *rows, int n) {
    FILE *out = fopen(path, "w");
    if (!out) return errno;
    fputs(header, out);
    for (int i = 0; i < n; i++) put_row(out, &rows[i]);
    int status = 0;
    if (fflush(out))
        status = errno;
    else if (ferror(out))
        status = EIO;
    if (fclose(out) && !status) status = errno;
    return status;
}

exit_code summary_write(const char *path, const summary_row *rows, int n, problems *list) {
    char *temporary = durable_temporary(path);
    int status = temporary ? write_rows(temporary, rows, n) : ENOMEM;
    if (!status) status = durable_replace(temporary, path);
    if (status && temporary) unlink(temporary);
    free(temporary);
    if (!status) return EXIT_OK;
    return problem(list, EXIT_RUN,
                   "%s: cannot be written (%s); make room or repair the disk, then go on with --resume", path,
                   strerror(status));
}

bool summary_is_there(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && info.st_size > 0;
}
