/* The order of the sums over layers. */
#include <stdlib.h>

#include "conformance/cases.h"

enum { LAYERS = 4, WIDTH = 24, FFN = 32 };

static float *floats(int64_t count) {
    float *values = calloc((size_t)count, sizeof *values);
    if (values == NULL) abort();
    return values;
}

/* One device, a vector and no experts. */
static ck_shape shape_of_a_vector(void) {
    ck_shape shape = {.n_layers = LAYERS,
                      .width = WIDTH,
                      .ffn = FFN,
                      .n_experts = 1,
                      .top_k = 1,
                      .vector = {[CK_SITE_PR] = CK_BIAS}};
    if (ck_shape_init(&shape, NULL) != CK_OK) abort();
    return shape;
}

/* Sums `host`, the gradients of a device of this shape, in place. */
static ck_status sum_over_layers(ck_program *program, ck_stream *stream, const ck_shape *shape,
                                 void *parameters, void *gradients, float *host) {
    const int64_t first_token[] = {0, 1};
    const int32_t first_sequence[] = {0, 1}, tokens[] = {0};
    const ck_wave_device device = {.learn = CK_LEARN_EXPERTS};
    int32_t fault[1];
    const ck_wave wave = {.n_devices = 1,
                          .n_sequences = 1,
                          .first_token = first_token,
                          .first_sequence = first_sequence,
                          .devices = &device,
                          .n_shapes = 1,
                          .shapes = shape,
                          .tokens = tokens,
                          .targets = tokens,
                          .parameters = parameters,
                          .gradients = gradients,
                          .fault = fault};
    size_t bytes = (size_t)shape->gradient_total * sizeof *host;
    ck_op_tied_gradients(program, &(ck_tied_gradients){.n_layers = LAYERS});
    ck_status status = ck_program_finish(program);
    if (status == CK_OK) status = ck_upload(stream, gradients, host, bytes);
    if (status == CK_OK) status = ck_run(program, stream, &wave);
    if (status == CK_OK) status = ck_download(stream, host, gradients, bytes);
    return status == CK_OK ? ck_wait(stream) : status;
}

/* ((1e8 + 1) - 1e8) + 1 is 1 in single precision, and 0 or 2 in any other order. */
static void sums_begin_with_layer_0(ck_backend *backend, verdict *v) {
    static const float of_layer[LAYERS] = {1e8f, 1, -1e8f, 1};
    ck_shape shape = shape_of_a_vector();
    ck_capacity capacity = {
        .max_sequences = 1, .max_tokens = 1, .max_sequence_tokens = 1, .max_pack = shape.gradient_total};
    ck_program *program = NULL;
    ck_stream *stream = NULL;
    void *parameters = NULL, *gradients = NULL;
    size_t bytes = (size_t)shape.gradient_total * sizeof(float);
    float *host = floats(shape.gradient_total);
    for (int64_t i = 0; i < LAYERS * shape.tied_floats; i++)
        host[shape.total + i] = of_layer[i / shape.tied_floats];
    bool done = ck_stream_create(backend, &stream) == CK_OK &&
                ck_program_create(backend, &capacity, &program) == CK_OK &&
                ck_alloc(backend, bytes, "parameters", &parameters) == CK_OK &&
                ck_alloc(backend, bytes, "gradients", &gradients) == CK_OK &&
                sum_over_layers(program, stream, &shape, parameters, gradients, host) == CK_OK;
    if (!done) verdict_fail(v, "%s: %s", ck_name(backend), ck_last_error(backend));
    for (int i = 0; i < WIDTH && done; i++)
        verdict_exact(v, "the sum of 1e8, 1, -1e8 and 1", host[shape.tied + i] == 1.0f);
    ck_free(backend, parameters);
    ck_free(backend, gradients);
    ck_program_destroy(program);
    ck_stream_destroy(stream);
    free(host);
}

const conformance_case tied_cases[] = {
    {.group = "tied", .variant = {"sums over layers"}, .run_alone = sums_begin_with_layer_0}, {0}};
