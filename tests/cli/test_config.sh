#!/usr/bin/env bash
# Configurations, good and bad, as `check` and `run` take them.
# shellcheck source=result.sh
source "$(dirname "${BASH_SOURCE[0]}")/result.sh"

# The tiny configuration with one line changed by a sed command.
changed() { sed "$1" "$tiny" >changed.yaml; }

expect_refused() { # expected text...
    local text
    mkdir elsewhere
    (cd elsewhere && expect_status 2 cohort run ../changed.yaml --out result && mv out err ..)
    for text in "$@"; do expect_text err "$text"; done
    expect_empty_folder elsewhere
}

# The constants of the paper, and all of a user's text rather than a part of it many times over.
test_gpt2_takes_all_text_of_a_user() {
    grep -qE '^data: .*\btokens_per_device: 0,' "$COHORT_SOURCE_DIR/configs/gpt2.yaml" || fail 'configs/gpt2.yaml cuts the text of a user'
}

test_unknown_key_names_the_nearest() {
    changed 's/tokens_per_device: 4000/tokens_per_devise: 4000/'
    expect_refused tokens_per_devise tokens_per_device
}

test_duplicate_key_is_refused() {
    changed 's/^seed: 7/seed: 7\nseed: 8/'
    expect_refused changed.yaml:4 seed
}

test_not_a_number_is_refused() {
    changed 's/batch: 2$/learning_rate: .nan/'
    expect_refused train.learning_rate
}

test_number_followed_by_something_is_refused() {
    changed 's/rounds: 6/rounds: 6 rounds/'
    expect_refused train.rounds
}

test_broken_yaml_names_the_line() {
    changed 's/^train:/train: [/'
    expect_refused changed.yaml:
}

test_more_experts_than_the_limit_are_refused() {
    changed 's/name: both, method: comigs,/name: both, method: comigs, specialists: 99,/'
    expect_refused specialists 99
}

test_zero_devices_are_refused() {
    changed 's/name: alone, method: local, devices: 4/name: alone, method: local, devices: 0/'
    expect_refused devices
}

test_corpus_that_is_not_there_is_refused() {
    changed 's/^  sequence: 32/  sequence: 32\n  corpus: no-such-folder/; s/{tokens: 20000/{text: no-such-text, tokens: 20000/'
    expect_refused 'changed.yaml:14: data.corpus: there is no corpus no-such-folder' \
        'changed.yaml:8: base.pretrain.text: there is no corpus no-such-text'
}

test_check_finds_that_the_text_of_the_base_is_missing() {
    expect_status 2 cohort check "$tiny" --set base.pretrain.text=no-such
    expect_text err '--set base.pretrain.text: there is no corpus no-such'
    [[ ! -s out ]] || fail 'a plan is printed'
}

test_check_names_both_missing_corpora_once() {
    mkdir elsewhere
    (cd elsewhere && expect_status 2 cohort check "$COHORT_SOURCE_DIR/configs/multilingual.yaml" && mv out err ..)
    expect_text err 'multilingual.yaml:16: data.corpus: there is no corpus multilingual yet'
    expect_text err 'multilingual.yaml:13: base.pretrain.text: there is no corpus english yet'
    [[ $(wc -l <err) == 2 ]] || fail "$(<err)"
}

test_set_of_an_unknown_key_is_refused() {
    expect_status 2 cohort check "$tiny" --set train.round=3
    expect_text err train.round
    expect_text err train.rounds
}

test_set_of_a_bad_value_is_refused() {
    expect_status 2 cohort check "$tiny" --set train.rounds=many
    expect_text err train.rounds
    expect_text err many
}

test_missing_file_is_named() {
    expect_status 2 cohort run missing.yaml
    expect_text err missing.yaml
}

test_check_describes_the_run_and_writes_nothing() {
    local name
    mkdir elsewhere
    (cd elsewhere && expect_status 0 cohort check --no-measure "$tiny" && mv out err ..)
    for name in alone averaged pooled mixture both uneven; do expect_text out "$name"; done
    grep -qi memory out || fail 'no memory plan'
    expect_empty_folder elsewhere
}

