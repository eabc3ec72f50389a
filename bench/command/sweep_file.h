/* sweep_file.h - sweeps in YAML: a list of mappings from axes to a value or a list of values, with filter and
 * direction.
 *
 *   - {filter: route, tokens: [4096, 65536], devices: 256, rank: [4, 16]}
 *   - {filter: expert_layer, ranks: [4, 8, 16]} */
#ifndef COHORT_BENCH_SWEEP_FILE_H
#define COHORT_BENCH_SWEEP_FILE_H

#include "rig/point.h"

/* At most `most` sweeps. EXIT_INPUT with file and line on anything that is not such a list. */
exit_code sweep_file_read(const char *path, int most, sweep *sweeps, int *n, problems *list);

#endif
