/* pretrain.c - AdamW over all weights of the base, on windows of a corpus.
 *
 *   loss = mean over the batch's tokens of -log p(next)      beta = (0.9, 0.95), decay on matrices only
 *   rate = lr t / warmup for t <= warmup, then a cosine from lr to lr / 10 over the remaining steps
 *
 * A window is drawn uniformly over all positions of all training shards, so sources weigh as much as they
 * have text. */
#include "model/pretrain.h"
#include "config/config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/tensors.h"
#include "data/data.h"
#include "model/model.h"
#include "support/kernel_problem.h"
#include "support/progress.h"
#include "support/rng.h"

enum { VALID_BATCHES = 8 };

static const float BETA1 = 0.9F, BETA2 = 0.95F, EPSILON = 1e-8F, LAST_RATE = 0.1F;

typedef struct {
    const settings *settings;
    ck_backend *backend;
    ck_stream *stream;
    base_model *model; /* host weights: initial, at the end trained */
    corpus *text;
    int batch, sequence;
    int64_t steps, n_floats;
    float *weights, *moment1, *moment2, *gradients, *loss; /* backend memory */
    ck_program *program;
    ck_range *ranges;
    int n_ranges;
    int64_t *first_token; /* [batch + 1] */
    int32_t *tokens, *targets;
    float *host_loss; /* [batch] */
} trainer;

base_shape pretrain_shape(const settings *s) {
    const base_settings *b = &s->base;
    return base_complete((base_shape){.family = (base_family_id)b->family,
                                      .layers = b->layers,
                                      .width = b->width,
                                      .heads = b->heads,
                                      .kv_heads = b->kv_heads,
                                      .ffn = b->ffn,
                                      .vocabulary = b->vocabulary,
                                      .context = b->context,
                                      .epsilon = 1e-5F,
                                      .tied_head = true,
                                      .rope = {.theta = (float)b->rope_theta}});
}

/* ---- What is decayed ---- */

/* Matrices are; gains and biases are not. */
static exit_code make_ranges(trainer *t, problems *list) {
    const base_model *m = t->model;
    t->n_ranges = base_tensor_count(&m->shape);
    t->ranges = malloc((size_t)t->n_ranges * sizeof *t->ranges);
    if (!t->ranges) return problem(list, EXIT_ENVIRONMENT, "pre-training: out of memory");
    for (int i = 0; i < t->n_ranges; i++) {
        packed_tensor tensor = base_tensor(&m->shape, &m->layout, "", i, NULL);
        bool matrix = tensor.n_dims == 2;
        t->ranges[i] =
            (ck_range){.offset = tensor.offset,
                       .count = matrix ? tensor.dims[0] * tensor.dims[1] : tensor.dims[0],
                       .weight_decay = matrix ? (float)t->settings->base.pretrain.weight_decay : 0.0F};
    }
    return EXIT_OK;
}

/* ---- Buffers ---- */

static ck_status allocate_floats(trainer *t, int64_t floats, const char *what, float **out) {
    return ck_alloc(t->backend, (size_t)floats * sizeof(float), what, (void **)out);
}

static exit_code allocate_backend(trainer *t, problems *list) {
    ck_status status = ck_stream_create(t->backend, &t->stream);
    THEN(status, allocate_floats(t, t->n_floats, "base weights", &t->weights));
    THEN(status, allocate_floats(t, t->n_floats, "first moments", &t->moment1));
    THEN(status, allocate_floats(t, t->n_floats, "second moments", &t->moment2));
    THEN(status, allocate_floats(t, t->n_floats, "base gradients", &t->gradients));
    THEN(status, allocate_floats(t, t->batch, "losses", &t->loss));
    THEN(status, ck_upload(t->stream, t->weights, t->model->weights, (size_t)t->n_floats * sizeof(float)));
    THEN(status, ck_wait(t->stream));
    return kernel_problem(list, t->backend, status, "pre-training");
}

static exit_code allocate_host(trainer *t, problems *list) {
    size_t batch = (size_t)t->batch, tokens = batch * (size_t)t->sequence;
    t->first_token = malloc((batch + 1) * sizeof *t->first_token);
    t->tokens = malloc(tokens * sizeof *t->tokens);
    t->targets = malloc(tokens * sizeof *t->targets);
    t->host_loss = malloc(batch * sizeof *t->host_loss);
    if (!t->first_token || !t->tokens || !t->targets || !t->host_loss)
        return problem(list, EXIT_ENVIRONMENT, "pre-training: out of memory for a batch");
    for (int i = 0; i <= t->batch; i++) t->first_token[i] = (int64_t)i * t->sequence;
    return EXIT_OK;
}

