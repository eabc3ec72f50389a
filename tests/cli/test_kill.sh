#!/usr/bin/env bash
# Runs that end before their time - killed, interrupted, on a full disk - and go on: the result is that of a run that nobody disturbed.
# shellcheck source=result.sh
source "$(dirname "${BASH_SOURCE[0]}")/result.sh"

small=(--set train.rounds=8 --set threads=1 --quiet)

# The uninterrupted run that everything here is compared with.
small_result() {
    shared_result "$tiny" "${small[@]}"
}

# ---- SIGKILL at a chosen call that changes a file (die_at.c)

build_killer() {
    require cc gcc
    cc -shared -fPIC -o die_at.so "$cli/die_at.c" -ldl
    # It comes before a sanitizer's runtime, which would complain.
    export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}verify_asan_link_order=0
}

count_calls() { # text in the file's path
    env LD_PRELOAD="$PWD/die_at.so" DIE_MATCH="$1" DIE_COUNT="$PWD/count" "$COHORT_BINARY" run "$tiny" --out "$PWD/counted" "${small[@]}" >&2 ||
        fail 'the run fails with die_at.so'
    cat count
}

die_at() { # text in the file's path, number of the call, folder
    local status=0
    {
        env LD_PRELOAD="$PWD/die_at.so" DIE_MATCH="$1" DIE_AT="$2" "$COHORT_BINARY" run "$tiny" --out "$PWD/$3" "${small[@]}" --resume \
            >>died.log 2>&1
    } 2>/dev/null || status=$?
    ((status == 137)) || fail "call $2 on $1: expected to be killed, got status $status: $(tail -n 3 died.log)"
}

# Prints so many different numbers from 1 to the most, in random order.
draw() { # how many, most
    local seed=$RANDOM
    printf 'drawn with seed %d\n' "$seed" >&2
    shuf -i "1-$2" -n "$1" --random-source=<(awk -v seed="$seed" 'BEGIN { srand(seed); for (i = 0; i < 9999; i++) print rand() }')
}

finish_and_compare() { # folder
    expect_status 0 cohort run "$tiny" --out "$1" "${small[@]}" --resume
    expect_same_results "$(small_result)" "$1"
    expect_same <(ls -A "$1") <(ls -A "$(small_result)") 'the files'
}

test_killed_at_ten_random_moments() {
    local calls call
    build_killer
    calls=$(count_calls /counted/)
    # Each of the ten gets a little further: none may reach the end.
    for call in $(draw 10 $((calls / 12))); do die_at /result/ "$call" result; done
    finish_and_compare result
}

test_killed_inside_a_checkpoint() {
    local calls call
    build_killer
    calls=$(count_calls counted/checkpoint.h5.tmp)
    for call in $(draw 4 $((calls / 4))); do die_at result/checkpoint.h5.tmp "$call" result; done
    finish_and_compare result
}

test_killed_inside_a_flush_of_the_trace() {
    local calls call
    build_killer
    calls=$(count_calls counted/trace.h5)
    for call in $(draw 4 $((calls / 4))); do die_at result/trace.h5 "$call" result; done
    finish_and_compare result
}

# Half of a write is on the disk: not one of HDF5's own structures may be cut by it.
test_killed_inside_a_write_to_the_trace() {
    local calls call
    build_killer
    export DIE_CUT=1
    calls=$(count_calls counted/trace.h5)
    ((calls >= 16)) || fail "only $calls writes to the trace cross a page"
    for call in $(draw 4 $((calls / 4))); do die_at result/trace.h5 "$call" result; done
    finish_and_compare result
}

# The disk is slow with the trace alone: no checkpoint may come before the rows that belong to it.
test_killed_when_a_checkpoint_appears_and_the_trace_is_slow() {
    build_killer
    env LD_PRELOAD="$PWD/die_at.so" DIE_SLOW=trace.h5 "$COHORT_BINARY" run "$tiny" --out result "${small[@]}" &
    run=$!
    wait_until "$run" test -e result/checkpoint.h5
    kill -KILL "$run"
    wait "$run" 2>/dev/null || true
    [[ ! -e result/summary.csv ]] || fail 'the run was over before it was killed'
    finish_and_compare result
}

# The last calls of a run: the checkpoint in its place, the trace closed, the summary renamed; the very last gives the folder free.
test_killed_at_the_end() {
    local calls call
    build_killer
    calls=$(count_calls /counted/)
    for call in $((calls - 6)) $((calls - 4)) $((calls - 2)); do
        rm -rf result
        die_at /result/ "$call" result
        [[ ! -e result/summary.csv ]] || fail "call $call of $calls: there is a summary already"
        finish_and_compare result
    done
}

# ---- SIGINT, SIGTERM, SIGHUP, and the warnings of batch systems

start() { # options; the process id is in $run
    "$COHORT_BINARY" run "$tiny" --out result "$@" >out 2>err &
    run=$!
}

