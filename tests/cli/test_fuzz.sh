#!/usr/bin/env bash
# A few seconds of fuzzing for each target of tests/fuzz, from its seeds: no input may crash, leak, hang or be taken for what it is not.
# shellcheck source=../harness.sh
source "$(dirname "${BASH_SOURCE[0]}")/../harness.sh"

sources=$COHORT_SOURCE_DIR/tests/fuzz
build=$(dirname "$COHORT_BINARY")/fuzz
seconds=${COHORT_FUZZ_SECONDS:-4}

require_fuzzer() {
    require clang clang
    require cmake cmake
    require ninja ninja-build
    printf '#include <stddef.h>\nint LLVMFuzzerTestOneInput(const char *, size_t);\n%s\n' \
        'int LLVMFuzzerTestOneInput(const char *d, size_t n) { return d && n > 9 && d[0] == 1; }' >probe.c
    clang -fsanitize=fuzzer,address probe.c -o probe 2>probe.log || skip 'clang has no libFuzzer here (Debian: libclang-rt-14-dev)'
}

build_fuzzer() { # target
    [[ -f $build/build.ninja ]] || cmake -S "$sources" -B "$build" -G Ninja -DCMAKE_C_COMPILER=clang >cmake.log ||
        fail "cmake does not configure tests/fuzz: $(<cmake.log)"
    ninja -C "$build" "$1" >ninja.log || fail "$1 does not build: $(<ninja.log)"
}

fuzz() { # target
    require_fuzzer
    build_fuzzer "fuzz_$1"
    mkdir new
    "$build/fuzz_$1" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 new "$sources/corpus/$1" >fuzz.log 2>&1 ||
        fail "$(tail -n 60 fuzz.log)"
    local runs
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' fuzz.log)
    ((runs > $(find "$sources/corpus/$1" -type f | wc -l))) || fail "only $runs inputs were tried"
    printf '%s: %d inputs\n' "$1" "$runs"
}

test_settings() { fuzz settings; }
test_safetensors() { fuzz safetensors; }
test_shard() { fuzz shard; }
test_example_lines() { fuzz example_lines; }

run_tests fuzz "$@"
