/* text_check.h - whether a file that `cohort data` is given holds text. */
#ifndef COHORT_TEXT_CHECK_H
#define COHORT_TEXT_CHECK_H

#include <stdint.h>

#include "support/problems.h"

/* Refused, with a hint of what to do: token shards (by their name), JSON Lines and JSON arrays of objects,
 * whose fields would be mixed with syntax, and bytes that are not characters. Any encoding that has the
 * control characters of ASCII where ASCII has them is text. */
exit_code text_check(const char *path, const unsigned char *content, int64_t bytes, problems *list);

#endif
