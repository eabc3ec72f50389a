/* merge.h - one result out of several that each have some of its populations.
 *
 *   parts[0] (old result)  a b c        sources = {0,0} {1,0} {0,2}       out: a x c
 *   parts[1] (a batch)     x y     ->
 *
 * The tables of metrics and of device states say what there is to merge. The axes of a metric say how:
 *
 *   - What belongs to a population, a device or a recorded window goes where that is in the merged result.
 *   - /rounds is the same in all parts. Other numbers of the run (/time) are added up.
 *   - Where a part has fewer experts, or fewer windows of a step, the missing values are fill values.
 *
 * So the content is that of one run of all populations, with two exceptions: /routing/tokens, because each
 * part recorded windows of its own, and /time.
 *
 * Packs go from file to file one device at a time: parts may be larger than memory together. */
#ifndef COHORT_RESULT_MERGE_H
#define COHORT_RESULT_MERGE_H

#include "population/fleet.h"
#include "settings/settings.h"
#include "support/problems.h"

/* A complete result. */
typedef struct {
    const char *folder;
    const settings *settings; /* of its populations, in its order */
} merge_part;

/* Where a population is: which part has it, and its number there. */
typedef struct {
    int part, population;
} merge_source;

/* Writes trace.h5 and checkpoint.h5 into the folder `out`, which is there: populations as in `s`, the i-th
 * from sources[i]. The attributes of the trace are those of the last part, except for the time of its
 * creation, which is that of the first part. Refuses parts that are damaged or of other settings. *merged,
 * which the caller frees: the devices with their states and what is known of their text, but without packs
 * and text. */
exit_code merge_results(const settings *s, const merge_part *parts, int n_parts, const merge_source *sources,
                        const char *out, fleet **merged, problems *list);

#endif