static int sequence_of(const settings *s) {
    return s->base.pretrain.sequence > 0 ? s->base.pretrain.sequence : s->data.sequence;
}

static ck_capacity capacity_of(const settings *s, int64_t n_floats) {
    int batch = s->base.pretrain.batch, sequence = sequence_of(s);
    return (ck_capacity){.max_sequences = batch,
                         .max_tokens = batch * sequence,
                         .max_sequence_tokens = sequence,
                         .base_pack = n_floats};
}

static exit_code record(trainer *t, problems *list) {
    model_base base = {.shape = t->model->shape, .layout = t->model->layout, .weights = t->weights};
    model_outputs outputs = {.loss = t->loss};
    ck_capacity capacity = capacity_of(t->settings, t->n_floats);
    return model_record_pretraining(t->backend, &base, &capacity, &outputs, &t->program, list);
}

static exit_code open_text(trainer *t, problems *list) {
    data_settings text = t->settings->data;
    text.corpus = t->settings->base.pretrain.text;
    text.sequence = t->sequence;
    int before = problems_count(list);
    exit_code code = corpus_open(&text, t->settings->base.vocabulary, &t->text, list);
    settings_prefix(t->settings, "base.pretrain.text", before, list);
    return code;
}

/* ---- Windows ---- */

/* Positions where a window and its last target fit. */
static int64_t positions(const trainer *t, int source, data_part part) {
    int64_t n = shard_tokens(corpus_shard(t->text, source, part)) - t->sequence;
    return n > 0 ? n : 0;
}

static int64_t all_positions(const trainer *t, data_part part) {
    int64_t n = 0;
    for (int i = 0; i < corpus_sources(t->text); i++) n += positions(t, i, part);
    return n;
}

static exit_code read_window(trainer *t, data_part part, int64_t position, int slot, problems *list) {
    int source = 0;
    int64_t first = (int64_t)slot * t->sequence;
    while (position >= positions(t, source, part)) position -= positions(t, source++, part);
    return shard_window(corpus_shard(t->text, source, part), position, t->sequence, t->tokens + first,
                        t->targets + first, list);
}

static exit_code sample_batch(trainer *t, int64_t step, problems *list) {
    rng_key key = {.seed = t->settings->base.pretrain.seed,
                   .device = RNG_SHARED,
                   .purpose = RNG_PRETRAIN_WINDOWS,
                   .step = (uint64_t)step};
    uint64_t n = (uint64_t)all_positions(t, DATA_TRAIN);
    exit_code code = EXIT_OK;
    for (int i = 0; i < t->batch && code == EXIT_OK; i++)
        code = read_window(t, DATA_TRAIN, (int64_t)rng_below(&key, (uint64_t)i, n), i, list);
    return code;
}

/* ---- Steps ---- */

/* Mean loss of the batch in t->tokens; its gradients are in t->gradients. */
static ck_status run_batch(trainer *t, double *loss) {
    static const int32_t no_devices[1] = {0};
    ck_wave wave = {.n_sequences = t->batch,
                    .first_token = t->first_token,
                    .first_sequence = no_devices,
                    .tokens = t->tokens,
                    .targets = t->targets,
                    .base_gradients = t->gradients};
    (void)ck_run(t->program, t->stream, &wave);
    (void)ck_download(t->stream, t->host_loss, t->loss, (size_t)t->batch * sizeof *t->host_loss);
    ck_status status = ck_wait(t->stream);
    *loss = 0.0;
    for (int i = 0; i < t->batch; i++) *loss += t->host_loss[i];
    *loss /= (double)t->batch * t->sequence;
    return status;
}

static float rate_at(const trainer *t, int64_t step) {
    double rate = t->settings->base.pretrain.learning_rate;
    int64_t warmup = t->settings->base.pretrain.warmup;
    if (warmup > t->steps / 2) warmup = t->steps / 2;
    if (step < warmup) return (float)(rate * (double)(step + 1) / (double)warmup);
    double passed = (double)(step - warmup) / (double)(t->steps - warmup);
    return (float)(rate * (LAST_RATE + (1.0 - LAST_RATE) * 0.5 * (1.0 + cos(M_PI * passed))));
}

