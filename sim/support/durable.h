/* durable.h - files that are whole or absent, also after a power cut: write PATH.tmp, sync it, rename it,
 * sync the folder. */
#ifndef COHORT_TRACE_DURABLE_H
#define COHORT_TRACE_DURABLE_H

char *durable_temporary(const char *path); /* "PATH.tmp", malloc'd, NULL without memory */
int durable_sync(const char *path);        /* file or folder; 0, or an errno */
/* Syncs `temporary`, renames it to `path`, syncs the folder. Returns 0 or an errno. */
int durable_replace(const char *temporary, const char *path);

#endif
