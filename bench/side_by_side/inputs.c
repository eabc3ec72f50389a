/* inputs.c - writes what all programs of a side-by-side read.
 *
 * Text of device i: states s of a walk s <- (5 s + 17 i + {0, 1, 2, 3}) mod 64, shown as ids spread over the
 * vocabulary. It can be learnt within a few steps, so that a wrong update soon shows in the loss. */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "adapters/adapters.h"
#include "kernels.h"
#include "measure/folder.h"
#include "model/family.h"
#include "side_by_side/job.h"
#include "support/rng.h"

enum { STATES = 64, TEXT_WINDOWS = 32 };
static const float B_SIGMA = 0.02F, FRESH_SIGMA = 0.02F;

static void path_in(char out[FOLDER_PATH_BYTES], const char *folder, const char *name) {
    snprintf(out, FOLDER_PATH_BYTES, "%s/%s", folder, name);
}

static exit_code cannot_write(const char *path, problems *list) {
    return problem(list, EXIT_ENVIRONMENT, "%s: cannot be written: %s", path, strerror(errno));
}

static exit_code make_folder(const char *folder, const char *name, problems *list) {
    char path[FOLDER_PATH_BYTES];
    path_in(path, folder, name);
    return mkdir(path, 0777) == 0 ? EXIT_OK : cannot_write(path, list);
}

/* ---- Constants */

static exit_code write_json(const job *j, const char *folder, problems *list) {
    char path[FOLDER_PATH_BYTES];
    path_in(path, folder, "job.json");
    const base_shape *b = &j->base;
    json_t *root = json_pack(
        "{s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, "
        "s:i, s:f, "
        "s:f, s:f, s:f, s:f, "
        "s:f, s:f}",
        "name", j->name, "family", base_family_name(b->family), "layers", b->layers, "width", b->width,
        "heads", b->heads, "kv_heads", b->kv_heads, "head_size", b->head_size, "ffn", b->ffn, "vocabulary",
        b->vocabulary, "rope_theta", (double)b->rope.theta, "norm_epsilon", (double)b->epsilon, "devices",
        j->devices, "batch", j->batch, "sequence", j->sequence, "steps", j->steps, "warmup", j->warmup,
        "experts", j->generalists + j->specialists, "rank", j->rank, "attention_rank", j->attention_rank,
        "top_k", j->top_k, "alpha", j->alpha, "learning_rate", j->learning_rate, "final_learning_rate",
        j->learning_rate * j->final_learning_rate_ratio, "weight_decay", j->weight_decay, "beta1", j->beta1,
        "beta2", j->beta2, "epsilon", j->epsilon);
    int failed = !root || json_dump_file(root, path, JSON_INDENT(2)) != 0;
    json_decref(root);
    return failed ? cannot_write(path, list) : EXIT_OK;
}

static exit_code write_config(const job *j, const char *folder, const char *name, const char *adapters,
                              problems *list) {
    char path[FOLDER_PATH_BYTES];
    path_in(path, folder, name);
    FILE *file = fopen(path, "w");
    if (!file) return cannot_write(path, list);
    fprintf(file, "seed: %llu\nadapters: \"%s/%s\"\n", (unsigned long long)j->seed, folder, adapters);
    fprintf(file, "base: {checkpoint: \"%s/base\"}\n", folder);
    fprintf(
        file,
        "data: {corpus: \"%s/tokens\", windows: \"%s/windows.csv\", tokens_per_device: 0, sequence: %d}\n",
        folder, folder, j->sequence);
    fprintf(file,
            "train: {rounds: 1, local_steps: %d, batch: %d, learning_rate: %g, final_learning_rate_ratio: "
            "%g, weight_decay: %g,\n",
            j->steps, j->batch, j->learning_rate, j->final_learning_rate_ratio, j->weight_decay);
    fprintf(file, "  beta1: %g, beta2: %g, epsilon: %g, router: {steps: 0}}\n", j->beta1, j->beta2,
            j->epsilon);
    fprintf(file, "experts: {rank: %d, alpha: %g, scaling: rslora, top_k: %d}\nattention: {rank: %d}\n",
            j->rank, j->alpha, j->top_k, j->attention_rank);
    fprintf(file, "evaluate: {windows: 1}\ntrace: {routing_windows: 0}\n");
    fprintf(file,
            "populations: [{name: bench, method: comigs, generalists: %d, specialists: %d, devices: %d}]\n",
            j->generalists, j->specialists, j->devices);
    int failed = ferror(file);
    return fclose(file) || failed ? cannot_write(path, list) : EXIT_OK;
}

