/* view.h - what the oracle computes an operation on: some rows of one device, in double precision.
 *
 * tensor[i] holds the view's rows of array i: of what the operation reads, what it read; of what it adds to,
 * what was there; of what it writes, zeros. The reference writes its results there, and the rig compares them
 * with `out`. An array that the case has not named is NULL.
 *
 * A small wave is one view a device, with all its rows. Of a large one some rows with all columns are taken
 * (rows cost little for what is summed over columns), and, for gradients, some columns with all rows of a
 * device: with a narrow shape that holds the chosen columns of D or F only, the oracle computes those columns
 * of the gradients exactly (case_cut in case.h). */
#ifndef COHORT_BENCH_VIEW_H
#define COHORT_BENCH_VIEW_H

#include "oracle/oracle.h"
#include "rig/rig.h"

/* The rows that a reference needs together. */
typedef enum {
    ROWS_ANY,
    ROWS_SEQUENCES, /* whole sequences */
    ROWS_DEVICE     /* all of a device */
} view_rows;

typedef struct {
    int64_t n, *index; /* ascending; tokens of the wave, or columns */
} picks;

struct view {
    const rig *r;
    verdict *verdict;
    int device;
    picks rows;
    /* COLUMNS_WIDTH, COLUMNS_FFN: some columns of D or F; COLUMNS_PLAIN: all columns of everything */
    column_kind cut;
    picks columns;
    /* where the rows are whole sequences: sequence[s] of the wave has the rows row[s] .. row[s + 1] - 1 */
    int n_sequences, *sequence;
    int64_t *row;
    int32_t *targets; /* [rows.n] */
    ck_shape shape;   /* of the device; its width or ffn is that of the cut */
    oracle_adapter adapter;
    double *parameters, *gradients; /* the adapter's: a pack of `shape` */
    double *tensor[TENSORS];        /* [rows.n, columns] */
    float *out[TENSORS];            /* of what is written; a reference may scale both */
    bool done[TENSORS];             /* already compared */
    double *const *buffer;          /* [BUFFERS], whole; shared by all views of a rig */
};

/* A value that is not compared. Buffers begin with it; in tensors the reference puts it where there is no
 * promise. */
extern const double VIEW_UNJUDGED;

/* Columns of a tensor in this view. */
int view_columns(const view *v, tensor_id id);
/* Row `row` of it. */
double *view_row(const view *v, tensor_id id, int64_t row);
/* Rows of the view's sequence s. */
int64_t view_length(const view *v, int s);
/* What multiplies the gradient of a token's loss: 1 / the counted tokens of the device, or of the wave where
 * the base is trained. */
double view_loss_scale(const view *v);
/* Does not compare a row of a tensor. */
void view_skip(view *v, tensor_id id, int64_t row);
/* Does not compare what belongs to experts that the token has not chosen, or lets it be 0. */
void view_unchosen(view *v, tensor_id id);
void view_allow_zeros(view *v, tensor_id id, tensor_id gates);
/* Compares an array now, then puts what came out in its place: the next operation of a layer read that. */
void view_judge(view *v, tensor_id id);

/* Compares what the case wrote with the oracle, for the rig's checked devices. all_kept: INNER arrays too. */
void rig_judge(rig *r, verdict *v, bool all_kept);
/* Gradients of parts (bits 1 << oracle_part) of a layer that checked device i learns, given the reference's
 * pack; of what all layers share where the layer is 0. */
void rig_judge_gradients(const rig *r, verdict *v, int i, int layer, uint64_t parts, const double *gradients);
/* Messages are about this device; -1: about the wave. */
void rig_context(const rig *r, verdict *v, int device);

/* ---- Making views, for judge.c ---------------------------------------------------------------- */

/* About `wanted` of 0 .. count - 1, evenly, ends included. first is added to each. */
picks picks_of(int64_t first, int64_t count, double wanted);
void picks_free(picks *p);

/* Of a device: some sequences, any rows, or all rows of some columns. The view owns its picks. */
void view_open_sequences(view *v, const rig *r, verdict *judge, int device, picks sequences,
                         double *const *buffer);
void view_open_rows(view *v, const rig *r, verdict *judge, int device, picks rows, double *const *buffer);
void view_open_cut(view *v, const rig *r, verdict *judge, int device, column_kind cut, picks columns,
                   double *const *buffer);
void view_close(view *v);

#endif
