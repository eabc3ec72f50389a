#!/usr/bin/env bash
# Values that are tried before a run: what is chosen, that the run is the one with these values, and that nothing is chosen twice.
# shellcheck source=result.sh
source "$(dirname "${BASH_SOURCE[0]}")/result.sh"

# Not in their order; the best one of fedavg is not that of comigs, and neither is the least or the most.
values=(1e-1 3e-3 1e-6 1e-4)

# Two methods of two seeds each.
write_plain() {
    sed '/^populations/q; s/^  rounds: 6/  rounds: 4/; s/^  tokens_per_device: 4000/  tokens_per_device: 2000/' "$tiny"
    cat <<'EOF2'
  - {name: mean, method: fedavg, devices: 3, seeds: [7, 8]}
  - {name: wide, method: fedavg, devices: 2, generalists: 2}
  - {name: both, method: comigs, devices: 2, seeds: [7, 8]}
EOF2
}
write_tuned() { # lines of tune
    write_plain | sed '/^populations/,$d'
    printf 'tune:\n'
    printf '  train.learning_rate: [%s]\n' "$(IFS=, && echo "${values[*]}")"
    printf '  %s\n' 'rounds: 2' "$@"
    write_plain | sed -n '/^populations/,$p'
}

tuned_result() {
    write_tuned >tuned.yaml
    shared_result tuned.yaml
}

cell() { # summary, population, seed, column
    awk -F , -v population="$2" -v seed="$3" -v column="$4" '
        NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
        $at["population"] == population && $at["seed"] == seed { print $at[column] }' "$1"
}

chosen() { # folder, group
    awk -F , -v group="$2" '$1 == group && $NF == 1 { print $2 }' "$1/tuning.csv"
}

# ---- The choice

test_the_best_value_by_validation_loss_is_chosen() {
    local result value loss best='' lowest method population
    result=$(tuned_result)
    write_plain >plain.yaml
    for method in fedavg comigs; do
        population=mean
        [[ $method == comigs ]] && population=both
        lowest=1e9
        for value in "${values[@]}"; do
            # A trial by itself: a run of so many rounds with the value written by hand.
            [[ -e alone-$value ]] ||
                cohort run plain.yaml --out "alone-$value" --set train.rounds=2 --set train.learning_rate="$value" --quiet
            loss=$(cell "alone-$value/summary.csv" $population 7 valid_loss_mean)
            grep -qE "^$method,[^,]*,2,$loss,[01]\$" "$result/tuning.csv" || fail "$method $value: $loss is not in $(<"$result/tuning.csv")"
            awk -v a="$loss" -v b="$lowest" 'BEGIN { exit !(a < b) }' && lowest=$loss best=$value
        done
        [[ $(awk -v a="$(chosen "$result" $method)" -v b="$best" 'BEGIN { print a - b }') == 0 ]] ||
            fail "$method: $best is the best, $(chosen "$result" $method) was chosen"
    done
    expect_same <(head -n 1 "$result/tuning.csv") <(echo method,train.learning_rate,rounds,valid_loss,chosen) 'the columns'
    [[ $(wc -l <"$result/tuning.csv") == 9 ]] || fail "$(<"$result/tuning.csv")"
    [[ $(chosen "$result" fedavg) != "$(chosen "$result" comigs)" ]] || fail "both methods have one value: $(<"$result/tuning.csv")"
}

by_hand() { # folder: the configuration with the values that it has chosen
    write_plain | awk -v fedavg="$(chosen "$1" fedavg)" -v comigs="$(chosen "$1" comigs)" '
        /method: fedavg/ { sub(/}$/, ", train: {learning_rate: " fedavg "}}") }
        /method: comigs/ { sub(/}$/, ", train: {learning_rate: " comigs "}}") }
        { print }'
}

