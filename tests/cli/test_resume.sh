#!/usr/bin/env bash
# Runs that are killed, and go on.
# shellcheck source=result.sh
source "$(dirname "${BASH_SOURCE[0]}")/result.sh"

# The tiny configuration, long enough to be killed in the middle.
long=(--set train.rounds=40 --quiet)

reference_long_result() {
    shared_result "$tiny" "${long[@]}"
}

start() { # options; the process id is in $run
    "$COHORT_BINARY" run "$tiny" --out result "$@" >started.log 2>&1 &
    run=$!
}

kill_run() {
    kill -KILL "$run"
    wait "$run" 2>/dev/null || true
    [[ ! -e result/summary.csv ]] || fail 'the run was over before it was killed'
}

file_is_newer() { [[ $1 -nt $2 ]]; }

test_killed_after_checkpoints_and_resumed_equals_uninterrupted() {
    start "${long[@]}"
    wait_until "$run" test -e result/checkpoint.h5
    kill_run
    for _ in 1 2 3; do
        touch mark
        start "${long[@]}" --resume
        wait_until "$run" file_is_newer result/checkpoint.h5 mark
        kill_run
    done
    expect_status 0 cohort run "$tiny" --out result "${long[@]}" --resume
    expect_same_results "$(reference_long_result)" result
}

# Mixtures are drawn again, and nothing of them is in the checkpoint.
test_a_run_on_mixtures_goes_on_as_if_never_killed() {
    local options=("${long[@]}" --set data.split=dirichlet --set data.dirichlet=0.5 --set trace.sampling_windows=true)
    cohort run "$tiny" --out whole "${options[@]}"
    start "${options[@]}"
    wait_until "$run" test -e result/checkpoint.h5
    kill_run
    expect_status 0 cohort run "$tiny" --out result "${options[@]}" --resume
    expect_same_results whole result
}

# The mixture of a step is that of its number.
test_a_run_on_drift_goes_on_as_if_never_killed() {
    local options=("${long[@]}" --set data.split=drift --set trace.sampling_windows=true)
    cohort run "$tiny" --out whole "${options[@]}"
    start "${options[@]}"
    wait_until "$run" test -e result/checkpoint.h5
    kill_run
    expect_status 0 cohort run "$tiny" --out result "${options[@]}" --resume
    expect_same_results whole result
}

# As a full disk leaves it.
test_empty_summary_is_not_a_complete_run() {
    cp -r "$(reference_result)" result
    : >result/summary.csv
    expect_status 0 cohort info result
    expect_text out 'no summary.csv'
    expect_status 0 cohort run "$tiny" --out result --quiet --resume
    expect_same "$(reference_result)/summary.csv" result/summary.csv 'the summary and the one made again'
}

# The advice of an interrupted run is taken word for word, with a path that needs quotes and has one.
test_interrupted_run_keeps_its_rounds_and_says_how_to_go_on() {
    local signal advice
    for signal in INT TERM; do
        "$COHORT_BINARY" run "$tiny" --out "bob's $signal" "${long[@]}" --set checkpoint.every=3 2>said &
        run=$!
        wait_until "$run" test -e "bob's $signal/checkpoint.h5" # so the rounds have begun
        kill "-$signal" "$run"
        local status=0
        wait "$run" || status=$?
        [[ $status == 5 ]] || fail "SIG$signal: exit status $status, expected 5: $(cat said)"
        [[ -e "bob's $signal/checkpoint.h5" && ! -e "bob's $signal/summary.csv" ]] || fail "SIG$signal: $(ls "bob's $signal")"
        advice=$(sed -n 's|.*go on with: \./cohort ||p' said)
        [[ -n $advice ]] || fail "no advice: $(cat said)"
        eval "cohort $advice --quiet" || fail "the advice does not work: $advice"
        expect_same "$(reference_long_result)/summary.csv" "bob's $signal/summary.csv" "the summaries"
    done
}

# What changes no number may change on the way.
test_resumed_with_other_threads_and_waves_equals_uninterrupted() {
    start "${long[@]}" --set threads=2
    wait_until "$run" test -e result/checkpoint.h5
    kill_run
    expect_status 0 cohort run "$tiny" --out result "${long[@]}" --resume --set threads=1 --set wave_tokens=100 --set checkpoint.every=7
    expect_same "$(reference_long_result)/summary.csv" result/summary.csv 'the summaries'
    checkpoint_text "$(reference_long_result)" >left.txt
    checkpoint_text result >right.txt
    expect_same left.txt right.txt 'the checkpoints'
    expect_same <(cohort export "$(reference_long_result)" --table loss) <(cohort export result --table loss) 'the losses'
}

