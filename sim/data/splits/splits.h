/* splits.h - the list of splits, the default first: the name that data.split takes (at most 31 letters), and
 * what it does. */
#ifndef COHORT_SPLITS_H
#define COHORT_SPLITS_H

#define SPLITS(X)                                                                                            \
    X(natural, "a device has one source")                                                                    \
    X(iid, "every device has equal parts of all sources")                                                    \
    X(dirichlet, "a device has a mixture of sources of its own, drawn from a Dirichlet distribution "        \
                 "(data.dirichlet)")                                                                         \
    X(quantity, "a device has one source, and an amount of it drawn from a log-normal distribution "         \
                "(data.quantity)")                                                                           \
    X(pathological, "a device has equal parts of few sources (data.pathological)")                           \
    X(drift, "a device moves from its own source to the next one over the rounds (data.drift)")

/* "natural|iid|..", and "; natural: ..; iid: .." */
#define SPLIT_CHOICES            (&SPLITS(SPLIT_CHOICE)[1])
#define SPLIT_CHOICE(name, what) "|" #name
#define SPLIT_HELPS              SPLITS(SPLIT_HELP)
#define SPLIT_HELP(name, what)   "; " #name ": " what

#endif
