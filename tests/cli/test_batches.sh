#!/usr/bin/env bash
# Results whose populations were not all run at the same time: what they hold is what one run of all would have given.
# shellcheck source=result.sh
source "$(dirname "${BASH_SOURCE[0]}")/result.sh"

# Adapters that take most of the memory; recorded windows of routing are each batch's own.
wide=(--set experts.rank=128 --set trace.routing_windows=0 --set trace.sampling_windows=true --quiet)

# A limit at which only some of the populations fit at once.
small_memory() { # configuration, options
    local limit
    limit=$(cohort check --no-measure "$@" | sed -n 's/^ *\([0-9]*\)[0-9.]* MiB  in total.*/\1/p')
    until cohort check --no-measure "$@" --set memory_limit="$limit" 2>&1 | grep -q '^Batch 1 of '; do
        ((limit -= 6))
        ((limit > 20)) || fail 'all populations fit whatever the limit, or none does'
    done
    printf 'memory_limit=%d' $((limit - 12))
}

# The content of tables, summary, adapters and checkpoint: all but what names the configuration and the clock.
expect_same_content() { # folder, folder
    local table
    expect_same "$1/summary.csv" "$2/summary.csv" "the summaries of $1 and $2"
    for table in populations devices mixture loss routing traffic metrics; do
        cohort export "$1" --table "$table" >left.txt
        cohort export "$2" --table "$table" >right.txt
        [[ $(wc -l <left.txt) -gt 5 ]] || fail "the table $table of $1 has hardly anything"
        expect_same left.txt right.txt "the tables $table of $1 and $2"
    done
    checkpoint_text "$1" >left.txt
    checkpoint_text "$2" >right.txt
    expect_same left.txt right.txt "the checkpoints of $1 and $2"
}

expect_same_adapters() { # folder, folder
    cohort export "$1" --adapters left >/dev/null
    cohort export "$2" --adapters right >/dev/null
    diff -r left right >said || fail "the adapters of $1 and $2: $(head -n 3 said)"
}

# Some of tiny.yaml's populations, and all of them in another order and with another name.
fewer() { sed '/name: both/d; /name: uneven/d' "$tiny"; }
more() {
    sed '/^populations/q' "$tiny"
    cat <<'EOF'
  - {name: uneven, method: comigs, devices: 4, specialists: [1, 2, 1, 3]}
  - {name: alone, method: local, devices: 4}
  - {name: mean, method: fedavg, devices: 4}
  - {name: both, method: comigs, devices: 4, seeds: [7, 8]}
  - {name: pooled, method: centralized, devices: 4}
  - {name: mixture, method: pfedmoe, devices: 4}
EOF
}

# ---- Too large for memory

# Twelve populations: of a list and of a sweep, of uneven banks, with a target that not all reach.
many() {
    sed '/^populations/q; s/^  rounds: 6/  rounds: 3/; s/^evaluate: .*/evaluate: {every: 1, windows: 4, target_loss: 3.09}/' "$tiny"
    cat <<'EOF'
  - {name: late, method: pfedmoe, devices: 3, seeds: [1, 2, 3], train: {batch: 3}}
  - {name: lists, method: comigs, devices: 4, generalists: 0, specialists: 2, rank: [4, 64, 8, 16], data: {tokens_per_device: [4000, 900, 4000, 2000]}}
sweep:
  population: {devices: 3, data.split: dirichlet}
  cross:
    - {method: [local, comigs]}
    - {specialists: [1, [1, 2, 1]]}
    - {data.dirichlet: [0.5, 10]}
  name: "{method}-{specialists}-{data.dirichlet}"
EOF
}

test_several_batches_equal_one_run() {
    many >many.yaml
    cohort run many.yaml --out whole "${wide[@]}"
    expect_status 0 cohort run many.yaml --out result --set "$(small_memory many.yaml "${wide[@]:0:6}")" "${wide[@]:0:6}"
    expect_text err 'batch 1 of '
    expect_text err 'batch 2 of '
    expect_text err 'of 12 populations'
    expect_same_content whole result
    awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
        { of[$at["rounds_to_target"]]++; axes += $at["data.dirichlet"] != "" }
        END { exit !(of[""] > 0 && of[2] > 0 && of[3] > 0 && axes == 8) }' result/summary.csv || fail "$(<result/summary.csv)"
    expect_same_adapters whole result
    expect_same <(cohort export whole --table windows) <(cohort export result --table windows) 'the windows'
    expect_same <(ls -A whole) <(ls -A result) 'the files'
    expect_status 0 cohort info result
    expect_text out 'state           finished'
    expect_status 0 cohort run many.yaml --out result --resume "${wide[@]:0:6}"
    expect_text err 'is complete'
}