test_killed_before_the_first_checkpoint_starts_over() {
    start "${long[@]}" --set checkpoint.every=1000
    wait_until "$run" test -e result/trace.h5
    kill_run
    [[ ! -e result/checkpoint.h5 ]] || fail 'there is a checkpoint already'
    expect_status 0 cohort run "$tiny" --out result "${long[@]}" --set checkpoint.every=1000 --resume
    expect_same "$(reference_long_result)/summary.csv" result/summary.csv 'the summaries'
}

test_killed_while_pretraining_starts_over() {
    local -x COHORT_CACHE=$PWD/cache
    local options=(--set base.pretrain.tokens=200000)
    start "${options[@]}"
    wait_until "$run" grep -q . started.log
    kill_run
    [[ ! -e result/checkpoint.h5 ]] || fail 'pre-training was over already'
    expect_status 0 cohort run "$tiny" --out result "${options[@]}" --quiet --resume
    expect_status 0 cohort run "$tiny" --out fresh "${options[@]}" --quiet
    expect_same_results fresh result
}

test_resume_of_nothing_is_a_fresh_run() {
    expect_status 0 cohort run "$tiny" --out result --quiet --resume
    expect_same_results "$(reference_result)" result
}

test_resume_of_a_finished_run_says_so_and_changes_nothing() {
    cp -r "$(reference_result)" result
    (cd result && sha256sum ./* >../before)
    expect_status 0 cohort run "$tiny" --out result --resume
    expect_text err 'result is complete: nothing to do'
    (cd result && sha256sum --quiet --check ../before) || fail 'the result was changed'
}

# All that the summary is made of is still there.
test_resume_of_a_finished_run_without_its_summary_makes_it_again() {
    cp -r "$(reference_result)" result
    rm result/summary.csv
    expect_status 0 cohort run "$tiny" --out result --resume
    expect_text out 'test perplexity'
    expect_same_results "$(reference_result)" result
    expect_same <(ls -A result) <(ls -A "$(reference_result)") 'the files'
}

test_resume_of_another_configuration_names_what_differs() {
    cp -r "$(reference_result)" result
    (cd result && sha256sum ./* >../before)
    expect_status 2 cohort run "$tiny" --out result --resume --set train.batch=3 --set populations.1.devices=5
    expect_text err 'train.batch (2 there, 3 here)'
    expect_text err 'populations.1.devices (4 there, 5 here)'
    (cd result && sha256sum --quiet --check ../before) || fail 'the result was changed'
}

test_resume_on_another_base_of_the_same_name_is_refused() {
    cohort pretrain "$tiny" --out base --quiet
    cohort run "$tiny" --set 'base={checkpoint: base}' --set train.rounds=1 --out result --quiet
    sed -i 's/1e-5/2e-5/' base/config.json
    expect_status 2 cohort run "$tiny" --set 'base={checkpoint: base}' --set train.rounds=1 --out result --resume
    expect_text err 'have changed since'
}

test_resume_in_a_folder_of_something_else_is_refused() {
    mkdir result
    echo mine >result/summary.csv
    expect_status 2 cohort run "$tiny" --out result --resume
    expect_text err 'no config.yaml'
    [[ $(ls -A result) == summary.csv && $(<result/summary.csv) == mine ]] || fail 'the folder was changed'
}

test_two_runs_cannot_share_a_folder() {
    start "${long[@]}"
    wait_until "$run" test -s result/.lock
    expect_status 2 cohort run "$tiny" --out result "${long[@]}" --resume
    expect_text err "process $run"
    expect_status 2 cohort run "$tiny" --out result "${long[@]}"
    expect_text err "process $run"
    kill_run
    [[ -e result/.lock ]] || fail 'a killed run leaves its lock file, and nobody holds it'
    expect_status 0 cohort run "$tiny" --out result "${long[@]}" --resume
    [[ ! -e result/.lock ]] || fail 'the lock file outlives its run'
}

test_info_reads_a_running_result_and_a_killed_one() {
    start "${long[@]}"
    wait_until "$run" test -e result/checkpoint.h5
    expect_status 0 cohort info result
    kill_run
    expect_status 0 cohort info result
    expect_text out uneven
}

run_tests resume "$@"
