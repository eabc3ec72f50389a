#!/usr/bin/env bash
# Results that other programs have open, that were moved, and that are used from another folder.
# shellcheck source=result.sh
source "$(dirname "${BASH_SOURCE[0]}")/result.sh"

# HDF5 locks its files by flock(2), and so does flock(1).
test_result_that_is_open_elsewhere_is_not_called_damaged() {
    local file holder
    require flock util-linux
    cp -r "$(reference_result)" result
    rm result/summary.csv
    for file in trace.h5 checkpoint.h5; do
        (
            exec 9<"result/$file"
            flock -x 9
            exec sleep 300
        ) &
        holder=$!
        wait_until "$holder" bash -c "! flock -n -s result/$file true"
        if [[ $file == trace.h5 ]]; then
            expect_status 3 cohort info result
            expect_text err 'result/trace.h5: another program has it open for writing'
            expect_status 3 cohort export result --table loss
            expect_status 3 cohort plot result
            expect_text err 'result/trace.h5: another program has it open for writing'
        else
            expect_status 3 cohort export result --adapters adapters
            expect_text err 'result/checkpoint.h5: another program has it open for writing'
        fi
        expect_status 3 cohort run "$tiny" --out result --resume
        expect_text err "result/$file: another program has it open for writing"
        kill "$holder"
        wait "$holder" 2>/dev/null || true
    done
    expect_status 0 cohort run "$tiny" --out result --quiet --resume
    expect_same_results "$(reference_result)" result
}

# Shards of two sources and, from a run on them, a base and adapters to begin with, all named by relative paths; the configuration is
# long enough to be stopped in the middle.
make_inputs() {
    local source part
    mkdir corpus
    for source in 0 1; do
        for part in train valid test; do
            for i in {0..2999}; do printf '%b' "\\x$(printf %x $(((i * i + source * 7 + i / 5) % 61)))\\0"; done >"corpus/${part}_$source.bin"
        done
    done
    cohort pretrain "$tiny" --out base --quiet
    cat >here.yaml <<'YAML'
threads: 1
base: {checkpoint: ./base}
data: {corpus: corpus, tokens_per_device: 0, sequence: 32}
train: {rounds: 60, local_steps: 2, batch: 2}
checkpoint: {every: 1}
evaluate: {windows: 4}
populations: [{name: p, method: comigs, devices: 2}]
YAML
}

stop_in_the_middle() { # folder; of the run here.yaml
    local run
    "$COHORT_BINARY" run here.yaml --out "$1" --quiet 2>/dev/null &
    run=$!
    wait_until "$run" test -e "$1/checkpoint.h5"
    kill -INT "$run"
    wait "$run" || true
    [[ ! -e $1/summary.csv ]] || fail 'the run was over before it was stopped'
}

test_result_is_resumed_from_any_folder_by_its_own_configuration() {
    local home=$PWD
    make_inputs
    expect_status 0 cohort run here.yaml --out whole --quiet
    stop_in_the_middle one
    stop_in_the_middle two
    mkdir elsewhere
    (
        cd elsewhere
        expect_status 0 cohort check --no-measure "$home/one/config.yaml"
        expect_status 0 cohort run "$home/one/config.yaml" --out "$home/one" --resume --quiet
        expect_status 0 cohort run ../two/config.yaml --resume --quiet
        rm out err
        expect_empty_folder .
    )
    expect_same_results whole one
    expect_same_results whole two
    (cd whole && expect_status 0 cohort run config.yaml --resume && expect_text err '. is complete: nothing to do')
}

test_result_that_was_moved_needs_nothing_else_for_its_tables_and_adapters() {
    make_inputs
    expect_status 0 cohort run here.yaml --out result --quiet --set train.rounds=2
    expect_status 0 cohort export result --adapters before
    mkdir away
    mv result away/moved
    rm -r base corpus here.yaml
    cd away
    expect_status 0 cohort info moved
    expect_status 0 cohort export moved --table all --out tables
    expect_status 0 cohort export moved --adapters after
    diff -r ../before after || fail 'the adapters are other ones'
}

# What is missing is said, and not that something differs; once it is named, the result goes on with it.
test_resume_names_what_is_not_there_and_takes_it_from_where_it_is_now() {
    make_inputs
    expect_status 0 cohort run here.yaml --out whole --quiet
    stop_in_the_middle result
    mv corpus moved-corpus
    mv base moved-base
    expect_status 2 cohort run result/config.yaml --resume
    expect_text err "result/config.yaml:"
    expect_text err ": data.corpus: there is no folder $PWD/corpus; put it back, or say where it is now: --set data.corpus=PATH"
    expect_text err ": base.checkpoint: there is no file or folder $PWD/base;"
    ! grep -q 'differs\|other contents' err || fail "$(<err)"
    expect_status 0 cohort run result/config.yaml --resume --quiet --set data.corpus=moved-corpus --set base.checkpoint=moved-base
    expect_same whole/summary.csv result/summary.csv 'the summaries'
    cp -r result other
    rm other/summary.csv
    printf '\1\0' >>moved-corpus/train_0.bin
    expect_status 2 cohort run other/config.yaml --resume --set data.corpus=moved-corpus --set base.checkpoint=moved-base
    expect_text err 'what differs: '
    expect_text err "data.corpus ($PWD/corpus there, moved-corpus here)"
}

# A configuration of that name in a folder where no run has begun is no result.
test_resume_by_a_configuration_without_a_result_begins_nothing() {
    mkdir mine
    cp "$tiny" mine/config.yaml
    expect_status 2 cohort run mine/config.yaml --resume
    expect_text err 'mine/config.yaml: there is nothing to resume: no run has begun in its folder, nor in results/config-'
    [[ ! -e results && $(ls -A mine) == config.yaml ]] || fail 'a run has begun'
    expect_status 0 cohort run mine/config.yaml --quiet --set train.rounds=1
    rm results/config-*/summary.csv
    expect_status 0 cohort run mine/config.yaml --quiet --set train.rounds=1 --resume
    compgen -G 'results/config-*/summary.csv' >/dev/null || fail 'the result was not resumed'
    [[ $(ls -A mine) == config.yaml ]] || fail 'the folder of the configuration was taken for a result'
}

run_tests elsewhere "$@"
