/* h5.h - the rules that every HDF5 call of Cohort follows, and the few calls that several files share.
 *
 * - One thread at a time is inside HDF5: h5_enter() ... h5_leave() around every group of calls.
 * - H5dont_atexit() comes before the first call: after a failed write HDF5's own exit handler would crash.
 * - A file of which a write failed is never touched again, not even closed: H5Fclose() would write, and fail,
 *   again. So functions that write return at the first error and leave their identifiers to the end of the
 *   process.
 * - Objects carry no time stamps: the same run gives the same file. */
#ifndef COHORT_TRACE_H5_H
#define COHORT_TRACE_H5_H

#include <hdf5.h>
#include <stdbool.h>
#include <stdint.h>

#include "support/problems.h"

/* Of each dataset that is being written, one chunk of at most this size stays in memory; larger ones are
 * written at once. */
enum { H5_CHUNK_BYTES = 64 * 1024 };

typedef struct {
    char text[400]; /* of the first failure; empty: none */
    bool busy;      /* it is that another program has the file open for writing */
} h5_error;

void h5_enter(void);
void h5_leave(void);

/* Notes "<what was tried> (<why, from HDF5's error stack>)", unless an earlier failure is noted. Returns -1.
 */
int h5_failed(h5_error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* What is wrong with the file at `path`: EXIT_ENVIRONMENT where another program has it open, else EXIT_INPUT,
 * with `otherwise` to close the message ("it is damaged"). */
exit_code h5_problem(const h5_error *error, const char *path, const char *otherwise, problems *list);

/* format 1.10: SWMR, and checksums over all metadata */
hid_t h5_create_file(const char *path, h5_error *error);
/* For reading. Where another program has the file open for writing it is tried again for a second. */
hid_t h5_open_file(const char *path, bool swmr, h5_error *error);
hid_t h5_create_group(hid_t file, const char *path, h5_error *error);
hid_t h5_create_dataset(hid_t file, const char *path, hid_t type, hid_t space, hid_t properties,
                        h5_error *error);
hid_t h5_object_properties(hid_t list_class, h5_error *error);

/* Attributes: text is stored with a fixed length. */
int h5_write_text(hid_t object, const char *name, const char *text, h5_error *error);
int h5_write_scalar(hid_t object, const char *name, hid_t type, const void *value, h5_error *error);
char *h5_read_text(hid_t object, const char *name, h5_error *error); /* malloc'd, NULL on failure */
int h5_read_scalar(hid_t object, const char *name, hid_t type, void *value, h5_error *error);

/* A new one-dimensional dataset; values follow. */
hid_t h5_create_array(hid_t file, const char *path, hid_t type, hsize_t count, h5_error *error);

#endif
