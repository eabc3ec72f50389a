#!/usr/bin/env bash
# ./cohort itself: nothing here builds more than the tests have built already.
# shellcheck source=result.sh
source "$(dirname "${BASH_SOURCE[0]}")/result.sh"

launcher=$COHORT_SOURCE_DIR/cohort

# The launcher runs its release build; where the tests are those of another build it would have to be made first.
require_release_build() { [[ -L $COHORT_SOURCE_DIR/build && $COHORT_BINARY -ef $COHORT_SOURCE_DIR/build/cohort ]] || skip 'these are the tests of another build folder'; }

test_alone_shows_help() {
    local command
    expect_status 0 "$launcher"
    for command in 'cohort run' 'cohort test' 'cohort check' 'cohort info'; do expect_text out "$command"; done
}

test_unknown_test_option_is_refused() {
    expect_status 2 "$launcher" test --sanitise
    expect_text err --sanitize
    expect_status 2 "$launcher" test --compiler tcc
    expect_text err tcc
}

test_works_through_a_link_from_another_folder() {
    require_release_build
    mkdir 'a folder'
    cp "$tiny" 'a folder/tiny.yaml'
    ln -s "$launcher" 'a folder/linked'
    cd 'a folder'
    expect_status 0 ./linked check tiny.yaml
    expect_text out uneven
}

test_exit_status_is_the_program_s() {
    require_release_build
    expect_status 2 "$launcher" run missing.yaml
    expect_text err missing.yaml
}

# Said, never judged: a busy machine must not fail a test.
test_time_that_the_launcher_adds() {
    require_release_build
    local begin=$EPOCHREALTIME
    expect_status 0 "$launcher" help methods
    awk -v from="$begin" -v to="$EPOCHREALTIME" \
        'BEGIN { printf "%s%.2f s for a command through the launcher\n", (to - from > 0.3) ? "warning: " : "", to - from }'
}

# ---- Build folders. Everything that builds is pretended: what is looked at is where, when, and with what.

# A checkout with the launcher, on a CPU that the file cpuinfo describes, and tools that note how they are called in calls.
pretend_checkout() {
    mkdir -p checkout/{cmake,kernels,sim} bin
    sed "s|/proc/cpuinfo|$PWD/cpuinfo|" "$launcher" >checkout/cohort
    chmod +x checkout/cohort
    cp "$COHORT_SOURCE_DIR/cmake/gpus.sh" checkout/cmake/
    touch checkout/CMakeLists.txt checkout/sim/main.c
    pretend_cpu 'A fine CPU' 'sse2 avx2'
    mkdir checkout/tests
    echo 'echo tested "$@"' >checkout/tests/run_tests.sh
    tool dpkg-query <<'SH'
shift 2
printf 'installed %s\n' "$@"
SH
    tool cmake <<'SH'
while [ "$1" != -B ]; do shift; done
echo "cmake $*" >>calls
touch "$2/build.ninja"
SH
    tool ninja <<'SH'
echo "ninja $3 ${4-}" >>calls
echo '[1/7] Building C object x.o'
printf '#!/bin/sh\necho %s "$@"\n' "$2" >"$2/cohort"
chmod +x "$2/cohort"
SH
    tool nvcc <<<'printf "compute_%s\n" 80 86 90 100'
    tool nvidia-smi <<<'echo No devices were found; exit 6'
    PATH=$PWD/bin:$PATH
    : >calls
}

pretend_cpu() { printf 'processor\t: 0\nmodel name\t: %s\ncpu MHz\t\t: %s\nflags\t\t: %s\n\nprocessor\t: 1\n' "$1" "$RANDOM" "$2" >cpuinfo; }

tool() { # name; what it does comes from standard input
    { echo '#!/bin/sh' && cat; } >"bin/$1"
    chmod +x "bin/$1"
}

gpus() { tool nvidia-smi <<<"printf '%s\n' $*"; } # compute capabilities

folder_of_run() {
    expect_status 0 checkout/cohort run x.yaml
    sed 's/ run x.yaml$//' out
}

test_every_cpu_has_a_folder_of_its_own() {
    local first second third
    pretend_checkout
    first=$(folder_of_run)
    pretend_cpu 'A fine CPU' 'sse2'
    second=$(folder_of_run)
    pretend_cpu 'Another CPU' 'sse2'
    third=$(folder_of_run)
    [[ $first != "$second" && $second != "$third" && $first != "$third" ]] || fail "$first, $second, $third"
    [[ -x $first/cohort && -x $second/cohort && -x $third/cohort ]] || fail "removed: $(ls -d checkout/build*)"
    grep -q 'Another CPU' "$third/made_for" || fail "$(<"$third/made_for")"
    [[ checkout/build -ef $third ]] || fail "build is $(readlink checkout/build)"
    : >calls
    pretend_cpu 'A fine CPU' 'sse2 avx2'
    [[ $(folder_of_run) == "$first" ]] || fail "elsewhere for the first CPU: $(<out)"
    [[ $(<calls) == 'ninja cohort ' ]] || fail "$(<calls)"
    [[ checkout/build -ef $first ]] || fail "build is $(readlink checkout/build)"
}