test_the_run_is_the_one_with_the_values_written_by_hand() {
    local result
    result=$(tuned_result)
    by_hand "$result" >hand.yaml
    cohort run hand.yaml --out hand --quiet
    expect_same "$result/config.yaml" hand/config.yaml 'the configurations'
    expect_same_results "$result" hand
    expect_same <(cohort export "$result" --table loss) <(cohort export hand --table loss) 'the losses'
    cohort run "$result/config.yaml" --out again --quiet
    [[ ! -e again/tuning ]] || fail 'what was chosen is tried again'
    expect_same "$result/summary.csv" again/summary.csv 'the summaries'
}

test_the_choice_is_said() {
    local result
    write_tuned >tuned.yaml
    expect_status 0 cohort run tuned.yaml --out result
    expect_text err "fedavg: train.learning_rate $(chosen result fedavg) by validation loss"
    expect_text err "comigs: train.learning_rate $(chosen result comigs) by validation loss"
    expect_text err 'of 4 tried'
    expect_text out 'result/tuning'
    [[ $(grep -c 'expert steps:' out) == 1 ]] || fail 'the trials have a closing report, too'
    expect_status 0 cohort info result
    expect_text out "tuned           fedavg: train.learning_rate $(chosen result fedavg) by validation loss"
    expect_status 0 cohort info result/tuning
    expect_status 0 cohort table result/tuning
    expect_text out comigs-0.003
    ! grep -q 'a better one may lie beyond' err || fail "$(<err)"
    expect_status 0 cohort run tuned.yaml --out edge --set 'tune.train.learning_rate=[1e-4, 2e-4, 3e-4]'
    expect_text err 'value tried; a better one may lie beyond it'
    expect_status 0 cohort run tuned.yaml --out quiet --quiet
    [[ ! -s err ]] || fail "$(<err)"
}

test_check_says_what_will_be_tried() {
    write_tuned >tuned.yaml
    expect_status 0 cohort check --no-measure tuned.yaml
    expect_text out '8 trials of 2 rounds'
    expect_text out 'train.learning_rate: 0.1, 0.003, 1e-06, 0.0001'
    expect_text out 'for 2 methods: fedavg, comigs'
    expect_status 0 cohort check --no-measure tuned.yaml --set tune.per=population --set tune.rounds=1
    expect_text out '12 trials of 1 round,'
    expect_text out 'for 3 populations: mean, wide, both'
}

test_each_name_has_its_own_choice() {
    write_tuned 'per: population' >tuned.yaml
    expect_status 0 cohort run tuned.yaml --out result --quiet
    expect_same <(cut -d , -f 1 result/tuning.csv | uniq -c | awk '{ print $1, $2 }') \
        <(printf '%s\n' '1 population' '4 mean' '4 wide' '4 both') 'the trials'
    [[ $(grep -c ',1$' result/tuning.csv) == 3 ]] || fail "$(<result/tuning.csv)"
}

test_a_trial_that_diverges_is_not_chosen() {
    local absurd=(--set train.weight_decay=10 --set train.local_steps=20)
    write_tuned >tuned.yaml
    expect_status 0 cohort run tuned.yaml --out result "${absurd[@]}" --set 'tune.train.learning_rate=[10, 1e-3]'
    expect_same <(cut -d , -f 1,2,5 result/tuning.csv | sed 1d) \
        <(printf '%s\n' fedavg,10,0 fedavg,0.001,1 comigs,10,0 comigs,0.001,1) 'the choice'
    grep -q '^fedavg,10,2,,0$' result/tuning.csv || fail "$(<result/tuning.csv)"
    expect_text err 'fedavg: train.learning_rate 0.001'
    ! grep -q "of the population\|'fedavg-10'" err || fail "$(<err)"
    expect_status 4 cohort run tuned.yaml --out none "${absurd[@]}" --set 'tune.train.learning_rate=[10, 9]'
    expect_text err 'tune: all 2 trials of fedavg diverged'
    expect_text err 'tune: all 2 trials of comigs diverged'
    [[ ! -e none/summary.csv && ! -e none/tuning.csv ]] || fail 'something was chosen'
}

