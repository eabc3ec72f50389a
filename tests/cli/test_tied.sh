#!/usr/bin/env bash
# Runs of adapters that all layers share, LoRAs and vectors, with a base of either family.
# shellcheck source=result.sh
source "$(dirname "${BASH_SOURCE[0]}")/result.sh"

reference=$COHORT_SOURCE_DIR/tests/reference

# Both bases know 37 ids. On the linears of one, "half" has a vector alone.
write_config() { # checkpoint, linears
    config_on "$reference/$1" >tied.yaml <<YAML
  - {name: both, method: fedavg, devices: 4, generalists: 0, specialists: 0, tied: {rank: 3, vector: column_bias}}
  - {name: half, method: local, devices: 3, generalists: 0, specialists: 0, attention: {rank: 0}, tied: {vector: bias, linears: $2}}
  - {name: beside, method: comigs, devices: 4, tied: {rank: 2, vector: column_bias}}
YAML
}

killed_and_resumed_equals_uninterrupted() {
    local run options=(--set train.rounds=60 --quiet)
    require h5dump hdf5-tools
    expect_status 0 cohort run tied.yaml --out whole "${options[@]}"
    "$COHORT_BINARY" run tied.yaml --out result "${options[@]}" >started.log 2>&1 &
    run=$!
    wait_until "$run" test -e result/checkpoint.h5
    kill -KILL "$run"
    wait "$run" 2>/dev/null || true
    [[ ! -e result/summary.csv ]] || fail 'the run was over before it was killed'
    expect_status 0 cohort run tied.yaml --out result "${options[@]}" --resume
    expect_same_results whole result
    h5diff whole/checkpoint.h5 result/checkpoint.h5 || fail 'the adapters or their moments differ'
}

test_a_gpt2_killed_and_resumed_equals_uninterrupted() {
    write_config gpt2_tiny 'out down'
    killed_and_resumed_equals_uninterrupted
}

test_a_llama_killed_and_resumed_equals_uninterrupted() {
    write_config llama/llama32 'q v down'
    killed_and_resumed_equals_uninterrupted
}

# Losses, and what was trained.
two_processes_give_the_numbers_of_one() {
    local dataset
    export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0
    require mpirun openmpi-bin
    require h5dump hdf5-tools
    [[ $(ldd "$COHORT_BINARY") == *libmpi* ]] || skip 'this build has no MPI (Debian: libopenmpi-dev)'
    expect_status 0 cohort run tied.yaml --out one --quiet
    expect_status 0 cohort run tied.yaml --out two --quiet --processes 2
    for dataset in train valid test; do expect_close one/trace.h5 two/trace.h5 "/loss/$dataset"; done
    for dataset in parameters moment1 moment2; do expect_close one/checkpoint.h5 two/checkpoint.h5 "/$dataset"; done
}

test_two_processes_give_the_numbers_of_one_with_a_gpt2() {
    write_config gpt2_tiny 'out down'
    two_processes_give_the_numbers_of_one
}

test_two_processes_give_the_numbers_of_one_with_a_llama() {
    write_config llama/qwen25 'q v down'
    two_processes_give_the_numbers_of_one
}

run_tests tied "$@"
