#!/usr/bin/env bash
# Devices that join late: nobody else learns that they exist, and they themselves start from what the others share.
# shellcheck source=result.sh
source "$(dirname "${BASH_SOURCE[0]}")/result.sh"

config=$cli/held_out.yaml

late_result() {
    shared_result "$config"
}

# The same populations without the devices that join late.
without_late() {
    sed -e '/^held_out:/d' -e 's/devices: 5/devices: 3/' -e 's/, 1, 3\]/]/' "$config" >without.yaml
    shared_result without.yaml
}

# The rows of a table that are of the first three devices.
rows_of_others() { # result, table
    cohort export "$1" --table "$2" | awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == "device") column = i; print; next }
        $column == "" || $column < 3'
}

test_the_others_have_the_bits_of_a_run_without_them() {
    local late without table folder compared=0
    late=$(late_result) without=$(without_late)
    for table in loss traffic windows routing metrics; do
        rows_of_others "$late" "$table" >left
        rows_of_others "$without" "$table" >right
        [[ $(wc -l <left) -gt 60 ]] || fail "hardly anything in $table"
        expect_same left right "the table $table"
    done
    cohort export "$late" --adapters left-adapters
    cohort export "$without" --adapters right-adapters
    for folder in right-adapters/*/*/; do
        diff -r "left-${folder#right-}" "$folder" || fail 'their adapters differ'
        compared=$((compared + 1))
    done
    [[ $compared == 15 ]] || fail "the adapters of $compared devices"
}

test_the_summary_is_about_the_others_and_has_columns_of_its_own_for_late_devices() {
    local late without
    late=$(late_result) without=$(without_late)
    # all but the number of devices and what they received
    expect_same <(cut -d, -f1,2,4-6,8-20 "$late/summary.csv" | sed 's/,1 2 1[^,]*,/,LIST,/') \
        <(cut -d, -f1,2,4-6,8-20 "$without/summary.csv" | sed 's/,1 2 1[^,]*,/,LIST,/') 'the summaries'
    [[ $(head -n 1 "$late/summary.csv") == *,held_out_ppl_first,held_out_ppl_last ]] || fail "$(head -n 1 "$late/summary.csv")"
    ! grep -q held_out "$without/summary.csv" || fail 'columns of devices that there are not'
    # They are the losses of the trace: after round 4, and in round 6.
    cohort export "$late" --table loss | awk -F, '$4 >= 3 && (($1 == 4 && $5 == "test_after") || ($1 == 6 && $5 == "test")) {
        sum[$2 "," $1] += ($2 == "leaking" ? 2.71828 ^ $6 : exp($6)) / 2 }
        END { for (i in sum) printf "%s,%.6g\n", i, sum[i] }' | sort >expected
    awk -F, 'NR > 1 { printf "%s,4,%.6g\n%s,6,%.6g\n", $1, $(NF - 1), $1, $NF }' "$late/summary.csv" | sort >found
    [[ $(wc -l <expected) == 10 ]] || fail "not five populations: $(<expected)"
    expect_same expected found 'perplexities of late devices'
}

test_info_and_figures_are_about_the_others() {
    local late without python
    late=$(late_result) without=$(without_late)
    cohort info "$late" | sed '1,/^population /d' | awk '{ print $1, $NF, $(NF - 1), $(NF - 2), $(NF - 3) }' >left
    cohort info "$without" | sed '1,/^population /d' | awk '{ print $1, $NF, $(NF - 1), $(NF - 2), $(NF - 3) }' >right
    [[ $(wc -l <left) -gt 2 ]] || fail "$(<left)"
    expect_same left right 'the last losses'
    require_python h5py numpy
    "$python" - "$COHORT_SOURCE_DIR/results" "$late" "$without" <<'PYTHON' || fail 'figures count late devices'
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from result import Result
late, without = (Result(folder) for folder in sys.argv[2:])
for a, b in zip(late.series(), without.series()):
    rows = late.evaluated()
    assert np.array_equal(np.nanmean(late.losses(a, rows), axis=2), np.nanmean(without.losses(b, rows), axis=2))
PYTHON
}

test_absent_devices_have_no_numbers_and_late_ones_send_nothing() {
    local late
    late=$(late_result)
    cohort export "$late" --table loss | awk -F, '$4 >= 3 && $1 < 5 { print $1, $5 }' | sort -u >out
    expect_same <(echo '4 test_after') out 'losses before they join'
    cohort export "$late" --table loss | awk -F, '$2 == "alone" && $4 == 4 && $1 >= 5 { print $1, $5 }' | sort >out
    expect_same <(printf '%s\n' '5 test' '5 test_after' '5 train' '5 valid' '6 test' '6 test_after' '6 train' '6 valid') out 'losses'
    ! cohort export "$late" --table routing | awk -F, 'NR > 1 && $4 >= 3 && $1 < 5' | grep -m 1 . || fail 'routing of absent devices'
    ! cohort export "$late" --table tokens | awk -F, 'NR > 1 && $5 >= 3 && $1 < 5' | grep -m 1 . || fail 'tokens routed by absent devices'
    cohort export "$late" --table traffic | awk -F, 'NR > 1 && $4 >= 3 && $5 > 0' >out
    [[ ! -s out ]] || fail "they sent: $(<out)"
    cohort export "$late" --table traffic | awk -F, '$2 == "averaged" && $4 == 3 && $6 > 0 { print $1 }' | sort -u >out
    expect_same <(printf '%s\n' 4 5 6) out 'rounds after which they received'
}

