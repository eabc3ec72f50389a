/* lora ops against the oracle, one test per case. */
#include "conformance/front.h"

CONFORMANCE_TESTS(lora, "lora")
