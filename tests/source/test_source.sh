#!/usr/bin/env bash
# Checks of the source text itself.
# shellcheck source=../harness.sh
source "$(dirname "${BASH_SOURCE[0]}")/../harness.sh"

root=$COHORT_SOURCE_DIR
include_flags=(-I"$root/kernels" -I"$root/sim" -I"$root/bench" -I"$root/tests")

cuda_files() { find "$root"/kernels/cuda "$root"/tests/simt \( -name '*.cu' -o -name '*.cuh' -o -name '*.cc' -o -name '*.hpp' \) -print0; }
c_files() { find "$root"/kernels "$root"/sim "$root"/tests "$root"/bench -name '*.[ch]' -print0; }

test_formatted_as_clang_format_says() {
    require clang-format clang-format
    local wrong
    wrong=$({ c_files; cuda_files; } | xargs -0 clang-format --dry-run 2>&1 | sed -n "s|^$root/\([^:]*\):[0-9]*:[0-9]*: .*|\1|p" | sort -u)
    [[ -z $wrong ]] || fail "clang-format -i would change:" "$wrong"
}

test_readme_says_what_ran_on_a_gpu() {
    require python3 python3
    sed -n '/^<!-- made by results\/gpu_status.py -->$/,/^<!-- end -->$/p' "$root/README.md" | sed '1d;$d' >said
    python3 "$root/results/gpu_status.py" >found
    expect_same said found "the README's table of GPUs and results/gpu"
}

test_headers_compile_alone() {
    local header
    local -a flags
    read -ra flags < <(pkg-config --cflags openblas hdf5-serial)
    while IFS= read -r -d '' header; do
        gcc -std=gnu11 -D_GNU_SOURCE=1 -fsyntax-only -fopenmp -Wall -Wextra -Werror -Wno-unused-function "${include_flags[@]}" "${flags[@]}" \
            -include "$header" -x c /dev/null || fail "$header does not compile alone"
    done < <(find "$root"/kernels "$root"/sim "$root"/bench "$root"/tests -name '*.h' -print0)
}

# kernels <- sim <- main: what a file may include is decided by its folder.
test_dependencies_point_one_way() {
    local wrong
    wrong=$(grep -rnE '#include "(adapters|base|calibration|config|data|methods|population|problems|progress|rng|trace|train)[./]' \
        "$root/kernels" --include='*.[ch]' || true)
    [[ -z $wrong ]] || fail "kernels/ includes sim/: $wrong"
    wrong=$(grep -rnE '#include [<"](cblas|openblas|cuda|nccl|mpi)|#include "cpu/' "$root/sim" --include='*.[ch]' || true)
    [[ -z $wrong ]] || fail "sim/ includes what only a backend may: $wrong"
    wrong=$(grep -rnE '#include [<"](cuda|nccl|mpi)' "$root/kernels" "$root/tests" --include='*.[ch]' |
        grep -vE '^[^:]*/(kernels/(cuda|collective)|tests/simt)/' || true)
    [[ -z $wrong ]] || fail "a CUDA, NCCL or MPI header outside the folder that implements it: $wrong"
}

# Only main, the progress bar, the closing report of a run, `check` and `info` talk to the user.
test_libraries_neither_print_nor_exit() {
    local wrong
    wrong=$(grep -rnE '(^|[^a-z_])(printf|puts|perror|exit)\(' "$root/kernels" "$root/sim" --include='*.c' |
        grep -vE '/sim/(main|progress|train/(check|report)|trace/info[a-z_]*)\.c:' || true)
    [[ -z $wrong ]] || fail "$wrong"
}

test_shell_scripts_pass_shellcheck() {
    require shellcheck shellcheck
    cd "$root" || fail "no folder $root"
    shellcheck -x -P SCRIPTDIR cohort .ci/run cmake/revision.sh configs/data/*.sh tests/*.sh tests/*/*.sh
}

run_tests source "$@"
