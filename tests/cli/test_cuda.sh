#!/usr/bin/env bash
# The whole simulator on the CUDA backend, kernels and driver executed on the CPU (tests/simt), against the CPU backend.
# shellcheck source=result.sh
source "$(dirname "${BASH_SOURCE[0]}")/result.sh"

simt=${COHORT_BINARY%/*}/tests/simt/cohort

configuration() {
    cat <<'YAML'
seed: 7
base: {layers: 2, width: 32, heads: 2, pretrain: {tokens: 20000, batch: 8, warmup: 5}}
data: {tokens_per_device: 2000, valid_tokens_per_device: 500, test_tokens_per_device: 500, sequence: 32, synthetic: {topics: 2, vocabulary: 64, branching: 4}}
train: {rounds: 2, local_steps: 2, batch: 2, router: {every: 2, steps: 1}}
experts: {rank: 4}
attention: {rank: 2}
evaluate: {every: 1, windows: 2}
trace: {routing_windows: 1}
populations:
  - {name: both, method: comigs, devices: 2, experts: {top_k: 1}}
  - {name: balanced, method: comigs, devices: 2, specialists: 2, experts: {balance: 0.1}}
  - {name: averaged, method: fedavg, devices: 2}
  - {name: mixture, method: pfedmoe, devices: 1}
YAML
}

need_simt() { [[ -x $simt ]] || skip "no C++ compiler when this was built (Debian: g++)"; }

on_cuda() { expect_status 0 "$simt" run config.yaml --backend cuda "$@" --quiet; }

expect_near() { # relative tolerance, folder, folder, tables...
    local tolerance=$1 a=$2/trace.h5 b=$3/trace.h5 table
    for table in "${@:4}"; do
        HDF5_USE_FILE_LOCKING=FALSE h5diff -p "$tolerance" "$a" "$b" "$table" "$table" >differences || {
            head -n 20 differences >&2
            fail "$table differs by more than $tolerance"
        }
    done
}

test_cuda_and_cpu_agree() {
    need_simt
    require h5diff hdf5-tools
    configuration >config.yaml
    expect_status 0 cohort run config.yaml --backend cpu --out cpu --quiet
    on_cuda --out cuda
    expect_near 1e-5 cpu cuda /loss/train /loss/valid /loss/test
    expect_near 1e-4 cpu cuda /routing/gate_mean
}

test_bf16_stays_near_f32() {
    need_simt
    require h5diff hdf5-tools
    configuration >config.yaml
    on_cuda --out exact
    on_cuda --set precision=bf16 --out half
    expect_near 0.02 exact half /loss/train /loss/valid /loss/test
    ! cmp -s exact/summary.csv half/summary.csv || fail 'bf16 changed no digit: it was not used'
}

test_cuda_writes_the_text_that_the_cpu_writes() {
    need_simt
    local -a greedy=(--tokens '1,2,3' --tokens 9 --max-tokens 8)
    expect_status 0 cohort generate "$(reference_result)" "${greedy[@]}" --population both
    mv out cpu
    expect_status 0 "$simt" generate "$(reference_result)" "${greedy[@]}" --population both --backend cuda
    expect_same cpu out 'texts of the two backends'
    expect_status 0 "$simt" generate "$(reference_result)" "${greedy[@]}" --population both --backend cuda --set precision=bf16
    [[ $(wc -l <out) == $(wc -l <cpu) ]] || fail "in bf16: $(<out)"
}

# Waves of two devices, whose packs do not fit a small GPU all together; a population that stops while the next wave is filled.
large_packs() {
    configuration | sed '/^wave_tokens/d; /^populations/,$d; s/sequence: 32/sequence: 16/; s/batch: 2, router/batch: 1, router/'
    cat <<'YAML'
wave_tokens: 32
populations:
  - {name: routed, method: comigs, devices: 3, specialists: [1, 2, 1], rank: 32}
  - {name: absurd, method: comigs, devices: 3, rank: 32, train: {learning_rate: 10, weight_decay: 10, router: {every: 1}}}
  - {name: released, method: comigs, devices: 3, rank: 32, as_released: true}
  - {name: averaged, method: fedavg, devices: 4, rank: 32}
YAML
}

expect_plan() { # bytes of the GPU, text
    COHORT_SIMT_MEMORY=$1 expect_status 0 "$simt" check config.yaml --backend cuda
    expect_text out "$2"
}

run_in() { # bytes of the GPU, streams that are ahead or behind (tests/simt/stream.hpp), folder
    COHORT_SIMT_MEMORY=$1 COHORT_SIMT_STREAMS=$2 expect_status 4 "$simt" run config.yaml --backend cuda --quiet --out "$3"
    expect_text err "population 'absurd'"
}

# Bit for bit, adapters and moments too.
expect_as_near() { # folder
    local table
    expect_near 0 near "$1" /loss /routing /traffic
    for table in parameters moment1 moment2 carried; do
        h5diff near/checkpoint.h5 "$1/checkpoint.h5" "/$table" "/$table" >differences || fail "$1: $table differ: $(head -n 5 differences)"
    done
    expect_same near/summary.csv "$1/summary.csv" "the summaries of packs near and in $1"
}

readonly all_near=1000000000 moments_far=16100000 all_far=15000000

# Copies that are as early, and as late, as the waits between streams allow.
test_packs_in_host_memory_change_no_number() {
    need_simt
    require h5diff hdf5-tools
    large_packs >config.yaml
    expect_plan $moments_far 'the moments in host memory'
    expect_plan $all_far 'devices, in host memory'
    expect_text out 'A full wave of an expert step moves'
    run_in $all_near b near
    run_in $moments_far ba moments
    run_in $all_far b late
    run_in $all_far ba early
    for folder in moments late early; do expect_as_near "$folder"; done
}

test_what_fits_no_gpu_is_refused() {
    need_simt
    large_packs >config.yaml
    COHORT_SIMT_MEMORY=10700000 expect_status 3 "$simt" run config.yaml --backend cuda --out none
    expect_text err "of the GPU's memory and only"
    expect_text err "population 'routed' (seed 7) does not fit, even alone"
    [[ ! -e none ]] || fail 'a refused run left a folder'
}

test_info_names_the_gpu() {
    need_simt
    configuration >config.yaml
    on_cuda --out cuda
    expect_status 0 cohort info cuda
    expect_text out 'cuda'
}

run_tests cuda "$@"
