#!/usr/bin/env bash
# Every conformance case through the CUDA backend on the SIMT machine, under pairs of settings of COHORT_CUDA_LIMITS (conformance.c).
# The wave of the most uneven devices runs in two orders of blocks and lanes, too. COHORT_TEST_LIMITS=all: every case on all waves under every setting, which takes ten times as long.
# shellcheck source=../harness.sh
source "$(dirname "${BASH_SOURCE[0]}")/../harness.sh"

program=${COHORT_BINARY%/*}/tests/simt/conformance
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT

run_in_order() { # name, order, waves (all of them: nothing), --f32 or nothing
    local status=0
    COHORT_SIMT_ORDER=$2 COHORT_SIMT_KERNELS=$results/$1.kernels "$program" --limits "${COHORT_TEST_LIMITS:-pairs}" "${@:4}" \
        "$results/$1.tap" '' "$3" >"$results/$1.log" 2>&1 || status=$?
    printf '%d\n' "$status" >"$results/$1.status"
}

# Once for all tests of this script: everything; and the wave of the most uneven devices in two orders, in f32 alone, because the hash of
# a bf16 result says little of its bits.
run_all() {
    [[ -x $program ]] || skip "no C++ compiler when this was built (Debian: g++)"
    [[ ! -e $results/second.status ]] || return 0
    run_in_order all 3 '' &
    run_in_order first 1 ragged --f32
    run_in_order second 2 ragged --f32
    wait
}

test_every_case_conforms_under_pairs_of_limits() {
    run_all
    local name planned
    for name in all first second; do
        planned=$(sed -n 's/^1\.\.//p' "$results/$name.tap")
        [[ $(<"$results/$name.status") == 0 && $planned -gt 0 && $(grep -c '^ok ' "$results/$name.tap") == "$planned" ]] || {
            grep -A 12 '^not ok' "$results/$name.tap" >&2 || tail -n 30 "$results/$name.log" >&2
            grep '^# setting' "$results/$name.tap" >&2
            fail "$name: exit status $(<"$results/$name.status"), ${planned:-no} results planned"
        }
    done
}

test_bits_are_the_same_in_another_order() {
    run_all
    grep -q '^# bits' "$results/first.tap" || fail 'no bits were written'
    expect_same "$results/first.tap" "$results/second.tap" 'the results in two orders'
}

# The library's products are what the SIMT machine plays, so their refusal is played too: the cases then run through our own kernel.
test_products_that_the_library_refuses_are_made_without_it() {
    [[ -x $program ]] || skip "no C++ compiler when this was built (Debian: g++)"
    local refused
    for refused in 'no bias' 'nothing works'; do
        COHORT_SIMT_LIBRARY=$refused COHORT_SIMT_KERNELS=$results/own.kernels expect_status 0 "$program" - linear odd
        [[ ! -s err ]] || fail "it wrote to stderr: $(<err)"
        if [[ $refused == 'nothing works' ]]; then
            expect_text out 'are made by a slow kernel'
        elif grep -q 'slow kernel' out; then
            fail "a product without its bias is the library's: $(grep 'slow kernel' out)"
        fi
    done
    unset COHORT_SIMT_LIBRARY
    COHORT_CUDA_PRODUCTS=own expect_status 0 "$program" - linear wide
}

# What the waves of the table are too small for, which tests/simt/test_*.cu run,
elsewhere=(
    'attention_(backward_(key|query|whole)_)?kernel<(bf16|float), (32|64|128)(, (true|false))?>'
    'norm_(backward_)?(walk_)?kernel<(bf16, .ck_norm_kind.[01], 8|float, .ck_norm_kind.[01], 4)(, [0-9]+)?>'
    'expert_backward_kernel<(gelu|swiglu)_mlp, (bf16|float), 2, (true|false)>'
)
# and what no caller of the backend leads to: a base trained in bf16, LoRA expanded apart on few tokens, packs that begin at odd addresses.
never=(
    'norm_parts_kernel<bf16>'
    'expand_kernel<(bf16|float), 1, (true|false), plain_ranks>'
    'update_kernel<false, (adamw|carry)_rule>'
)

test_every_kernel_runs() {
    run_all
    require nm binutils
    nm -C "$program" | sed -nE 's/^([0-9a-f]+) [tTW] (void )?([a-z0-9_]+_kernel(<.*>)?)\(.*/\1 \3/p' | grep -v ' simt_' >kernels
    [[ -e $results/own.kernels ]] || COHORT_SIMT_LIBRARY='nothing works' COHORT_SIMT_KERNELS=$results/own.kernels "$program" - linear odd >out 2>&1
    grep -v -f "$results/all.kernels" -f "$results/own.kernels" kernels | cut -d ' ' -f 2- | sort -u >missing
    (($(wc -l <kernels) > 100)) || fail 'the program names hardly any kernel'
    printf '%s\n' "${elsewhere[@]}" "${never[@]}" | grep -v -x -E -f - missing >unexpected || return 0
    fail "neither these cases nor another test runs: $(<unexpected)"
}

run_tests simt_conformance "$@"
