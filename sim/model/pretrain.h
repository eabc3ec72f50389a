/* pretrain.h - makes a base from text: the plain transformer, all weights trained. */
#ifndef COHORT_PRETRAIN_H
#define COHORT_PRETRAIN_H

#include <stdbool.h>

#include "base/base.h"
#include "kernels.h"
#include "settings/settings.h"
#include "support/problems.h"

/* The shape that settings.base describes (no checkpoint). */
base_shape pretrain_shape(const settings *s);
/* Random weights where base.pretrain.tokens is 0; else trains, with a progress bar that ends with the
 * validation loss in nats per token. */
exit_code pretrain_base(const settings *s, ck_backend *backend, bool quiet, base_model **out, problems *list);
/* Seconds that training would take in all, from steps that are begun for so many seconds, at least one, of at most
 * so many FLOPs (a smaller batch where it needs more). Takes what pretrain_bytes() says, and a host copy of the
 * base; keeps nothing. */
exit_code pretrain_measure(const settings *s, ck_backend *backend, double most_flops, double seconds,
                           double *out, problems *list);
/* Whether the text that training reads is there and long enough. */
exit_code pretrain_check_text(const settings *s, problems *list);
/* Bytes that training takes beside the base's own copy on the host: weights, gradients and moments on the
 * backend, and activations. */
exit_code pretrain_bytes(const settings *s, ck_backend *backend, size_t *bytes, problems *list);

#endif
