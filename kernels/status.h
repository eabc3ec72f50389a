/* status.h - how functions of kernels/ report. */
#ifndef COHORT_STATUS_H
#define COHORT_STATUS_H

typedef enum {
    CK_OK = 0,
    CK_BAD_ARGUMENT, /* a descriptor contradicts itself or its shapes */
    CK_NO_MEMORY,    /* the backend could not allocate */
    CK_UNAVAILABLE,  /* this backend was not built, or the machine lacks it */
    CK_FAILED        /* the backend failed while running */
} ck_status;

#endif
