#include "measure/peers_files.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cases/ops.h"
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

static void put_block(FILE *file, const ck_block *block, ck_site site, const char *factor) {
    fprintf(file, "block:%s%s %lld,%d,%d\n", ck_site_name(site), factor, (long long)block->offset,
            block->rows, block->columns);
}

static void put_pack(FILE *file, const ck_shape *s) {
    fprintf(file, "experts %d\ntop_k %d\nrouter_rows %d\nrank_sum %d\n", s->n_experts, s->top_k,
            s->router_rows, s->rank_sum);
    for (int e = 0; e < s->n_experts; e++) fprintf(file, "rank%d %d\n", e, s->rank[e]);
    put_block(file, &s->block[CK_BLOCK_ROUTER], CK_NO_SITE, "");
    for (int i = 0; i < 2 * CK_SITES; i++) {
        ck_site site = (ck_site)(i / 2);
        ck_adapter adapter = ck_is_of_mlp(site) ? CK_EXPERTS : CK_LORA;
        ck_factor factor = (ck_factor)(i % 2);
        put_block(file, ck_block_of(s, adapter, site, factor), site, factor == CK_FACTOR_A ? ".A" : ".B");
    }
    fprintf(file, "pack %lld\n", (long long)s->total);
}

static exit_code write_job(const rig *r, const char *folder, problems *list) {
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/job.txt", folder);
    FILE *file = fopen(path, "w");
    if (!file) return problem(list, EXIT_ENVIRONMENT, "%s: cannot be written: %s", path, strerror(errno));
    fprintf(file, "case %s/%s\nprecision %s\n", r->which->name, r->which->direction,
            r->precision == CK_BF16 ? "bf16" : "f32");
    fprintf(file, "tokens %lld\nwidth %d\nffn %d\ndevices %d\n", (long long)r->n_tokens, r->width, r->ffn,
            r->n_devices);
    put_pack(file, &r->shapes[0]);
    put_hyper(file, &BENCH_HYPER[0], "experts");
    put_hyper(file, &BENCH_HYPER[1], "router");
    fprintf(file, "kinds %d\nchecked", r->n_devices < PACK_KINDS ? r->n_devices : PACK_KINDS);
    for (int i = 0; i < r->n_checked; i++) fprintf(file, "%c%d", i ? ',' : ' ', r->checked[i]);
    fputc('\n', file);
    for (int i = 0; i < TENSORS; i++)
        if (r->tensor[i].role != ABSENT)
            fprintf(file, "columns_%s %d\n", r->tensor[i].name, r->tensor[i].columns);
    int failed = ferror(file);
    return fclose(file) || failed ? problem(list, EXIT_ENVIRONMENT, "%s: cannot be written", path) : EXIT_OK;
}

static exit_code write_tokens(const rig *r, const char *folder, problems *list) {
    int32_t *tokens = calloc((size_t)r->n_devices, sizeof *tokens);
    if (!tokens) return problem(list, EXIT_ENVIRONMENT, "out of memory");
    for (int d = 0; d < r->n_devices; d++) tokens[d] = (int32_t)rig_rows(r, d);
    exit_code code =
        write_array(folder, "tokens", "i32", tokens, (size_t)r->n_devices * sizeof *tokens, list);
    free(tokens);
    return code;
}

static exit_code write_packs(const rig *r, const char *folder, problems *list) {
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/packs.f32", folder);
    FILE *file = fopen(path, "wb");
    bool ok = file != NULL;
    for (int i = 0; i < PACK_KINDS && i < r->n_devices && ok; i++)
        ok = fwrite(r->pack_kind[i], sizeof(float), (size_t)r->shapes[0].total, file) ==
             (size_t)r->shapes[0].total;
    if (file && fclose(file)) ok = false;
    return ok ? EXIT_OK : problem(list, EXIT_ENVIRONMENT, "%s: cannot be written: %s", path, strerror(errno));
}

exit_code peers_write(const rig *r, const char *folder, problems *list) {
    exit_code code = write_job(r, folder, list);
    THEN(code, write_tokens(r, folder, list));
    if (code == EXIT_OK && r->which->needs & NEED_PACKS) code = write_packs(r, folder, list);
    for (int i = 0; i < TENSORS && code == EXIT_OK; i++) {
        const tensor_array *t = &r->tensor[i];
        if (t->before)
            code = write_array(folder, t->name, "f32", t->before,
                               (size_t)r->n_tokens * (size_t)t->columns * sizeof(float), list);
    }
    for (int i = 0; i < BUFFERS && code == EXIT_OK; i++) {
        const buffer_array *b = &r->buffer[i];
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

static exit_code read_packs(rig *r, const char *folder, int memory, problems *list) {
    size_t floats = (size_t)r->shapes[0].total;
    float *all = malloc((size_t)r->n_checked * floats * sizeof *all);
    if (!all) return problem(list, EXIT_ENVIRONMENT, "out of memory");
    exit_code code = read_array(folder, MEMORIES[memory], all, r->n_checked * r->shapes[0].total, list);
    for (int i = 0; i < r->n_checked && code == EXIT_OK; i++)
        memcpy(r->pack_after[memory][i], all + (size_t)i * floats, floats * sizeof *all);
    free(all);
    return code;
}

exit_code peers_read(rig *r, const char *folder, problems *list) {
    exit_code code = EXIT_OK;
    for (int i = 0; i < TENSORS && code == EXIT_OK; i++)
        if (r->tensor[i].after && r->tensor[i].role != INNER)
            code = read_array(folder, r->tensor[i].name, r->tensor[i].after,
                              r->n_tokens * r->tensor[i].columns, list);
    for (int i = 0; i < BUFFERS && code == EXIT_OK; i++)
        if (r->buffer[i].after)
            code = read_array(folder, r->buffer[i].name, r->buffer[i].after, r->buffer[i].count, list);
    bool updates = (r->which->needs & NEED_MOMENTS) != 0;
    for (int m = 0; m < PACK_MEMORIES && code == EXIT_OK; m++) {
        bool computed =
            m == PACK_GRADIENTS ? r->which->needs & NEED_GRADIENTS && !r->gradients_given : updates;
        if (computed) code = read_packs(r, folder, m, list);
    }
    return code;
}
