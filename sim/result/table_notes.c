/* table_notes.c - what stands below a table; and the table as CSV. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "result/csv.h"
#include "result/table_parts.h"

/* ---- Notes ---- */

typedef struct {
    FILE *out;
    table_form form;
} notes;

static void begin(const notes *n) {
    if (n->form == TABLE_LATEX) fputs("% ", n->out);
    if (n->form == TABLE_MARKDOWN) fputs("- ", n->out);
}

/* The population's name, and if another group has the same name, the keys that tell them apart. */
static void put_name(const table_parts *t, const table_group *group, FILE *out) {
    const char *name = table_setting(group, "population");
    int alike = 0;
    for (int i = 0; i < t->data.n_groups; i++)
        alike += strcmp(table_setting(&t->data.groups[i], "population"), name) == 0;
    fputs(name, out);
    for (int i = 0; i <= t->layout.n_keys && alike > 1; i++) {
        const char *key = i < t->layout.n_keys ? t->layout.keys[i] : t->layout.column;
        if (key && strcmp(key, "population") != 0) fprintf(out, ", %s %s", key, table_setting(group, key));
    }
}

static void note_reading(const table_parts *t, const notes *n) {
    static const char *const marks[][2] = {[TABLE_TEXT] = {"*", "~"},
                                           [TABLE_MARKDOWN] = {"bold", "italic"},
                                           [TABLE_LATEX] = {"bold", "underlined"},
                                           [TABLE_CSV] = {"best", "near"}};
    bool marked = false;
    for (int i = 0; i < t->n_metrics * t->data.n_groups; i++) marked |= t->marks[i] != MARK_NONE;
    begin(n);
    fputs("mean ± standard deviation over seeds\n", n->out);
    if (marked) {
        begin(n);
        fprintf(n->out,
                "%s: the lowest on equal text; %s: not told apart from it, since the 95 %% interval of the "
                "paired difference holds 0\n",
                marks[n->form][0], marks[n->form][1]);
    }
    if (!t->baseline) return;
    begin(n);
    fprintf(n->out,
            "minus %s: mean difference of equal seeds [its 95 %% confidence interval, Student's t], pairs of "
            "seeds\n",
            t->baseline);
}

/* Of each group and metric: the seeds without a finite value, and why. */
static void note_missing(const table_parts *t, const char *measure, const table_group *group,
                         const notes *n) {
    over_seeds s = over_seeds_of(group, measure);
    if (s.missing == 0) return;
    begin(n);
    put_name(t, group, n->out);
    fprintf(n->out, ": no %s of %d of %d seeds:", measure, s.missing, group->n);
    for (int i = 0, written = 0; i < group->n; i++) {
        const table_member *member = &group->members[i];
        const char *text = table_text(member, measure);
        if (!isnan(table_value(member, measure))) continue;
        fprintf(n->out, "%s %s", written++ ? "," : "", member->seed);
        if (*text || table_diverged(member)) fprintf(n->out, " (%s)", *text ? text : "diverged");
    }
    fputc('\n', n->out);
}

/* A population that diverged may have a value from a round before it did. That is not the value at the end
 * of the run, so it is said. */
static void note_diverged(const table_parts *t, const char *measure, const table_group *group,
                          const notes *n) {
    for (int i = 0; i < group->n; i++) {
        const table_member *member = &group->members[i];
        if (!table_diverged(member) || isnan(table_value(member, measure)) ||
            strncmp(measure, "bytes_", 6) == 0)
            continue;
        begin(n);
        put_name(t, group, n->out);
        fprintf(n->out, ": seed %s diverged; its %s is of a round before\n", member->seed, measure);
    }
}

/* Whether the same seeds of `a` have no pair in both. */
static bool same_gap(const table_group *a, const table_group *b, const table_group *other) {
    bool same = true;
    for (int i = 0; i < a->n && same; i++)
        same = table_has_seed(b, a->members[i].seed) == table_has_seed(other, a->members[i].seed);
    return same;
}

