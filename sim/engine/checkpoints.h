/* checkpoints.h - a session into checkpoint.h5 and back. */
#ifndef COHORT_CHECKPOINTS_H
#define COHORT_CHECKPOINTS_H

#include "engine/session.h"
#include "result/trace.h"
#include "support/problems.h"

/* The numbers of all devices, allocated once; packs stay where they lie, and pass through checkpoint.piece.
 * Of several processes all make the following calls; process 0 writes and reads the file, into and from which
 * packs travel piece by piece. */
exit_code checkpoints_create(const session *s, checkpoint *out, problems *list);
void checkpoints_destroy(checkpoint *c);
/* Host memory of a checkpoint, checkpoint.piece included. */
size_t checkpoints_bytes(const fleet *f);
/* `round`: the last that is complete; the session may be within the next. `path` is where the checkpoint
 * before this one was saved, too: populations that have stopped since then are as they are there. */
exit_code checkpoints_save(session *s, int round, checkpoint *c, const char *path, problems *list);
/* The session goes on where it was. */
exit_code checkpoints_restore(session *s, checkpoint *c, const char *path, problems *list);

#endif