/* ---- Text and windows */

static exit_code write_shard(const job *j, const char *folder, const char *part, int device, int64_t tokens,
                             problems *list) {
    char path[FOLDER_PATH_BYTES];
    snprintf(path, sizeof path, "%s/tokens/%s_%d.bin", folder, part, device);
    FILE *file = fopen(path, "wb");
    if (!file) return cannot_write(path, list);
    rng_key key = {.seed = j->seed, .device = device, .purpose = RNG_CORPUS, .step = 0};
    int state = 0, apart = j->base.vocabulary / STATES;
    for (int64_t t = 0; t < tokens; t++) {
        uint16_t id = (uint16_t)(state * apart + device % apart);
        fwrite(&id, sizeof id, 1, file);
        state = (5 * state + 17 * device + (int)rng_below(&key, (uint64_t)t, 4)) % STATES;
    }
    int failed = ferror(file);
    return fclose(file) || failed ? cannot_write(path, list) : EXIT_OK;
}

static exit_code write_text(const job *j, const char *folder, problems *list) {
    exit_code code = make_folder(folder, "tokens", list);
    for (int i = 0; i < j->devices && code == EXIT_OK; i++) {
        code = write_shard(j, folder, "train", i, (int64_t)TEXT_WINDOWS * j->sequence, list);
        THEN(code, write_shard(j, folder, "valid", i, j->sequence + 1, list));
        THEN(code, write_shard(j, folder, "test", i, j->sequence + 1, list));
    }
    return code;
}

static exit_code write_windows(const job *j, const char *folder, problems *list) {
    char path[FOLDER_PATH_BYTES];
    path_in(path, folder, "windows.csv");
    FILE *file = fopen(path, "w");
    if (!file) return cannot_write(path, list);
    fprintf(file, "device,part,step,index,offset\n");
    for (int i = 0; i < j->devices; i++)
        for (int step = 0; step < j->steps; step++) {
            rng_key key = {
                .seed = j->seed, .device = i, .purpose = RNG_TRAIN_WINDOWS, .step = (uint64_t)step};
            for (int w = 0; w < j->batch; w++) {
                uint64_t offset =
                    rng_below(&key, (uint64_t)w, (uint64_t)(TEXT_WINDOWS - 1) * (uint64_t)j->sequence);
                fprintf(file, "%d,train,%d,%d,%llu\n", i, step, w, (unsigned long long)offset);
            }
        }
    int failed = ferror(file);
    return fclose(file) || failed ? cannot_write(path, list) : EXIT_OK;
}

/* ---- Weights */

/* A fresh embedding gives logits near 0, and a loss that hardly depends on anything. Here those of a
 * normalised x have a standard deviation of 1. */
static void widen_embedding(base_model *model) {
    float *wte = model->weights + model->layout.wte,
          gain = 1.0F / (FRESH_SIGMA * sqrtf((float)model->shape.width));
    for (int64_t i = 0; i < (int64_t)model->shape.vocabulary * model->shape.width; i++) wte[i] *= gain;
}

static exit_code write_base(const job *j, const char *folder, problems *list) {
    char path[FOLDER_PATH_BYTES];
    base_model *model = NULL;
    path_in(path, folder, "base");
    exit_code code = base_random(&j->base, j->seed, &model, list);
    if (code == EXIT_OK) widen_embedding(model);
    THEN(code, base_save(model, path, list));
    base_destroy(model);
    return code;
}

