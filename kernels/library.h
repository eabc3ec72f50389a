/* library.h - shared libraries that are loaded when they are first wanted. */
#ifndef COHORT_KERNELS_LIBRARY_H
#define COHORT_KERNELS_LIBRARY_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Loads `file` (such as libcublasLt.so.13): where the loader looks (LD_LIBRARY_PATH); then where pip puts
 * NVIDIA's packages for a Python on PATH or of this user, PYTHON/{site,dist}-packages/nvidia/PACKAGE/lib;
 * then `built_with`, a path, or NULL. NULL if it is nowhere: then `message` says where it was looked for. */
void *ck_load_library(const char *file, const char *built_with, char *message, size_t size);

#ifdef __cplusplus
}
#endif

#endif