# A router that is not trained within a trial.
test_values_that_change_nothing_are_said() {
    write_tuned | sed 's/  train.learning_rate: .*/  train.router.learning_rate: [3e-3, 1e-3, 2e-3]/' >tuned.yaml
    expect_status 0 cohort run tuned.yaml --out result --set train.router.every=50
    expect_text err 'comigs: train.router.learning_rate 0.001 by'
    expect_text err 'comigs: 3 of its trials have this same loss'
    expect_status 0 cohort run tuned.yaml --out trained --set train.router.every=2
    ! grep -q 'comigs: 3 of its trials' err || fail "$(<err)"
}

test_trials_that_do_not_fit_at_once_run_in_batches() {
    local limit options=(--set experts.rank=128 --set trace.routing_windows=0)
    write_tuned >tuned.yaml
    limit=$(cohort check --no-measure tuned.yaml "${options[@]}" | sed -n 's/^ *\([0-9]*\)[0-9.]* MiB  in total.*/\1/p')
    until [[ $(cohort check --no-measure tuned.yaml "${options[@]}" --set memory_limit="$limit" 2>&1) == *'the trials do not fit'* ]]; do
        ((limit -= 2))
        ((limit > 20)) || fail 'all trials fit whatever the limit, or none does'
    done
    cohort run tuned.yaml --out whole "${options[@]}" --quiet
    expect_status 0 cohort run tuned.yaml --out result "${options[@]}" --set memory_limit="$limit"
    expect_text err 'batch 1 of '
    [[ ! -e result/tuning/batches ]] || fail 'batches are left'
    expect_same whole/tuning.csv result/tuning.csv 'the choices'
    expect_same whole/tuning/summary.csv result/tuning/summary.csv 'the trials'
    expect_same whole/summary.csv result/summary.csv 'the summaries'
}

# ---- Going on

kill_when() { # folder, file that must be there, options
    local pid
    { "$COHORT_BINARY" run tuned.yaml --out "$1" --quiet "${@:3}" & } 2>/dev/null
    pid=$!
    until [[ -e $2 ]]; do
        kill -0 $pid 2>/dev/null || fail "the run ended before $2 was there"
        sleep 0.01
    done
    kill -9 $pid
    wait $pid 2>/dev/null || true
}