# 6 rounds of 4 steps of 2 windows of 32 tokens: 1,536 of the 4,000 that a device has; 24,000 / 4,000 is more than it needs to be said.
test_check_says_how_often_devices_read_their_text() {
    local line
    expect_status 0 cohort check --no-measure "$tiny"
    for line in 'alone .* 4000 +0.4$' 'pooled .* 16000 +0.4$'; do grep -Eq "^$line" out || fail "$line: $(<out)"; done
    ! grep -q 'times over' out || fail "$(<out)"
    expect_status 0 cohort check --no-measure "$tiny" --set train.local_steps=200
    grep -Eq '^both .* 4000 +19.2$' out || fail "$(<out)"
    [[ $(grep -c 'times over' out) == 1 ]] || fail "once for all populations, whose seeds count once: $(<out)"
    grep -q "^alone and 5 more read each device's training text 19 times over" out || fail "$(<out)"
    expect_status 0 cohort check --no-measure "$tiny" --set train.local_steps=104
    ! grep -q 'times over' out || fail "10 times is not too many: $(<out)"
}

# A configuration whose text or weights are not on this machine must say so, and how to get them; any other must pass.
test_check_of_every_configuration_in_the_repository() {
    local config checked=0 output=$PWD
    cd "$COHORT_SOURCE_DIR" || fail 'no source folder'
    for config in configs/*.yaml; do
        if cohort check "$config" --no-measure >"$output/out" 2>"$output/err"; then
            checked=$((checked + 1))
        elif grep -qiE 'there is no|no such file|not found|does not exist|cannot open|missing' "$output/err"; then
            printf '%s: its data is not on this machine\n' "$config"
        else
            cat "$output/err" >&2
            fail "$config is refused"
        fi
    done
    ((checked > 0)) || fail 'not one configuration could be checked'
}

# ---- How long a run takes

seconds_said() { # of a line "A run takes about N UNIT": in seconds
    awk '/^A run takes about/ { unit["s"] = 1; unit["m"] = 60; unit["h"] = 3600; unit["d"] = 86400; print $5 * unit[substr($6, 1, 1)] }' "$1"
}

test_check_says_how_long_a_run_takes() {
    local short long
    expect_status 0 cohort check "$tiny" --set train.rounds=200
    [[ $(grep -cE '^A run takes about [0-9.]+ [a-z]+ on [0-9]+ threads? \(measured [0-9]+ steps? in [0-9.]+ s\)' out) == 1 ]] || fail "$(<out)"
    short=$(seconds_said out)
    expect_status 0 cohort check "$tiny" --set train.rounds=20000
    long=$(seconds_said out)
    # other programs disturb a measurement of seconds
    awk -v a="$short" -v b="$long" 'BEGIN { exit !(b > 15 * a && b < 700 * a) }' || fail "200 rounds: $short s, 20,000 rounds: $long s"
}

test_a_base_that_has_to_be_made_is_counted_and_not_made() {
    export COHORT_CACHE=$PWD/cache
    expect_status 0 cohort check "$tiny" --set base.pretrain.tokens=100000000
    grep -qE ', and [0-9.]+ (minutes|hours) more to pre-train the base$' out || fail "$(<out)"
    [[ -z $(ls -A cache 2>/dev/null) ]] || fail "check made $(find cache)"
    [[ $(ls -A) == $'err\nout' ]] || fail "check left $(ls -A)"
    expect_status 0 cohort check "$tiny" --set base.pretrain.tokens=0
    ! grep -q 'pre-train' out || fail "$(<out)"
}

test_no_measure_says_nothing_of_time() {
    expect_status 0 cohort check "$tiny" --no-measure
    ! grep -qE 'takes|measured' out || fail "$(<out)"
    expect_text out 'Memory plan'
    expect_status 2 cohort run "$tiny" --no-measure --out result
}

test_bf16_is_refused_where_nothing_computes_in_it() {
    changed '1i backend: cpu\nprecision: bf16'
    expect_refused 'precision: bf16 needs a GPU' 'set precision: f32'
}

run_tests config "$@"
