/* all.h - what each file of this folder defines, for the list in methods.c. */
#ifndef COHORT_METHODS_ALL_H
#define COHORT_METHODS_ALL_H

#include "methods/method.h"

extern const method method_local, method_fedavg, method_centralized, method_pfedmoe, method_comigs, method_fedsa;

#endif
