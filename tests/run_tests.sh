#!/usr/bin/env bash
# run_tests.sh BUILD_FOLDER [TEXT]: runs every test program (or, of each, the tests whose name contains TEXT) and adds up the results.
#
# Programs are Criterion binaries, the CUDA kernels on the CPU, and shell scripts. All write TAP, and only TAP is counted: Criterion's own closing line forgets skipped
# tests, and a binary without a matching test exits 0. The last line is exactly "N passed, M failed, K skipped".
set -euo pipefail

build=$(readlink -f "$1")
filter=${2:-}
tests=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
limit_seconds=900
sanitizer_text='ERROR: AddressSanitizer|ERROR: LeakSanitizer|runtime error:'

export COHORT_BINARY=$build/cohort COHORT_SOURCE_DIR=${tests%/*}
# Tests run two at a time, each with its own OpenMP threads: waiting threads must not spin.
export OMP_WAIT_POLICY=passive
export LSAN_OPTIONS=${LSAN_OPTIONS:-suppressions=$tests/leaks.txt:print_suppressions=0}
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=1} UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1:halt_on_error=1}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export TMPDIR=$work/tmp
mkdir "$TMPDIR"

passed=0 failed=0 skipped=0
failures=$work/failures skips=$work/skips
touch "$failures" "$skips"

# Prints "passed failed skipped results planned" of a TAP file; planned is -1 where there is no plan. Criterion also lists the tests that a
# filter left out, with a text of its own: these are results, but nobody skipped them.
count_tap() {
    awk -v filtered="${filter:+1}" '
        BEGIN { planned = -1 }
        /^1\.\./ { planned = substr($0, 4) + 0 }
        /^(ok|not ok) / { results++ }
        /^ok .*# SKIP test was skipped$/ && filtered { next }
        /^ok .*# SKIP/ { skipped++; next }
        /^ok / { passed++ }
        /^not ok / { failed++ }
        END { print passed + 0, failed + 0, skipped + 0, results + 0, planned }' "$1"
}

# What is wrong with a program as a whole, on one line; nothing if nothing is.
program_problem() { # exit status, failed, results, planned, log
    local text
    if text=$(grep -aEm1 "$sanitizer_text" "$5"); then
        printf 'sanitizer: %s' "$text"
    elif (($1 == 124 || $1 == 137)); then
        printf 'did not end within %d s' "$limit_seconds"
    elif (($4 < 0)); then
        printf 'died before its first result (exit status %d)' "$1"
    elif (($3 != $4)); then
        printf 'died in the middle: %d of %d results (exit status %d)' "$3" "$4" "$1"
    elif (($4 == 0)) && [[ -z $filter ]]; then
        printf 'has no tests'
    elif (($1 != 0 && $2 == 0)); then
        printf 'exit status %d although no test failed' "$1"
    fi
}

report_failure() { # program, tap, log, problem
    awk '/^not ok / { show = 1 } /^(ok |#)/ { show = 0 } show { print "    " $0 }' "$2"
    [[ -z $4 ]] || printf '    %s\n' "$4"
    case $4 in
    '') ;;
    sanitizer:*) grep -aE -A 30 -m 1 "$sanitizer_text" "$3" | sed 's/^/    | /' ;;
    *) tail -n 30 "$3" | sed 's/^/    | /' ;;
    esac
    sed -n "s|^not ok - \([^ ]*\).*|$1: \1|p" "$2" >>"$failures"
    [[ -z $4 ]] || printf '%s: %s\n' "$1" "$4" >>"$failures"
}

run_program() { # name, command...
    local name=$1 tap=$work/tap log=$work/log status=0 begin=$EPOCHREALTIME problem p f s results planned
    shift
    : >"$tap"
    timeout -k 10 "$limit_seconds" "$@" >"$log" 2>&1 || status=$?
    read -r p f s results planned < <(count_tap "$tap")
    problem=$(program_problem "$status" "$f" "$results" "$planned" "$log")
    [[ -z $problem ]] || f=$((f + 1))
    [[ -n $filter ]] && ((p + f + s == 0)) && return
    awk -v name="$name" -v p="$p" -v f="$f" -v s="$s" -v from="$begin" -v to="$EPOCHREALTIME" \
        'BEGIN { printf "%-44s %4d passed %3d failed %3d skipped %8.2f s\n", name, p, f, s, to - from }'
    ((f == 0)) || report_failure "$name" "$tap" "$log" "$problem"
    sed -n "${filter:+/# SKIP test was skipped\$/d;}s|^ok - \(.*[^ ]\)  *# SKIP *|$name: \1: |p" "$tap" >>"$skips"
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}

# The text may also be part of a program's name: then all of its tests are meant.
selects_by_name() { [[ $1 == *"$filter"* ]]; }

run_criterion() { # folder/name [VARIABLE=value]
    local -a options=(--tap="$work/tap" --jobs 2 --short-filename --timeout 300)
    selects_by_name "$1" || options+=(--filter "*${filter//:://}*")
    run_program "$1${2:+ $2}" env "${@:2}" "$build/tests/$1" "${options[@]}"
}

# A program that takes a TAP file and a text.
run_tap_writer() { # folder/name, command...
    local text=$filter
    ! selects_by_name "$1" || text=''
    run_program "$@" "$work/tap" "$text"
}

# Lines "test_name VARIABLE=value": that program once more in another environment.
run_environments() {
    local test variable
    [[ -f $tests/conformance/environments.txt ]] || return 0
    while read -r test variable; do
        [[ -z $test || $test == \#* ]] || run_criterion "conformance/$test" "$variable"
    done <"$tests/conformance/environments.txt"
}

begin=$SECONDS
for source in "$tests"/conformance/test_*.c "$tests"/unit/*/test_*.c; do
    [[ -f $source ]] || continue
    name=${source#"$tests"/}
    run_criterion "${name%.c}"
done
run_environments
for source in "$tests"/simt/test_*.c[cu]; do
    name=${source#"$tests"/}
    run_tap_writer "${name%.c?}" "$build/tests/${name%.c?}"
done
for script in "$tests"/source/test_*.sh "$tests"/simt/test_*.sh "$tests"/cli/test_*.sh "$tests"/gpu/test_*.sh; do
    name=${script#"$tests"/}
    run_tap_writer "${name%.sh}" bash "$script"
done

[[ ! -s $skips ]] || printf '\nSkipped:\n%s\n' "$(sed 's/^/  /' "$skips")"
[[ ! -s $failures ]] || printf '\nFailed:\n%s\n' "$(sed 's/^/  /' "$failures")"
((passed + failed > 0)) || { failed=1 && printf '\nNo test ran%s.\n' "${filter:+ whose name contains \"$filter\"}"; }
printf '\n%d s\n%d passed, %d failed, %d skipped\n' $((SECONDS - begin)) "$passed" "$failed" "$skipped"
((failed == 0))
