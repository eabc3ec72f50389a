#include "measure/peers_files.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cases/costs.h"
#include "rig/case.h"

enum { PATH_BYTES = 4352 };
static const char *const MEMORIES[PACK_MEMORIES] = {"parameters", "gradients", "moment1", "moment2"};

static exit_code write_array(const char *folder, const char *name, const char *suffix, const void *data,
                             size_t bytes, problems *list) {
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s.%s", folder, name, suffix);
    FILE *file = fopen(path, "wb");
    bool ok = file && fwrite(data, 1, bytes, file) == bytes;
    if (file && fclose(file)) ok = false;
    return ok ? EXIT_OK : problem(list, EXIT_ENVIRONMENT, "%s: cannot be written: %s", path, strerror(errno));
}

static void put_hyper(FILE *file, const ck_adamw_hyper *h, const char *name) {
    fprintf(file, "%s_learning_rate %.9g\n%s_weight_decay %.9g\n", name, (double)h->learning_rate, name,
            (double)h->weight_decay);
    fprintf(file, "%s_beta1 %.9g\n%s_beta2 %.9g\n%s_epsilon %.9g\n%s_step %d\n", name, (double)h->beta1, name,
            (double)h->beta2, name, (double)h->epsilon, name, h->step);
}

static void put_pack(FILE *file, const ck_shape *s) {
    fprintf(file, "experts %d\ntop_k %d\nrouter_rows %d\nrank_sum %d\n", s->n_experts, s->top_k,
            s->router_rows, s->rank_sum);
    for (int e = 0; e < s->n_experts; e++) fprintf(file, "rank%d %d\n", e, s->rank[e]);
    for (int i = 0; i < CK_BLOCKS; i++) {
        const ck_block *block = &s->block[i];
        ck_site site = i == CK_BLOCK_ROUTER ? CK_NO_SITE : (ck_site)(i / 2);
        const char *factor = i == CK_BLOCK_ROUTER ? "" : i % 2 == CK_FACTOR_A ? ".A" : ".B";
        fprintf(file, "block:%s%s %lld,%d,%d\n", ck_site_name(site), factor, (long long)block->offset,
                block->rows, block->columns);
    }
    fprintf(file, "pack %lld\n", (long long)s->total);
}

static exit_code write_job(const world *w, const char *folder, problems *list) {
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/job.txt", folder);
    FILE *file = fopen(path, "w");
    if (!file) return problem(list, EXIT_ENVIRONMENT, "%s: cannot be written: %s", path, strerror(errno));
    fprintf(file, "case %s/%s\nprecision %s\n", w->which->name, w->which->direction,
            w->precision == CK_BF16 ? "bf16" : "f32");
    fprintf(file, "tokens %lld\nwidth %d\nffn %d\ndevices %d\n", (long long)w->n_tokens, w->width, w->ffn,
            w->n_devices);
    put_pack(file, &w->shape);
    put_hyper(file, &BENCH_HYPER[0], "experts");
    put_hyper(file, &BENCH_HYPER[1], "router");
    fprintf(file, "kinds %d\nchecked", w->n_devices < PACK_KINDS ? w->n_devices : PACK_KINDS);
    for (int i = 0; i < w->n_checked; i++) fprintf(file, "%c%d", i ? ',' : ' ', w->checked[i]);
    fputc('\n', file);
    for (int i = 0; i < TENSORS; i++)
        if (w->tensor[i].role != ABSENT)
            fprintf(file, "columns_%s %d\n", w->tensor[i].name, w->tensor[i].columns);
    int failed = ferror(file);
    return fclose(file) || failed ? problem(list, EXIT_ENVIRONMENT, "%s: cannot be written", path) : EXIT_OK;
}

