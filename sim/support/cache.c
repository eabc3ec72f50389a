#include "support/cache.h"

#include <stdio.h>
#include <stdlib.h>

bool cache_path(const char *name, char out[FOLDER_PATH_BYTES]) {
    const char *own = getenv("COHORT_CACHE"), *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int n = 0;
    if (own && *own)
        n = snprintf(out, FOLDER_PATH_BYTES, "%s/%s", own, name);
    else if (xdg && *xdg)
        n = snprintf(out, FOLDER_PATH_BYTES, "%s/cohort/%s", xdg, name);
    else if (home && *home)
        n = snprintf(out, FOLDER_PATH_BYTES, "%s/.cache/cohort/%s", home, name);
    return n > 0 && n < FOLDER_PATH_BYTES;
}
