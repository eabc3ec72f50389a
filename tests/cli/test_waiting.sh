#!/usr/bin/env bash
# How OpenMP's threads wait: soon asleep, unless the environment says otherwise.
# shellcheck source=result.sh
source "$(dirname "${BASH_SOURCE[0]}")/result.sh"

unset OMP_WAIT_POLICY GOMP_SPINCOUNT KMP_BLOCKTIME KMP_LIBRARY

# Programs that a build has, each with something quick to do.
programs() {
    printf '%s version\n' "$COHORT_BINARY"
    [[ ! -x ${COHORT_BINARY%/*}/cohort-bench ]] || printf '%s --list\n' "${COHORT_BINARY%/*}/cohort-bench"
}

# The last thing that the library says about itself: a program that started itself has said it twice. SETTING of GCC's or LLVM's library.
expect_last() { # GCC's setting, LLVM's setting
    local last
    last=$(grep -E "GOMP_SPINCOUNT|KMP_BLOCKTIME" out | tail -n 1)
    [[ -n $last ]] || skip 'this OpenMP does not say how its threads wait'
    [[ $last == *"$1"* || $last == *"$2"* ]] || fail "expected $1 or $2: $last"
}

test_waiting_threads_soon_sleep() {
    local program
    while read -r program; do
        # shellcheck disable=SC2086 # a program and its argument
        OMP_DISPLAY_ENV=verbose $program >out 2>&1 || fail "$(cat out)"
        expect_last "GOMP_SPINCOUNT = '300'" "KMP_BLOCKTIME='0'"
    done < <(programs)
}

test_a_choice_of_the_user_is_kept() {
    local program
    while read -r program; do
        # shellcheck disable=SC2086
        GOMP_SPINCOUNT=4321 KMP_BLOCKTIME=4321 OMP_DISPLAY_ENV=verbose $program >out 2>&1 || fail "$(cat out)"
        expect_last "GOMP_SPINCOUNT = '4321'" "KMP_BLOCKTIME='4321"
    done < <(programs)
}

# Peers in PyTorch use OpenMP too, and must be as quick as they are alone.
test_other_programs_do_not_see_it() {
    [[ -x ${COHORT_BINARY%/*}/cohort-bench ]] || skip 'cohort-bench is not part of this build'
    printf '#!/bin/sh\nenv >"%s/environment"\nexit 1\n' "$PWD" >python
    chmod +x python
    expect_status 2 "${COHORT_BINARY%/*}/cohort-bench" norm/forward --backend cpu --threads 1 --tokens 8 --width 16 --peers --python ./python
    [[ -s environment ]] || fail 'no other program was started'
    ! grep -E 'OMP_WAIT_POLICY|GOMP_SPINCOUNT|COHORT_STARTED' environment || fail 'seen by another program'
}

run_tests waiting "$@"
