/* expert_backward_plan.cuh - how F and a device's tokens are dealt to the blocks of the expert activation's backward, and the workspace of
 * what they leave to be added. */
#ifndef COHORT_KERNELS_CUDA_EXPERT_BACKWARD_PLAN_CUH
#define COHORT_KERNELS_CUDA_EXPERT_BACKWARD_PLAN_CUH

#include "expert_gradient.cuh"

/* ---- Blocks */

typedef struct {
    int n, warps, blocks;         /* tiles of 8 columns a warp, warps a block, blocks over F */
    int own_floats, parts_floats; /* of a warp */
    size_t shared_bytes;
} backward_plan;

enum { BACKWARD_TWO = 80 * 1024 }; /* bytes of shared memory that let two blocks on a multiprocessor of sm_80 */

template <typename T> static backward_plan plan_of(int n, int warps, int fragments, int ffn, int tiles, int experts) {
    backward_plan plan = {n, warps, (ffn + 8 * n * warps - 1) / (8 * n * warps), 0, 0, 0};
    plan.own_floats = 2 * tiles * (n / 2) * LANE_TILE + (n == 4 ? (int)turn_size<T, 4>::FLOATS : (int)turn_size<T, 2>::FLOATS);
    plan.parts_floats = fragments * (tiles * LANE_TILE + experts * CUDA_TILE);
    plan.shared_bytes = (size_t)warps * (size_t)(plan.own_floats + plan.parts_floats) * sizeof(float);
    return plan;
}

/* By rank tiles and experts of the largest shape: blocks of 192 columns, two on a multiprocessor, while ranks are few; else one on a
 * multiprocessor, as wide as its sums leave room for. n, warps, fragments whose parts are kept, bytes. */
template <typename T> static backward_plan plan_backward(int ffn, int tiles, int experts) {
    static const int forms[][4] = {{4, 6, 4, BACKWARD_TWO}, {4, 6, 2, BACKWARD_TWO}, {4, 6, 1, SHARED_LIMIT}, {2, 8, 1, SHARED_LIMIT},
                                   {4, 4, 1, SHARED_LIMIT}, {2, 4, 1, SHARED_LIMIT}, {2, 2, 1, SHARED_LIMIT}};
    for (const int *form : forms) {
        backward_plan plan = plan_of<T>(form[0], form[1], form[2], ffn, tiles, experts);
        if (plan.shared_bytes <= (size_t)form[3]) return plan;
    }
    return plan_of<T>(2, 1, 1, ffn, tiles, experts);
}

/* ---- Workspace. Blocks over F whose parts exist at a time: all, but where they would take more than this a token */

#ifdef __CUDACC__
enum { PARTS_BYTES = 32768 };
#else
enum { PARTS_BYTES = 256 }; /* so few that waves of the tests need several rounds */
#endif
enum : int64_t { SPLITS_BYTES = (int64_t)256 << 20, SPLIT_DEVICES = 64 };

typedef struct {
    int ranks, parts_columns, slots; /* the most of S, of S + E, and of blocks over F at a time */
    int split_devices;               /* sums of splits that there is room for */
    int64_t parts_floats;
} backward_room;

/* How many experts share the ranks is not known here: a guess, from what zh has beside them; more blocks than slots take rounds. */
template <typename T> static backward_room room_of(const ck_expert_activation_backward *d, int64_t tokens) {
    backward_room room = {};
    room.ranks = d->p->columns < CK_MAX_RANK_SUM ? d->p->columns : (int)CK_MAX_RANK_SUM;
    room.parts_columns = room.ranks + CK_MAX_EXPERTS;
    int experts = d->zh->columns - d->p->columns;
    experts = experts < 2 ? 2 : experts > CK_MAX_EXPERTS ? (int)CK_MAX_EXPERTS : experts;
    int most = PARTS_BYTES / (room.parts_columns * (int)sizeof(float));
    room.slots = plan_backward<T>(d->ffn, (room.ranks + 7 * experts) / 8, experts).blocks;
    room.slots = room.slots < most ? room.slots : most < 1 ? 1 : most;
    room.parts_floats = (tokens * room.slots * room.parts_columns + 63) / 64 * 64;
    int64_t devices = SPLITS_BYTES / ((int64_t)2 * room.ranks * d->ffn * (int64_t)sizeof(float));
    room.split_devices = (int)(devices < SPLIT_DEVICES ? devices : SPLIT_DEVICES);
    return room;
}

template <typename T> static size_t workspace_of(const ck_expert_activation_backward *d, const cuda_bounds *bounds) {
    backward_room room = room_of<T>(d, bounds->max_tokens);
    return (size_t)(room.parts_floats + (int64_t)room.split_devices * 2 * room.ranks * d->ffn) * sizeof(float);
}

/* Few devices are split: so that there are three rounds of blocks, as far as there is room, but no split has less than two tiles. */
static int splits_of(const cuda_wave *wave, const backward_room *room, int blocks) {
    int devices = wave->n_devices, wanted = (3 * EXPERT_BLOCKS / 2 + devices * blocks - 1) / (devices * blocks);
    int most = room->split_devices / devices, tiles = wave->n_tiles / devices / 2;
    int splits = wanted < most ? wanted : most;
    splits = splits < tiles ? splits : tiles;
    return splits < 1 ? 1 : splits;
}

#endif
