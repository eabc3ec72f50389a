#!/usr/bin/env bash
# `cohort gpu-check` from one end to the other against a GPU that is only pretended: its programs are built
# from the sources by pretended/nvcc, which links them with the kernels as tests/simt plays them. Whatever
# goes wrong on the way, the folder must say so.
# shellcheck disable=SC2016 # scripts are written as they are
# shellcheck source=../harness.sh
source "$(dirname "${BASH_SOURCE[0]}")/../harness.sh"

simt=${COHORT_BINARY%/*}/tests/simt
shared=${TMPDIR:-/tmp}/cohort-gpu-rehearsal-$$ # the machine and its tree with all programs, made by the first test
trap 'rm -rf "$shared"' EXIT
real_path=$PATH

# A copy of the tree beside a machine: nothing in the real tree is built or overwritten.
make_machine() {
    mkdir -p "$shared"/machine/{bin,lib64} "$shared/tree"
    cp "$COHORT_SOURCE_DIR"/tests/gpu/pretended/* "$shared/machine/bin"
    touch "$shared/machine/lib64/libcublasLt.so.13"
    # Quick to compile: nothing is measured here. The programs are the same.
    printf '%s\n' '#!/usr/bin/env bash' 'for a; do case $a in -O?) a=-O1 ;; -march=*) continue ;; esac; b+=("$a"); done' \
        "exec $(command -v ccache || true) gcc \"\${b[@]}\"" >"$shared/machine/bin/quick-cc"
    chmod +x "$shared/machine/bin/quick-cc"
    (cd "$COHORT_SOURCE_DIR" && cp -r kernels sim bench tests results configs cohort "$shared/tree/")
}

on_machine() { # command...
    local machine=$PWD/machine
    exec env PATH="$machine/bin:/usr/bin:/bin" CUDA_HOME="$machine" COHORT_PYTHON="$machine/bin/python3" CC=quick-cc \
        PRETENDED_SIMT="$simt" "$@"
}

# The machine and the tree in ./, with the programs built.
prepare() {
    [[ -e $simt/libsimt_backend.a ]] || skip 'no C++ compiler when this was built (Debian: g++)'
    [[ ! -e ${COHORT_BINARY%/*}/CMakeCache.txt ]] || ! grep -q '^COHORT_SANITIZE:BOOL=ON' "${COHORT_BINARY%/*}/CMakeCache.txt" ||
        skip 'the programs of this check are linked without sanitizers'
    if [[ ! -e $shared/tree/build-gpu/programs.tgz ]]; then
        make_machine
        (cd "$shared" && on_machine bash tree/cohort gpu-check --build-only) >"$shared/build.log" 2>&1 || {
            cat "$shared/build.log" >&2
            fail 'the programs cannot be built'
        }
    fi
    cp -rl "$shared/machine" "$shared/tree" .
}

gpu_check() { # expected status, options
    local status=$1 found=0
    shift
    (on_machine bash tree/cohort gpu-check --small --out out "$@") >out.log 2>&1 || found=$?
    ((found == status)) && return
    cat out.log >&2
    fail "expected exit status $status, got $found"
}

# Replaces a program by a script, which finds the real one at $real.
replace_program() { # program, script
    local bin=$PWD/tree/build-gpu/bin
    mkdir -p real
    mv "$bin/$1" "real/$1"
    printf '#!/usr/bin/env bash\nreal=%s\n%s\n' "$PWD/real/$1" "$2" >"$bin/$1"
    chmod +x "$bin/$1"
}

# What a summary says of a step: "verdict: reason".
step_says() { # step
    python3 - "$1" <<'PYTHON'
import json, sys
summary = json.load(open("out/summary.json"))
steps = [step for step in summary["steps"] if step["name"] == sys.argv[1]]
assert len(steps) == 1, f"{sys.argv[1]}: {len(steps)} steps of this name"
print(f"{steps[0]['verdict']}:", *(steps[0].get(key, "") for key in ("reason", "failures", "waiting_after_each")))
PYTHON
}

expect_step() { # step, extended regular expression
    local said
    said=$(PATH=$real_path step_says "$1")
    grep -qE "^$2" <<<"$said" || fail "expected of $1 '$2', found '$said'"
}

verdict() {
    PATH=$real_path python3 -c 'import json; s = json.load(open("out/summary.json")); print(s["verdict"], s["complete"])'
}

expect_verdict() { [[ $(verdict) == "$1" ]] || fail "the whole is '$(verdict)', not '$1': $(cat out/summary.json)"; }

status_page() { PATH=$real_path python3 "$COHORT_SOURCE_DIR/results/gpu_status.py" out >page; }

test_a_check_from_one_end_to_the_other() {
    require python3 python3
    prepare
    gpu_check 3 --minutes 6
    expect_verdict 'incomplete True' # there are no peers on this machine
    (($(find out -type f | wc -l) <= 7)) || fail "more than seven files: $(ls -A out)"
    expect_step cuBLASLt 'passed: .*machine/lib64/libcublasLt.so.13'
    expect_step programs passed
    expect_step instructions passed
    grep -q '"name": "conformance model' out/summary.json || fail 'no conformance of the model'
    expect_step 'bench expert_activation' 'passed:'
    expect_step 'model, small' 'passed:'
    expect_step 'model, N = 4' 'passed:'
    expect_step 'memcheck experts' 'passed:'
    expect_step 'racecheck route' 'passed:'
    expect_step 'ncu head' 'passed: head_row'
    [[ $(grep -o '"name": "quickstart", "verdict": "[a-z ]*"' out/summary.json) == *'"passed"' ]] ||
        expect_step quickstart 'not run: cohort was not built: it was built where'
    expect_step peers 'not run: .* cannot import torch'
    ! grep -q '"verdict": "failed"' out/summary.json || fail "$(grep '"verdict": "failed"' out/summary.json)"
    status_page
    expect_text page 'Pretended GPU'
    expect_text page 'model/step/'
    expect_text page 'MFU'
    expect_text page 'peers: not run'
}

# Programs travel: unpacked elsewhere they are taken as they are; those of other sources are not.
test_programs_that_came_with_the_tree_are_taken_if_they_are_of_its_sources() {
    prepare
    rm -rf tree/build-gpu/bin tree/build-gpu/objects machine/bin/nvcc machine/bin/quick-cc
    gpu_check 0 --minutes 1 --only instructions
    expect_step programs 'passed: came with the tree'
    cp tree/kernels/wave.c wave.c && rm tree/kernels/wave.c
    { cat wave.c && printf '/* later */\n'; } >tree/kernels/wave.c
    rm -rf tree/build-gpu/bin
    gpu_check 4 --minutes 1 --only instructions
    expect_step programs 'failed: nvcc was not found'
    expect_step instructions 'not run: .*nvcc was not found'
    expect_verdict 'failed True'
}

