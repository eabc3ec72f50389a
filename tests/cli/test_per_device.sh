#!/usr/bin/env bash
# Lists with a number for each device: ranks, experts, and amounts of text.
# shellcheck source=result.sh
source "$(dirname "${BASH_SOURCE[0]}")/result.sh"

# The tiny run with these populations instead, a line each; four sources, so that no two devices have the same one.
configuration() { # populations
    sed -e '/^populations:/,$d' -e 's/topics: 2/topics: 4/' "$tiny"
    printf 'populations:\n'
    printf '  - {%s}\n' "$@"
}

expect_line() { # file, extended expression
    grep -qE -- "$2" "$1" || fail "no line '$2' in $1: $(<"$1")"
}

# The losses of a device of a population in all rounds.
losses() { # table folder, population, device
    awk -F, -v who="$2" -v device="$3" '$2 == who && $4 == device { print $1, $5, $6 }' "$1/loss.csv"
}

# Device i of a population with a list has the numbers of device i where the number is everybody's.
expect_each_as_where_all_have_it() { # population of the list, number of each device...
    local who=$1 device=0 number
    shift
    for number; do
        expect_same <(losses tables "$who" "$device") <(losses tables "$who-$number" "$device") "device $device of $who with $number everywhere"
        [[ -n $(losses tables "$who" "$device") ]] || fail "$who has no losses of device $device"
        device=$((device + 1))
    done
}

test_devices_of_any_rank_learn_as_where_all_have_that_rank() {
    local alone='method: local, generalists: 0, specialists: 2, devices: 4' own='method: comigs, generalists: 0, specialists: 2, devices: 4'
    local -a populations=("name: l, $alone, rank: [4, 8, 8, 16]" "name: c, $own, experts: {rank: [4, 8, 8, 16]}")
    for rank in 4 8 16; do populations+=("name: l-$rank, $alone, rank: $rank" "name: c-$rank, $own, rank: $rank"); done
    configuration "${populations[@]}" >c.yaml
    cohort run c.yaml --out result --quiet
    cohort export result --table all --out tables
    expect_each_as_where_all_have_it l 4 8 8 16
    expect_each_as_where_all_have_it c 4 8 8 16
    expect_line result/summary.csv '^l,.*,0,2,4 8 8 16,4000,'
    expect_line tables/devices.csv '^c,7,3,.*,0,2,16$'
    expect_line tables/populations.csv '^c,7,comigs,4,0,2,4 8 8 16,'
    cohort info result >out
    grep -Eq '^l .* 0G2S +4-16 ' out || fail "$(<out)"
}

test_devices_with_any_amount_of_text_learn_as_where_all_have_that_amount() {
    local own='method: comigs, generalists: 0, specialists: 2, devices: 4'
    local -a populations=("name: c, $own, data: {tokens_per_device: [300, 4000, 900, 300]}")
    for tokens in 300 900 4000; do populations+=("name: c-$tokens, $own, data: {tokens_per_device: $tokens}"); done
    configuration "${populations[@]}" >c.yaml
    cohort run c.yaml --out result --quiet
    cohort export result --table all --out tables
    expect_each_as_where_all_have_it c 300 4000 900 300
    expect_line result/summary.csv '^c,.*,300 4000 900 300,'
    expect_line tables/devices.csv '^c,7,2,.*,900,'
}

