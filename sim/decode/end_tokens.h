/* end_tokens.h - the tokens that end a text, as a base's folder names them. */
#ifndef COHORT_END_TOKENS_H
#define COHORT_END_TOKENS_H

#include <stdint.h>

enum { MOST_END_TOKENS = 16 };

/* eos_token_id, an id or a list of them, of generation_config.json, else of config.json; returns how many
 * there are. None where a file cannot be read: whatever is wrong with it, loading the base says. */
int end_tokens_of(const char *folder, int32_t out[MOST_END_TOKENS]);

#endif
