/* logits.cu - logits of each sequence's last token: a product with all rows of W, read once for all
 * sequences.
 *
 * x [T, D] in f32 or bf16, logits [n_sequences, V] f32. Where sequences have several tokens a kernel first
 * puts their last rows together. Bytes: W, and 4 V a sequence. */
#include "ops.cuh"

enum { GATHER_LANES = 256 };

size_t cuda_logits_workspace(const ck_logits *d, const cuda_bounds *bounds) {
    return (size_t)bounds->max_sequences * (size_t)d->width * (bounds->half ? sizeof(bf16) : sizeof(float));
}

/* Grid: sequences. */
template <typename T>
static __global__ void __launch_bounds__(GATHER_LANES)
    gather_kernel(global<const cuda_sequence> sequences, cuda_rows<const T> x, global<T> rows, int width) {
    const cuda_sequence *sequence = record(sequences + blockIdx.x);
    int64_t last = sequence->first_token + sequence->n_tokens - 1;
    for (int i = (int)threadIdx.x; i < width; i += GATHER_LANES)
        rows[(int64_t)blockIdx.x * width + i] = (T)x.data[last * x.columns + i];
}

template <typename T> static const char *run(const ck_logits *d, const cuda_call *call) {
    cuda_product z = {};
    z.m = call->wave.n_sequences, z.n = d->vocabulary, z.k = d->width;
    z.a = d->x->data, z.lda = d->x->columns;
    z.b = cuda_weight(call, d->weight), z.ldb = d->width, z.turn_b = true;
    z.out = d->logits, z.ld_out = d->vocabulary;
    z.half_in = call->half;
    z.alpha = 1;
    if (call->wave.n_tokens > call->wave.n_sequences) {
        T *rows = static_cast<T *>(call->workspace);
        const char *problem =
            CK_LAUNCH(gather_kernel<T>, dim3((unsigned)call->wave.n_sequences), dim3(GATHER_LANES), 0,
                      call->stream, call->wave.sequences, cuda_rows_of<const T>(d->x), rows, d->width);
        if (problem) return problem;
        z.a = rows, z.lda = d->width;
    }
    return cuda_multiply(&z, call->stream);
}

const char *cuda_logits(const ck_logits *d, const cuda_call *call) {
    return call->half ? run<bf16>(d, call) : run<float>(d, call);
}
