#!/usr/bin/env bash
# What the assembler said of the CUDA backend when it was built (cmake/Cuda.cmake keeps it). No GPU is needed.
# shellcheck source=../harness.sh
source "$(dirname "${BASH_SOURCE[0]}")/../harness.sh"

root=$COHORT_SOURCE_DIR
logs=${COHORT_BINARY%/*}/cuda

need_logs() { [[ -d $logs ]] || skip "nvcc was not found when this was built: CUDA kernels were not compiled for a GPU"; }

test_kernels_need_no_spills_and_no_stack_frames() {
    need_logs
    local spilled source
    for source in "$root"/kernels/cuda/*.cu; do
        source=${source##*/}
        [[ -f $logs/${source%.cu}.o ]] || fail "$source was not compiled"
    done
    grep -qh 'Used [0-9]* registers' "$logs"/*.log || fail "nvcc reported no kernel"
    spilled=$(awk '/Compiling entry function/ { kernel = $0 }
        /stack frame/ && !/ 0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads/ { print kernel; print }' "$logs"/*.log)
    [[ -z $spilled ]] || fail "$spilled"
}

test_what_is_meant_is_compiled() {
    need_logs
    local architecture
    for architecture in sm_80 sm_90a; do
        grep -qh "Compiling entry function.*for '$architecture'" "$logs"/*.log || fail "nothing was compiled for $architecture"
    done
}

# The programs of tests/simt run on a GPU too (tests/gpu/check.sh).
test_programs_for_a_gpu_compile() {
    need_logs
    local nvcc
    nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null) || skip "nvcc has gone since this was built"
    "$nvcc" -std=c++17 -arch=sm_90a "-I$root/kernels" "-I$root/sim" "-I$root/tests" "-I$root/tests/simt" \
        -c "$root/tests/simt/test_portable.cu" -o portable.o >log 2>&1 || {
        cat log >&2
        fail 'tests/simt/test_portable.cu does not compile for a GPU'
    }
}

run_tests nvcc "$@"
