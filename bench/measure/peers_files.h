/* peers_files.h - a rig as files that another program can read, and its results read back.
 *
 *   job.txt        "key value" lines: sizes, offsets of a pack, checked devices, hyperparameters
 *   NAME.f32       an input, [tokens, columns] or flat, little-endian float32
 *   tokens.i32     tokens of every device
 *   packs.f32      [kinds, pack]: device d has number d mod kinds; its first moment is (d + 2) mod kinds, its
 *                  second the square of (d + 3) mod kinds
 * and back: NAME.out for every output; parameters.out, gradients.out, moment1.out, moment2.out [checked
 * devices, pack]. */
#ifndef COHORT_BENCH_PEERS_FILES_H
#define COHORT_BENCH_PEERS_FILES_H

#include "rig/rig.h"
#include "support/problems.h"

exit_code peers_write(const rig *r, const char *folder, problems *list);
/* Into `after`; a file that is missing or has another size is a problem. */
exit_code peers_read(rig *r, const char *folder, problems *list);

#endif
