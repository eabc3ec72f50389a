/* parts.h - what the files of this folder share. */
#ifndef COHORT_POPULATION_PARTS_H
#define COHORT_POPULATION_PARTS_H

#include "population/fleet.h"

/* shapes.c: the layout of a device's pack, found among or added to fleet.shapes. */
exit_code shape_of_device(fleet *f, const base_shape *base, const population *p, const device *d, int *shape,
                          problems *list);
/* Adapter values of a device, without padding: those that are averaged, and the others. */
void shape_count_parameters(const population *p, const device *d, const ck_shape *shape, int64_t *shared,
                            int64_t *private_);

/* groups.c: fleet.groups, whose members are this process's devices, and n_packed, which is the same in all
 * processes. */
exit_code groups_create(fleet *f, problems *list);
void groups_destroy(fleet *f);
/* Their members are those of this process's devices that send in a round, or those that receive. */
void groups_of_senders(fleet *f, int round);
void groups_of_receivers(fleet *f, int round);

/* fleet.c: f->packed becomes its sum over processes; `status` is that of what this process wrote there. */
exit_code packed_sum(fleet *f, ck_status status, problems *list);

/* assign.c: the offsets of this process's packs, and their sums. */
void packs_place(fleet *f);

/* init.c: fills the packs of all devices, from random numbers and from files. */
exit_code packs_init(fleet *f, problems *list);

/* given.c: into a device's pack of random numbers what the setting `adapters` of its population names;
 * nothing where this is none. */
exit_code given_pack_read(const fleet *f, const device *d, float *pack, problems *list);
/* What is wrong with these files, of this process's devices: before a base is trained. */
exit_code given_packs_check(const fleet *f, problems *list);

#endif
