#!/usr/bin/env bash
# Every .cu compiled for the GPUs that are meant, and what the assembler says of registers and local memory. No GPU is needed.
# shellcheck source=../harness.sh
source "$(dirname "${BASH_SOURCE[0]}")/../harness.sh"

root=$COHORT_SOURCE_DIR
nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null || true)
flags=(-std=c++17 -O3 "-I$root/kernels" "-I$root/sim" "-I$root/tests" "-I$root/tests/simt"
    -gencode 'arch=compute_80,code=sm_80' -gencode 'arch=compute_90a,code=sm_90a' -Xptxas -v)

compile() { # folder of sources
    local source
    [[ -n $nvcc ]] || skip "nvcc is not installed: CUDA kernels were not compiled for a GPU"
    for source in "$root/$1"/*.cu; do
        "$nvcc" "${flags[@]}" -c "$source" -o object.o >>log 2>&1 || {
            cat log >&2
            fail "${source#"$root"/} does not compile"
        }
    done
    grep -q 'Used [0-9]* registers' log || fail "nvcc reported no kernel"
}

test_kernels_compile_without_spills_and_stack_frames() {
    compile kernels/cuda
    local spilled
    spilled=$(awk '/Compiling entry function/ { kernel = $0 }
        /stack frame/ && !/ 0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads/ { print kernel; print }' log)
    [[ -z $spilled ]] || fail "$spilled"
}

test_programs_for_a_gpu_compile() { compile tests/simt; }

run_tests nvcc "$@"
