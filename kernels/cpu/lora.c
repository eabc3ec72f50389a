/* lora.c - the LoRA at a site that every token uses, rank ra, per device: h = x A^T, y += s h B backward: q =
 * s dy B^T, dx += q A, dA = q^T x, dB = s h^T dy. 4 ra (in + out) FLOPs a token forward. */
#include "cpu.h"
#include "gemm.h"

typedef struct {
    int rank, in, out;
    float scale;
    int64_t a, b, da, db; /* in a pack, in its gradients */
} factors;

static factors factors_of(const ck_shape *shape, ck_site site, int layer, bool tied) {
    ck_adapter adapter = tied ? CK_TIED : CK_LORA;
    const ck_block *a = ck_block_of(shape, adapter, site, CK_FACTOR_A),
                   *b = ck_block_of(shape, adapter, site, CK_FACTOR_B);
    int64_t start = tied ? 0 : layer * shape->layer_stride,
            gradients = tied ? cpu_tied_gradients_of(shape, layer) : start;
    return (factors){.rank = a->rows,
                     .in = a->columns,
                     .out = b->columns,
                     .scale = tied ? shape->tied_scale[site] : shape->lora_scale[site],
                     .a = start + a->offset,
                     .b = start + b->offset,
                     .da = gradients + a->offset,
                     .db = gradients + b->offset};
}

void cpu_lora(const void *descriptor, const cpu_block *block) {
    const ck_lora *d = descriptor;
    if (!block->shape) return;
    factors f = factors_of(block->shape, d->site, d->layer, d->tied);
    if (f.rank == 0) return;
    float *h = cpu_rows(d->h, block);
    gemm_nt(block->n_tokens, f.rank, f.in, 1, cpu_rows(d->x, block), d->x->columns, block->pack + f.a, f.in,
            0, h, d->h->columns);
    gemm_nn(block->n_tokens, f.out, f.rank, f.scale, h, d->h->columns, block->pack + f.b, f.out, 1,
            cpu_rows(d->y, block) + d->first_column, d->y->columns);
}

void cpu_lora_backward(const void *descriptor, const cpu_block *block) {
    const ck_lora_backward *d = descriptor;
    if (!block->shape) return;
    factors f = factors_of(block->shape, d->site, d->layer, d->tied);
    if (f.rank == 0) return;
    const float *dy = cpu_rows(d->dy, block) + d->first_column;
    float *q = block->scratch;
    gemm_nt(block->n_tokens, f.rank, f.out, f.scale, dy, d->dy->columns, block->pack + f.b, f.out, 0, q,
            f.rank);
    if (d->dx)
        gemm_nn(block->n_tokens, f.in, f.rank, 1, q, f.rank, block->pack + f.a, f.in, 1,
                cpu_rows(d->dx, block), d->dx->columns);
    if (!(block->learn & CK_LEARN_EXPERTS)) return;
    gemm_tn(f.rank, f.in, block->n_tokens, 1, q, f.rank, cpu_rows(d->x, block), d->x->columns, 0,
            block->gradients + f.da, f.in);
    gemm_tn(f.rank, f.out, block->n_tokens, f.scale, cpu_rows(d->h, block), d->h->columns, dy, d->dy->columns,
            0, block->gradients + f.db, f.out);
}

int64_t cpu_rank_space_scratch(int max_sequence_tokens) {
    return (int64_t)max_sequence_tokens * (CK_MAX_RANK_SUM + CK_MAX_EXPERTS);
}
