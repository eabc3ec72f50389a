#include "settings/settings.h"

const char *settings_linear(ck_site site) {
    static const char *const names[] = {
#define X(key, site_, help) [site_] = #key,
        SETTINGS_LINEARS(X)
#undef X
            [CK_NO_SITE] = NULL};
    return names[site];
}

bool settings_is_of_attention(ck_site site) {
    return !ck_is_of_mlp(site);
}
