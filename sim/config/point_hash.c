/* point_hash.c - the identity of a population of a sweep: what determines its numbers, whatever stands beside
 * it and whatever it is called. */
#include <stdio.h>

#include "config/config.h"

/* A configuration that has this population alone. Defaults that it does not take over say nothing of it, but
 * the text of a base that is pre-trained does. */
void settings_point_hash(const settings *s, int population, char out[SETTINGS_POINT_BYTES]) {
    char alone[SETTINGS_HASH_BYTES], base[SETTINGS_HASH_BYTES], no_name[] = "";
    population_settings own = s->populations[population];
    settings one = *s;
    own.name = no_name;
    one.data = own.data;
    one.populations = &own;
    one.n_populations = 1;
    settings_hash(&one, alone);
    settings_base_hash(s, base);
    snprintf(out, SETTINGS_POINT_BYTES, "%s%s", alone, base);
}