test_a_source_that_does_not_compile_is_named_and_the_rest_runs() {
    prepare
    rm -rf tree/build-gpu/bin tree/build-gpu/programs.tgz tree/kernels/cuda/norm.cu
    printf 'this does not compile\n' >tree/kernels/cuda/norm.cu
    gpu_check 4 --minutes 4 --only instructions,conformance
    expect_step programs 'failed: conformance: kernels/cuda/norm.cu does not compile: .*error'
    expect_step instructions passed
    grep -q '"not run",.*"reason": "conformance was not built: kernels/cuda/norm.cu does not compile' out/summary.json ||
        fail "the reason is missing: $(cat out/summary.json)"
    expect_verdict 'failed True'
}

# Waits until a step is under way.
wait_for_step() { # process, step
    local i
    for ((i = 0; i < 600; i++)); do
        ! grep -qs "\"name\": \"$2\", \"verdict\": \"running\"" out/summary.json || return 0
        kill -0 "$1" 2>/dev/null || fail "ended before $2: $(cat out.log)"
        sleep 0.1
    done
    fail "$2 never began"
}

test_a_crash_after_some_passes_is_a_failure_and_the_group_is_run_again() {
    prepare
    replace_program conformance '
[[ $2 == route:: ]] || exec $real "$@"
[[ -z ${COHORT_CUDA_SYNC:-} ]] || echo "operation route, layer 1: an illegal memory access was encountered" >&2
$real - "$2" "one token" | grep "^ok" | head -n 5 >"$1"
kill -SEGV $$'
    gpu_check 4 --minutes 4 --only conformance
    local name
    name=$(grep -o '"name": "conformance route[a-z ,]*"' out/summary.json | head -n 1 | cut -d '"' -f 4)
    expect_step "$name" 'failed: it was killed by signal SEGV, with 5 passed and 0 failed'
    expect_step "$name" '.*operation route, layer 1: an illegal memory access'
    grep -q '"name": "conformance head[a-z ,]*", "verdict": "passed"' out/summary.json || fail 'the groups behind it have no verdict'
    expect_verdict 'failed True'
    status_page
    expect_text page 'failed (5 passed, 0 failed): it was killed by signal SEGV'
}

