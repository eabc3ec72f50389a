/* pack_walk.h - the packs of all devices past process 0, in the order of the checkpoint: array by array, device by device. What is process
 * 0's own lies in its host copy; the pack of another process's device is in a buffer of one pack's size while it is written or read. */
#ifndef COHORT_PACK_WALK_H
#define COHORT_PACK_WALK_H

#include "engine/session.h"
#include "result/trace.h"
#include "support/problems.h"

typedef enum { PACKS_TO_PROCESS_0, PACKS_TO_OWNERS } pack_direction;

typedef struct {
    const session *session;
    checkpoint *checkpoint;
    pack_direction direction;
    checkpoint_pieces pieces; /* checkpoint->pieces during the walk */
    packs_array array;        /* where the walk stands */
    int device;               /* the next one there */
    int foreign;              /* the device whose pack is in session->pack, to be sent to its owner; -1: none */
} pack_walk;

/* From here on checkpoint_write() or checkpoint_read() of process 0 gets the packs through checkpoint->pieces. */
void pack_walk_begin(pack_walk *w, pack_direction direction, const session *s, checkpoint *c);
/* The other processes send or receive their packs; process 0 walks to the end if a failure stopped it before, so that nobody waits. */
exit_code pack_walk_end(pack_walk *w, problems *list);

#endif
