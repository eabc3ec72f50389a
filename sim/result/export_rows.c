/* export_rows.c - the tables that can be exported: their headers and how a row of the trace becomes lines.
 *
 * Numbers are written with as many digits as it takes to read the same bits back. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "result/bank.h"
#include "result/csv.h"
#include "result/export_tables.h"

static void put_double(FILE *out, double value) {
    char text[32];
    snprintf(text, sizeof text, "%.15g", value);
    if (strtod(text, NULL) != value) snprintf(text, sizeof text, "%.17g", value);
    fputs(text, out);
}

static void put_float(FILE *out, float value) {
    char text[32];
    snprintf(text, sizeof text, "%.6g", (double)value);
    if (strtof(text, NULL) != value) snprintf(text, sizeof text, "%.9g", (double)value);
    fputs(text, out);
}

/* population,seed,device of a device of the run. */
static void put_device(const export_source *s, int device, FILE *out) {
    const trace_device *d = &s->devices[device];
    csv_text(out, s->populations[d->population].name);
    fprintf(out, ",%" PRIu64 ",%d", s->populations[d->population].seed, d->index);
}

/* The name of a source of the device; nothing of -1, where it has several. */
static void put_source(const export_source *s, const trace_device *d, int source, FILE *out) {
    int64_t at = (int64_t)s->populations[d->population].first_source + source;
    if (source >= 0 && at >= 0 && at < s->n_sources)
        csv_text(out, s->source_names + (size_t)at * s->source_bytes);
}

static const char *kind_of(const export_source *s, int device, int expert) {
    return expert < s->devices[device].generalists ? "generalist" : "specialist";
}

/* A member of the records of a population's devices, which are neighbours: at that offset, an int. */
static void put_of_devices(const export_source *s, int population, size_t offset, FILE *out) {
    int n = 0;
    for (int i = 0; i < s->n_devices; i++)
        if (s->devices[i].population == population)
            s->cell[n++] = *(const int *)((const char *)&s->devices[i] + offset);
    bank_cell(out, s->cell, n);
    fputc(',', out);
}

static void write_populations(export_source *s, int64_t row, const void *const values[METRIC_COUNT],
                              FILE *out) {
    (void)row, (void)values;
    for (int i = 0; i < s->n_populations; i++) {
        const population_record *p = &s->populations[i];
        csv_text(out, p->name);
        fprintf(out, ",%" PRIu64 ",", p->seed);
        csv_text(out, p->method);
        fprintf(out, ",%d,", p->devices);
        put_of_devices(s, i, offsetof(trace_device, generalists), out);
        put_of_devices(s, i, offsetof(trace_device, specialists), out);
        put_of_devices(s, i, offsetof(trace_device, rank), out);
        fprintf(out, "%d,%" PRId64 ",", p->top_k, p->tokens_per_device);
        csv_text(out, p->split);
        fprintf(out, ",%s,%s,%s,", p->gates, p->evaluation, p->point);
        csv_text(out, p->revision);
        fputc(',', out);
        if (s->diverged[i] > 0) fprintf(out, "%d", s->diverged[i]);
        fputc('\n', out);
    }
}

static void write_devices(export_source *s, int64_t row, const void *const values[METRIC_COUNT], FILE *out) {
    (void)row, (void)values;
    for (int i = 0; i < s->n_devices; i++) {
        const trace_device *d = &s->devices[i];
        put_device(s, i, out);
        fprintf(out, ",%d,", d->source);
        put_source(s, d, d->source, out);
        fprintf(out, ",%d,%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 ",", d->experts,
                d->train_tokens, d->valid_tokens, d->test_tokens, d->parameters_shared,
                d->parameters_private);
        if (!isnan(d->entropy)) put_double(out, d->entropy);
        fprintf(out, ",%d,%d,%d\n", d->generalists, d->specialists, d->rank);
    }
}

/* An older trace says only which one source a device has. */
static int64_t tokens_of_source(const export_source *s, int device, int source) {
    if (s->mixtures) return s->mixtures[(int64_t)device * s->most_sources + source];
    return source == s->devices[device].source ? s->devices[device].train_tokens : 0;
}

static void write_mixture(export_source *s, int64_t row, const void *const values[METRIC_COUNT], FILE *out) {
    (void)row, (void)values;
    for (int i = 0; i < s->n_devices; i++)
        for (int source = 0; source < (s->mixtures ? s->most_sources : s->n_sources); source++) {
            int64_t tokens = tokens_of_source(s, i, source);
            if (tokens == 0) continue;
            put_device(s, i, out);
            fprintf(out, ",%d,", source);
            put_source(s, &s->devices[i], source, out);
            fprintf(out, ",%" PRId64 "\n", tokens);
        }
}

