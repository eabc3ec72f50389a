/* Carried gradients against the oracle. */
#include "conformance/front.h"

CONFORMANCE_TESTS(carry, "carry")
