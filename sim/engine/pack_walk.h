/* pack_walk.h - the packs of all devices past process 0, in the order of the checkpoint: array by array,
 * device by device. They are copied between where they lie and checkpoint.piece, a buffer for some of them,
 * on their way to the file or from it: there is no second copy of all. */
#ifndef COHORT_PACK_WALK_H
#define COHORT_PACK_WALK_H

#include "population/fleet.h"
#include "result/trace.h"
#include "support/problems.h"

typedef enum {
    PACKS_TO_PROCESS_0,
    PACKS_TO_OWNERS,
    /* of devices that have stopped since the checkpoint was written; all others keep theirs */
    STOPPED_PACKS_TO_OWNERS
} pack_direction;

typedef struct {
    const fleet *fleet;
    checkpoint *checkpoint;
    pack_direction direction;
    checkpoint_pieces pieces; /* checkpoint->pieces during the walk */
    packs_array array;        /* where the walk stands */
    int device;               /* the next one there */
    int read_device;          /* the first whose packs are being read into the buffer; -1: none */
    int64_t read_floats;      /* of them */
} pack_walk;

/* Floats of checkpoint.piece for this process of the fleet. */
int64_t pack_walk_floats(const fleet *f);

/* From here on checkpoint_write() or checkpoint_read() of process 0 gets the packs through
 * checkpoint->pieces. */
void pack_walk_begin(pack_walk *w, pack_direction direction, const fleet *f, checkpoint *c);
/* The other processes send or receive their packs; process 0 walks to the end if a failure stopped it before,
 * so that nobody waits. */
exit_code pack_walk_end(pack_walk *w, problems *list);

#endif
