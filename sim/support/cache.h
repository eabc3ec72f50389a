/* cache.h - where what can be made again is kept: pre-trained bases. */
#ifndef COHORT_CACHE_H
#define COHORT_CACHE_H

#include <stdbool.h>

enum { FOLDER_PATH_BYTES = 4096 };

/* NAME in $COHORT_CACHE, else $XDG_CACHE_HOME/cohort, else ~/.cache/cohort; false: there is no such place. */
bool cache_path(const char *name, char out[FOLDER_PATH_BYTES]);

#endif