# Averages over unequal devices, with all that a run can be: two processes, a checkpoint between, adapters out and in again.
test_unequal_devices_share_what_they_have_in_common() {
    configuration 'name: c, method: comigs, generalists: [1, 2, 2, 3], specialists: [2, 1, 0, 0], devices: 4, data: {tokens_per_device: [300, 4000, 900, 600]}, aggregate: {weights: tokens}' \
        'name: apart, method: comigs, generalists: [0, 1, 1, 1], rank: [2, 8, 8, 8], devices: 4' >c.yaml
    cohort run c.yaml --out whole --quiet
    cohort run c.yaml --out two --quiet --processes 2
    expect_close whole/trace.h5 two/trace.h5 /loss/train
    expect_close whole/trace.h5 two/trace.h5 /loss/test_after
    expect_same <(cut -d, -f1,6-7,9- whole/summary.csv | cut -d, -f1-8) <(cut -d, -f1,6-7,9- two/summary.csv | cut -d, -f1-8) 'bytes and lists of two processes'
    expect_line whole/summary.csv '^c,.*,1 2 2 3,2 1 0 0,4,300 4000 900 600,.*,tokens,.*$'
    cohort export whole --adapters adapters
    [[ -d adapters/c-seed7/device3/generalist2 ]] || fail "$(find adapters -maxdepth 3)"
    [[ ! -e adapters/c-seed7/device2/generalist2 ]] || fail 'device 2 has no third generalist'
    cmp adapters/c-seed7/device1/generalist1/adapter_model.safetensors adapters/c-seed7/device3/generalist1/adapter_model.safetensors ||
        fail 'the second generalist differs'
    grep -q '"r": 2' adapters/apart-seed7/device0/specialist0/adapter_config.json || fail 'device 0 has rank 2'
    grep -q '"r": 8' adapters/apart-seed7/device1/specialist0/adapter_config.json || fail 'device 1 has rank 8'
    cohort run c.yaml --out again --quiet --set adapters=adapters --set train.rounds=1
}

test_an_interrupted_run_goes_on() {
    local options=(--quiet --set train.rounds=20) run
    configuration 'name: c, method: comigs, generalists: [1, 2, 2, 3], specialists: [2, 1, 0, 0], devices: 4' 'name: l, method: local, devices: 4, rank: [1, 2, 3, 4]' >c.yaml
    cohort run c.yaml --out whole "${options[@]}"
    "$COHORT_BINARY" run c.yaml --out result "${options[@]}" &
    run=$!
    wait_until "$run" test -e result/checkpoint.h5
    kill -KILL "$run"
    wait "$run" 2>/dev/null || true
    [[ ! -e result/summary.csv ]] || fail 'the run was over before it was killed'
    expect_status 0 cohort run c.yaml --out result "${options[@]}" --resume
    expect_same_results whole result
    expect_status 2 cohort run c.yaml --out result "${options[@]}" --resume --set 'populations.1.rank=[1, 2, 4, 4]'
    expect_line err 'experts.rank .\[1, 2, 3, 4\] there, \[1, 2, 4, 4\] here'
}

test_a_list_of_equal_numbers_is_that_number() {
    configuration 'name: c, method: comigs, devices: 4, generalists: 1, specialists: 1, rank: 4, data: {tokens_per_device: 900}' >plain.yaml
    configuration 'name: c, method: comigs, devices: 4, generalists: [1, 1, 1, 1], specialists: [1, 1, 1, 1], rank: [4, 4, 4, 4], data: {tokens_per_device: [900, 900, 900, 900]}' >list.yaml
    cohort run plain.yaml --out plain --quiet
    cohort run list.yaml --out list --quiet
    expect_same_results plain list
}

test_check_says_what_differs() {
    configuration 'name: c, method: local, devices: 4, rank: [4, 8, 8, 16], data: {tokens_per_device: [300, 4000, 900, 300]}, seeds: [1, 2]' >c.yaml
    cohort check --no-measure c.yaml >out
    [[ $(grep -c '^c, device by device: data.tokens_per_device \[300, 4000, 900, 300\], experts.rank \[4, 8, 8, 16\]$' out) -eq 1 ]] || fail "$(<out)"
}

test_ranks_that_cannot_be_averaged_are_refused() {
    configuration 'name: c, method: fedavg, devices: 4' 'name: d, method: comigs, devices: 4, rank: [4, 8, 8, 16]' >c.yaml
    expect_status 2 cohort run c.yaml --out result
    expect_line err "c.yaml:[0-9]*: population 'd': method comigs averages experts, .* device 0 has rank 4, device 1 has rank 8; give experts.rank one number"
    [[ $(wc -l <err) -eq 1 && ! -e result ]] || fail "$(<err)"
}

run_tests per_device "$@"
