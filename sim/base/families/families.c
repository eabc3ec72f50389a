/* families.c - the list of families. */
#include "base/family.h"

extern const base_family base_family_gpt2, base_family_llama;

static const base_family *const LIST[BASE_FAMILIES] = {
    [BASE_GPT2] = &base_family_gpt2,
    [BASE_LLAMA] = &base_family_llama,
};

const base_family *base_family_of(base_family_id id) {
    return LIST[id];
}

const char *base_family_name(base_family_id id) {
    return LIST[id]->name;
}
