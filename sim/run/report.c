#include "run/report.h"
#include "support/progress.h"

#include <dirent.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

void report_overlaps(bool quiet, const fleet *f) {
    char text[512];
    for (int i = 0; i < f->n_populations && !quiet; i++)
        if (fleet_describe_overlap(f, &f->populations[i], sizeof text, text))
            progress_note(quiet, "%s", text);
}

static void number(char out[32], double value, const char *format) {
    if (isnan(value))
        snprintf(out, 32, "-");
    else
        snprintf(out, 32, format, value);
}

/* Of synthetic text the entropy is known. */
static bool has_bounds(const summary_row *rows, int n) {
    for (int i = 0; i < n; i++)
        if (!isnan(rows[i].entropy_mean)) return true;
    return false;
}

/* Of a population whose last round has the lowest validation loss it is what stands beside it. */
static bool differs(const summary_row *row) {
    return row->best_round > 0 && row->test_ppl_best != row->of_metric[METRIC_TEST_LOSS][0];
}

static bool any_differs(const summary_row *rows, int n) {
    for (int i = 0; i < n; i++)
        if (differs(&rows[i])) return true;
    return false;
}

static void print_best(const summary_row *row) {
    char text[64] = "", best[32];
    number(best, row->test_ppl_best, "%.3f");
    if (differs(row)) snprintf(text, sizeof text, "%s (%d)", best, row->best_round);
    printf("  %16s", text);
}

void report_base(const base_shape *shape) {
    char text[BASE_TEXT_BYTES];
    printf("base: %s\n", base_describe(shape, text));
}

void report_table(const summary_row *rows, int n) {
    int widest = (int)strlen("population");
    for (int i = 0; i < n; i++)
        if ((int)strlen(rows[i].population) > widest) widest = (int)strlen(rows[i].population);
    bool bounded = has_bounds(rows, n), best = any_differs(rows, n);
    printf("\n%-*s  %-11s %6s %8s  %18s  %10s", widest, "population", "method", "seed", "devices",
           "test perplexity", "averaged");
    if (best) printf("  %16s", "best (round)");
    printf("%s  %9s  %9s\n", bounded ? "    bound" : "", "MB up", "MB down");
    for (int i = 0; i < n; i++) {
        char mean[32], std[32], after[32], bound[32];
        number(mean, rows[i].of_metric[METRIC_TEST_LOSS][0], "%.3f");
        number(std, rows[i].of_metric[METRIC_TEST_LOSS][1], "%.3f");
        number(after, rows[i].of_metric[METRIC_TEST_AFTER][0], "%.3f");
        printf("%-*s  %-11s %6llu %8d  %9s ± %6s  %10s", widest, rows[i].population, rows[i].method,
               (unsigned long long)rows[i].seed, rows[i].devices, mean, std, after);
        if (best) print_best(&rows[i]);
        number(bound, exp(rows[i].entropy_mean), "%.3f");
        if (bounded) printf("  %7s", bound);
        printf("  %9.2f  %9.2f\n", 1e-6 * (double)rows[i].of_state[STATE_BYTES_UP],
               1e-6 * (double)rows[i].of_state[STATE_BYTES_DOWN]);
    }
    printf("\ntest perplexity: mean and deviation over devices before the last aggregation; averaged: the "
           "mean after it\n");
    if (best)
        printf(
            "best (round): the test perplexity of the round with the lowest validation loss, where that is "
            "not the last\n");
    if (bounded)
        printf("bound: no model can be expected to go below it, which is the entropy of the synthetic text "
               "as a perplexity\n");
}

static void print_share(double rate, double of, const char *what, const char *whose) {
    if (of > 0.0)
        printf("%.0f %% of the %s (%.1f GFLOP/s%s%s)", 100.0 * rate / of, what, 1e-9 * of,
               whose[0] ? ", " : "", whose);
    else
        printf("the %s was not measured, for want of memory", what);
}

void report_speed(const session *s, const ck_ceiling *ceiling) {
    if (s->agreed.expert_seconds <= 0.0) return;
    double rate = s->agreed.expert_flops / s->agreed.expert_seconds;
    printf("\nexpert steps: %.1f k tokens/s, %.1f GFLOP/s: ",
           1e-3 * s->agreed.expert_tokens / s->agreed.expert_seconds, 1e-9 * rate);
    print_share(rate, ceiling->product, "best sgemm rate", ceiling->product_of);
    if (ceiling->fma > 0.0) fputs(", ", stdout);
    if (ceiling->fma > 0.0) print_share(rate, ceiling->fma, "FMA peak", "");
    fputs("; ", stdout);
    if (ck_processes(s->collective) > 1) printf("%d processes, each ", ck_processes(s->collective));
    printf("%s\n", ck_hardware(s->backend));
    if (ceiling->note[0]) printf("%s\n", ceiling->note);
    if (ck_note(s->backend)[0]) printf("%s\n", ck_note(s->backend));
}

static void print_file(const char *folder, const char *name) {
    char path[2 * FOLDER_PATH_BYTES];
    struct stat info;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (stat(path, &info) != 0) return;
    double bytes = (double)info.st_size;
    if (S_ISDIR(info.st_mode))
        printf("  %-11s %s\n", "    folder", path);
    else if (bytes < 10e3)
        printf("  %8.0f B   %s\n", bytes, path);
    else if (bytes < 10e6)
        printf("  %8.1f kB  %s\n", 1e-3 * bytes, path);
    else
        printf("  %8.1f MB  %s\n", 1e-6 * bytes, path);
}

static int visible(const struct dirent *entry) {
    return entry->d_name[0] != '.';
}

void report_files(const result_folder *folder) {
    struct dirent **entries = NULL;
    int n = scandir(folder->path, &entries, visible, alphasort);
    putchar('\n');
    for (int i = 0; i < n; i++) {
        print_file(folder->path, entries[i]->d_name);
        free(entries[i]);
    }
    free(entries);
}
