#!/usr/bin/env bash
# Sweeps as a user runs them: the populations of a grid, their columns, and what is refused.
# shellcheck source=result.sh
source "$(dirname "${BASH_SOURCE[0]}")/result.sh"

# 8 points of two seeds, but for one that is excluded: every device's text is a mixture of its own.
write_sweep() {
    cat >sweep.yaml <<'YAML'
seed: 7
base: {layers: 2, width: 32, heads: 2, pretrain: {tokens: 20000, batch: 8, warmup: 5}}
data:
  tokens_per_device: 2000
  valid_tokens_per_device: 500
  test_tokens_per_device: 500
  sequence: 32
  split: dirichlet
  synthetic: {topics: 2, vocabulary: 64, branching: 4}
train: {rounds: 3, local_steps: 2, batch: 2}
attention: {rank: 2}
evaluate: {every: 1, windows: 4}
checkpoint: {every: 1}
sweep:
  population: {devices: 2, experts.rank: 4}
  cross:
    - {method: [fedavg, comigs]}
    - {data.dirichlet: [0.1, 10]}
    - {zip: {generalists: [1, 2], specialists: [1, 0]}}
  seeds: [7, 8]
  name: "{method}-a{data.dirichlet}-{generalists}g"
  exclude: [{method: fedavg, data.dirichlet: 10, generalists: 2}]
YAML
}

sweep_result() {
    write_sweep
    shared_result sweep.yaml
}

test_every_point_is_a_row_and_every_axis_a_column() {
    local result
    result=$(sweep_result)
    [[ $(wc -l <"$result/summary.csv") == 15 ]] || fail "$(<"$result/summary.csv")"
    [[ $(head -n 1 "$result/summary.csv") == *,data.dirichlet ]] || fail "$(head -n 1 "$result/summary.csv")"
    cut -d , -f 1,2,9,10,11,12 "$result/summary.csv" | paste -d , - <(sed 's/.*,//' "$result/summary.csv") >found
    cat >expected <<'CSV'
population,method,seed,generalists,specialists,rank,data.dirichlet
fedavg-a0.1-1g,fedavg,7,1,1,4,0.1
fedavg-a0.1-1g,fedavg,8,1,1,4,0.1
fedavg-a0.1-2g,fedavg,7,2,0,4,0.1
fedavg-a0.1-2g,fedavg,8,2,0,4,0.1
fedavg-a10-1g,fedavg,7,1,1,4,10
fedavg-a10-1g,fedavg,8,1,1,4,10
comigs-a0.1-1g,comigs,7,1,1,4,0.1
comigs-a0.1-1g,comigs,8,1,1,4,0.1
comigs-a0.1-2g,comigs,7,2,0,4,0.1
comigs-a0.1-2g,comigs,8,2,0,4,0.1
comigs-a10-1g,comigs,7,1,1,4,10
comigs-a10-1g,comigs,8,1,1,4,10
comigs-a10-2g,comigs,7,2,0,4,10
comigs-a10-2g,comigs,8,2,0,4,10
CSV
    expect_same expected found 'the rows that are expected and those of summary.csv'
}

# The same bits as in the sweep: its row, but for the column of the axis, and all its losses.
test_a_population_alone_equals_itself_in_the_sweep() {
    local result name table
    result=$(sweep_result)
    for name in comigs-a0.1-1g fedavg-a10-1g; do
        sed '/^sweep:/,$d' sweep.yaml >alone.yaml
        cat >>alone.yaml <<YAML
populations:
  - {name: $name, method: ${name%%-*}, devices: 2, rank: 4, generalists: 1, specialists: 1, seed: 8, data: {dirichlet: ${name:8:-3}}}
YAML
        rm -rf alone
        cohort run alone.yaml --out alone --quiet
        grep "^$name,.*,8,1,1,4," "$result/summary.csv" | sed 's/,[^,]*$//' >in_sweep
        tail -n 1 alone/summary.csv >by_itself
        [[ $(wc -l <in_sweep) == 1 ]] || fail "$name has several rows"
        expect_same in_sweep by_itself "$name alone and in the sweep"
        for table in loss routing traffic; do
            cohort export "$result" --table $table | sed -n "/^[0-9]*,$name,8,/p" >in_sweep
            cohort export alone --table $table | sed -n "/^[0-9]*,$name,8,/p" >by_itself
            [[ -s in_sweep ]] || fail "no $table of $name"
            expect_same in_sweep by_itself "$table of $name alone and in the sweep"
        done
    done
}

test_check_prints_the_points() {
    write_sweep
    expect_status 0 cohort check --no-measure sweep.yaml
    expect_text out '14 populations, 7 but for their seeds; axes: method, data.dirichlet, generalists, specialists'
    grep -Eq '^population +method +seed +devices +data.dirichlet +experts ' out || fail "$(<out)"
    [[ $(grep -Ec '^(fedavg|comigs)-a(0.1|10)-[12]g +(fedavg|comigs) +[78] +2 +(0.1|10)  (1G1S|2G0S) ' out) == 14 ]] || fail "$(<out)"
}

