/* The ops of a Llama layer against the oracle, one test per case. */
#include "conformance/front.h"

CONFORMANCE_TESTS(llama, "llama")