static exit_code train_step(trainer *t, int64_t step, double *loss, problems *list) {
    exit_code code = sample_batch(t, step, list);
    if (code != EXIT_OK) return code;
    ck_status status = run_batch(t, loss);
    ck_adamw_hyper hyper = {.learning_rate = rate_at(t, step),
                            .beta1 = BETA1,
                            .beta2 = BETA2,
                            .epsilon = EPSILON,
                            .step = (int32_t)(step + 1)};
    if (status == CK_OK && !isfinite(*loss))
        return problem(
            list, EXIT_RUN,
            "pre-training: the loss is not finite at step %lld; lower base.pretrain.learning_rate (it is %g)",
            (long long)(step + 1), t->settings->base.pretrain.learning_rate);
    THEN(status, ck_adamw_ranges(t->stream, t->weights, t->moment1, t->moment2, t->gradients, t->ranges,
                                 t->n_ranges, &hyper));
    THEN(status, ck_wait(t->stream));
    return kernel_problem(list, t->backend, status, "pre-training");
}

/* On fixed windows, spread evenly over the validation text of all sources. */
static exit_code validate(trainer *t, double *loss, problems *list) {
    int64_t n = all_positions(t, DATA_VALID), windows = (int64_t)VALID_BATCHES * t->batch;
    double sum = 0.0, batch_loss = 0.0;
    ck_status status = CK_OK;
    exit_code code = EXIT_OK;
    *loss = NAN;
    for (int b = 0; b < VALID_BATCHES && n > 0 && status == CK_OK; b++) {
        for (int i = 0; i < t->batch && code == EXIT_OK; i++)
            code = read_window(t, DATA_VALID, ((int64_t)b * t->batch + i) * n / windows, i, list);
        if (code != EXIT_OK) return code;
        status = run_batch(t, &batch_loss);
        sum += batch_loss;
    }
    if (n > 0) *loss = sum / VALID_BATCHES;
    return kernel_problem(list, t->backend, status, "validating the base");
}

static exit_code train(trainer *t, bool quiet, problems *list) {
    progress *bar = progress_start("pre-train base", t->steps, quiet);
    exit_code code = EXIT_OK;
    double loss = 0.0, smooth = 0.0, valid = NAN;
    for (int64_t step = 0; step < t->steps && code == EXIT_OK; step++) {
        code = train_step(t, step, &loss, list);
        smooth = step == 0 ? loss : 0.95 * smooth + 0.05 * loss;
        if (code == EXIT_OK && step + 1 < t->steps)
            progress_update(bar, step + 1, "loss %.3f nats/token", smooth);
    }
    THEN(code, validate(t, &valid, list));
    if (code == EXIT_OK)
        progress_update(bar, t->steps, "loss %.3f, validation loss %.3f nats/token", smooth, valid);
    progress_finish(bar);
    return code;
}

static exit_code check_text(const trainer *t, problems *list) {
    int before = problems_count(list);
    if (all_positions(t, DATA_TRAIN) > 0) return EXIT_OK;
    exit_code code = problem(list, EXIT_INPUT,
                             "'%s' has no training shard of more than %d tokens (base.pretrain.sequence)",
                             t->settings->base.pretrain.text, t->sequence);
    settings_prefix(t->settings, "base.pretrain.text", before, list);
    return code;
}

exit_code pretrain_check_text(const settings *s, problems *list) {
    trainer t = {.settings = s, .sequence = sequence_of(s)};
    exit_code code = open_text(&t, list);
    THEN(code, check_text(&t, list));
    corpus_close(t.text);
    return code;
}

static void free_trainer(trainer *t) {
    ck_program_destroy(t->program);
    ck_free(t->backend, t->weights);
    ck_free(t->backend, t->moment1);
    ck_free(t->backend, t->moment2);
    ck_free(t->backend, t->gradients);
    ck_free(t->backend, t->loss);
    ck_stream_destroy(t->stream);
    corpus_close(t->text);
    free(t->ranges);
    free(t->first_token);
    free(t->tokens);
    free(t->targets);
    free(t->host_loss);
}