test_a_program_that_passes_all_and_never_says_its_plan_failed() {
    prepare
    replace_program instructions '$real "$1"; [[ ! -f $1 ]] || sed -i "/^1\.\./d" "$1"'
    gpu_check 4 --minutes 1 --only instructions
    expect_step instructions 'failed: it ended without its plan, with [0-9]+ passed and 0 failed'
    replace_program conformance 'exit 0'
    gpu_check 4 --minutes 1 --only conformance
    expect_verdict 'failed True'
}

test_what_hangs_is_ended_and_the_rest_runs() {
    prepare
    replace_program conformance '[[ $2 == lora:: ]] || exec $real "$@"; echo "ok - lora::one" >"$1"; exec sleep 60'
    gpu_check 4 --minutes 1 --only conformance
    local name
    name=$(grep -o '"name": "conformance lora[a-z ,]*"' out/summary.json | head -n 1 | cut -d '"' -f 4)
    expect_step "$name" 'failed: it did not end within 6 s, with 1 passed and 0 failed'
    grep -q '"name": "conformance updates' out/summary.json || fail 'the groups behind it were not asked'
}

test_without_cublaslt_it_is_named_and_what_needs_none_passes() {
    prepare
    rm machine/lib64/*
    COHORT_SIMT_NO_PRODUCTS=1 gpu_check 4 --minutes 4 --only instructions,conformance
    expect_step cuBLASLt 'failed: libcublasLt.so.13 is known neither to the loader nor'
    expect_step instructions passed
    grep -qE '"name": "conformance transformer[a-z ,]*", "verdict": "failed".*linear' out/summary.json ||
        fail "no linear failed: $(cat out/summary.json)"
    grep -q 'libcublasLt.so: cannot open shared object file' out/conformance.tap || fail 'the message is missing'
}

test_when_the_minutes_are_over_the_rest_is_not_run() {
    prepare
    local begin=$SECONDS
    gpu_check 3 --minutes 0.12
    ((SECONDS - begin <= 20)) || fail "it took $((SECONDS - begin)) s instead of 7"
    expect_verdict 'incomplete True'
    expect_step quickstart 'not run: the minutes were over'
    expect_step 'memcheck experts' 'not run: the minutes were over'
    status_page
    expect_text page 'quickstart: not run: the minutes were over'
}

test_a_check_that_is_ended_leaves_what_it_knew() {
    require python3 python3
    prepare
    replace_program cohort-bench 'exec sleep 60'
    local pid status=0 signal
    for signal in TERM KILL; do
        rm -rf out
        on_machine bash tree/cohort gpu-check --small --out out --minutes 8 --only instructions,bench >out.log 2>&1 &
        pid=$!
        wait_for_step "$pid" 'bench expert_activation'
        kill "-$signal" "$pid"
        wait "$pid" || status=$?
        expect_step instructions passed
        expect_verdict 'incomplete False'
        status_page
        expect_text page 'instructions: passed'
        expect_text page 'did not reach its end'
        if [[ $signal == TERM ]]; then
            ((status == 5)) || fail "expected exit status 5, got $status"
            expect_step 'bench expert_activation' 'not finished: the check was ended by SIGTERM'
        else
            expect_step 'bench expert_activation' 'running: the check ended within this step'
        fi
    done
    rm out/summary.json
    status_page
    expect_text page 'summary.json: '
    expect_text page 'passed, 0 failed, nothing known of the rest'
}

run_tests gpu_rehearsal "$@"
