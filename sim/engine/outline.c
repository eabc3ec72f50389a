#include "engine/outline.h"
#include "model/obtain_base.h"

#include <string.h>

#include "engine/assign.h"

exit_code outline_make(const settings *s, ck_collective *collective, ck_backend *backend, run_outline *out,
                       problems *list) {
    exit_code code = run_base_shape(s, &out->shape, list);
    THEN(code, plan_admits_devices(s, ck_local_processes(collective), list));
    THEN(code, fleet_create_among(collective, s, &out->shape, &out->fleet, list));
    return THEN(code, plan_with_text(s, backend, &out->shape, out->fleet, &out->plan, list));
}

void outline_free(run_outline *o) {
    fleet_destroy(o->fleet);
    memset(o, 0, sizeof *o);
}
