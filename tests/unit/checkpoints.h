/* checkpoints.h - what the tests of checkpoint files share: temporary folders, raw safetensors files, and
 * messages. */
#ifndef COHORT_TEST_CHECKPOINTS_H
#define COHORT_TEST_CHECKPOINTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "support/problems.h"

/* A new folder under $TMPDIR or /tmp (malloc'd); remove_folder() removes it with what it holds, and frees the
 * path. */
char *temporary_folder(void);
void remove_folder(char *path);
char *path_in(const char *folder, const char *name); /* malloc'd */
void write_text(const char *path, const char *text);

/* 8 bytes of length, the header as it is, then data_bytes bytes (zeros where data is NULL). */
uint8_t *raw_file(const char *header, const void *data, size_t data_bytes, size_t *size); /* malloc'd */

bool mentions(const problems *list, const char *text);
/* All messages in one string, for assertions that fail (static storage). */
const char *all_messages(const problems *list);

#endif
