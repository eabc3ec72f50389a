/* Memory, copies and events, one test per case. */
#include "conformance/front.h"

CONFORMANCE_TESTS(memory, "memory")
