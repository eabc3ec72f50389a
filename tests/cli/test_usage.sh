#!/usr/bin/env bash
# What a user can type: commands, options, help.
# shellcheck source=result.sh
source "$(dirname "${BASH_SOURCE[0]}")/result.sh"

test_help_lists_the_commands() {
    local command
    expect_status 0 cohort help
    for command in run check pretrain data info; do expect_text out "$command"; done
    [[ ! -s err ]] || fail "help was asked for, and yet: $(<err)"
}

# Every page that says how the programs end says it in the same words.
test_exit_codes_are_documented() {
    local code text lines=0
    expect_status 0 cohort help
    sed -n '/^Exit codes/,$p' out >codes
    expect_status 0 "${COHORT_BINARY%/*}/cohort-bench" help
    sed -n '/^Exit codes/,$p' out >bench_codes
    expect_same codes bench_codes 'the exit codes of the two programs'
    expect_status 0 "$COHORT_SOURCE_DIR/cohort" help
    while read -r code text; do
        expect_text out "  $code  $text"
        lines=$((lines + 1))
    done < <(tail -n +2 codes)
    ((lines == 5)) || fail "expected five exit codes: $(<codes)"
}

test_help_of_settings_is_made_from_their_table() {
    local key
    expect_status 0 cohort help settings
    for key in train.local_steps experts.rank data.tokens_per_device base.pretrain.tokens; do expect_text out "$key"; done
}

test_help_of_methods_names_each() {
    local method
    expect_status 0 cohort help methods
    for method in local fedavg fedprox centralized pfedmoe comigs; do expect_text out "$method"; done
    [[ $(grep -A2 '^fedavg' out) == *'aggregate.weights: tokens,'* ]] || fail "how fedavg weighs devices: $(<out)"
    for method in pfedmoe comigs; do
        [[ $(grep -A2 "^$method" out) == *'aggregate.weights: uniform,'* ]] || fail "how $method weighs devices: $(<out)"
    done
}

test_unknown_command_names_the_nearest() {
    expect_status 2 cohort chekc "$tiny"
    expect_text err chekc
    expect_text err check
}

test_unknown_option_is_refused_and_nothing_written() {
    expect_status 2 cohort run "$tiny" --outt result
    expect_text err --outt
    [[ ! -e result && ! -e results ]] || fail 'something was written'
}

test_option_without_its_value_is_refused() {
    expect_status 2 cohort run "$tiny" --out
    expect_text err --out
}

test_option_given_twice_is_refused_and_nothing_written() {
    expect_status 2 cohort run "$tiny" --out one --out two
    expect_text err "--out is given twice (again as 'two')"
    expect_status 2 cohort check "$tiny" --threads 1 --threads=1
    expect_text err '--threads is given twice'
    [[ ! -e one && ! -e two ]] || fail 'something was written'
    expect_status 0 cohort check --no-measure "$tiny" --set train.rounds=1 --set train.rounds=2
}

test_run_without_a_configuration_is_refused() {
    expect_status 2 cohort run
}

test_info_on_something_that_is_no_result_is_refused() {
    expect_status 2 cohort info .
    expect_text err 'holds no readable trace.h5'
    expect_status 2 cohort info "$tiny"
    expect_text err 'is not a folder'
    expect_status 2 cohort info nowhere
    expect_text err 'nowhere: cannot be opened: there is no such folder'
}

run_tests usage "$@"