test_check_prints_the_plan_of_each_batch() {
    local limit
    many >many.yaml
    limit=$(small_memory many.yaml "${wide[@]:0:6}")
    expect_status 0 cohort check --no-measure many.yaml "${wide[@]:0:6}" --set "$limit"
    expect_text out 'they run in batches'
    [[ $(grep -c '^Batch [0-9] of [0-9]' out) -ge 2 && $(grep -c 'MiB  in total of' out) == $(grep -c ^Batch out) ]] || fail "$(<out)"
    [[ $(grep -cE '^(late|lists|local-[^ ]*|comigs-[^ ]*) +(pfedmoe|local|comigs) ' out) == 12 ]] || fail "$(<out)"
}

test_text_is_generated_from_a_merged_result() {
    local options=(--tokens "1,2,3" --max-tokens 4 --population uneven)
    more >more.yaml
    cohort run "$tiny" --out whole "${wide[@]}"
    cohort run "$tiny" --out result "${wide[@]}" --set "$(small_memory "$tiny" "${wide[@]:0:6}")"
    cohort generate whole "${options[@]}" >left.txt
    cohort generate result "${options[@]}" >right.txt
    expect_same left.txt right.txt 'the texts'
}

test_a_population_that_does_not_fit_alone_is_named() {
    local limit
    sed 's/name: uneven.*devices: 4/&0/; s/specialists: \[.*\]/specialists: 3/' "$tiny" >large.yaml
    limit=$(small_memory "$tiny" "${wide[@]:0:6}")
    expect_status 3 cohort run large.yaml --out result "${wide[@]}" --set "$limit"
    expect_text err "population 'uneven' (seed 7) does not fit, even alone"
    [[ ! -e result ]] || fail "something was written: $(find result)"
}

test_processes_run_batches_too() {
    command -v mpirun >/dev/null || skip 'no mpirun'
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    fewer >fewer.yaml
    more >more.yaml
    cohort run fewer.yaml --out result --quiet
    expect_status 0 cohort run more.yaml --out result --resume --processes 2
    expect_text err 'batch 1 of 1'
    cohort run more.yaml --out whole --quiet
    expect_same <(cut -d , -f 1-3,9 whole/summary.csv) <(cut -d , -f 1-3,9 result/summary.csv) 'the populations'
    paste -d , whole/summary.csv result/summary.csv | awk -F, 'NR > 1 { n = NF / 2; d = $4 - $(n + 4); if (d * d > 1e-8 * $4 * $4) exit 1 }' ||
        fail "more than 1e-4 apart: $(<result/summary.csv)"
}

# ---- Populations that are added

test_added_populations_run_alone_and_the_result_is_that_of_one_run() {
    fewer >fewer.yaml
    more >more.yaml
    cohort run fewer.yaml --out result --set trace.routing_windows=0 --quiet
    cohort run more.yaml --out whole --set trace.routing_windows=0 --quiet
    expect_status 0 cohort run more.yaml --out result --set trace.routing_windows=0 --resume
    expect_text err 'batch 1 of 1: uneven, both (2 seeds); of 7 populations 4 are done'
    expect_same_results whole result
    expect_same_adapters whole result
    expect_same <(ls -A whole) <(ls -A result) 'the files'
}

# The windows of both, and the seconds of both.
test_recorded_windows_of_the_parts_stay_theirs() {
    local windows
    fewer >fewer.yaml
    more >more.yaml
    cohort run fewer.yaml --out result --quiet
    cohort export result --table tokens | grep ',mixture,' | cut -d , -f 1,3- >left.txt
    cohort run more.yaml --out result --resume --quiet
    cohort export result --table tokens | grep ',mixture,' | cut -d , -f 1,3- >right.txt
    [[ -s left.txt ]] || fail 'nothing was recorded'
    expect_same left.txt right.txt 'the recorded windows'
    windows=$(cohort export result --table tokens | tail -n +2 | cut -d , -f 2,3 | sort -u | wc -l)
    ((windows == 4)) || fail "expected two windows of each run, found $windows"
}

test_a_run_that_is_not_over_is_finished_first() {
    local options=(--set train.rounds=40 --set trace.routing_windows=0 --quiet) run
    fewer >fewer.yaml
    more | sed 's/name: mean/name: averaged/' >more.yaml
    "$COHORT_BINARY" run fewer.yaml --out result "${options[@]}" &
    run=$!
    wait_until "$run" test -e result/checkpoint.h5
    kill -KILL "$run"
    wait "$run" 2>/dev/null || true
    [[ ! -e result/summary.csv ]] || fail 'the run was over before it was killed'
    expect_status 0 cohort run more.yaml --out result --resume "${options[@]}"
    cohort run more.yaml --out whole "${options[@]}"
    expect_same_results whole result
}

