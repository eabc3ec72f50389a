/* corpus_folder.h - where the shards of `data.corpus: NAME` lie. */
#ifndef COHORT_CORPUS_FOLDER_H
#define COHORT_CORPUS_FOLDER_H

/* NAME itself, else data/NAME below the current folder. malloc'd; NULL if neither is a folder, or without
 * memory. */
char *corpus_folder(const char *name);

#endif
