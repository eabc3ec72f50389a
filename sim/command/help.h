/* help.h - what `cohort help COMMAND` says of each command. Lines end before column 100; each is a string of
 * its own. */
#ifndef COHORT_HELP_H
#define COHORT_HELP_H

extern const char RUN_HELP[], CHECK_HELP[], PRETRAIN_HELP[], DATA_HELP[], INFO_HELP[], EXPORT_HELP[],
    TABLE_HELP[], PLOT_HELP[], GENERATE_HELP[], HELP_HELP[], VERSION_HELP[];

#endif
