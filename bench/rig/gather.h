/* gather.h - the rows and columns on which a result is compared.
 *
 * A large result is compared on some rows with all their columns (rows cost little for what is summed over
 * columns), and, for gradients, on some columns with all rows of a device. All expert operations are
 * separable by column in this sense: with a narrow shape that holds the chosen columns of D or F only, the
 * oracle computes those columns of the gradients exactly. */
#ifndef COHORT_BENCH_GATHER_H
#define COHORT_BENCH_GATHER_H

#include "oracle/oracle.h"
#include "rig/verdict.h"
#include "rig/world.h"

/* Multiply-adds that the reference may take for a device. */
static const double GATHER_BUDGET = 5e7;

typedef struct {
    int64_t n, *index; /* ascending; tokens of the wave, or columns */
} picks;

/* About `wanted` of 0 .. count-1, evenly, ends included. first is added to each. */
picks picks_of(int64_t first, int64_t count, double wanted);
void picks_free(picks *p);

/* The rows of a device that the budget allows at a cost per row, at least 4. */
picks world_some_rows(const world *w, int device, double cost_per_row);
picks world_all_rows(const world *w, int device);
/* The columns of `count` that the budget allows at a cost per column, at least 8. */
picks world_some_columns(int count, double cost_per_column);

typedef enum { BEFORE, AFTER } side;
/* [rows, columns]; columns NULL: all. free() it. */
double *world_gather(const world *w, tensor_id id, side when, const picks *rows, const picks *columns);
/* The value that an operation reads: what was given, or, of what another operation of the case wrote, what it
 * wrote. */
double *world_read(const world *w, tensor_id id, const picks *rows, const picks *columns);
/* ref [rows, columns] against what came out. */
void world_compare(const world *w, verdict *v, tensor_id id, const picks *rows, const picks *columns,
                   const double *ref);

/* One layer of a device in double precision, with all or some columns. */
typedef struct {
    ck_shape shape;
    double *parameters, *gradients; /* gradients begin as zeros */
} device_reference;
device_reference reference_of(const world *w, int device);
/* Only columns of D (of router, A1, B2) or of F (of B1, A2) respectively. */
device_reference reference_of_width(const world *w, int device, const picks *columns);
device_reference reference_of_ffn(const world *w, int device, const picks *columns);
oracle_adapter reference_adapter(const device_reference *r); /* good while the reference stays where it is */
void reference_free(device_reference *r);

/* The reference's gradients of one part, whose columns are those given (NULL: all), against those of checked
 * device i. */
void world_compare_gradient(const world *w, verdict *v, int i, const device_reference *r, oracle_part part,
                            const picks *columns);
/* All outputs of the case, everywhere: what was never written shows. G, Q and DW of experts that were not
 * chosen need not be written. */
void world_compare_finite(const world *w, verdict *v, bool all_kept);

#endif
