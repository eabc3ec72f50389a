#!/usr/bin/env bash
# cohort-bench peers. A stand-in for Python answers with Cohort's own steps, right or wrong, so that most of this needs no PyTorch.
# shellcheck source=result.sh
source "$(dirname "${BASH_SOURCE[0]}")/result.sh"

bench=${COHORT_BINARY%/*}/cohort-bench
python_of_user=${COHORT_PYTHON:-}
unset COHORT_PYTHON

# A Python that can import torch, and that runs any program as: cohort-bench steps CONFIG | filter.
stand_in() { # file, config, filter command
    [[ -x $bench ]] || skip 'cohort-bench is not part of this build'
    # shellcheck disable=SC2016 # the stand-in's own arguments
    printf '#!/bin/sh\n[ "$1" = -c ] && exit 0\n"%s" steps "$2/%s" --threads 1 | %s\n' "$bench" "$2" "$3" >"$1"
    chmod +x "$1"
}

peers() { # expected status, python
    mkdir -p scratch
    TMPDIR=$PWD/scratch expect_status "$1" "$bench" peers --shape tiny --threads 1 --rounds 1 --python "$2" --json result.json
    rm -rf scratch/torchinductor_* # PyTorch's own
    expect_empty_folder scratch
}

states() { grep -c "\"state\": \"$1\"" result.json || true; }

test_equal_losses_are_timed() {
    stand_in ./python run.yaml cat
    peers 0 ./python
    expect_text out 'spread'
    [[ $(states right) == 4 ]] || fail "expected 4 rows that are right: $(cat result.json)"
    expect_text result.json '"git_revision"'
    expect_text result.json '"schema_version"'
}

test_a_wrong_program_has_no_time() {
    stand_in ./python control.yaml cat
    peers 4 ./python
    [[ $(states wrong) == 3 && $(grep -c 'WRONG$' out) == 3 ]] || fail "expected 3 rows that are wrong: $(cat out)"
    [[ $(grep -c '"samples": \[\]' result.json) == 3 ]] || fail 'a wrong row has samples'
    expect_text err 'differs from Cohort'
}

test_a_difference_in_the_last_step_of_the_last_device_is_found() {
    stand_in ./python run.yaml "sed '/^{\"step\":19/s/\\]/2]/'"
    peers 0 ./python # one digit more is rounding
    stand_in ./python run.yaml "sed '/^{\"step\":19/s/\\.[0-9]*\\]/.0]/'"
    peers 4 ./python
    expect_text err 'at step 19, device 2'
}

test_a_program_that_fails_is_named_with_its_last_words() {
    stand_in ./python run.yaml 'false || { echo "no luck today" >&2; exit 3; }'
    peers 4 ./python
    expect_text err 'sequential_clients'
    expect_text err 'no luck today'
    [[ $(states failed) == 3 ]] || fail "expected 3 rows that failed: $(cat result.json)"
}

test_a_program_that_stops_early_is_no_result() {
    stand_in ./python run.yaml 'head -n 5'
    peers 4 ./python
    expect_text err 'printed 5 of 20 steps'
}

test_interrupted_it_ends_what_runs_and_cleans_up() {
    local pid status=0
    [[ -x $bench ]] || skip 'cohort-bench is not part of this build'
    # shellcheck disable=SC2016 # the stand-in's own argument
    printf '#!/bin/sh\n[ "$1" = -c ] && exit 0\nexec sleep 100\n' >python
    chmod +x python
    mkdir scratch
    TMPDIR=$PWD/scratch "$bench" peers --shape tiny --threads 1 --python ./python >out 2>err &
    pid=$!
    wait_until "$pid" grep -qs 'round 1: cohort' err
    local begin=$SECONDS
    kill -TERM "$pid"
    wait "$pid" || status=$?
    ((status == 4)) || fail "expected exit status 4, got $status"
    ((SECONDS - begin < 50)) || fail 'it waited for the program'
    expect_text err interrupted
    expect_empty_folder scratch
}

test_without_pytorch_it_is_skipped_and_says_how_to_get_it() {
    [[ -x $bench ]] || skip 'cohort-bench is not part of this build'
    mkdir path
    printf '#!/bin/sh\nexit 1\n' >path/python3
    chmod +x path/python3
    PATH=$PWD/path:$PATH expect_status 0 "$bench" peers --shape tiny
    expect_text out 'skipped'
    expect_text out 'pip install torch'
}

test_help_of_a_command() {
    [[ -x $bench ]] || skip 'cohort-bench is not part of this build'
    expect_status 0 "$bench" peers --help
    expect_text out 'cohort-bench peers [--shape'
    [[ ! -s err ]] || fail "$(<err)"
    expect_status 0 "$bench" steps -h
    expect_text out 'cohort-bench steps CONFIG'
}

test_bad_options_are_refused() {
    [[ -x $bench ]] || skip 'cohort-bench is not part of this build'
    expect_status 2 "$bench" peers --python /bin/false
    expect_text err '/bin/false'
    expect_status 2 "$bench" peers --shape tiny --steps 3
    expect_text err '--steps 3: must be more than the 3 steps of the warm-up'
    expect_status 2 "$bench" peers --shape medium
    expect_text err 'small'
    expect_status 2 "$bench" peers --rounds 0
    expect_status 2 "$bench" peers --devices 1.5
    expect_status 2 "$bench" peers --colour
    expect_status 2 "$bench" fears
}

test_the_programs_in_pytorch_agree() {
    [[ -x $bench ]] || skip 'cohort-bench is not part of this build'
    local python=${python_of_user:-python3}
    "$python" -c 'import torch' 2>/dev/null || skip 'no PyTorch; COHORT_PYTHON can name a Python that has it'
    peers 0 "$python"
    [[ $(states right) == 4 ]] || fail "expected 4 rows that are right: $(cat result.json)"
}

run_tests bench "$@"
