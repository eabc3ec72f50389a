#!/usr/bin/env bash
# Runs as the released CoMiGS code makes them, beside runs as the paper describes them.
# shellcheck source=result.sh
source "$(dirname "${BASH_SOURCE[0]}")/result.sh"

rows() { grep "^$1," "$2/summary.csv"; } # population, result

test_both_ways_compare_in_one_run_and_the_strict_one_is_untouched() {
    sed '$a\  - {name: leaking, method: comigs, devices: 4, seeds: [7, 8], as_released: true}' "$tiny" >both.yaml
    cohort run both.yaml --out result --quiet
    expect_same <(rows both result) <(rows both "$(reference_result)") 'the strict rows with and without released neighbours'
    [[ $(rows both result | cut -d, -f4) != "$(rows leaking result | cut -d, -f4)" ]] || fail 'the leak shows nowhere'
}

test_false_is_the_default() {
    grep -q '^as_released: *false$' "$(reference_result)/config.yaml" || fail 'config.yaml does not say so'
    cohort run "$tiny" --out result --quiet --set as_released=false
    expect_same_results "$(reference_result)" result
}

# Methods without a router of its own optimiser, and without specialists, differ in the base of their perplexity alone.
test_methods_without_bursts_keep_their_losses() {
    local name
    cohort run "$tiny" --out result --quiet --set as_released=true
    for name in averaged pooled mixture; do
        expect_same <(rows "$name" result | cut -d, -f15) <(rows "$name" "$(reference_result)" | cut -d, -f15) "the losses of $name"
        [[ $(rows "$name" result | cut -d, -f4) != "$(rows "$name" "$(reference_result)" | cut -d, -f4)" ]] || fail "$name: e has all its digits"
    done
    for name in alone both uneven; do
        [[ $(rows "$name" result | cut -d, -f15) != "$(rows "$name" "$(reference_result)" | cut -d, -f15)" ]] || fail "$name is as ever"
    done
}

test_killed_between_steps_and_resumed_equals_uninterrupted() {
    local options=(--quiet --set as_released=true --set train.rounds=20) run
    cohort run "$tiny" --out whole "${options[@]}"
    "$COHORT_BINARY" run "$tiny" --out result "${options[@]}" &
    run=$!
    wait_until "$run" test -e result/checkpoint.h5
    kill -KILL "$run"
    wait "$run" 2>/dev/null || true
    [[ ! -e result/summary.csv ]] || fail 'the run was over before it was killed'
    expect_status 0 cohort run "$tiny" --out result "${options[@]}" --resume
    expect_same_results whole result
}

test_another_word_than_true_or_false_is_refused() {
    expect_status 2 cohort run "$tiny" --out result --set as_released=yes
    expect_text err 'it must be false or true'
}

run_tests released "$@"