/* Names the seeds of `a` that `b` lacks; more: how many other groups lack the same seeds. */
static void note_seeds_without_pair(const table_parts *t, const table_group *a, const table_group *b,
                                    int more, const notes *n) {
    int written = 0;
    for (int i = 0; i < a->n; i++) {
        if (table_has_seed(b, a->members[i].seed)) continue;
        if (!written) begin(n);
        if (!written) put_name(t, a, n->out);
        fprintf(n->out, "%s %s", written++ ? "," : ": without a pair are its seeds", a->members[i].seed);
    }
    if (!written) return;
    fputs(", which ", n->out);
    put_name(t, b, n->out);
    if (more > 0)
        fprintf(n->out, " and %d more lack\n", more);
    else
        fputs(" lacks\n", n->out);
}

/* Names the seeds of its baseline that a group lacks. Groups that lack the same seeds share one note. */
static void note_baseline_without_pair(const table_parts *t, int group, const notes *n) {
    const table_group *groups = t->data.groups, *baseline = &groups[t->baselines[group]];
    int more = 0;
    for (int i = 0; i < t->data.n_groups; i++) {
        bool same = t->baselines[i] == t->baselines[group] && same_gap(baseline, &groups[i], &groups[group]);
        if (same && i < group) return;
        more += same && i > group;
    }
    note_seeds_without_pair(t, baseline, &groups[group], more, n);
}

void table_print_notes(const table_parts *t, table_form form, FILE *out) {
    const notes n = {.out = out, .form = form};
    fputc('\n', out);
    note_reading(t, &n);
    for (int m = 0; m < t->n_metrics; m++)
        for (int i = 0; i < t->data.n_groups; i++) {
            note_missing(t, t->metrics[m], &t->data.groups[i], &n);
            note_diverged(t, t->metrics[m], &t->data.groups[i], &n);
        }
    for (int i = 0; i < t->data.n_groups; i++) {
        if (t->baselines[i] < 0) continue;
        note_seeds_without_pair(t, &t->data.groups[i], &t->data.groups[t->baselines[i]], 0, &n);
        note_baseline_without_pair(t, i, &n);
    }
}

/* ---- CSV ---- */

static void put_number(double value, FILE *out) {
    fputc(',', out);
    if (!isnan(value)) fprintf(out, "%.9g", value);
}

static void put_settings(const table_parts *t, const table_group *group, FILE *out) {
    for (int i = 0; i < t->layout.n_keys; i++) {
        csv_text(out, group ? table_setting(group, t->layout.keys[i]) : t->layout.keys[i]);
        fputc(',', out);
    }
    if (!t->layout.column) return;
    csv_text(out, group ? table_setting(group, t->layout.column) : t->layout.column);
    fputc(',', out);
}

static void put_difference(const table_parts *t, int group, const char *measure, FILE *out) {
    int other = t->baselines[group];
    paired_difference d = {.mean = NAN, .low = NAN, .high = NAN};
    fputc(',', out);
    if (other >= 0 && other != group) {
        csv_text(out, table_setting(&t->data.groups[other], "population"));
        d = paired_of(&t->data.groups[group], &t->data.groups[other], measure);
    }
    put_number(d.mean, out);
    put_number(d.low, out);
    put_number(d.high, out);
    fputc(',', out);
    if (other >= 0 && other != group) fprintf(out, "%d", d.pairs);
}

void table_print_csv(const table_parts *t, FILE *out) {
    static const char *const marks[] = {[MARK_NONE] = "", [MARK_BEST] = "best", [MARK_NEAR] = "near"};
    put_settings(t, NULL, out);
    fputs("metric,seeds,missing,diverged,mean,std,mark,baseline,difference,low,high,pairs,bytes_up\n", out);
    for (int i = 0; i < t->data.n_groups; i++)
        for (int m = 0; m < t->n_metrics; m++) {
            const table_group *group = &t->data.groups[i];
            over_seeds s = over_seeds_of(group, t->metrics[m]);
            put_settings(t, group, out);
            fprintf(out, "%s,%d,%d,%d", t->metrics[m], group->n, s.missing, s.diverged);
            put_number(s.mean, out);
            put_number(s.std, out);
            fprintf(out, ",%s", marks[table_mark_of(t, m, i)]);
            put_difference(t, i, t->metrics[m], out);
            put_number(over_seeds_of(group, "bytes_up").mean, out);
            fputc('\n', out);
        }
}
