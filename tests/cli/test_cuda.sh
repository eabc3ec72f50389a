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

# Packs larger than the GPU: the moments lie in host memory, then all of them.
test_packs_in_host_memory_change_no_number() {
    need_simt
    require h5diff hdf5-tools
    configuration | sed '/^populations/,$d' >config.yaml
    printf 'wave_tokens: 64\npopulations:\n  - {name: both, method: comigs, devices: 4, rank: 48}\n' >>config.yaml
    on_cuda --set train.rounds=1 --out near
    COHORT_SIMT_MEMORY=10500000 expect_status 0 "$simt" check config.yaml --backend cuda
    expect_text out 'the moments in host memory'
    COHORT_SIMT_MEMORY=10500000 on_cuda --set train.rounds=1 --out moments
    COHORT_SIMT_MEMORY=9400000 expect_status 0 "$simt" check config.yaml --backend cuda
    expect_text out 'devices, in host memory'
    COHORT_SIMT_MEMORY=9400000 on_cuda --set train.rounds=1 --out far
    for folder in moments far; do expect_near 0 near "$folder" /loss/train /loss/test; done
    COHORT_SIMT_MEMORY=500000 expect_status 3 "$simt" run config.yaml --backend cuda --out none
    expect_text err "of the GPU's memory and only"
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
