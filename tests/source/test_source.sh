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

# The README's lines between "<!-- TEXT -->" and the next "<!-- end -->".
between_markers() { sed -n "/^<!-- ${1//\//\\/} -->\$/,/^<!-- end -->\$/p" "$root/README.md" | sed '1d;$d'; }

test_readme_says_what_ran_on_a_gpu() {
    require python3 python3
    between_markers 'made by results/gpu_status.py' >said
    python3 "$root/results/gpu_status.py" >found
    expect_same said found "the README's table of GPUs and results/gpu"
}

test_readme_has_the_commands_that_help_prints() {
    between_markers 'printed by ./cohort help' | sed '1d;$d' >said
    "$root/cohort" help >found
    expect_same said found "the README's commands and ./cohort help"
}

# Prints paths that READMEs name in backquotes or link to, and that are not there. A path begins at the README's folder, at the
# repository's, or at kernels/ or sim/.
# shellcheck disable=SC2016
missing_in_readmes() { # reads the list of READMEs
    local readme name place
    while IFS= read -r readme; do
        place=$(dirname "$readme")
        while IFS= read -r name; do
            compgen -G "$place/$name" >/dev/null || compgen -G "$root/$name" >/dev/null || compgen -G "$root/kernels/$name" >/dev/null ||
                compgen -G "$root/sim/$name" >/dev/null || printf '%s: %s\n' "${readme#"$root"/}" "$name"
        done < <(grep -oE '`[a-z][a-z_0-9*]*(/[a-z_0-9*]+)+\.(h|c|cu|cuh|hpp|sh|py|yaml|md)`|\]\([^):#]+\)' "$readme" | tr -d '`()]' | sort -u)
    done
}

# shellcheck disable=SC2016
test_readmes_name_what_is_there() {
    local wrong
    wrong=$(find "$root"/{README.md,kernels,sim,bench,configs,results,tests} -name README.md | missing_in_readmes)
    [[ -z $wrong ]] || fail "what is not there: $wrong"
    # That the check can fail.
    printf 'See `sim/nowhere.c` and [this](nothing/here).\n' >README.md
    [[ $(missing_in_readmes <<<"$PWD/README.md" | wc -l) == 2 ]] || fail 'it finds nothing'
}

# Behind the path of a file and a colon, tests/README.md names tests of that file.
# shellcheck disable=SC2016
test_promises_name_tests_that_are_there() {
    local path names name wrong='' found=0
    while read -r path names; do
        for name in $names; do
            found=$((found + 1))
            grep -qE "(^$name\(\)|[ (]$name\))" "$root/tests/$path" || wrong+=" $path:$name"
        done
    done < <(sed -n '/^- Tests:/,/^$/p' "$root/tests/README.md" | tr -s '\n ' ' ' | grep -oE '`[a-z_/]+\.(c|sh)`: (`[a-z_0-9]+`,? *)+' | tr -d '`:,')
    [[ -z $wrong ]] || fail "tests/README.md names tests that are not there:$wrong"
    ((found > 5)) || fail "only $found names of tests were found in tests/README.md"
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

# What a file may include is decided by its folder: its own, and those that stand before it here.
rooms='kernels kernels/cpu kernels/cuda kernels/collective
    sim/support sim/settings sim/base sim/base/families sim/data sim/data/splits sim/schedule sim/methods sim/config sim/adapters sim/numbers sim/model sim/decode sim/population sim/store
    sim/result sim/engine sim/run sim/command
    tests/oracle bench/rig bench/cases bench/measure bench/compare bench/side_by_side bench/command tests/conformance'

# Lines "FILE: HEADER" of includes that point up. A header is found beside the file, else below one of the roots.
includes_that_point_up() { # of the rooms in order
    (cd "$root" && grep -rnoE '^#include "[^"]+"' kernels sim bench tests/oracle tests/conformance --include='*.[ch]' --include='*.cu' --include='*.cuh' --include='*.hpp') |
        awk -v order="$*" -v root="$root" '
            function plain(path) { while (sub(/[^\/.]+\/\.\.\//, "", path)) { } return path }
            function folder(path) { sub(/\/[^\/]*$/, "", path); return path }
            function there(path, line) { line = (getline line <path); close(path); return line >= 0 }
            BEGIN { n_roots = split("kernels sim bench tests", roots, " "); n = split(order, names, " "); for (i = 1; i <= n; i++) place[names[i]] = i }
            {
                split($0, part, ":")
                match($0, /"[^"]+"/)
                header = substr($0, RSTART + 1, RLENGTH - 2)
                from = folder(part[1]); found = ""
                if (there(root "/" from "/" header)) found = plain(from "/" header)
                for (i = 1; found == "" && i <= n_roots; i++)
                    if (there(root "/" roots[i] "/" header)) found = roots[i] "/" header
                if (found == "") { if (header != "simt.hpp") print part[1] ": " header " is in no room"; next }
                to = folder(found)
                sub(/\/gpu$/, "", from); sub(/\/gpu$/, "", to)
                if (!(from in place)) print from " is not in the list of rooms"
                else if (!(to in place)) print part[1] ": " header " is in no room"
                else if (place[to] > place[from]) print part[1] ": " found
            }' | sort -u
}

test_folders_point_one_way() {
    local wrong
    wrong=$(includes_that_point_up "$rooms")
    [[ -z $wrong ]] || fail "includes that point up, or lead nowhere: $wrong"
    # That the check can fail: with the rooms in another order there is something to find.
    [[ -n $(includes_that_point_up "tests/conformance ${rooms%tests/conformance}") ]] || fail 'nothing is found whatever the order'
}

test_dependencies_stay_where_they_are_implemented() {
    local wrong
    wrong=$(grep -rnE '#include [<"](cblas|openblas|cuda|nccl|mpi)|#include "cpu/' "$root/sim" --include='*.[ch]' || true)
    [[ -z $wrong ]] || fail "sim/ includes what only a backend may: $wrong"
    wrong=$(grep -rnE '#include [<"](cuda|nccl|mpi)' "$root/kernels" "$root/tests" --include='*.[ch]' |
        grep -vE '^[^:]*/(kernels/(cuda|collective)|tests/simt)/' || true)
    [[ -z $wrong ]] || fail "a CUDA, NCCL or MPI header outside the folder that implements it: $wrong"
}

# So that the compiler lists what a new operation lacks.
test_switches_over_operations_have_no_default() {
    local wrong
    wrong=$(find "$root/kernels" \( -name '*.[ch]' -o -name '*.cu' \) -print0 | xargs -0 awk '
        /switch \(.*kind\)/ { inside = 1 }
        inside && /default:/ { print FILENAME ":" FNR }
        /^}/ { inside = 0 }')
    [[ -z $wrong ]] || fail "$wrong"
}

# Only main, `generate`, the progress bar, the closing report of a run, `check` and `info` talk to the user.
test_libraries_neither_print_nor_exit() {
    local wrong
    wrong=$(grep -rnE '(^|[^a-z_])(printf|puts|perror|exit)\(' "$root/kernels" "$root/sim" --include='*.c' |
        grep -vE '/sim/(command/(main|generate)|support/progress|run/(check[a-z_]*|report)|result/info[a-z_]*)\.c:' || true)
    [[ -z $wrong ]] || fail "$wrong"
}

test_shell_scripts_pass_shellcheck() {
    require shellcheck shellcheck
    cd "$root" || fail "no folder $root"
    shellcheck -x -P SCRIPTDIR cohort .ci/run cmake/revision.sh configs/data/*.sh tests/*.sh tests/*/*.sh
}

run_tests source "$@"
