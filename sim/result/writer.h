/* writer.h - what creating and resuming share: the checks of a header and the start of the writer. */
#ifndef COHORT_TRACE_WRITER_H
#define COHORT_TRACE_WRITER_H

#include "result/trace_tables.h"

exit_code trace_check_header(const char *path, const trace_header *header, problems *list);
/* Starts the thread that appends to `file`, which is published; the trace owns it from here on. */
exit_code trace_start(const trace_file *file, const char *path, trace **out, problems *list);

#endif
