/* trace_open.h - the header of a session's trace. */
#ifndef COHORT_TRACE_OPEN_H
#define COHORT_TRACE_OPEN_H

#include "engine/session.h"
#include "result/trace.h"

/* Begins a trace (rounds = 0), or goes on with one after `rounds` rounds. */
exit_code session_open_trace(const session *s, const char *path, int rounds, trace **out, problems *list);

#endif
