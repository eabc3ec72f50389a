#include "settings/settings.h"

#include <string.h>

const char *settings_linear(ck_site site) {
    static const char *const names[] = {
#define X(key, site_, help) [site_] = #key,
        SETTINGS_LINEARS(X)
#undef X
            [CK_NO_SITE] = NULL};
    return names[site];
}

/* The site of a key, of `length` bytes. */
static ck_site site_of(const char *key, size_t length) {
    ck_site site = 0;
    while (site < CK_SITES &&
           (strlen(settings_linear(site)) != length || strncmp(settings_linear(site), key, length) != 0))
        site++;
    return site;
}

bool settings_names_linear(const char *linears, ck_site site) {
    int known = 0;
    if (strcmp(linears, "all") == 0) return true;
    for (const char *key = linears + strspn(linears, " "); *key;) {
        size_t length = strcspn(key, " ");
        ck_site named = site_of(key, length);
        if (named == CK_NO_SITE) return false;
        if (named == site) return true;
        known++;
        key += length + strspn(key + length, " ");
    }
    return site == CK_NO_SITE && known > 0;
}

bool settings_is_of_attention(ck_site site) {
    return !ck_is_of_mlp(site);
}
