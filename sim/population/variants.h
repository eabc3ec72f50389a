/* variants.h - the base variants of a run's populations (base/variant.h): how they lie on the backend, their
 * versions, what a device downloads of them, and what a checkpoint has of them.
 *
 *   base.variant of a population --open--> base_variant --fold into the base--> backend memory, version 1
 *                                    factors that a method folds in --> version 2, 3, ...
 *
 * Populations that name the same folder share a variant until one of them makes a new version, which is then
 * its own. Every process has all variants.
 *
 * A device has the base from the start, and a version of its variant; version 0 is the base itself. In each
 * round it downloads what is new since that version (variants_bring). */
#ifndef COHORT_VARIANTS_H
#define COHORT_VARIANTS_H

#include "base/variant.h"
#include "population/fleet.h"

/* LoRA factors that are folded into a linear, or into some rows of it (those of q in qkv). */
typedef struct {
    int linear; /* its number (base/linears.h) */
    int64_t first_row, rows;
    int rank;
    float scale;
    const float *a, *b; /* host: a [rank, in], b [rank, rows] */
} variant_factors;

/* Opens what the populations name, each path once, and checks it against the base's shape; all that is wrong
 * is reported. None named: fleet.variants stays NULL. */
exit_code variants_open(fleet *f, const base_shape *base, problems *list);
void variants_destroy(fleet *f);

/* Backend memory of all variants; and what placing them takes of the host's for a moment. */
size_t variants_bytes(const fleet *f);
size_t variants_passing_bytes(const fleet *f);
/* "12.0 MiB for base.variant of population 'merged'", of the largest; "" without any. Returns out. */
const char *variants_describe(const fleet *f, size_t size, char *out);

/* Reads all values, with the base beside them, but places nothing: for `cohort check`. */
exit_code variants_check(const fleet *f, const base_model *base, problems *list);
/* Folds and uploads them. f->backend and f->stream are there (fleet_allocate). */
exit_code variants_place(fleet *f, const base_model *base, problems *list);

/* The variant of a wave's device, as in ck_wave_device; and what ck_wave has of all of them. */
int32_t variants_of(const fleet *f, int which);
void variants_view(const fleet *f, ck_wave *wave);

/* A new version of a population's variant: factors, in their order, into linears that it replaces. All
 * processes call it with the same factors. What others share becomes the population's own, in memory that no
 * plan has counted. */
exit_code variants_fold(fleet *f, int which, const variant_factors *factors, int n, problems *list);
int64_t variants_first_bytes(const fleet *f, int which); /* that bring version 1 to a device; 0: none */
int64_t variants_version(const fleet *f, int which);     /* 0: it has none */

/* Brings a device's variant up to date. Returns the bytes that the device downloads, 4 a value. */
int64_t variants_bring(fleet *f, device *d);

/* What a checkpoint holds of them: versions, and of those after the first the factors since, or, where these
 * are more, the weights themselves. *out [*bytes] is the caller's to free; NULL where all are as the
 * configuration names them. (What devices have is in device_state.h.) */
exit_code variants_save(const fleet *f, uint8_t **out, int64_t *bytes, problems *list);
/* Restores what variants_save() wrote, bit by bit. Called when the variants are placed. path: of the
 * checkpoint, for messages. */
exit_code variants_restore(fleet *f, const uint8_t *saved, int64_t bytes, const char *path, problems *list);

/* What a checkpoint has saved of the variants of a run's populations. */
typedef struct {
    const fleet *fleet; /* its populations; nothing of it is open */
    const uint8_t *bytes;
    int64_t n; /* 0: all are as the configuration names them */
} saved_variants;
/* Appends what `from` has of a population, if that names a variant, to *out [*bytes], which grows: the
 * records of all populations of a run, in their order, are what variants_restore() takes. */
exit_code variants_append_saved(const saved_variants *from, int which, uint8_t **out, int64_t *bytes,
                                problems *list);

#endif
