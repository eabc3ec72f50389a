/* trace_fixture.h - a small made-up run, so that every value of a trace is known from its place.
 *
 * What these functions allocate is theirs, and lasts until the test ends; so do the folders they make. */
#ifndef COHORT_TRACE_FIXTURE_H
#define COHORT_TRACE_FIXTURE_H

#include <hdf5.h>

#include "result/trace.h"

enum { FIXTURE_LAYERS = 2, FIXTURE_EXPERTS = 2, FIXTURE_SEQUENCE = 8, FIXTURE_MOST_WINDOWS = 4 };

typedef struct {
    trace_header header;
    trace_population populations[2];
    trace_device *devices;
    int64_t *mixtures; /* [devices, 3] */
    int windows_of[FIXTURE_MOST_WINDOWS];
    metric_row row;
} fixture;

void fixture_create(fixture *f, int devices, int windows);

/* The row of a round; every second round is evaluated. */
metric_row fixture_row(fixture *f, int round);
/* loss: 0 train, 1 valid, 2 test, 3 after. */
double fixture_loss(int loss, int round, int device);
float fixture_gate(int round, int64_t place);

char *fixture_folder(void); /* a new one */
char *fixture_path(const char *folder, const char *name);
void *fixture_array(int64_t n, size_t bytes); /* zeros, room for n + 1 */
void *fixture_keep(void *memory);             /* frees it when the test ends */
problems *fixture_problems(void);
void fixture_append(trace *t, fixture *f, int first_round, int last_round);

/* Reads a whole dataset by plain HDF5 calls; dims may be NULL. NULL if it cannot be read. */
void *fixture_read(const char *path, const char *dataset, hid_t type, hsize_t dims[5]);
/* True if /rounds of `path` is 1..rounds and /loss/train holds those rows' values. */
bool fixture_holds(const char *path, int devices, int rounds);
int fixture_fork(void);      /* the child dies with the test */
int fixture_wait(int child); /* exit status, or 1000 + signal */

#endif
