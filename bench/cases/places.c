#include "cases/places.h"

place place_of(const rig *r, ck_site site) {
    const ck_shape *s = rig_shape(r, 0);
    int q = s->q_width, kv = s->kv_width, qkv = q + 2 * kv;
    switch (site) {
    case CK_SITE_Q:
        return (place){site, s->width, q, 0, qkv};
    case CK_SITE_K:
        return (place){site, s->width, kv, q, qkv};
    case CK_SITE_V:
        return (place){site, s->width, kv, q + kv, qkv};
    case CK_SITE_QKV:
        return (place){site, s->width, qkv, 0, qkv};
    case CK_SITE_GATE:
        return (place){site, s->width, s->ffn, 0, r->up};
    case CK_SITE_FC:
        return (place){site, s->width, s->ffn, r->up - s->ffn, r->up};
    case CK_SITE_PR:
        return (place){site, s->ffn, s->width, 0, s->width};
    case CK_SITE_OUT:
    case CK_SITES:
        break;
    }
    return (place){site, q, s->width, 0, s->width};
}

ck_site place_site(const rig *r) {
    return r->size ? (ck_site)(r->size - 1) : CK_SITE_QKV;
}
