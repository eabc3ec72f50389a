#!/usr/bin/env bash
# What the assembler said of the CUDA backend when cuda-tested was built (cmake/Cuda.cmake keeps it), and the program with it. No GPU is needed.
# shellcheck source=../harness.sh
source "$(dirname "${BASH_SOURCE[0]}")/../harness.sh"

root=$COHORT_SOURCE_DIR
logs=${COHORT_BINARY%/*}/cuda

architectures=(sm_80 sm_90a)

need_logs() {
    [[ -d $logs ]] || skip "nvcc was not found when this was built: CUDA kernels were not compiled for a GPU"
    compgen -G "$logs/sm_80/*.o" >/dev/null || skip "this was built without its target cuda-tested, which ./cohort test adds"
}

test_kernels_need_no_spills_and_no_stack_frames() {
    need_logs
    local spilled source architecture
    for architecture in "${architectures[@]}"; do
        for source in "$root"/kernels/cuda/*.cu; do
            source=${source##*/}
            [[ -f $logs/$architecture/${source%.cu}.o ]] || fail "$source was not compiled for $architecture"
        done
        grep -qh 'Used [0-9]* registers' "$logs/$architecture"/*.log || fail "nvcc reported no kernel for $architecture"
    done
    spilled=$(awk '/Compiling entry function/ { kernel = $0 }
        /stack frame/ && !/ 0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads/ { print kernel; print }' \
        "$logs"/*/*.log)
    [[ -z $spilled ]] || fail "$spilled"
}

test_what_is_meant_is_compiled() {
    need_logs
    local architecture
    for architecture in "${architectures[@]}"; do
        grep -qh "Compiling entry function.*for '$architecture'" "$logs/$architecture"/*.log || fail "nothing was compiled for $architecture"
    done
}

# It is whole: what it lacks is a GPU, where there is none.
test_the_program_links_with_the_cuda_backend() {
    need_logs
    local status=0
    "$logs/sm_80/cohort" check "$root/tests/cli/tiny.yaml" --backend cuda >out 2>err || status=$?
    ((status == 0)) || { [[ $status == 3 ]] && grep -q 'backend cuda is not available' err; } || fail "exit status $status: $(<err)"
    ! grep -q 'has no CUDA backend' err || fail "$(<err)"
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