static void write_loss(export_source *s, int64_t row, const void *const values[METRIC_COUNT], FILE *out) {
    static const char *const splits[] = {"train", "valid", "test", "test_after"};
    static const metric_id losses[] = {METRIC_TRAIN_LOSS, METRIC_VALID_LOSS, METRIC_TEST_LOSS,
                                       METRIC_TEST_AFTER};
    for (int i = 0; i < s->n_devices; i++)
        for (int split = 0; split < 4; split++) {
            double loss = ((const double *)values[losses[split]])[i];
            if (isnan(loss)) continue;
            fprintf(out, "%d,", s->rounds[row]);
            put_device(s, i, out);
            fprintf(out, ",%s,", splits[split]);
            put_double(out, loss);
            fputc('\n', out);
        }
}

static void write_routing(export_source *s, int64_t row, const void *const values[METRIC_COUNT], FILE *out) {
    const float *gate_mean = values[METRIC_GATE_MEAN], *token_share = values[METRIC_TOKEN_SHARE];
    int64_t at = 0;
    for (int i = 0; i < s->n_devices; i++)
        for (int layer = 0; layer < s->shape.layers; layer++)
            for (int e = 0; e < s->shape.experts; e++, at++) {
                if (isnan(gate_mean[at])) continue;
                fprintf(out, "%d,", s->rounds[row]);
                put_device(s, i, out);
                fprintf(out, ",%d,%d,%s,", layer, e, kind_of(s, i, e));
                put_float(out, gate_mean[at]);
                fputc(',', out);
                put_float(out, token_share[at]);
                fputc('\n', out);
            }
}

/* One line for each expert that exists of one token's layers. */
static void put_token(const export_source *s, int64_t row, int window, int position, int32_t token,
                      const float *gates, FILE *out) {
    int device = s->window_devices[window];
    for (int layer = 0; layer < s->shape.layers; layer++)
        for (int e = 0; e < s->shape.experts; e++) {
            float gate = gates[layer * s->shape.experts + e];
            if (isnan(gate)) continue;
            fprintf(out, "%d,%d,", s->rounds[row], window);
            put_device(s, device, out);
            fprintf(out, ",%d,%d,%d,%d,%s,", position, (int)token, layer, e, kind_of(s, device, e));
            put_float(out, gate);
            fputc('\n', out);
        }
}

static void write_tokens(export_source *s, int64_t row, const void *const values[METRIC_COUNT], FILE *out) {
    const int32_t *ids = values[METRIC_ROUTING_IDS];
    const float *gates = values[METRIC_ROUTING_GATES];
    int64_t per_token = (int64_t)s->shape.layers * s->shape.experts;
    for (int64_t w = 0; w < s->shape.windows; w++)
        for (int64_t t = 0; t < s->shape.sequence; t++) {
            int64_t at = w * s->shape.sequence + t;
            if (ids[at] >= 0) put_token(s, row, (int)w, (int)t, ids[at], gates + at * per_token, out);
        }
}

static void write_traffic(export_source *s, int64_t row, const void *const values[METRIC_COUNT], FILE *out) {
    const int64_t *up = values[METRIC_BYTES_UP], *down = values[METRIC_BYTES_DOWN];
    for (int i = 0; i < s->n_devices; i++) {
        fprintf(out, "%d,", s->rounds[row]);
        put_device(s, i, out);
        fprintf(out, ",%" PRId64 ",%" PRId64 "\n", up[i], down[i]);
    }
}

static void write_time(export_source *s, int64_t row, const void *const values[METRIC_COUNT], FILE *out) {
    static const char *const phases[] = {"train", "evaluate", "aggregate", "total"};
    static const metric_id times[] = {METRIC_TIME_TRAIN, METRIC_TIME_EVALUATE, METRIC_TIME_AGGREGATE,
                                      METRIC_TIME_TOTAL};
    for (int i = 0; i < 4; i++) {
        fprintf(out, "%d,%s,", s->rounds[row], phases[i]);
        put_double(out, *(const double *)values[times[i]]);
        fputc('\n', out);
    }
}

/* The windows of one part; a step's number counts the device's steps of that kind over all rounds, as
 * data.windows does. */
static void put_windows(const export_source *s, int64_t row, const char *part, int steps, int batch,
                        const int64_t *offsets, int64_t *taken, FILE *out) {
    for (int i = 0; i < s->n_devices; i++)
        for (int step = 0; step < steps; step++, offsets += batch) {
            if (offsets[0] < 0) continue;
            for (int index = 0; index < batch && offsets[index] >= 0; index++) {
                fprintf(out, "%d,", s->rounds[row]);
                put_device(s, i, out);
                fprintf(out, ",%s,%" PRId64 ",%d,%" PRId64 "\n", part, taken[i], index, offsets[index]);
            }
            taken[i]++;
        }
}

