/* What all layers share against the oracle, one test per case. */
#include "conformance/front.h"

CONFORMANCE_TESTS(tied, "tied")