# The result's own configuration lists the populations, and has the axes.
test_a_sweep_goes_on_from_its_own_configuration() {
    local result
    result=$(sweep_result)
    expect_text "$result/config.yaml" '  axes: [method, data.dirichlet, generalists, specialists]'
    expect_status 0 cohort run sweep.yaml --out "$result" --resume
    expect_text err 'nothing to do'
    cp -r "$result" result
    rm result/summary.csv
    expect_status 0 cohort run result/config.yaml --resume --quiet
    expect_same "$result/summary.csv" result/summary.csv 'the summary and the one made again'
    expect_status 0 cohort run "$result/config.yaml" --out again --quiet
    expect_same_results "$result" again
}

test_a_sweep_that_is_killed_goes_on() {
    local result run
    result=$(sweep_result)
    "$COHORT_BINARY" run sweep.yaml --out killed --set train.rounds=3 --quiet >started.log 2>&1 &
    run=$!
    wait_until "$run" test -e killed/checkpoint.h5
    kill -KILL "$run"
    wait "$run" 2>/dev/null || true
    expect_status 0 cohort run killed/config.yaml --resume --quiet
    expect_same_results "$result" killed
}

test_axes_are_set_from_the_command_line() {
    write_sweep
    expect_status 0 cohort check --no-measure sweep.yaml --set 'sweep.seeds=[5]' --set 'sweep.cross.1.data.dirichlet=[3, 10]'
    expect_text out '7 populations; axes: method'
    grep -q '^comigs-a3-2g ' out || fail "$(<out)"
}

# Text with a comma is quoted; what listed populations are compared by is a column, too.
test_values_with_commas_are_quoted() {
    mkdir -p texts
    for source in one two; do seq 1 20000 >"texts/$source"; done
    cohort data --out 'a,b' numbers=texts/one --quiet
    cohort data --out c numbers=texts/two --quiet
    write_sweep
    sed -i '/^  split:/d; /^  synthetic:/d; /^sweep:/,$d; s/^base:.*/base: {layers: 1, width: 32, heads: 2, pretrain: {tokens: 0}}/' sweep.yaml
    cat >>sweep.yaml <<'YAML'
sweep:
  population: {devices: 1, method: local}
  cross: [{data.corpus: ["a,b", c]}, {train.router.every: [3]}]
YAML
    cohort run sweep.yaml --out result --quiet
    [[ $(head -n 1 result/summary.csv) == *,data.corpus,train.router.every ]] || fail "$(head -n 1 result/summary.csv)"
    grep -q '^a_b-every3,.*,"a,b",3$' result/summary.csv || fail "$(<result/summary.csv)"
    grep -q '^c-every3,.*,c,3$' result/summary.csv || fail "$(<result/summary.csv)"
}

# The examples of the reference page and of configs/README.md.
test_examples_of_the_documentation_are_sweeps() {
    local page found=0
    cohort help settings >printed
    for page in printed "$COHORT_SOURCE_DIR/configs/README.md"; do
        printf 'data: {split: dirichlet, tokens_per_device: 500, sequence: 32}\nbase: {pretrain: {tokens: 0}}\n' >example.yaml
        sed -n '/^    sweep:$/,/^$/s/^    //p' "$page" >>example.yaml
        [[ $(wc -l <example.yaml) -ge 10 ]] || fail "no example in $page"
        expect_status 0 cohort check --no-measure example.yaml
        grep -Eq '^[0-9]+ populations, [0-9]+ but for their seeds; axes: method, data.dirichlet, generalists, specialists$' out || fail "$(<out)"
        found=$((found + 1))
    done
    ((found == 2))
}

# ---- What is refused: exit status 2, as many messages as are said, nothing written

expect_refused() { # lines of sweep, expected text...
    local text messages=0
    write_sweep
    sed -i '/^sweep:/,$d' sweep.yaml
    printf 'sweep:\n%s\n' "$1" >>sweep.yaml
    mkdir elsewhere
    (cd elsewhere && expect_status 2 cohort run ../sweep.yaml --out result && mv out err ..)
    for text in "${@:2}"; do
        expect_text err "$text"
        messages=$((messages + 1))
    done
    [[ $(wc -l <err) == "$messages" ]] || fail "expected $messages messages: $(<err)"
    expect_empty_folder elsewhere
    mv err said_by_run
    expect_status 2 cohort check elsewhere/../sweep.yaml
    sed -i 's|elsewhere/\.\./|../|' err
    expect_same said_by_run err 'what run and check say'
    rmdir elsewhere
}

