/* checkpoints.h - a session into checkpoint.h5 and back. */
#ifndef COHORT_CHECKPOINTS_H
#define COHORT_CHECKPOINTS_H

#include "engine/session.h"
#include "result/trace.h"
#include "support/problems.h"

/* Host arrays of the session's sizes, allocated once: packs of this process's devices, numbers of all. Of several processes all make the
 * following calls; process 0 writes and reads the file, into and from which packs travel device by device. */
exit_code checkpoints_create(const session *s, checkpoint *out, problems *list);
void checkpoints_destroy(checkpoint *c);
/* `round`: the last that is complete; the session may be within the next. */
exit_code checkpoints_save(session *s, int round, checkpoint *c, const char *path, problems *list);
/* The session goes on where it was. */
exit_code checkpoints_restore(session *s, checkpoint *c, const char *path, problems *list);

#endif
