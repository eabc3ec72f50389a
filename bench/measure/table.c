#include "measure/result.h"

#include <math.h>
#include <string.h>

static const double MICRO = 1e6;

static void print_ceiling(FILE *out, const char *precision, const ck_ceiling *most) {
    if (most->product > 0)
        fprintf(out, ", best product %.1f GFLOP/s in %s (%s)", 1e-9 * most->product, precision,
                most->product_of);
    else
        fprintf(out, ", no product measured in %s", precision);
    if (most->fma > 0) fprintf(out, ", FMA peak %.1f GFLOP/s", 1e-9 * most->fma);
}

void table_begin(FILE *out, const context *c) {
    fprintf(out, "%s backend: %s; Cohort %s\n", c->backend, c->hardware, c->revision);
    if (c->copy_rate > 0)
        fprintf(out, "copy %.1f GB/s", c->copy_rate * 1e-9);
    else
        fprintf(out, "copy not measured");
    print_ceiling(out, "f32", &c->ceiling[CK_F32]);
    if (c->ceiling[CK_BF16].product > 0) print_ceiling(out, "bf16", &c->ceiling[CK_BF16]);
    if (c->load.count > 0) fprintf(out, "; load average %.2f", c->load.average[0]);
    fprintf(out, "; cold: beyond 4 x %.0f MiB of cache; settled: spread below %.1f %%\n",
            (double)c->cache_bytes / 1048576.0, 100 * c->rule.noise);
    if (c->ceiling[CK_F32].note[0]) fprintf(out, "%s\n", c->ceiling[CK_F32].note);
    fprintf(out, "\n%-70s %12s  %-5s %11s %11s %6s %4s %9s %9s %11s %7s %7s\n", "case", "wrong", "cache",
            "median us", "min us", "+-", "n", "GB/s", "GFLOP/s", "floor us", "floor %", "FMA %");
}

static void print_wrong(FILE *out, const verdict *v) {
    char text[48];
    snprintf(text, sizeof text, "%lld/%lld", (long long)v->wrong, (long long)v->checked);
    fprintf(out, " %12s", text);
}

/* What is not as it should be with the samples. */
static void print_marks(FILE *out, const timing *t) {
    int disturbed = t->count - t->undisturbed;
    if (disturbed == t->count)
        fprintf(out, "  DISTURBED");
    else if (disturbed > 0)
        fprintf(out, "  %d of %d samples disturbed", disturbed, t->count);
    fprintf(out, "%s\n", t->settled ? "" : "  DID NOT SETTLE");
}

static void print_share(FILE *out, double least_seconds, double seconds) {
    if (least_seconds > 0)
        fprintf(out, " %6.1f%%", 100 * least_seconds / seconds);
    else
        fprintf(out, " %7s", "-");
}

static void print_time(FILE *out, const result *r, const measured *m) {
    const statistics *s = &m->t.real;
    fprintf(out, " %11.2f %11.2f %5.1f%% %4d %9.2f %9.2f", MICRO * s->median, MICRO * s->min, 100 * s->spread,
            s->count, 1e-9 * r->bytes / s->median, 1e-9 * r->flops / s->median);
    if (r->floor_seconds > 0)
        fprintf(out, " %11.2f", MICRO * r->floor_seconds);
    else
        fprintf(out, " %11s", "-");
    print_share(out, r->floor_seconds, s->median);
    print_share(out, r->fma_seconds, s->median);
    if (r->model_flops > 0 && r->product_rate > 0)
        fprintf(out, "  MFU %.1f%%", 100 * r->model_flops / (s->median * r->product_rate));
    print_marks(out, &m->t);
}

static const measured *own_time(const result *r) {
    for (int i = 0; i < r->n_times; i++)
        if (!r->times[i].peer && r->times[i].t.count > 0) return &r->times[i];
    return NULL;
}

/* A peer's line says how many times as long it takes, pair by pair. */
static void print_peer(FILE *out, const result *r, const measured *m) {
    const measured *own = own_time(r);
    fprintf(out, "  %-68s", m->label);
    if (m->t.count == 0 || !own) {
        if (m->right.wrong)
            fprintf(out, "  WRONG: %lld of %lld, first in %s, error %.1e\n", (long long)m->right.wrong,
                    (long long)m->right.checked, m->right.where, m->right.error);
        else
            fprintf(out, "  no time: %s\n", m->reason);
        return;
    }
    print_wrong(out, &m->right);
    fprintf(out, "  %-5s", "warm");
    statistics ratio = timing_ratio(&m->t, &own->t);
    const statistics *s = &m->t.real;
    fprintf(out, " %11.2f %11.2f %5.1f%% %4d   %.2f x Cohort's time, spread %.1f %%", MICRO * s->median,
            MICRO * s->min, 100 * s->spread, s->count, ratio.median, 100 * ratio.spread);
    print_marks(out, &m->t);
}

void table_row(FILE *out, const result *r) {
    fprintf(out, "%-70s", r->name);
    if (r->skipped) {
        fprintf(out, "  skipped: %s\n", r->note);
        return;
    }
    print_wrong(out, &r->right);
    if (r->right.wrong) fprintf(out, "  WRONG in %s, error %.1e", r->right.where, r->right.error);
    int printed = 0;
    for (int i = 0; i < r->n_times; i++) {
        const measured *m = &r->times[i];
        if (m->peer || m->t.count == 0) continue;
        if (printed++) fprintf(out, "%-70s %12s", "", "");
        fprintf(out, "  %-5s", m->label);
        print_time(out, r, m);
    }
    if (!printed) fprintf(out, "\n");
    if (r->note[0]) fprintf(out, "  %s\n", r->note);
    for (int i = 0; i < r->n_times; i++)
        if (r->times[i].peer) print_peer(out, r, &r->times[i]);
    fflush(out);
}

void table_end(FILE *out, const result *all, int n) {
    int wrong = 0, timed = 0, unsettled = 0, skipped = 0, samples = 0, disturbed = 0;
    for (int i = 0; i < n; i++) {
        skipped += all[i].skipped;
        wrong += !all[i].skipped && !verdict_passed(&all[i].right);
        for (int j = 0; j < all[i].n_times; j++) {
            timed += all[i].times[j].t.count > 0;
            unsettled += all[i].times[j].t.count > 0 && !all[i].times[j].t.settled;
            samples += all[i].times[j].t.count;
            disturbed += all[i].times[j].t.count - all[i].times[j].t.undisturbed;
        }
    }
    fprintf(out, "\n%d case%s, %d wrong, %d skipped; %d times, %d of them did not settle; ", n,
            n == 1 ? "" : "s", wrong, skipped, timed, unsettled);
    fprintf(out, "others disturbed %d of %d samples\n", disturbed, samples);
}

void result_free(result *r) {
    for (int i = 0; i < r->n_times; i++) timing_free(&r->times[i].t);
}