test_what_was_computed_is_never_dropped() {
    fewer >fewer.yaml
    more >more.yaml
    cohort run more.yaml --out result --quiet
    (cd result && sha256sum ./* >../before)
    expect_status 2 cohort run fewer.yaml --out result --resume
    expect_text err 'has populations that the configuration lacks, or has with other settings: uneven (seed 7), both (seed 7), both (seed 8)'
    expect_status 2 cohort run more.yaml --out result --resume --set train.rounds=5
    expect_text err 'train.rounds (6 there, 5 here)'
    expect_status 2 cohort run "$cli/examples.yaml" --out result --resume
    (cd result && sha256sum --quiet --check ../before) || fail 'the result was changed'
    expect_same <(ls -A result) <(printf '%s\n' checkpoint.h5 config.yaml summary.csv trace.h5) 'the files'
}

# ---- Populations that diverged

with_absurd() {
    local absurd='train: {learning_rate: 10, weight_decay: 10}'
    sed "/^populations:/a\\  - {name: absurd, method: comigs, devices: 4, $absurd}" "$tiny"
}

test_diverged_populations_run_again_on_request_alone() {
    with_absurd >absurd.yaml
    expect_status 4 cohort run absurd.yaml --out result --quiet --set trace.routing_windows=0
    cp -r result first
    expect_status 0 cohort info result
    grep -qE '^diverged +absurd, seed 7, in round [2-6]$' out || fail "$(<out)"
    expect_status 0 cohort run absurd.yaml --out result --resume --set trace.routing_windows=0
    expect_text err "population 'absurd' (seed 7) diverged in round"
    expect_same first/summary.csv result/summary.csv 'the summaries'
    expect_status 4 cohort run absurd.yaml --out result --resume --retry-failed --set trace.routing_windows=0
    expect_text err 'batch 1 of 1: absurd; of 8 populations 7 are done'
    expect_same_results first result
    expect_status 2 cohort run absurd.yaml --out other --retry-failed
    expect_text err 'add --resume'
}

# As if another machine had computed them: rows of the old run give way to those of the new one.
test_rows_of_a_population_that_runs_again_are_replaced() {
    require_python h5py numpy
    with_absurd >absurd.yaml
    expect_status 4 cohort run absurd.yaml --out result --quiet --set trace.routing_windows=0
    cp -r result first
    "$python" - result/trace.h5 <<'EOF'
import sys, h5py
with h5py.File(sys.argv[1], "r+") as trace:
    trace["loss/train"][0, 0:4] = 77.0      # of the population that diverged
EOF
    cohort export result --table loss --out loss.csv
    grep -q ',absurd,7,0,train,77$' loss.csv || fail 'the trace was not changed'
    expect_status 4 cohort run absurd.yaml --out result --resume --retry-failed --quiet --set trace.routing_windows=0
    expect_same_results first result
}

# ---- Killed, interrupted, on a full disk

build_killer() {
    require cc gcc
    cc -shared -fPIC -o die_at.so "$cli/die_at.c" -ldl
    export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}verify_asan_link_order=0
}

short=(--set train.rounds=2 --set threads=1 --set trace.routing_windows=0 --quiet)

# A result to which populations are added; `whole` is what it must become.
prepare_addition() {
    fewer >fewer.yaml
    more >more.yaml
    cohort run fewer.yaml --out before "${short[@]}"
    cohort run more.yaml --out whole "${short[@]}"
}

die_adding() { # text in the file's path, number of the call
    local status=0
    {
        env LD_PRELOAD="$PWD/die_at.so" DIE_MATCH="$1" DIE_AT="$2" "$COHORT_BINARY" run more.yaml --out "$PWD/result" "${short[@]}" \
            --resume >>died.log 2>&1
    } 2>/dev/null || status=$?
    ((status == 137)) || fail "call $2 on $1: expected to be killed, got status $status: $(tail -n 3 died.log)"
}

count_adding() { # text in the file's path
    rm -rf counted
    cp -r before counted
    env LD_PRELOAD="$PWD/die_at.so" DIE_MATCH="$1" DIE_COUNT="$PWD/count" "$COHORT_BINARY" run more.yaml --out "$PWD/counted" "${short[@]}" \
        --resume >&2 || fail 'the run fails with die_at.so'
    cat count
}

finish_and_compare() { # what was killed
    expect_status 0 cohort run more.yaml --out result "${short[@]}" --resume
    expect_same_results whole result
    expect_same <(ls -A result) <(ls -A whole) "the files after it was killed at $1"
}

# Every rename of the replacement, and some calls while the merged files are written.
test_killed_at_any_moment_of_a_merge() {
    local calls call
    build_killer
    prepare_addition
    calls=$(count_adding /batches/merg)
    ((calls > 12)) || fail "only $calls calls on merged files"
    for call in 1 $((calls / 3)) $((calls / 2)) $((calls - 6)) $((calls - 5)) $((calls - 4)) $((calls - 3)) $((calls - 2)) $((calls - 1)) \
        "$calls"; do
        rm -rf result
        cp -r before result
        die_adding /batches/merg "$call"
        if ((call < calls - 5)); then expect_same before/summary.csv result/summary.csv 'the summary of the old result'; fi
        finish_and_compare "call $call of $calls on merged files"
    done
    rm -rf result
    cp -r before result
    die_adding /result/summary.csv 1
    finish_and_compare 'the old summary'
}

test_killed_within_batches_and_between_them() {
    local calls call
    build_killer
    prepare_addition
    calls=$(count_adding /batches)
    cp -r before result
    for call in $((calls / 12)) $((calls / 8)) $((calls / 6)) $((calls / 4)); do die_adding /batches "$call"; done
    finish_and_compare 'several moments'
}

# Of two batches the second is killed: its checkpoint counts, and the first is not run again.
test_a_killed_batch_goes_on_from_its_checkpoint() {
    local options=("${wide[@]:0:6}" --set train.rounds=30 --set threads=1) run limit advice status=0
    limit=$(small_memory "$tiny" "${options[@]}")
    "$COHORT_BINARY" run "$tiny" --out result "${options[@]}" --quiet --set "$limit" &
    run=$!
    wait_until "$run" test -e result/batches/1/checkpoint.h5
    kill -KILL "$run"
    wait "$run" 2>/dev/null || true
    [[ -e result/batches/0/summary.csv && ! -e result/batches/1/summary.csv ]] || fail "$(find result)"
    expect_status 2 cohort info result
    expect_text err 'result/batches/0'
    expect_status 0 cohort info result/batches/0
    touch mark
    "$COHORT_BINARY" run "$tiny" --out result "${options[@]}" --set "$limit" --resume 2>said &
    run=$!
    wait_until "$run" test result/batches/1/checkpoint.h5 -nt mark
    kill -INT "$run"
    wait "$run" || status=$?
    ((status == 5)) || fail "expected exit status 5 after SIGINT, got $status: $(<said)"
    [[ ! result/batches/0/trace.h5 -nt mark ]] || fail 'the first batch was run again'
    grep -q '^cohort: batch 2 of ' said || fail "$(<said)"
    advice=$(sed -n 's|.*go on with: \./cohort ||p' said)
    [[ $advice == *batches/config.yaml*"--out 'result' --resume"* ]] || fail "the advice is: $advice"
    eval "cohort $advice --quiet" || fail "the advice does not work: $advice"
    cohort run "$tiny" --out whole "${options[@]}" --quiet
    expect_same_content whole result
}

limited() ( # KiB: bash counts in them
    ulimit -f "$1"
    exec "$COHORT_BINARY" run more.yaml --out result "${short[@]}" --resume
)

test_a_full_disk_in_the_merge_leaves_the_old_result_whole() {
    prepare_addition
    cp -r before result
    # The merged checkpoint is the largest file; that of the batch is smaller.
    local limit=$(($(stat -c %s whole/checkpoint.h5) / 1024 - 100))
    expect_status 4 limited "$limit"
    expect_text err 'File too large'
    expect_same_results before result
    finish_and_compare 'a full disk'
}

test_a_batch_that_is_damaged_is_named_and_can_be_removed() {
    build_killer
    prepare_addition
    cp -r before result
    die_adding /batches/merg 1
    echo '{' >result/batches/0/config.yaml
    expect_status 2 cohort run more.yaml --out result "${short[@]}" --resume
    expect_text err 'result/batches/0'
    rm -rf result/batches/0
    finish_and_compare 'a batch without configuration'
    rm -rf result
    cp -r before result
    die_adding /batches/merg 1
    printf 'garbage' | dd of=result/batches/0/checkpoint.h5 bs=1 seek=9000 conv=notrunc status=none
    expect_status 2 cohort run more.yaml --out result "${short[@]}" --resume
    expect_text err 'result/batches/0/checkpoint.h5'
    expect_same_results before result
    rm -rf result/batches/0
    finish_and_compare 'a batch with a damaged checkpoint'
}

run_tests batches "$@"