# Their steps and bursts are counted from their own first: 8 steps, and a burst of 2 after the third and the sixth.
test_late_devices_count_their_own_steps() {
    local late
    late=$(late_result)
    # [5 populations, 5 devices], counted on from one to the next
    [[ $(values_of "$late/checkpoint.h5" /device_expert_steps | paste -sd ' ') == "$(for _ in {1..5}; do printf '24 24 24 8 8 '; done | sed 's/ $//')" ]] ||
        fail "$(values_of "$late/checkpoint.h5" /device_expert_steps | paste -sd ' ')"
    [[ $(values_of "$late/checkpoint.h5" /device_router_steps | sed -n '16,20p' | paste -sd ' ') == '16 16 16 4 4' ]] ||
        fail "$(values_of "$late/checkpoint.h5" /device_router_steps | paste -sd ' ')"
}

# How good they are as they join is known whether the round before is evaluated or not.
test_evaluating_seldom_changes_no_number_of_the_summary() {
    cohort run "$config" --out seldom --quiet --set evaluate.every=6
    # but those of the best of the evaluated rounds
    expect_same <(cut -d, -f1-18,21- "$(late_result)/summary.csv") <(cut -d, -f1-18,21- seldom/summary.csv) 'the summaries'
}

test_waves_threads_and_processes() {
    cohort run "$config" --out narrow --quiet --set wave_tokens=64 --set threads=1
    expect_same "$(late_result)/summary.csv" narrow/summary.csv 'the summaries'
    cohort export narrow --table metrics | grep -v time >left
    cohort export "$(late_result)" --table metrics | grep -v time >right
    expect_same left right 'the metrics'
    require mpirun openmpi-bin
    export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0
    local n dataset
    for n in 2 3; do
        cohort run "$config" --out "of-$n" --processes "$n" --quiet
        for dataset in loss/train loss/valid loss/test loss/test_after routing/gate_mean fairness/test_gini; do
            expect_close "$(late_result)/trace.h5" "of-$n/trace.h5" "/$dataset"
        done
        for dataset in parameters moment1 joined_loss; do expect_close "$(late_result)/checkpoint.h5" "of-$n/checkpoint.h5" "/$dataset"; done
        expect_same <(cut -d, -f1-3,6,7 "$(late_result)/summary.csv") <(cut -d, -f1-3,6,7 "of-$n/summary.csv") 'what was sent and received'
        paste -d, <(awk -F, '{ print $(NF - 1) "," $NF }' "$(late_result)/summary.csv") <(awk -F, '{ print $(NF - 1) "," $NF }' "of-$n/summary.csv") |
            awk -F, 'NR > 1 && (($1 - $3) ^ 2 > (1e-5 * $1) ^ 2 || ($2 - $4) ^ 2 > (1e-5 * $2) ^ 2 || $1 == "")' >out
        [[ ! -s out ]] || fail "late devices of $n processes: $(<out)"
    done
}

# Killed once before they join, once after, wherever that is within a round.
test_killed_and_resumed_equals_uninterrupted() {
    local rounds=(--set train.rounds=60 --set held_out.rounds=20 --quiet) whole least
    whole=$(shared_result "$config" "${rounds[@]}")
    for least in 3 43; do
        "$COHORT_BINARY" run "$config" --out result "${rounds[@]}" --resume >started.log 2>&1 &
        wait_until $! has_rounds "$least"
        kill -KILL $!
        wait $! 2>/dev/null || true
        [[ ! -e result/summary.csv ]] || fail 'the run was over before it was killed'
    done
    expect_status 0 cohort run "$config" --out result "${rounds[@]}" --resume
    expect_same_results "$whole" result
}

has_rounds() { # how many
    local saved
    saved=$(h5dump -y -a /round result/checkpoint.h5 2>/dev/null | awk '/DATA \{/ { getline; print $1; exit }')
    [[ -n $saved && $saved -ge $1 ]]
}

test_check_says_who_joins_when() {
    expect_status 0 cohort check --no-measure "$config"
    expect_text out 'alone: 2 of its 5 devices join in round 5 of 6'
    [[ $(grep -c 'join in round' out) == 5 ]] || fail "$(<out)"
    expect_status 0 cohort check --no-measure "$tiny"
    ! grep -q 'join in round' out || fail "$(<out)"
}

run_tests held_out "$@"
