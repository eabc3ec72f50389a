/* splits.h - the list of splits, the default first: the name that data.split takes (at most 31 letters), and
 * what it does. */
#ifndef COHORT_SPLITS_H
#define COHORT_SPLITS_H

#define SPLITS(X)                                                                                            \
    X(in_distribution, "all text of a device is of its source")                                              \
    X(out_of_distribution, "valid and test text are a uniform mixture of all sources")                       \
    X(dirichlet, "all text of a device is a mixture of sources of its own, drawn from a Dirichlet "          \
                 "distribution (data.dirichlet)")

/* "in_distribution|out_of_distribution|..", and "; in_distribution: ..; out_of_distribution: .." */
#define SPLIT_CHOICES            (&SPLITS(SPLIT_CHOICE)[1])
#define SPLIT_CHOICE(name, what) "|" #name
#define SPLIT_HELPS              SPLITS(SPLIT_HELP)
#define SPLIT_HELP(name, what)   "; " #name ": " what

#endif