static exit_code write_tokens(const world *w, const char *folder, problems *list) {
    int32_t *tokens = calloc((size_t)w->n_devices, sizeof *tokens);
    if (!tokens) return problem(list, EXIT_ENVIRONMENT, "out of memory");
    for (int d = 0; d < w->n_devices; d++) tokens[d] = (int32_t)world_rows(w, d);
    exit_code code =
        write_array(folder, "tokens", "i32", tokens, (size_t)w->n_devices * sizeof *tokens, list);
    free(tokens);
    return code;
}

static exit_code write_packs(const world *w, const char *folder, problems *list) {
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/packs.f32", folder);
    FILE *file = fopen(path, "wb");
    bool ok = file != NULL;
    for (int i = 0; i < PACK_KINDS && i < w->n_devices && ok; i++)
        ok = fwrite(w->pack_kind[i], sizeof(float), (size_t)w->shape.total, file) == (size_t)w->shape.total;
    if (file && fclose(file)) ok = false;
    return ok ? EXIT_OK : problem(list, EXIT_ENVIRONMENT, "%s: cannot be written: %s", path, strerror(errno));
}

exit_code peers_write(const world *w, const char *folder, problems *list) {
    exit_code code = write_job(w, folder, list);
    if (code == EXIT_OK) code = write_tokens(w, folder, list);
    if (code == EXIT_OK && w->needs & NEED_PACKS) code = write_packs(w, folder, list);
    for (int i = 0; i < TENSORS && code == EXIT_OK; i++) {
        const tensor_array *t = &w->tensor[i];
        if (t->before)
            code = write_array(folder, t->name, "f32", t->before,
                               (size_t)w->n_tokens * (size_t)t->columns * sizeof(float), list);
    }
    for (int i = 0; i < BUFFERS && code == EXIT_OK; i++) {
        const buffer_array *b = &w->buffer[i];
        if (b->before)
            code = write_array(folder, b->name, "f32", b->before, (size_t)b->count * sizeof(float), list);
    }
    return code;
}

static exit_code read_array(const char *folder, const char *name, float *out, int64_t count, problems *list) {
    char path[PATH_BYTES], more;
    snprintf(path, sizeof path, "%s/%s.out", folder, name);
    FILE *file = fopen(path, "rb");
    bool ok = file && fread(out, sizeof *out, (size_t)count, file) == (size_t)count &&
              fread(&more, 1, 1, file) == 0;
    if (file) fclose(file);
    return ok ? EXIT_OK : problem(list, EXIT_RUN, "its output %s is missing or has another size", name);
}

static exit_code read_packs(world *w, const char *folder, int memory, problems *list) {
    size_t floats = (size_t)w->shape.total;
    float *all = malloc((size_t)w->n_checked * floats * sizeof *all);
    if (!all) return problem(list, EXIT_ENVIRONMENT, "out of memory");
    exit_code code = read_array(folder, MEMORIES[memory], all, w->n_checked * w->shape.total, list);
    for (int i = 0; i < w->n_checked && code == EXIT_OK; i++)
        memcpy(w->pack_after[memory][i], all + (size_t)i * floats, floats * sizeof *all);
    free(all);
    return code;
}

exit_code peers_read(world *w, const char *folder, problems *list) {
    exit_code code = EXIT_OK;
    for (int i = 0; i < TENSORS && code == EXIT_OK; i++)
        if (w->tensor[i].after && w->tensor[i].role != INNER)
            code = read_array(folder, w->tensor[i].name, w->tensor[i].after,
                              w->n_tokens * w->tensor[i].columns, list);
    for (int i = 0; i < BUFFERS && code == EXIT_OK; i++)
        if (w->buffer[i].after)
            code = read_array(folder, w->buffer[i].name, w->buffer[i].after, w->buffer[i].count, list);
    bool updates = (w->needs & NEED_MOMENTS) != 0;
    for (int m = 0; m < PACK_MEMORIES && code == EXIT_OK; m++) {
        bool computed = m == PACK_GRADIENTS ? w->needs & NEED_GRADIENTS && !w->gradients_given : updates;
        if (computed) code = read_packs(w, folder, m, list);
    }
    return code;
}
