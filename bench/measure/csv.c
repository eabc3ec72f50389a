/* csv.c - one line a measurement, an axis a column. */
#include <string.h>

#include "measure/result.h"

static const double MICRO = 1e6;

static void put_axes(FILE *file, const result *r) {
    for (int a = 0; a < AXES; a++) {
        char name[POINT_NAME_BYTES];
        const char *word = axis_word((axis)a, r->at.value[a]);
        point_name(&r->at, 1u << a, name);
        if (!(r->axes >> a & 1))
            fputc(',', file);
        else
            fprintf(file, ",%s", word ? word : name + 2); /* "/T4096" without its mark */
    }
}

/* 0: not measured. */
static void put_known(FILE *file, double seconds) {
    if (seconds > 0)
        fprintf(file, ",%.6g", MICRO * seconds);
    else
        fputc(',', file);
}

static void put_line(FILE *file, const context *c, const result *r, const measured *m) {
    const verdict *v = m && m->peer ? &m->right : &r->right;
    fprintf(file, "%s,\"%s\"", r->name, m ? m->label : "");
    put_axes(file, r);
    fprintf(file, ",%s,%lld,%lld,%.0f,%.0f", c->backend, (long long)v->wrong, (long long)v->checked, r->bytes,
            r->flops);
    if (!m || m->t.count == 0) {
        fprintf(file, ",,,,,,,,\n");
        return;
    }
    const statistics *s = &m->t.real;
    fprintf(file, ",%d,%.6g,%.6g,%.4g,%s", s->count, MICRO * s->median, MICRO * s->min, s->spread,
            m->t.settled ? "yes" : "no");
    put_known(file, r->floor_seconds);
    put_known(file, r->fma_seconds);
    fprintf(file, ",%d\n", m->t.count - m->t.undisturbed);
}

void result_write_csv(output_file *out, const context *c, const result *all, int n) {
    FILE *file = out->stream;
    fputs("name,measured", file);
    for (int a = 0; a < AXES; a++) fprintf(file, ",%s", axis_key((axis)a));
    fputs(",backend,wrong,checked,bytes,flops,samples,median_us,min_us,spread,settled,floor_us,fma_us,"
          "disturbed\n",
          file);
    for (int i = 0; i < n; i++) {
        if (all[i].skipped) continue;
        if (all[i].n_times == 0) put_line(file, c, &all[i], NULL);
        for (int j = 0; j < all[i].n_times; j++) put_line(file, c, &all[i], &all[i].times[j]);
    }
}
