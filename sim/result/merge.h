/* merge.h - one result out of several that each have some of its populations.
 *
 *   parts[0] (old result)  a b c        sources = {0,0} {1,0} {0,2}       out: a x c
 *   parts[1] (a batch)     x y     ->
 *
 * The tables of metrics, of device states and of populations and devices say what there is; their axes say
 * how it is put together. What belongs to a population, a device or a recorded window goes with it; /rounds
 * are the same in all parts; other numbers of the run (/time) are added; what a part has fewer of (experts,
 * windows of a step) is filled up. So the content is that of one run of all populations, but for
 * /routing/tokens, where each part recorded windows of its own, and /time.
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

/* Where a population is: in a part, and which one there. */
typedef struct {
    int part, population;
} merge_source;

/* Writes trace.h5 and checkpoint.h5 into the folder `out`, which is there: populations as in `s`, the i-th
 * from sources[i]. Attributes of the trace are of the last part, but for its creation: that of the first.
 * Refuses parts that are damaged or of other settings. *merged, the caller's: the devices, with their states
 * and what is known of their text, without packs and text. */
exit_code merge_results(const settings *s, const merge_part *parts, int n_parts, const merge_source *sources,
                        const char *out, fleet **merged, problems *list);

#endif
