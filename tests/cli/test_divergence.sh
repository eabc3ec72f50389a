#!/usr/bin/env bash
# A population whose numbers stop being numbers stops; the others do not notice.
# shellcheck source=result.sh
source "$(dirname "${BASH_SOURCE[0]}")/result.sh"

# Steps of 10 with a decay of 10 multiply every value by -99: f32 overflows within a few rounds.
absurd='train: {learning_rate: 10, weight_decay: 10}'

with_absurd() {
    sed "/^populations:/a\\  - {name: absurd, method: comigs, devices: 4, $absurd}\n  - {name: absurd-local, method: local, devices: 2, $absurd}" \
        "$tiny"
}

# Made once: the run and what it said.
diverged_result() {
    local folder making
    folder=$shared-$(with_absurd | sha256sum | cut -c 1-16) making=$folder.$BASHPID
    if [[ ! -e $folder ]]; then
        mkdir "$making"
        with_absurd >"$making/absurd.yaml"
        (cd "$making" && expect_status 4 cohort run absurd.yaml --out result --quiet)
        mv -T "$making" "$folder" 2>/dev/null || rm -rf "$making" # another test was faster
    fi
    printf '%s\n' "$folder"
}

test_message_names_device_round_layer_and_the_last_good_checkpoint() {
    local err
    err=$(diverged_result)/err
    [[ $(wc -l <"$err") == 2 ]] || fail "expected a message for each population: $(cat "$err")"
    grep -qE "population 'absurd' \(seed 7\): .* of device [0-3] is not finite in round [2-6], first seen in layer [01]; " "$err" ||
        fail "$(cat "$err")"
    grep -qE "population 'absurd-local' \(seed 7\): .* of device [01] is not finite in round [2-6], first seen in " "$err" ||
        fail "$(cat "$err")"
    [[ $(grep -cE 'result/checkpoint\.h5 keeps its adapters as they were after round [1-5], its last good checkpoint' "$err") == 2 ]] ||
        fail "$(cat "$err")"
}

test_others_go_on_bit_for_bit() {
    local result table
    result=$(diverged_result)/result
    expect_same <(grep -v '^absurd' "$result/summary.csv") "$(reference_result)/summary.csv" 'the summaries of the others'
    for table in loss routing traffic; do
        expect_same <(cohort export "$result" --table "$table" | grep -v ',absurd') <(cohort export "$(reference_result)" --table "$table") \
            "the tables $table of the others"
    done
}

test_row_of_the_stopped_is_empty() {
    grep '^absurd' "$(diverged_result)/result/summary.csv" | awk -F, '
        $4 != "" || $5 != "" || $8 != "" || $15 != "" { print; wrong = 1 }
        END { exit wrong || NR != 2 }' || fail 'see above'
}

test_stopped_population_has_no_losses_from_then_on() {
    local name round
    cohort export "$(diverged_result)/result" --table loss >loss.csv
    for name in absurd absurd-local; do
        round=$(sed -n "s/.*population '$name' (seed 7): .* in round \([0-9]*\),.*/\1/p" "$(diverged_result)/err")
        awk -F, -v name="$name" -v round="$round" '$2 == name { if ($1 >= round) exit 1; seen = 1 } END { if (!seen) exit 1 }' loss.csv ||
            fail "$name stopped in round $round: $(grep ",$name," loss.csv | tail -n 3)"
    done
}

test_stopped_population_leaves_its_last_good_adapters() {
    local result
    require h5dump hdf5-tools
    result=$(diverged_result)/result
    expect_status 0 cohort export "$result" --adapters adapters --population absurd
    expect_text out 'populations that diverged, and are as the last checkpoint before that has them'
    h5dump -d /parameters "$result/checkpoint.h5" >values
    ! grep -qiE '[^a-z](nan|inf)' values || fail 'the checkpoint holds values that are not finite'
}

test_nothing_of_a_population_that_was_never_saved() {
    with_absurd >absurd.yaml
    expect_status 4 cohort run absurd.yaml --out result --quiet --set checkpoint.every=6
    expect_status 2 cohort export result --adapters adapters
    expect_text err "population 'absurd' (seed 7) diverged before its first checkpoint, so there are no adapters of it"
    [[ ! -e adapters ]] || fail 'something was written'
    expect_status 0 cohort export result --adapters adapters --population alone
}

test_resumed_run_says_it_again() {
    local folder
    folder=$(diverged_result)
    cp -r "$folder/result" result
    rm result/summary.csv
    expect_status 4 cohort run "$folder/absurd.yaml" --out result --quiet --resume
    expect_text err "population 'absurd' (seed 7) stopped"
    expect_same "$folder/result/summary.csv" result/summary.csv 'the summaries, of which one was made again'
}

checkpoint_round() { h5dump -a /round "$1/checkpoint.h5" | sed -n 's/^ *(0): //p'; }
round_is_reached() { [[ -e $1/checkpoint.h5 ]] && (($(checkpoint_round "$1") >= $2)); }

# By round 10 both have stopped; in the run that resumes they stay so.
test_killed_after_it_and_resumed_equals_uninterrupted() {
    local options=(--quiet --set train.rounds=30) run
    require h5dump hdf5-tools
    with_absurd >absurd.yaml
    expect_status 4 cohort run absurd.yaml --out whole "${options[@]}"
    "$COHORT_BINARY" run absurd.yaml --out result "${options[@]}" 2>said &
    run=$!
    wait_until "$run" round_is_reached result 10
    kill -KILL "$run"
    wait "$run" 2>/dev/null || true
    [[ ! -e result/summary.csv ]] || fail 'the run was over before it was killed'
    expect_status 4 cohort run absurd.yaml --out result "${options[@]}" --resume
    [[ $(grep -cE "population 'absurd(-local)?' \(seed 7\) stopped by round" err) == 2 && $(wc -l <err) == 2 ]] ||
        fail "expected to be told of the two once more, and of nothing else: $(<err)"
    expect_same_results whole result
}

run_tests divergence "$@"