test_a_value_that_is_wrong_in_many_points_is_named_once() {
    expect_refused '  population: {devices: 2}
  cross:
    - {method: [local, fedavg, comigs]}
    - {data.dirichlet: [0.1, 0]}
    - {rank: [2, 4]}' \
        "sweep.yaml:18: sweep.cross.1.data.dirichlet: '0' is out of range; it must be above 0"
}

test_all_mistakes_are_named_at_once() {
    expect_refused '  population: {devices: 0}
  cross:
    - {metod: [local, fedavg, comigs]}
    - {method: [local, none]}
    - {train.rounds: [1, 2]}
  seeds: [1, x]' \
        "sweep.yaml:15: sweep.population.devices: '0' is out of range" \
        'sweep.yaml:17: sweep.cross.0.metod: unknown key; did you mean method?' \
        'sweep.yaml:19: sweep.cross.2.train.rounds: a population cannot have its own: all populations go through' \
        'sweep.yaml:20: sweep.seeds: entry 1 is not a seed'
}

test_points_that_cannot_be_are_named() {
    expect_refused '  population: {devices: 2}
  cross:
    - {method: [fedavg, comigs]}
    - {specialists: [1, [1, 2]]}
  seeds: [1, 2, 3]' \
        "sweep.yaml:16: population 'fedavg-specialists1_2': method fedavg averages all experts"
    expect_refused '  population: {devices: 2}
  cross:
    - {method: [fedavg, comigs]}
    - {rank: [8, 300]}' \
        "sweep.yaml:18: sweep.cross.1.rank: the ranks of the 2 experts of a device sum to 600; the sum must be at most 512 (the point 'fedavg-rank300' and 1 more)"
}

test_a_key_written_twice_says_where_it_was_first() {
    expect_refused '  population: {devices: 2, method: local, rank: 4}
  cross:
    - {rank: [4, 8]}' 'sweep.yaml:17: sweep.cross.0.rank: is written twice, first in line 15'
    sed -i 's/, rank: 4}/}/' sweep.yaml
    expect_status 2 cohort check --no-measure sweep.yaml --set sweep.population.rank=4
    expect_text err 'sweep.cross.0.rank: is written twice, first by --set; remove one'
}

test_points_that_are_one_are_refused() {
    expect_refused '  population: {devices: 2}
  cross:
    - {method: [fedavg, comigs]}
    - {rank: [4, 8, 4]}' \
        "sweep.yaml:16: sweep: the points 'fedavg-rank4' and 'fedavg-rank4' are one and the same (method fedavg, experts.rank 4, seed 7)"
}

test_a_template_that_gives_equal_names_is_refused() {
    expect_refused '  population: {devices: 2}
  cross:
    - {method: [fedavg, comigs]}
    - {rank: [4, 8]}
  name: "{method}"' \
        "sweep.yaml:19: sweep.name: different points have the name 'fedavg': (method fedavg, experts.rank 4, seed 7) and (method fedavg, experts.rank 8, seed 7)"
    expect_refused '  population: {devices: 2}
  cross:
    - {method: [fedavg, comigs]}
  name: "{metod}"' \
        'sweep.yaml:18: sweep.name: {metod}: unknown key; did you mean method?'
}

test_a_grid_of_too_many_points_names_the_axis() {
    expect_refused "  population: {devices: 2}
  cross:
    - {method: [fedavg, comigs]}
    - {data.tokens_per_device: [$(seq -s , 1000 1099)]}
    - {rank: [$(seq -s , 1 100)]}" \
        'sweep.yaml:19: sweep.cross.2: with the 100 values of rank the sweep has 20,000 populations in all; there can be at most 5,000'
}

test_axes_of_another_form_are_refused() {
    expect_refused '  population: {devices: 2}
  cross:
    - {zip: {method: [fedavg, comigs], rank: [1, 2, 3]}}' \
        'sweep.yaml:17: sweep.cross.0.zip.rank: has 3 values, and method has 2'
    expect_refused '  population: {devices: 2}
  cross:
    - {method: [fedavg, comigs], rank: [1, 2]}' \
        'sweep.yaml:17: sweep.cross.0: has 2 keys; give each an axis of its own'
    expect_refused '  population: {devices: 2, method: local}
  cross:
    - {rank: []}' \
        'sweep.yaml:17: sweep.cross.0.rank: has no values'
    expect_refused '  population: {devices: 2, method: local}
  cross:
    - {rank: [1, 2]}
    - {rank: [3]}' \
        'sweep.yaml:18: sweep.cross.1.rank: is written twice, first in line 17'
    expect_refused '  population: {devices: 2}
  cross:
    - {method: [fedavg, comigs]}
  exclude:
    - {method: fedavg}
    - {method: local}' \
        'sweep.yaml:20: sweep.exclude.1: excludes nothing'
}

run_tests sweep "$@"
