/* data_files.h - files in a temporary folder, and data settings, for the tests of sim/data. */
#ifndef COHORT_TEST_DATA_FILES_H
#define COHORT_TEST_DATA_FILES_H

#include <stddef.h>
#include <stdint.h>

#include "data/data.h"

/* A new folder under $TMPDIR or /tmp (malloc'd), and its removal with everything in it. */
char *data_folder(void);
void data_folder_remove(char *folder);

/* FOLDER/NAME in a static buffer; valid until the call after the next three. */
const char *data_path(const char *folder, const char *name);
void data_write(const char *folder, const char *name, const void *bytes, size_t size);
/* n uint16 ids: first, first + 1, .. modulo 256. */
void data_write_shard(const char *folder, const char *name, int first, int n);

/* The folder as corpus, each device with one source, sequence 8. */
data_settings data_settings_of(const char *folder);

/* One device of a population; *out is NULL on failure. */
exit_code data_open_device(const corpus *c, const data_settings *d, uint64_t seed, int device, int devices,
                           bool pooled, device_data **out, problems *list);

/* What data_settings.split is for this name. */
int split_named(const char *name);

/* True if one of the messages contains `part`. */
int data_says(const problems *list, const char *part);

#endif