static void write_windows(export_source *s, int64_t row, const void *const values[METRIC_COUNT], FILE *out) {
    const sampling_shape *size = &s->shape.sampling;
    put_windows(s, row, "train", size->train_steps, size->train_batch, values[METRIC_TRAIN_WINDOWS],
                s->train_steps, out);
    put_windows(s, row, "valid", size->valid_steps, size->valid_batch, values[METRIC_VALID_WINDOWS],
                s->valid_steps, out);
}

static bool is_measured(metric_id id, const void *values, int64_t index) {
    switch (metrics[id].type) {
    case METRIC_F64:
        return !isnan(((const double *)values)[index]);
    case METRIC_F32:
        return !isnan(((const float *)values)[index]);
    case METRIC_I64:
        return ((const int64_t *)values)[index] >= 0;
    case METRIC_I32:
        return ((const int32_t *)values)[index] >= 0;
    }
    return false;
}

static void put_value(metric_id id, const void *values, int64_t index, FILE *out) {
    switch (metrics[id].type) {
    case METRIC_F64:
        put_double(out, ((const double *)values)[index]);
        break;
    case METRIC_F32:
        put_float(out, ((const float *)values)[index]);
        break;
    case METRIC_I64:
        fprintf(out, "%" PRId64, ((const int64_t *)values)[index]);
        break;
    case METRIC_I32:
        fprintf(out, "%" PRId32, ((const int32_t *)values)[index]);
        break;
    }
}

/* population,seed,device of a value; a population's own has no device. */
static void put_owner(const export_source *s, metric_axes axes, int64_t index, FILE *out) {
    if (axes == METRIC_OF_DEVICE) {
        put_device(s, (int)index, out);
        return;
    }
    csv_text(out, s->populations[index].name);
    fprintf(out, ",%" PRIu64 ",", s->populations[index].seed);
}

static void write_metrics(export_source *s, int64_t row, const void *const values[METRIC_COUNT], FILE *out) {
    for (metric_id id = 0; id < METRIC_COUNT; id++) {
        int64_t n = values[id] ? metric_values(id, &s->shape) : 0;
        for (int64_t i = 0; i < n; i++) {
            if (!is_measured(id, values[id], i)) continue;
            fprintf(out, "%d,", s->rounds[row]);
            put_owner(s, metrics[id].axes, i, out);
            fprintf(out, ",%s,%s,", metrics[id].path + 1, metrics[id].units);
            put_value(id, values[id], i, out);
            fputc('\n', out);
        }
    }
}

const export_table export_tables[] = {
    {.name = "populations",
     .header =
         "population,seed,method,devices,generalists,specialists,rank,top_k,tokens_per_device,split,gates,"
         "evaluation,point,revision,diverged_round",
     .write = write_populations},
    {.name = "devices",
     .header = "population,seed,device,source,source_name,experts,train_tokens,valid_tokens,test_tokens,"
               "parameters_shared,parameters_private,"
               "entropy_nats_per_token,generalists,specialists,rank",
     .write = write_devices},
    {.name = "mixture",
     .header = "population,seed,device,source,source_name,train_tokens",
     .write = write_mixture},
    {.name = "loss",
     .header = "round,population,seed,device,split,loss",
     .n_columns = 4,
     .columns = {METRIC_TRAIN_LOSS, METRIC_VALID_LOSS, METRIC_TEST_LOSS, METRIC_TEST_AFTER},
     .write = write_loss},
    {.name = "routing",
     .header = "round,population,seed,device,layer,expert,kind,gate_mean,token_share",
     .n_columns = 2,
     .columns = {METRIC_GATE_MEAN, METRIC_TOKEN_SHARE},
     .write = write_routing},
    {.name = "tokens",
     .header = "round,window,population,seed,device,position,token,layer,expert,kind,gate",
     .wish = "trace.routing_windows: 2",
     .n_columns = 2,
     .columns = {METRIC_ROUTING_IDS, METRIC_ROUTING_GATES},
     .write = write_tokens},
    {.name = "traffic",
     .header = "round,population,seed,device,bytes_up,bytes_down",
     .n_columns = 2,
     .columns = {METRIC_BYTES_UP, METRIC_BYTES_DOWN},
     .write = write_traffic},
    {.name = "windows",
     .header = "round,population,seed,device,part,step,index,offset",
     .wish = "trace.sampling_windows: true",
     .n_columns = 2,
     .columns = {METRIC_TRAIN_WINDOWS, METRIC_VALID_WINDOWS},
     .write = write_windows},
    {.name = "time",
     .header = "round,phase,seconds",
     .n_columns = 4,
     .columns = {METRIC_TIME_TRAIN, METRIC_TIME_EVALUATE, METRIC_TIME_AGGREGATE, METRIC_TIME_TOTAL},
     .write = write_time},
    {.name = "metrics",
     .header = "round,population,seed,device,metric,unit,value",
     .every_metric = true,
     .write = write_metrics},
};
const int export_n_tables = sizeof export_tables / sizeof *export_tables;
