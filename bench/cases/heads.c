#include "cases/heads.h"

#include <string.h>

static const head_layout LAYOUTS[HEAD_LAYOUTS] = {
    [OWN_KEYS] = {3, 3, 12},   [PAIRS_SHARE] = {4, 2, 16}, [THREES_SHARE] = {6, 2, 8},
    [ALL_SHARE] = {5, 1, 24},  [WIDE_SHARE] = {2, 1, 64},  [ODD_SHARE] = {4, 2, 7},
    [BROAD_SHARE] = {2, 1, 96}};

head_layout heads_of(const rig *r) {
    if (r->size != AS_THE_WAVE) return LAYOUTS[r->size];
    int group = strcmp(r->which->group, "llama") == 0 ? 4 : 1;
    while (r->heads % group != 0) group--;
    return (head_layout){r->heads, r->heads / group, r->width / r->heads};
}

int qkv_columns(head_layout h) {
    return (h.heads + 2 * h.kv_heads) * h.head_size;
}

oracle_attention_size heads_size(const rig *r, int64_t n) {
    head_layout h = heads_of(r);
    return (oracle_attention_size){n, h.heads, h.kv_heads, h.head_size};
}
