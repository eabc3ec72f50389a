/* LoRAs at all sites against the oracle, one test per case. */
#include "conformance/front.h"

CONFORMANCE_TESTS(sites, sites_group)
