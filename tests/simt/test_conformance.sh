#!/usr/bin/env bash
# Every conformance case through the CUDA backend on the SIMT machine, under pairs of settings of COHORT_CUDA_LIMITS (conformance.c): twice, in two orders of
# blocks and lanes, the second in f32 alone. COHORT_TEST_LIMITS=all: every case on all waves under every setting, which takes ten times as long.
# shellcheck source=../harness.sh
source "$(dirname "${BASH_SOURCE[0]}")/../harness.sh"

program=${COHORT_BINARY%/*}/tests/simt/conformance
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT

run_in_order() { # order, --f32 or nothing
    local status=0
    COHORT_SIMT_ORDER=$1 COHORT_SIMT_KERNELS=$results/$1.kernels "$program" --limits "${COHORT_TEST_LIMITS:-pairs}" "${@:2}" "$results/$1.tap" \
        >"$results/$1.log" 2>&1 || status=$?
    printf '%d\n' "$status" >"$results/$1.status"
}

# Once for all tests of this script.
run_twice() {
    [[ -x $program ]] || skip "no C++ compiler when this was built (Debian: g++)"
    [[ ! -e $results/2.status ]] || return 0
    run_in_order 1 &
    run_in_order 2 --f32 &
    wait
}

test_every_case_conforms_under_pairs_of_limits() {
    run_twice
    local order planned
    for order in 1 2; do
        planned=$(sed -n 's/^1\.\.//p' "$results/$order.tap")
        [[ $(<"$results/$order.status") == 0 && $planned -gt 0 && $(grep -c '^ok ' "$results/$order.tap") == "$planned" ]] || {
            grep -A 12 '^not ok' "$results/$order.tap" >&2 || tail -n 30 "$results/$order.log" >&2
            grep '^# setting' "$results/$order.tap" >&2
            fail "order $order: exit status $(<"$results/$order.status"), ${planned:-no} results planned"
        }
    done
}

f32_results() { # order
    awk '/^(not )?ok / { shown = /, f32/ } shown' "$results/$1.tap" | grep -v '^1\.\.'
}

# Of f32 alone: the hash of a bf16 result says little of its bits.
test_bits_are_the_same_in_another_order() {
    run_twice
    grep -q '^# bits' "$results/1.tap" || fail 'no bits were written'
    expect_same <(f32_results 1) <(f32_results 2) 'the results in two orders'
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
    run_twice
    require nm binutils
    nm -C "$program" | sed -nE 's/^([0-9a-f]+) [tTW] (void )?([a-z0-9_]+_kernel(<.*>)?)\(.*/\1 \3/p' | grep -v ' simt_' >kernels
    [[ -e $results/own.kernels ]] || COHORT_SIMT_LIBRARY='nothing works' COHORT_SIMT_KERNELS=$results/own.kernels "$program" - linear odd >out 2>&1
    grep -v -f "$results/1.kernels" -f "$results/own.kernels" kernels | cut -d ' ' -f 2- | sort -u >missing
    (($(wc -l <kernels) > 100)) || fail 'the program names hardly any kernel'
    printf '%s\n' "${elsewhere[@]}" "${never[@]}" | grep -v -x -E -f - missing >unexpected || return 0
    fail "neither these cases nor another test runs: $(<unexpected)"
}

run_tests simt_conformance "$@"