test_killed_while_it_tries_and_while_it_runs() {
    local result
    result=$(tuned_result)
    write_tuned >tuned.yaml
    kill_when killed killed/tuning/checkpoint.h5
    expect_status 2 cohort run tuned.yaml --out killed --quiet
    expect_text err 'add --resume'
    kill_when killed killed/checkpoint.h5 --resume
    [[ ! -e killed/summary.csv ]] || skip 'the run was faster than its killer'
    expect_same "$result/tuning.csv" killed/tuning.csv 'the choices'
    stat -c %Y%i killed/tuning/* >before
    expect_status 0 cohort run tuned.yaml --out killed --quiet --resume
    stat -c %Y%i killed/tuning/* >after
    expect_same before after 'the trials'
    expect_same_results "$result" killed
    expect_same_results "$result/tuning" killed/tuning
    expect_same <(ls -A "$result") <(ls -A killed) 'the files'
}

test_interrupted_while_it_tries() {
    local pid status=0
    write_tuned >tuned.yaml
    cohort run tuned.yaml --out result --set train.rounds=400 --set tune.rounds=400 --quiet 2>err &
    pid=$!
    wait_until $pid test -e result/tuning/checkpoint.h5
    kill -INT "$(pgrep -P $pid || echo $pid)"
    wait $pid || status=$?
    ((status == 5)) || fail "status $status: $(<err)"
    expect_text err 'interrupted before the values of tune were all tried, and saved'
    [[ $(wc -l <err) == 1 ]] || fail "$(<err)"
}

# What was chosen is not chosen again: here somebody has changed it.
test_a_choice_is_read_back() {
    local result
    result=$(tuned_result)
    mkdir mine
    sed -E 's/^(fedavg,.*),[01]$/\1,0/; s/^(fedavg,0.1,.*),0$/\1,1/' "$result/tuning.csv" >mine/tuning.csv
    write_tuned >tuned.yaml
    expect_status 0 cohort run tuned.yaml --out mine --resume --quiet
    [[ ! -e mine/tuning ]] || fail 'something was tried'
    by_hand mine >hand.yaml
    cohort run hand.yaml --out hand --quiet
    expect_same_results mine hand
    expect_status 2 cohort run tuned.yaml --out mine --resume --set tune.rounds=3
    expect_text err 'mine/tuning.csv: is of another tuning than the configuration'
    expect_status 2 cohort run tuned.yaml --out mine --resume --set 'tune.train.learning_rate=[1e-3, 2e-3]'
    expect_text err 'is of another tuning'
    printf 'a,b\n1,2\n' >mine/tuning.csv
    expect_status 2 cohort run tuned.yaml --out mine --resume
    expect_text err 'mine/tuning.csv: is no table of what was tried'
}

test_a_method_that_is_added_is_tried_alone() {
    local result
    result=$(tuned_result)
    cp -r "$result" grown
    write_tuned >tuned.yaml
    cat >>tuned.yaml <<'EOF2'
  - {name: alone, method: local, devices: 2}
  - {name: more, method: fedavg, devices: 2, seed: 9}
EOF2
    expect_status 0 cohort run tuned.yaml --out grown --resume
    expect_text err 'local: train.learning_rate'
    expect_same "$result/tuning.csv" <(head -n 9 grown/tuning.csv) 'the choices of before'
    [[ $(grep -c '^local,' grown/tuning.csv) == 4 && $(wc -l <grown/tuning.csv) == 13 ]] || fail "$(<grown/tuning.csv)"
    [[ $(wc -l <grown/tuning/summary.csv) == 13 ]] || fail "$(<grown/tuning/summary.csv)"
    cohort run tuned.yaml --out whole --quiet
    expect_same whole/tuning.csv grown/tuning.csv 'the choices'
    expect_same whole/summary.csv grown/summary.csv 'the summaries'
    expect_same <(cohort export whole --table loss) <(cohort export grown --table loss) 'the losses'
}

test_several_processes_choose_the_same() {
    require mpirun openmpi-bin
    write_tuned >tuned.yaml
    cohort run tuned.yaml --out one --set threads=2 --quiet
    expect_status 0 cohort run tuned.yaml --out two --processes 2 --set threads=2
    [[ $(grep -c 'comigs: train.learning_rate' err) == 1 ]] || fail "$(<err)"
    # Losses differ in their last digits.
    expect_same <(cut -d , -f 1-3,5 one/tuning.csv) <(cut -d , -f 1-3,5 two/tuning.csv) 'the choices'
    expect_same one/config.yaml two/config.yaml 'the configurations'
    printf '  - {name: alone, method: local, devices: 2}\n' >>tuned.yaml
    expect_status 0 cohort run tuned.yaml --out two --processes 2 --set threads=2 --resume
    expect_text err 'local: train.learning_rate'
    [[ $(grep -c ',1$' two/tuning.csv) == 3 && $(wc -l <two/summary.csv) == 7 ]] || fail "$(<two/tuning.csv)"
}

test_folders_that_hold_something_are_refused() {
    write_tuned >tuned.yaml
    write_plain >plain.yaml
    mkdir -p full half/tuning
    : >full/mine
    expect_status 2 cohort run tuned.yaml --out full
    expect_text err 'full: holds files that are no result'
    expect_status 2 cohort run tuned.yaml --out half
    expect_text err 'half holds a result already: add --resume'
    expect_status 2 cohort run plain.yaml --out half
    expect_text err 'half holds a result already'
    expect_same <(find full half | sort) <(printf '%s\n' full full/mine half half/tuning) 'the folders'
}

run_tests tune "$@"
