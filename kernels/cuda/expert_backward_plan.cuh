/* expert_backward_plan.cuh - how F and a device's tokens are assigned to the blocks of the expert
 * activation's backward, and the workspace of what they leave to be added. */
#ifndef COHORT_KERNELS_CUDA_EXPERT_BACKWARD_PLAN_CUH
#define COHORT_KERNELS_CUDA_EXPERT_BACKWARD_PLAN_CUH

#include "expert_gradient.cuh"

/* ---- Blocks */

typedef struct {
    int n, warps, blocks;         /* tiles of 8 columns a warp, warps a block, blocks over F */
    int groups, group_tiles;      /* of experts: at most, and tiles of 8 ranks in each */
    int own_floats, parts_floats; /* of a warp */
    size_t shared_bytes;
} backward_plan;

typedef struct {
    /* fragments: whose parts are kept; several only where all experts are one group */
    int n, warps, fragments;
    size_t bytes; /* at most */
} backward_form;

/* bytes of shared memory that let two blocks on a multiprocessor of sm_80 */
enum { BACKWARD_TWO = 80 * 1024 };

/* The most that a block has: as many as registers let two on a multiprocessor have in bf16. */
template <typename M, int N> constexpr int backward_lanes = M::BRANCHES == 1 && N == 4 ? 192 : 128;

/* Two blocks on a multiprocessor while ranks are few; else one, whose experts are worked on in groups, as
 * wide as the sums of the largest expert leave room for. The last has room for any. */
static inline const backward_form *forms_of(gelu_mlp) {
    static const backward_form forms[] = {
        {4, 6, 4, BACKWARD_TWO}, {4, 6, 2, BACKWARD_TWO}, {4, 6, 1, SHARED_LIMIT}, {4, 4, 1, SHARED_LIMIT},
        {2, 4, 1, SHARED_LIMIT}, {2, 2, 1, SHARED_LIMIT}, {2, 1, 1, SHARED_LIMIT}};
    return forms;
}
static inline const backward_form *forms_of(swiglu_mlp) {
    static const backward_form forms[] = {{4, 4, 4, BACKWARD_TWO}, {4, 4, 2, BACKWARD_TWO},
                                          {4, 4, 1, SHARED_LIMIT}, {2, 4, 1, SHARED_LIMIT},
                                          {2, 2, 1, SHARED_LIMIT}, {2, 1, 1, SHARED_LIMIT}};
    return forms;
}

/* As many of the tiles in a group as there is room for; 0: too little. */
template <typename M, typename T>
static backward_plan plan_of(const backward_form *form, int ffn, int tiles, int expert_tiles, int experts) {
    int n = form->n, columns = 8 * n * form->warps, room = (int)(form->bytes / sizeof(float)) / form->warps;
    int turn = n == 4 ? (int)turn_size<T, 4>::FLOATS : (int)turn_size<T, 2>::FLOATS, dw = experts * CUDA_TILE;
    int sums = (M::BRANCHES + 1) * (n / 2) * LANE_TILE, parts = M::BRANCHES * LANE_TILE; /* of a tile */
    backward_plan plan = {n, form->warps, (ffn + columns - 1) / columns, 0, 0, 0, 0, 0};
    int most = (room - turn - form->fragments * dw) / (sums + form->fragments * parts);
    if (most < (form->fragments > 1 ? tiles : expert_tiles)) return plan;
    plan.group_tiles = most < tiles ? most : tiles;
    int least = plan.group_tiles - expert_tiles + 1; /* a group that has less takes the next expert */
    plan.groups = plan.group_tiles == tiles ? 1 : (tiles + least - 1) / least;
    if (plan.groups > experts) plan.groups = experts;
    plan.own_floats = plan.group_tiles * sums + turn;
    plan.parts_floats = form->fragments * (plan.group_tiles * parts + dw);
    plan.shared_bytes = (size_t)plan.warps * (size_t)(plan.own_floats + plan.parts_floats) * sizeof(float);
    return plan;
}

/* By rank tiles and experts of the largest shape, and rank tiles of the largest expert. */
template <typename M, typename T>
static backward_plan plan_backward(int ffn, int tiles, int expert_tiles, int experts) {
    const backward_form *form = forms_of(M());
    backward_plan plan = plan_of<M, T>(form, ffn, tiles, expert_tiles, experts);
    while (plan.group_tiles == 0) plan = plan_of<M, T>(++form, ffn, tiles, expert_tiles, experts);
    return plan;
}

/* One round of one group of experts (expert_backward_kernel.cuh). */
template <typename M, typename T>
const char *expert_backward_launch(const expert_backward<T> *op, const backward_plan *plan, bool wide,
                                   unsigned blocks, gpu_stream stream);

/* ---- Workspace. Blocks over F whose parts exist at a time: all, but where they would take more than
 * cuda_limits.parts_bytes a token */

enum : int64_t { SPLITS_BYTES = (int64_t)256 << 20, SPLIT_DEVICES = 64 };

typedef struct {
    int ranks, parts_columns, slots; /* the most of S, of I S + E, and of blocks over F at a time */
    int split_devices;               /* sums of splits that there is room for */
    int64_t parts_floats, split_floats;
} backward_room;

/* How many experts share the ranks is not known here: a guess, from what zh has beside them; more blocks than
 * slots take rounds. */
template <typename M, typename T>
static backward_room room_of(const ck_expert_activation_backward *d, int64_t tokens) {
    backward_room room = {};
    room.ranks =
        d->q->columns < CK_MAX_RANK_SUM / M::BRANCHES ? d->q->columns : CK_MAX_RANK_SUM / M::BRANCHES;
    room.parts_columns = M::BRANCHES * room.ranks + CK_MAX_EXPERTS;
    int experts = d->zh->columns - d->p->columns;
    experts = experts < 2 ? 2 : experts > CK_MAX_EXPERTS ? (int)CK_MAX_EXPERTS : experts;
    int most = (int)(cuda_limits.parts_bytes / (room.parts_columns * (int)sizeof(float)));
    int expert_tiles = room.ranks > experts ? (room.ranks / experts + 7) / 8 : 1;
    room.slots = plan_backward<M, T>(d->ffn, expert_tiles * experts, expert_tiles, experts).blocks;
    room.slots = room.slots < most ? room.slots : most < 1 ? 1 : most;
    room.parts_floats = (tokens * room.slots * room.parts_columns + 63) / 64 * 64;
    room.split_floats = (int64_t)(M::BRANCHES + 1) * room.ranks * d->ffn;
    int64_t devices = SPLITS_BYTES / (room.split_floats * (int64_t)sizeof(float));
    room.split_devices = (int)(devices < SPLIT_DEVICES ? devices : SPLIT_DEVICES);
    return room;
}

static inline size_t room_bytes(const backward_room &room) {
    return (size_t)(room.parts_floats + room.split_devices * room.split_floats) * sizeof(float);
}

/* Few devices are split: so that there are three rounds of blocks, as far as there is room, but no split has
 * less than two tiles. */
static inline int splits_of(const cuda_wave *wave, const backward_room *room, int blocks) {
    int devices = wave->n_devices,
        wanted = ((int)(3 * cuda_limits.expert_blocks / 2) + devices * blocks - 1) / (devices * blocks);
    int most = room->split_devices / devices, tiles = wave->n_tiles / devices / 2;
    int splits = wanted < most ? wanted : most;
    splits = splits < tiles ? splits : tiles;
    return splits < 1 ? 1 : splits;
}

#endif