test_a_folder_that_somebody_else_made_is_left_alone() {
    pretend_checkout
    mkdir checkout/build
    echo mine >checkout/build/cohort
    expect_status 0 checkout/cohort run x.yaml
    expect_text err 'leaves it alone'
    [[ $(<checkout/build/cohort) == mine && ! -L checkout/build ]] || fail 'build was changed'
    expect_status 0 checkout/cohort run x.yaml
    ! grep -q 'leaves it alone' err || fail 'said twice'
}

test_what_only_reads_does_not_build() {
    local command
    pretend_checkout
    expect_status 0 checkout/cohort info x
    grep -q ninja calls || fail 'nothing was built, and there was no program'
    : >calls
    touch -d '1 minute ago' checkout/build/cohort
    for command in info export plot 'help settings' version; do
        # shellcheck disable=SC2086
        expect_status 0 checkout/cohort $command
        expect_text out " $command"
        [[ $command == info ]] || ! grep -q . err || fail "said again: $(<err)"
        [[ $command != info ]] || expect_text err 'the program is older than'
    done
    [[ ! -s calls ]] || fail "$(<calls)"
    expect_status 0 checkout/cohort check x.yaml
    [[ $(<calls) == 'ninja cohort ' ]] || fail "$(<calls)"
}

test_a_build_says_how_far_it_is() {
    pretend_checkout
    expect_status 0 checkout/cohort build
    expect_text err 'building: 1 of 7'
    tool ninja <<<'echo broken; exit 1'
    expect_status 3 checkout/cohort build
    expect_text err broken
}

configured_for() { sed -n 's/.*-DCOHORT_CUDA_ARCHITECTURES=\([^ ]*\).*/\1/p' calls | tail -n 1; }

# Nothing is compiled for a GPU that is not there; what has been compiled stays.
test_cuda_code_is_for_the_gpus_that_are_there() {
    pretend_checkout
    expect_status 0 checkout/cohort run x.yaml
    [[ -z $(configured_for) ]] || fail "without a GPU: $(<calls)"
    gpus 9.0 9.0 6.1
    expect_status 0 checkout/cohort run x.yaml
    [[ $(configured_for) == 90a ]] || fail "$(<calls)"
    tool nvidia-smi <<<'exit 9'
    : >calls
    expect_status 0 checkout/cohort run x.yaml
    expect_status 0 checkout/cohort test
    ! grep -q cmake calls || fail "configured again: $(<calls)"
    gpus 12.1
    expect_status 0 checkout/cohort run x.yaml
    [[ $(configured_for) == '80;90a' ]] || fail "a GPU that nvcc does not know: $(<calls)"
    expect_status 0 checkout/cohort build --cuda 86
    [[ $(configured_for) == '80;86;90a' ]] || fail "$(<calls)"
    expect_status 2 checkout/cohort build --cuda 8.6
    expect_text err '80,90a'
}

test_tests_compile_for_both_kinds_of_gpu() {
    pretend_checkout
    expect_status 0 checkout/cohort test --filter some
    expect_text calls 'ninja all cuda-tested'
    [[ $(<out) == "tested $(realpath checkout/build) some" ]] || fail "$(<out)"
}

test_clean_waits_for_what_runs() {
    pretend_checkout
    expect_status 0 checkout/cohort run x.yaml
    cp "$(command -v sleep)" checkout/build/sleeper
    checkout/build/sleeper 60 &
    local sleeper=$!
    wait_until "$sleeper" is_program "$sleeper" checkout/build/sleeper
    expect_status 3 checkout/cohort clean
    expect_text err sleeper
    kill "$sleeper"
    wait "$sleeper" || true
    expect_status 0 checkout/cohort clean
    [[ -z $(find checkout -maxdepth 1 -name 'build*') ]] || fail "$(ls checkout)"
}

is_program() { [[ /proc/$1/exe -ef $2 ]]; }

# The program says which instructions it was compiled for; here it is made to say some that no CPU has had for years.
test_a_program_for_another_cpu_says_so() {
    local name
    [[ $(uname -m) == x86_64 ]] || skip 'only x86-64 has a list of instruction sets'
    for name in cohort cohort-bench; do
        grep -q __FMA4__ "${COHORT_BINARY%/*}/$name" || skip 'this CPU has FMA4'
        sed 's/__FMA4__/1\x00______/; s/__XOP__/1\x00_____/' "${COHORT_BINARY%/*}/$name" >"$name"
        chmod +x "$name"
        expect_status 3 "./$name" help
        expect_text err "$name: this program was compiled for a CPU with fma4, xop, which this one lacks"
        [[ ! -s out ]] || fail "it began all the same: $(<out)"
    done
}

run_tests launcher "$@"