/* Ready for its first step. After a failure, too, it is to be freed. */
static exit_code open_trainer(trainer *t, problems *list) {
    const base_settings *b = &t->settings->base;
    t->n_floats = t->model->layout.total;
    t->sequence = sequence_of(t->settings);
    int64_t a_step = (int64_t)t->batch * t->sequence;
    t->steps = (b->pretrain.tokens + a_step - 1) / a_step;
    exit_code code = open_text(t, list);
    THEN(code, check_text(t, list));
    THEN(code, make_ranges(t, list));
    THEN(code, allocate_backend(t, list));
    THEN(code, allocate_host(t, list));
    return THEN(code, record(t, list));
}

static exit_code train_model(const settings *s, ck_backend *backend, bool quiet, base_model *model,
                             problems *list) {
    trainer t = {.settings = s, .backend = backend, .model = model, .batch = s->base.pretrain.batch};
    exit_code code = open_trainer(&t, list);
    THEN(code, train(&t, quiet, list));
    if (code == EXIT_OK) {
        (void)ck_download(t.stream, model->weights, t.weights, (size_t)t.n_floats * sizeof(float));
        code = kernel_problem(list, backend, ck_wait(t.stream), "reading the base back");
    }
    free_trainer(&t);
    return code;
}

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Seconds of a step, and of a batch in it without the update; of several the first is not counted: it finds memory
 * untouched. */
static exit_code time_steps(trainer *t, double seconds, double *a_step, double *a_batch, problems *list) {
    double begin = seconds_now(), first = 0.0, loss = 0.0;
    exit_code code = EXIT_OK;
    int64_t n = 0;
    while (code == EXIT_OK && n < t->steps && (n == 0 || seconds_now() - begin < seconds)) {
        code = train_step(t, n++, &loss, list);
        if (n == 1) first = seconds_now() - begin;
    }
    double end = seconds_now();
    *a_step = n > 1 ? (end - begin - first) / (double)(n - 1) : first;
    if (code == EXIT_OK)
        code = kernel_problem(list, t->backend, run_batch(t, &loss), "measuring a step of pre-training");
    *a_batch = fmin(seconds_now() - end, *a_step);
    return code;
}

/* Six FLOPs for a weight and token. */
exit_code pretrain_measure(const settings *s, ck_backend *backend, double most_flops, double seconds,
                           double *out, problems *list) {
    base_shape shape = pretrain_shape(s);
    base_model *model = NULL;
    exit_code code = base_random(&shape, s->base.pretrain.seed, &model, list);
    if (code != EXIT_OK) return code;
    trainer t = {.settings = s, .backend = backend, .model = model, .batch = s->base.pretrain.batch};
    double fit = most_flops / (6.0 * (double)model->layout.total * sequence_of(s)), a_step, a_batch;
    if (fit < t.batch) t.batch = fit > 1.0 ? (int)fit : 1;
    code = open_trainer(&t, list);
    if (code == EXIT_OK) code = time_steps(&t, seconds, &a_step, &a_batch, list);
    if (code == EXIT_OK) {
        double share = (double)s->base.pretrain.batch / t.batch, steps = (double)t.steps / share;
        *out = steps * (a_step - a_batch + share * a_batch);
    }
    free_trainer(&t);
    base_destroy(model);
    return code;
}

/* Recorded only to be measured: nothing is read through these pointers. */
exit_code pretrain_bytes(const settings *s, ck_backend *backend, size_t *bytes, problems *list) {
    static float unread[1];
    base_shape shape = pretrain_shape(s);
    model_base base = {.shape = shape, .layout = base_layout_of(&shape), .weights = unread};
    model_outputs outputs = {.loss = unread};
    ck_capacity capacity = capacity_of(s, base.layout.total);
    exit_code code = model_pretraining_bytes(backend, &base, &capacity, &outputs, bytes, list);
    *bytes +=
        4 * (size_t)base.layout.total * sizeof(float) + 2 * (size_t)capacity.max_tokens * sizeof(int32_t);
    return code;
}

exit_code pretrain_base(const settings *s, ck_backend *backend, bool quiet, base_model **out,
                        problems *list) {
    base_shape shape = pretrain_shape(s);
    *out = NULL;
    exit_code code = base_random(&shape, s->base.pretrain.seed, out, list);
    if (code == EXIT_OK && s->base.pretrain.tokens > 0) code = train_model(s, backend, quiet, *out, list);
    if (code == EXIT_OK) return EXIT_OK;
    base_destroy(*out);
    *out = NULL;
    return code;
}
