/* expert_activation_backward.cu - gradients of the experts' activation and gate mix; u_e and a_e are computed
 * again.
 *
 *   MLP mix:     da_e = w_e (dm + q_e A2_e), du_e = da_e act'(u_e), dU = sum_e du_e, p_e = s_e du_e B1_e^T,
 *                dw_e += <a_e, dm>, dB1_e = s_e h_e^T du_e, dA2_e = (w_e q_e)^T a_e
 *   linear mix:  du = (dm + sum_e w_e q_e A2_e) act'(u), p_e = w_e s_e du B1_e^T, dw_e += <h_e, s_e du
 *                B1_e^T>, dB1_e = (w_e s_e h_e)^T du, dA2_e = (w_e q_e)^T m
 *   act:         gelu(u), or with SwiGLU silu(u) v of the two halves [u | v] of U: each has a du, h, p, B1
 *                and dB1 of its own, with the derivative of act by it
 *
 * U, dU [T, I F] and dm [T, F] of type T, I = 1, SwiGLU 2; h, p [T, I S], q [T, S] and w, dw [T, 16] f32; B1,
 * dB1 [I S, F] and A2, dA2 [S, F] f32 of each device and layer. Factors of products are rounded to T (f32:
 * split tf32), sums are f32. p is 0 where w_e is 0, and dw is left as it was.
 *
 * Block: the columns of its warps, 8 N each, of one device, whose tokens it walks in segments, dense or
 * gathered (expert_segment.cuh): so it owns dB1 and dA2 of its columns, without atomics, the same bits every
 * time. Where that leaves too few blocks, a device's tokens are split over several, whose sums go to the
 * workspace and are added in order (expert_gradient.cuh). Where a block has no room for the sums of all
 * experts, these are worked on in groups, a launch each, which walk the tokens that chose one of them and add
 * to dU. p and dw need all of F: a block's part goes to the workspace, [T, blocks over F, I S + E], and a
 * second kernel adds the parts in order (expert_backward_finish.cu); where those of all blocks would take
 * much memory, in rounds (expert_backward_plan.cuh).
 *
 * Bytes a token: (4 I + 2) F in bf16, twice that in f32, for each group that has a chosen expert of it, 2 I F
 * more from the second on, and 8 (I S + E) F / (8 N WARPS) for the parts. FLOPs a token: (6 I + 4) F S in
 * products (dense), about 20 F an expert visited in elementwise work. The bound: elementwise work from two
 * experts a token on, memory below. */
#include "expert_backward_plan.cuh"

/* Rounds of as many blocks over F as there is room for parts. */
template <typename M, typename T>
static const char *launch_rounds(expert_backward<T> op, const backward_plan *plan, int slots, bool wide,
                                 gpu_stream stream) {
    const char *problem = nullptr;
    for (op.first_block = 0; op.first_block < plan->blocks && !problem; op.first_block += slots) {
        int left = plan->blocks - op.first_block, blocks = left < slots ? left : slots;
        for (op.group = 0; op.group < plan->groups && !problem; op.group++)
            problem = expert_backward_launch<M, T>(&op, plan, wide, (unsigned)blocks, stream);
        if (!problem) problem = expert_finish(op, blocks, stream);
    }
    if (!problem && op.splits > 1) problem = expert_add_splits(op, stream);
    return problem;
}

template <typename M, typename T>
static const char *expert_backward_as(const ck_expert_activation_backward *d, const cuda_call *call) {
    if (call->wave.n_devices == 0) return nullptr;
    backward_room room = room_of<M, T>(d, call->wave.n_tokens);
    backward_plan plan =
        plan_backward<M, T>(d->ffn, call->limits.rank_tiles, call->limits.expert_tiles, call->limits.experts);
    float *workspace = static_cast<float *>(call->workspace);
    expert_backward<T> op = {};
    op.wave = call->wave;
    op.ffn = d->ffn, op.layer = d->layer;
    op.tiles = EXPERT_TILES, op.branches = M::BRANCHES;
    op.splits = splits_of(&call->wave, &room, plan.blocks < room.slots ? plan.blocks : room.slots);
    op.parts_columns = room.parts_columns, op.max_ranks = room.ranks;
    op.group_tiles = plan.group_tiles, op.own_floats = plan.own_floats, op.parts_floats = plan.parts_floats;
    op.u = cuda_rows_of<const T>(d->u), op.dm = cuda_rows_of<const T>(d->dm), op.du = cuda_rows_of<T>(d->du);
    op.zh = cuda_rows_of<const float>(d->zh), op.gates = cuda_rows_of<const float>(d->gates),
    op.q = cuda_rows_of<const float>(d->q);
    op.p = cuda_rows_of<float>(d->p), op.dw = cuda_rows_of<float>(d->dw);
    op.parts = workspace;
    op.sums = workspace + room.parts_floats;
    bool wide = d->ffn % 8 == 0 && cuda_is_wide<T>(d->u) && cuda_is_wide<T>(d->dm) && cuda_is_wide<T>(d->du);
    return launch_rounds<M, T>(op, &plan, room.slots, wide, call->stream);
}

template <typename M>
static const char *expert_backward_of(const ck_expert_activation_backward *d, const cuda_call *call) {
    return call->half ? expert_backward_as<M, bf16>(d, call) : expert_backward_as<M, float>(d, call);
}

const char *cuda_expert_activation_backward(const ck_expert_activation_backward *d, const cuda_call *call) {
    return d->mlp == CK_MLP_SWIGLU ? expert_backward_of<swiglu_mlp>(d, call)
                                   : expert_backward_of<gelu_mlp>(d, call);
}

template <typename M>
static size_t workspace_of(const ck_expert_activation_backward *d, const cuda_bounds *bounds) {
    return room_bytes(bounds->half ? room_of<M, bf16>(d, bounds->max_tokens)
                                   : room_of<M, float>(d, bounds->max_tokens));
}

size_t cuda_expert_activation_backward_workspace(const ck_expert_activation_backward *d,
                                                 const cuda_bounds *bounds) {
    return d->mlp == CK_MLP_SWIGLU ? workspace_of<swiglu_mlp>(d, bounds) : workspace_of<gelu_mlp>(d, bounds);
}
