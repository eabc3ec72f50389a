#!/usr/bin/env bash
# Runs with a router that has a hidden layer and noise on its logits (experts.router: llama_moe).
# shellcheck source=result.sh
source "$(dirname "${BASH_SOURCE[0]}")/result.sh"

# Three experts of which two are kept, so that the noise decides and the load counts, on a GPT-2; one population has the linear router.
write_config() {
    sed '/^populations/,$d; s/^experts: .*/experts: {rank: 4, router: llama_moe, balance: 0.1}/' "$tiny" >router.yaml
    cat >>router.yaml <<'YAML'
populations:
  - {name: mixture, method: pfedmoe, devices: 3, specialists: 2}
  - {name: three, method: comigs, devices: 4, specialists: [1, 2, 1, 3]}
  - {name: one-of-three, method: comigs, devices: 2, specialists: 2, experts: {top_k: 1}}
  - {name: alone, method: local, devices: 2}
  - {name: linear, method: comigs, devices: 2, experts: {router: linear}}
YAML
}

expect_same_parameters() { # folder, folder
    local dataset
    require h5diff hdf5-tools
    for dataset in parameters moment1 moment2; do
        h5diff -q "$1/checkpoint.h5" "$2/checkpoint.h5" /$dataset || fail "$dataset of $1 and $2 differ"
    done
}

test_threads_waves_and_neighbours_change_no_bit() {
    write_config
    expect_status 0 cohort check --no-measure router.yaml
    cohort run router.yaml --out one --quiet
    cohort run router.yaml --out other --quiet --set threads=1 --set wave_tokens=64
    expect_same one/summary.csv other/summary.csv 'the summaries'
    expect_same_parameters one other
    sed -i '/name: \(mixture\|one-of-three\|alone\|linear\)/d' router.yaml
    cohort run router.yaml --out alone --quiet
    expect_same <(grep ^three, one/summary.csv) <(grep ^three, alone/summary.csv) 'the rows of one population'
}

test_the_router_learns_and_is_another_than_the_linear_one() {
    write_config
    cohort run router.yaml --out hidden --quiet
    cohort run router.yaml --out linear --quiet --set experts.router=linear
    for name in mixture three one-of-three; do
        [[ $(grep "^$name," hidden/summary.csv) != $(grep "^$name," linear/summary.csv) ]] || fail "$name: the same"
    done
    for name in alone linear; do
        expect_same <(grep "^$name," hidden/summary.csv) <(grep "^$name," linear/summary.csv) "the rows of $name"
    done
}

test_killed_and_resumed_equals_uninterrupted() {
    local run options=(--set train.rounds=60 --quiet)
    write_config
    expect_status 0 cohort run router.yaml --out whole "${options[@]}"
    "$COHORT_BINARY" run router.yaml --out result "${options[@]}" >started.log 2>&1 &
    run=$!
    wait_until "$run" test -e result/checkpoint.h5
    kill -KILL "$run"
    wait "$run" 2>/dev/null || true
    [[ ! -e result/summary.csv ]] || fail 'the run was over before it was killed'
    expect_status 0 cohort run router.yaml --out result "${options[@]}" --resume
    expect_same_results whole result
}

test_two_processes_agree_with_one() {
    require mpirun openmpi-bin
    export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0
    [[ $(ldd "$COHORT_BINARY") == *libmpi* ]] || skip 'this build has no MPI (Debian: libopenmpi-dev)'
    write_config
    cohort run router.yaml --out one --quiet
    expect_status 0 cohort run router.yaml --out two --quiet --processes 2
    paste -d, one/summary.csv two/summary.csv | awk -F, 'NR > 1 { n++; if (($4 - $(NF / 2 + 4)) ^ 2 > (1e-4 * $4) ^ 2) exit 1 } END { exit n != 5 }' ||
        fail "$(cat one/summary.csv two/summary.csv)"
}

test_adapters_go_out_and_in_again() {
    write_config
    cohort run router.yaml --out first --quiet --set train.rounds=1
    expect_status 0 cohort export first --adapters saved
    find saved -name router.safetensors | grep -q . || fail "no router was written: $(find saved)"
    grep -aq 'layer.1.router.out' "$(find saved -path '*three*' -name router.safetensors | head -n 1)" || fail 'the second matrix is missing'
    expect_status 0 cohort run router.yaml --out second --quiet --set train.rounds=1 --set adapters="$PWD/saved"
    sed -i 's/router: llama_moe/router: linear/' router.yaml
    expect_status 2 cohort run router.yaml --out third --quiet --set adapters="$PWD/saved"
    expect_text err 'layer.0.router.out'
}

# The CUDA backend on the CPU.
test_a_gpu_agrees() {
    local simt=${COHORT_BINARY%/*}/tests/simt/cohort
    local small=(--quiet --set train.rounds=2 --set train.local_steps=2 --set data.sequence=8 --set evaluate.windows=1 --set trace.routing_windows=0)
    [[ -x $simt ]] || skip 'CUDA kernels were not built for the CPU'
    write_config
    cohort run router.yaml --out cpu "${small[@]}"
    expect_status 0 "$simt" run router.yaml --out gpu --backend cuda "${small[@]}"
    paste -d, cpu/summary.csv gpu/summary.csv | awk -F, 'NR > 1 { n++; if (($4 - $(NF / 2 + 4)) ^ 2 > (1e-4 * $4) ^ 2) exit 1 } END { exit n != 5 }' ||
        fail "$(cat cpu/summary.csv gpu/summary.csv)"
}

run_tests router "$@"