catches_signals() { (((0x$(sed -n 's/^SigCgt:[[:space:]]*//p' "/proc/$run/status") >> 14) & 1)); } # SIGTERM is 15

interrupt() { # signal
    local status=0
    kill "-$1" "$run"
    wait "$run" || status=$?
    ((status == 5)) || fail "expected exit status 5 after SIG$1, got $status: $(<err)"
    expect_text err 'which is saved'
    expect_text err '--resume'
    [[ ! -e result/summary.csv && ! -e result/.lock ]] || fail "left after SIG$1: $(ls -A result)"
}

saved_step() { h5dump -a /expert_step result/checkpoint.h5 | sed -n 's/^ *(0): //p'; }

# What the message says to type.
go_on() { eval "cohort $(sed -n 's|.*go on with: \./cohort ||p' err) --quiet"; }

long=(--set train.rounds=3 --set train.local_steps=200 --set trace.sampling_windows=true --set threads=1)

test_interrupted_within_a_round_it_goes_on_with_the_next_step() {
    local step
    require h5dump hdf5-tools
    cohort run "$tiny" --out whole "${long[@]}" --quiet
    start "${long[@]}"
    wait_until "$run" catches_signals
    interrupt TERM
    step=$(sed -n 's/.*in round 1 of 3, after step \([0-9]*\) of 200.*/\1/p' err)
    ((step > 0 && step < 200)) || fail "not within a round: $(<err)"
    [[ $(saved_step) == "$step" ]] || fail "the checkpoint was taken after step $(saved_step)"
    go_on
    expect_same_results whole result
}

test_whoever_reads_may_leave() {
    local status=0
    (set -o pipefail && cohort run "$tiny" --out result 2>&1 | head -n 1 >first) || status=$?
    ((status == 0)) || fail "exit status $status when its reader has left"
    expect_same_results "$(reference_result)" result
}

test_interrupted_again_and_again() {
    local signal
    cohort run "$tiny" --out whole "${long[@]}" --quiet
    start "${long[@]}"
    wait_until "$run" catches_signals
    interrupt INT
    for signal in TERM HUP USR2 USR1 INT; do
        start "${long[@]}" --resume
        wait_until "$run" catches_signals
        sleep 0.1
        interrupt "$signal"
    done
    go_on
    expect_same_results whole result
}

# A batch system warns a job more than once, and not only its first process.
test_a_second_warning_does_not_end_it() {
    start "${long[@]}" --set wave_tokens=32
    wait_until "$run" catches_signals
    kill -USR2 "$run"
    kill -USR1 "$run"
    interrupt USR2
    go_on
    [[ -s result/summary.csv ]] || fail "$(ls -A result)"
}

# ---- A full disk

expect_full() {
    expect_text err 'File too large'
    expect_text err '--resume'
    [[ ! -e result/summary.csv ]] || fail 'there is a summary all the same'
}

# A limit on the size of files stands for the disk; bash counts it in KiB.
limited() ( # KiB, options...
    ulimit -f "$1"
    exec "$COHORT_BINARY" run "$tiny" --out result "${small[@]}" "${@:2}"
)

test_no_room_for_a_checkpoint() {
    expect_status 4 limited 1000
    expect_full
    expect_text err checkpoint.h5
    finish_and_compare result
}

test_no_room_for_the_trace() {
    local wide=(--set trace.routing_windows=320 --set evaluate.every=1)
    cohort run "$tiny" --out whole "${small[@]}" "${wide[@]}"
    local limit=$(($(stat -c %s whole/trace.h5) / 1024 - 64))
    ((limit > $(stat -c %s whole/checkpoint.h5) / 1024)) || fail 'the trace is smaller than the checkpoint'
    expect_status 4 limited "$limit" "${wide[@]}"
    expect_full
    expect_text err trace.h5
    expect_status 0 cohort run "$tiny" --out result "${small[@]}" "${wide[@]}" --resume
    expect_same_results whole result
}

# Full at the configuration, at the trace's start, in its first row, in a checkpoint, in a later row.
test_a_small_disk_that_is_made_larger() {
    local size
    mkdir disk
    mount -t tmpfs tmpfs disk 2>/dev/null || skip 'no right to mount a file system'
    umount disk
    trap 'umount disk' EXIT
    for size in 4 8 24 64 1000 2000 2500; do
        mount -t tmpfs -o "size=${size}k" tmpfs disk
        expect_status 4 cohort run "$tiny" --out disk/result "${small[@]}"
        expect_text err 'No space left on device'
        expect_text err '--resume'
        [[ $(wc -l <err) == 1 ]] || fail "$size kB: expected one message: $(<err)"
        [[ ! -e disk/result/summary.csv ]] || fail "$size kB: there is a summary all the same"
        mount -o remount,size=20m disk
        expect_status 0 cohort run "$tiny" --out disk/result "${small[@]}" --resume
        expect_same_results "$(small_result)" disk/result
        umount disk
    done
    trap - EXIT
}

run_tests kill "$@"