static exit_code make_shape(const job *j, ck_shape *shape, problems *list) {
    *shape = (ck_shape){.n_layers = j->base.layers,
                        .width = j->base.width,
                        .ffn = j->base.ffn,
                        .n_experts = j->generalists + j->specialists,
                        .top_k = j->top_k,
                        .gates = CK_GATES_TOP_K,
                        .mlp = model_family_of(&j->base)->mlp,
                        .q_width = base_q_width(&j->base),
                        .kv_width = base_kv_width(&j->base),
                        .lora_rank = {[CK_SITE_OUT] = j->attention_rank}};
    static const ck_site gpt2[] = {CK_SITE_QKV, CK_NO_SITE},
                         llama[] = {CK_SITE_Q, CK_SITE_K, CK_SITE_V, CK_NO_SITE};
    for (const ck_site *site = j->base.family == BASE_LLAMA ? llama : gpt2; *site != CK_NO_SITE; site++)
        shape->lora_rank[*site] = j->attention_rank;
    for (int e = 0; e < shape->n_experts; e++) shape->rank[e] = j->rank;
    const char *why = NULL;
    return ck_shape_init(shape, &why) == CK_OK ? EXIT_OK : problem(list, EXIT_INPUT, "bench: %s", why);
}

/* Each tensor has a key of its own. */
static void normal(rng_key *key, float sigma, float *out, int64_t count) {
    key->step++;
    rng_fill_normal(key, sigma, out, count);
}

static void uniform(rng_key *key, float bound, float *out, int64_t count) {
    key->step++;
    rng_fill_uniform(key, bound, out, count);
}

/* Router logits and A x of a normalised x have a standard deviation of about 1 and 1 / sqrt 3. */
static void fill_pack(const job *j, const ck_shape *s, int device, float *pack) {
    rng_key key = {.seed = j->seed, .device = device, .purpose = RNG_ADAPTER_INIT};
    for (int32_t i = 0; i < ck_part_count(s); i++) {
        ck_part part = ck_part_at(s, i);
        int64_t count = (int64_t)part.rows * part.columns;
        float inverse_root = 1.0F / sqrtf((float)part.columns);
        if (part.factor == CK_FACTOR_A)
            uniform(&key, inverse_root, pack + part.offset, count);
        else
            normal(&key, part.factor == CK_FACTOR_B ? B_SIGMA : inverse_root, pack + part.offset, count);
    }
}

static void reverse_router(const ck_shape *s, float *pack) {
    for (int l = 0; l < s->n_layers; l++)
        for (int e = 0; e < s->router_rows / 2; e++)
            for (int c = 0; c < s->width; c++) {
                float *row = pack + l * s->layer_stride + s->route + c, kept = row[e * s->width];
                row[e * s->width] = row[(s->router_rows - 1 - e) * s->width];
                row[(s->router_rows - 1 - e) * s->width] = kept;
            }
}

static exit_code write_pack(const ck_shape *shape, const char *folder, const char *name, int device,
                            const float *pack, problems *list) {
    char in[FOLDER_PATH_BYTES];
    path_in(in, folder, name);
    char *path = adapters_path(in, 0, device);
    if (!path) return problem(list, EXIT_ENVIRONMENT, "out of memory for adapters");
    exit_code code = adapters_write(path, shape, pack, list);
    free(path);
    return code;
}

static exit_code write_adapters(const job *j, const char *folder, problems *list) {
    ck_shape shape;
    exit_code code = make_shape(j, &shape, list);
    THEN(code, make_folder(folder, "adapters", list));
    THEN(code, make_folder(folder, "adapters_control", list));
    if (code != EXIT_OK) return code;
    float *pack = calloc((size_t)shape.total, sizeof *pack);
    if (!pack) return problem(list, EXIT_ENVIRONMENT, "out of memory for adapters");
    for (int i = 0; i < j->devices && code == EXIT_OK; i++) {
        fill_pack(j, &shape, i, pack);
        code = write_pack(&shape, folder, "adapters", i, pack, list);
        reverse_router(&shape, pack);
        THEN(code, write_pack(&shape, folder, "adapters_control", i, pack, list));
    }
    free(pack);
    return code;
}

exit_code job_write(const job *j, const char *folder, problems *list) {
    exit_code code = write_json(j, folder, list);
    THEN(code, write_config(j, folder, "run.yaml", "adapters", list));
    THEN(code, write_config(j, folder, "control.yaml", "adapters_control", list));
    THEN(code, write_text(j, folder, list));
    THEN(code, write_windows(j, folder, list));
    THEN(code, write_adapters(j, folder, list));
    THEN(code, write_base(j, folder, list));
    return code;
}
