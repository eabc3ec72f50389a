#include "engine/outline.h"
#include "model/obtain_base.h"

#include <stdlib.h>
#include <string.h>

#include "engine/assign.h"
#include "support/processes.h"

exit_code outline_make(const settings *s, ck_collective *collective, ck_backend *backend, run_outline *out,
                       problems *list) {
    exit_code code = run_base_shape(s, &out->shape, list);
    if (code == EXIT_OK) {
        code = plan_admits_devices(s, ck_local_processes(collective), list);
        out->plan.refused = code != EXIT_OK;
    }
    THEN(code, fleet_create_among(collective, s, &out->shape, &out->fleet, list));
    return THEN(code, plan_with_text(s, backend, &out->shape, out->fleet, &out->plan, list));
}

exit_code outline_any(ck_collective *collective, bool *known, problems *list) {
    int n = ck_processes(collective);
    bool own = *known, *all = calloc((size_t)n, sizeof *all);
    exit_code code =
        processes_agree(collective, all ? EXIT_OK : problem(list, EXIT_ENVIRONMENT, "out of memory"), list);
    THEN(code,
         processes_problem(collective, ck_collective_exchange(collective, &own, sizeof own, all), list));
    for (int i = 0; i < n && code == EXIT_OK; i++) *known |= all[i];
    free(all);
    return code;
}

exit_code outline_fits(const settings *s, ck_collective *collective, ck_backend *backend, bool *fits,
                       problems *list) {
    run_outline o = {0};
    int before = problems_count(list);
    exit_code code = run_base_shape(s, &o.shape, list);
    if (code == EXIT_OK) {
        code = plan_admits_devices(s, ck_local_processes(collective), list);
        o.plan.refused = code != EXIT_OK;
    }
    THEN(code, fleet_create_among(collective, s, &o.shape, &o.fleet, list));
    THEN(code, plan_make(s, backend, &o.shape, o.fleet, &o.plan, list));
    if (o.plan.refused) {
        problems_drop(list, before);
        code = EXIT_OK;
    }
    bool refused = o.plan.refused;
    outline_free(&o);
    code = processes_agree(collective, code, list);
    THEN(code, outline_any(collective, &refused, list));
    *fits = !refused;
    return code;
}

void outline_free(run_outline *o) {
    fleet_destroy(o->fleet);
    memset(o, 0, sizeof *o);
}
