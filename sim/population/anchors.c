/* Anchors of proximal terms: the buffer of averages, which holds what devices received last. Before the first
 * aggregation that is what their shared parts start from, equal on all devices of a population. */
#include "population/parts.h"
#include "support/kernel_problem.h"

double population_proximal(const population *p) {
    return p->method->proximal ? p->method->proximal(p->settings) : 0.0;
}

static bool has_anchors(const fleet *f) {
    for (int i = 0; i < f->n_populations; i++)
        if (population_proximal(&f->populations[i]) > 0.0) return true;
    return false;
}

/* The group's first device alone, with weight 1: a sum over it, in whichever process it is, is a copy. */
static ck_group first_member(const fleet *f, int group) {
    static const float whole = 1.0F;
    ck_group g = f->groups[group];
    g.n_members = f->owner[f->holders[group].first] == f->place.process ? 1 : 0;
    g.weights = &whole;
    return g;
}

exit_code fleet_set_anchors(fleet *f, problems *list) {
    if (!has_anchors(f)) return EXIT_OK;
    ck_status status = CK_OK;
    for (int i = 0; i < f->n_groups && status == CK_OK; i++) {
        ck_group g = first_member(f, i);
        status = ck_group_sum(f->stream, f->parameters, &g, 1, f->packed);
    }
    exit_code code = packed_sum(f, status, list);
    return THEN(code, kernel_problem(list, f->backend, status, "copying what the devices start from"));
}

size_t fleet_anchor_bytes(const fleet *f) {
    return has_anchors(f) ? (size_t)f->n_packed * sizeof *f->packed : 0;
}

exit_code fleet_save_anchors(const fleet *f, void *out, problems *list) {
    size_t bytes = fleet_anchor_bytes(f);
    if (bytes == 0) return EXIT_OK;
    ck_status status = ck_download(f->stream, out, f->packed, bytes);
    THEN(status, ck_wait(f->stream));
    return kernel_problem(list, f->backend, status, "reading back what the devices received");
}

exit_code fleet_restore_anchors(fleet *f, const void *saved, problems *list) {
    size_t bytes = fleet_anchor_bytes(f);
    if (bytes == 0) return EXIT_OK;
    ck_status status = ck_upload(f->stream, f->packed, saved, bytes);
    THEN(status, ck_wait(f->stream));
    return kernel_problem(list, f->backend, status, "placing what the devices received");
}
