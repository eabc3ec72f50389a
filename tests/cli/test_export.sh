#!/usr/bin/env bash
# Tables, adapters and figures out of a result.
# shellcheck source=result.sh
source "$(dirname "${BASH_SOURCE[0]}")/result.sh"

gpt2_tiny=$COHORT_SOURCE_DIR/tests/reference/gpt2_tiny
check_peft=$COHORT_SOURCE_DIR/tests/reference/check_peft.py

columns_of() { head -n 1 "$1" | tr , '\n'; }

test_every_table_has_a_header_and_as_many_columns_in_each_line() {
    local table
    for table in populations devices loss routing tokens traffic time; do
        expect_status 0 cohort export "$(reference_result)" --table "$table"
        awk -F, -v table="$table" 'NR == 1 { columns = NF } NF != columns { exit 1 } END { if (NR < 2) exit 1 }' out ||
            fail "the table $table is empty or ragged"
    done
}

test_table_all_writes_what_single_tables_print() {
    local table
    expect_status 0 cohort export "$(reference_result)" --table all --out tables
    [[ ! -s out ]] || fail 'something was printed'
    for table in populations devices loss routing tokens traffic time; do
        expect_status 0 cohort export "$(reference_result)" --table "$table" --out one.csv
        cohort export "$(reference_result)" --table "$table" >printed.csv
        expect_same one.csv printed.csv "the file and the output of $table"
        expect_same one.csv "tables/$table.csv" "two exports of $table"
    done
}

# exp(loss) of the last test losses, averaged over devices, is what the summary says.
test_summary_follows_from_the_table_of_losses() {
    cohort export "$(reference_result)" --table loss --out loss.csv
    awk -F, 'FNR == NR { if ($5 == "test" && $1 == 6) { sum[$2 "," $3] += exp($6); n[$2 "," $3]++ } next }
        FNR > 1 { mean = sum[$1 "," $9] / n[$1 "," $9]; if (mean - $4 > 1e-6 || $4 - mean > 1e-6) exit 1; seen++ }
        END { if (seen < 7) exit 1 }' loss.csv "$(reference_result)/summary.csv" || fail 'the summary does not follow from the losses'
}

# The best round by validation and the way to the target, computed from the tables; of two populations the losses are above the target.
test_best_round_and_target_follow_from_the_tables() {
    local result=result
    cohort run "$tiny" --out result --quiet --set evaluate.every=1 --set train.rounds=8 --set train.learning_rate=0.2 \
        --set evaluate.target_loss=4.03 --set populations.0.evaluate.target_loss=1 --set populations.1.evaluate.target_loss=0 >&2
    cohort export $result --table all --out tables >&2
    awk -F, 'FILENAME ~ /loss/ { key = $1 "," $2 "," $3; rounds = $1
                 if ($5 == "valid") valid[key] += $6
                 if ($5 == "test") { devices[key]++; loss[key] += $6; ppl[key] += exp($6) } next }
             FILENAME ~ /traffic/ { bytes[$1 "," $2 "," $3] += $5 + $6; next }
             FNR == 1 { for (i = 1; i <= NF; i++) column[$i] = i; next }
             { best = to = sent = 0; target = 4.03
               if ($1 == "alone") target = 1
               if ($1 == "averaged") target = 0
               for (round = 1; round <= 8; round++) {
                   key = round "," $1 "," $column["seed"]; sent += bytes[key]
                   if (!best || valid[key] < valid[best "," $1 "," $column["seed"]]) best = round
                   if (!to && loss[key] / devices[key] <= target) { to = round; to_bytes = sent } }
               key = best "," $1 "," $column["seed"]; earlier += best < 8; reached += to > 0; later += to > 1; unreached += !to
               if ($column["best_round"] != best || ($column["test_ppl_best"] - ppl[key] / devices[key]) ^ 2 > 1e-12) { print "best", best, $0; exit 1 }
               if ($column["rounds_to_target"] != (to ? to : "") || $column["bytes_to_target"] != (to ? to_bytes : "")) {
                   print "target", to, to_bytes, $0; exit 1 } }
             END { print earlier + 0, reached + 0, later + 0, unreached + 0; if (!earlier || !reached || !later || unreached < 2) exit 1 }' \
        tables/loss.csv tables/traffic.csv result/summary.csv >said || fail "$(<said)"
}

test_gates_of_a_device_and_layer_sum_to_one() {
    cohort export "$(reference_result)" --table routing --out routing.csv
    awk -F, 'NR > 1 { gate[$1 "," $2 "," $3 "," $4 "," $5] += $8; share[$1 "," $2 "," $3 "," $4 "," $5] += $9 }
        END { for (k in gate) { if (gate[k] < 0.9999 || gate[k] > 1.0001 || share[k] < 0.9999 || share[k] > 1.0001) exit 1; n++ }
            if (n < 100) exit 1 }' routing.csv || fail 'gates or shares do not sum to 1'
}

# What seed 8 drew, given to seed 7 as its windows: it reports the same offsets at the same steps, router bursts included, and learns
# something else than from its own.
test_windows_of_one_run_can_be_given_to_another() {
    sed '/name: [^b]/d; s/seeds: \[7, 8\]/seeds: [8]/' "$tiny" >eight.yaml
    sed '/name: [^b]/d; s/seeds: \[7, 8\]/seeds: [7]/' "$tiny" >seven.yaml
    expect_status 0 cohort run eight.yaml --out eight --quiet --set trace.sampling_windows=true
    expect_status 0 cohort export eight --table windows --out eight.csv
    cut -d, -f4- eight.csv >windows.csv
    [[ $(grep -c ,train, windows.csv) == $((4 * 6 * 4 * 2)) ]] || fail 'not every train window is there'
    [[ $(grep -c ,valid, windows.csv) == $((4 * 8 * 2 * 2)) ]] || fail 'not every router window is there'
    expect_status 0 cohort run seven.yaml --out seven --quiet --set trace.sampling_windows=true --set data.windows=windows.csv
    cohort export seven --table windows | cut -d, -f4- >again.csv
    expect_same windows.csv again.csv 'the windows given and the windows drawn'
    expect_status 0 cohort run seven.yaml --out own --quiet
    ! cmp -s own/summary.csv seven/summary.csv || fail 'the windows changed nothing'
}

test_windows_that_were_not_recorded_name_the_setting() {
    expect_status 2 cohort export "$(reference_result)" --table windows
    expect_text err 'trace.sampling_windows: true'
}

test_unknown_table_is_refused_with_the_list_of_tables() {
    expect_status 2 cohort export "$(reference_result)" --table losses
    expect_text err losses
    expect_text err 'populations, devices, mixture, loss, routing, tokens, traffic, windows, time'
    expect_status 2 cohort export "$(reference_result)"
    expect_text err --table
    expect_status 2 cohort export "$(reference_result)" --table all
    expect_text err --out
    expect_status 2 cohort export "$(reference_result)" --table loss --device 0
    expect_text err --adapters
    expect_status 2 cohort export "$(reference_result)" --adapters a --device 1x
    expect_text err 1x
    expect_status 2 cohort export nowhere --table loss
    expect_text err nowhere
}

# However the path is spelled; and a file that the result does not have yet is its own too.
test_table_onto_a_file_of_the_result_is_refused() {
    local spelled
    cp -r "$(reference_result)" result
    ln -s result other
    ln -s result/config.yaml link.csv
    for spelled in result/trace.h5 other/trace.h5 result/../result//checkpoint.h5 "$PWD/result/config.yaml" link.csv result/summary.csv; do
        expect_status 2 cohort export result --table loss --out "$spelled"
        expect_text err "--out $spelled is the result's own"
    done
    diff -r "$(reference_result)" result || fail 'the result has changed'
    rm result/summary.csv
    expect_status 2 cohort export other --table loss --out result/summary.csv
    (cd result && expect_status 2 cohort export . --table loss --out summary.csv) || fail 'written in the folder itself'
    [[ ! -e result/summary.csv ]] || fail 'a table was written as the summary'
    expect_status 0 cohort export result --table loss --out result/loss.csv
    expect_status 0 cohort export result --table loss --out summary.csv
}

test_adapters_of_a_device_are_a_folder_for_each_expert() {
    expect_status 0 cohort export "$(reference_result)" --adapters adapters --population uneven --device 3
    expect_text out '4 experts of 1 device'
    expect_same <(cd adapters && find . -type f | LC_ALL=C sort) - 'the files' <<'FILES'
./uneven-seed7/device3/generalist0/adapter_config.json
./uneven-seed7/device3/generalist0/adapter_model.safetensors
./uneven-seed7/device3/router.safetensors
./uneven-seed7/device3/specialist0/adapter_config.json
./uneven-seed7/device3/specialist0/adapter_model.safetensors
./uneven-seed7/device3/specialist1/adapter_config.json
./uneven-seed7/device3/specialist1/adapter_model.safetensors
./uneven-seed7/device3/specialist2/adapter_config.json
./uneven-seed7/device3/specialist2/adapter_model.safetensors
FILES
}

# Averaged after every round: equal on all devices. Private ones differ.
test_adapters_show_what_is_shared() {
    local a=adapters/both-seed8/device0 b=adapters/both-seed8/device1
    expect_status 0 cohort export "$(reference_result)" --adapters adapters --population both
    [[ $(find adapters -name adapter_model.safetensors | wc -l) == 16 ]] || fail 'both has 2 seeds, 4 devices, 2 experts'
    cmp "$a/generalist0/adapter_model.safetensors" "$b/generalist0/adapter_model.safetensors" || fail 'the generalists differ'
    ! cmp -s "$a/specialist0/adapter_model.safetensors" "$b/specialist0/adapter_model.safetensors" || fail 'the specialists are equal'
    ! cmp -s "$a/router.safetensors" "$b/router.safetensors" || fail 'the routers are equal'
    ! cmp -s "$a/generalist0/adapter_model.safetensors" adapters/both-seed7/device0/generalist0/adapter_model.safetensors ||
        fail 'two seeds are equal'
}

# Such a checkpoint holds gradients too.
test_adapters_of_a_run_as_released() {
    expect_status 0 cohort run "$tiny" --out result --quiet --set as_released=true --set train.rounds=2
    expect_status 0 cohort export result --adapters adapters --population both --seed 7 --device 1
    expect_text out '2 experts of 1 device, after round 2'
}

test_adapters_of_nobody_and_onto_files_are_refused() {
    expect_status 2 cohort export "$(reference_result)" --adapters adapters --population nobody
    expect_text err 'alone (seed 7, devices 0 to 3)'
    [[ ! -e adapters ]] || fail 'something was written'
    mkdir adapters
    touch adapters/mine
    expect_status 2 cohort export "$(reference_result)" --adapters adapters
    expect_text err 'not empty'
}

# A limit on the size of files stands for a full disk.
limited_export() ( # result
    ulimit -f 2
    exec "$COHORT_BINARY" export "$1" --adapters adapters
)

test_adapters_are_written_whole_or_not_at_all() {
    local result
    result=$(reference_result)
    expect_status 3 limited_export "$result"
    expect_text err 'adapter_model.safetensors'
    [[ -z $(find . -maxdepth 1 -name 'adapters*') ]] || fail "left: $(find . -maxdepth 1 -name 'adapters*')"
    mkdir adapters
    expect_status 0 cohort export "$result" --adapters adapters/
    [[ -f adapters/both-seed8/device0/generalist0/adapter_config.json ]] || fail 'an empty folder was not filled'
}

test_peft_computes_the_logits_of_a_device_with_one_expert() {
    local python
    require_python torch transformers peft safetensors
    mkdir given
    COHORT_PEFT_FOLDER=$PWD/given "${COHORT_BINARY%/*}/tests/unit/adapters/test_peft" --filter 'peft/device_with_one_expert*' >log 2>&1 ||
        fail "test_peft: $(<log)"
    "$python" "$check_peft" logits "$gpt2_tiny" given
}

# The whole way: a run on the tiny base, its last checkpoint as a PEFT folder, and the test loss that the trace holds.
test_peft_computes_the_test_loss_of_a_run() {
    local python loss token
    require_python torch transformers peft safetensors
    mkdir shards
    for token in {0..1999}; do printf '%b' "\\x$(printf %x $((token * token * 7 % 61)))\\0"; done >shards/train_0.bin
    cp shards/train_0.bin shards/valid_0.bin
    head -c 66 shards/train_0.bin >shards/test_0.bin
    cat >one.yaml <<YAML
base: {checkpoint: $gpt2_tiny}
data: {corpus: shards, tokens_per_device: 0, sequence: 32}
train: {rounds: 3, local_steps: 5, batch: 4, learning_rate: 1.0e-2}
experts: {rank: 4, alpha: 8}
attention: {rank: 3}
evaluate: {every: 3, windows: 1}
populations:
  - {name: one, method: local, generalists: 0, specialists: 1, devices: 1}
YAML
    expect_status 0 cohort run one.yaml --out result --quiet
    expect_status 0 cohort export result --adapters adapters
    loss=$(cohort export result --table loss | sed -n 's/^3,one,42,0,test,//p')
    "$python" "$check_peft" loss "$gpt2_tiny" adapters/one-seed42/device0/specialist0 shards/test_0.bin 32 "$loss"
}

test_plot_draws_every_figure_as_png_and_svg() {
    local python figure
    require_python h5py matplotlib
    expect_status 0 cohort plot "$(reference_result)" --out figures
    for figure in loss perplexity gates tokens cost fairness routing mixture; do
        [[ $(head -c 8 "figures/$figure.png" | od -An -tx1) == ' 89 50 4e 47 0d 0a 1a 0a' ]] || fail "$figure.png is no PNG"
        grep -q '</svg>' "figures/$figure.svg" || fail "$figure.svg is no SVG"
        expect_text out "figures/$figure.png"
    done
    [[ ! -s err ]] || fail "$(<err)"
}

# An SVG holds its texts as comments.
test_plot_says_what_is_drawn() {
    local python
    require_python h5py matplotlib
    expect_status 0 cohort plot "$(reference_result)" --out figures
    expect_text figures/perplexity.svg '<!-- test perplexity in round 6, before averaging -->'
    expect_text figures/loss.svg '<!-- test loss, before averaging -->'
    expect_text figures/loss.svg '<!-- entropy of the text'
    expect_text figures/loss.svg 'bars at the right: ±1 s.d. over devices' # of six lines
    expect_text figures/gates.svg '<!-- specialists (sum) -->'
    sed '/name: [^b]/d' "$tiny" >both.yaml
    expect_status 0 cohort run both.yaml --out result --quiet --set trace.routing_windows=0
    expect_status 0 cohort plot result
    expect_text err 'trace.routing_windows is 0'
    [[ -e result/figures/gates.png && ! -e result/figures/tokens.png ]] || fail "$(ls result/figures)"
    expect_text result/figures/loss.svg 'pale: ±1 s.d. over devices'
    expect_text result/figures/gates.svg '<!-- specialist -->'
    sed '/name: [^a]/d' "$tiny" >apart.yaml
    expect_status 0 cohort run apart.yaml --out apart --quiet
    expect_status 0 cohort plot apart
    expect_text err 'no figure of gates: no population has a router'
    expect_text err 'no figure of tokens: no population has a router'
}

# In a figure of gates one look has one name: a lone generalist is the first of several elsewhere, a sum is none of them.
expect_looks() { # result, names that the legend must have, in any order
    local names
    expect_status 0 cohort plot "$1"
    names=$(grep -oE '<!-- (generalist|specialist)[^-]*-->' "$1/figures/gates.svg" | sort | sed 's/<!-- \(.*\) -->/\1/' | paste -sd,)
    [[ $names == "$2" ]] || fail "the legend says: $names"
}

test_plot_of_one_and_two_generalists_names_each_look_once() {
    local python
    local bank='{name: %s, method: comigs, devices: 2, generalists: %d, specialists: %s}'
    require_python h5py matplotlib
    sed '/- {name/d' "$tiny" >banks.yaml
    banks() { # result, bank...: name generalists specialists
        local entries=() words entry
        for entry in "${@:2}"; do
            read -ra words <<<"$entry"
            # shellcheck disable=SC2059
            entries+=("$(printf "$bank" "${words[@]}")")
        done
        expect_status 0 cohort run banks.yaml --out "$1" --quiet --set "populations=[$(IFS=,; echo "${entries[*]}")]"
    }
    banks apart 'one 1 1' 'two 2 0'
    expect_looks apart 'generalist 1,generalist 2,specialist'
    banks sums 'one 1 1' 'two 2 0' 'more 2 1'
    expect_looks sums 'generalist 1,generalist 2,generalists (sum),specialists (sum)'
    banks uneven 'uneven 1 [1,2]' 'even 1 1'
    expect_looks uneven 'generalists (sum),specialists (sum)'
}

test_uneven_banks_are_reported_device_by_device() {
    local result
    result=$(reference_result)
    grep -q '^uneven,comigs,4,.*,7,1,1 2 1 3,4,' "$result/summary.csv" || fail "$(<"$result/summary.csv")"
    grep -q '^alone,local,4,.*,7,0,2,4,' "$result/summary.csv" || fail "$(<"$result/summary.csv")"
    expect_status 0 cohort export "$result" --table populations
    expect_text out 'uneven,7,comigs,4,1,1 2 1 3,4,2,4000,natural,top_k,in_distribution'
    expect_text out 'alone,7,local,4,0,2,4,2,4000,natural,mean,in_distribution'
    expect_status 0 cohort info "$result"
    grep -Eq '^uneven .* 1G1-3S ' out || fail "$(<out)"
    expect_status 0 cohort check --no-measure "$tiny"
    grep -Eq '^uneven .* 1G1-3S ' out || fail "$(<out)"
}

# Which populations have a router is in the trace, whatever their method is called.
test_plot_asks_the_trace_who_has_a_router() {
    local python
    require_python h5py matplotlib
    cp -r "$(reference_result)" renamed
    "$python" - renamed/trace.h5 <<'PYTHON'
import sys, h5py
with h5py.File(sys.argv[1], "r+") as file:
    records = file["populations"][:]
    records["method"] = b"new"
    records["gates"][records["name"] == b"both"] = b"mean"
    file["populations"][:] = records
PYTHON
    expect_status 0 cohort plot renamed
    expect_text renamed/figures/gates.svg '<!-- mixture'
    expect_text renamed/figures/gates.svg '<!-- uneven'
    ! grep -q '<!-- both' renamed/figures/gates.svg || fail 'a population without a router has gates'
}

test_plot_whose_output_nobody_reads_ends_quietly() {
    local python
    local -a statuses
    require_python h5py matplotlib
    set +e
    cohort plot "$(reference_result)" --out figures 2>err | head -n 1 >out
    statuses=("${PIPESTATUS[@]}")
    set -e
    [[ ${statuses[0]} == 0 ]] || fail "exit status ${statuses[0]}: $(<err)"
    [[ ! -s err ]] || fail "$(<err)"
    expect_text out figures/loss.png
    [[ -s figures/tokens.svg ]] || fail "not every figure is there: $(ls figures)"
}

test_plot_of_a_sweep_over_text_draws_the_crossover() {
    local python
    require_python h5py matplotlib
    sed '/name: [^a]/d; s/{name: alone, \(.*\)}/{name: a1, \1}\n  - {name: a2, \1, data: {tokens_per_device: 2000}}/' "$tiny" >sweep.yaml
    expect_status 0 cohort run sweep.yaml --out result --quiet --set populations.2.method=pfedmoe
    expect_status 0 cohort plot result
    expect_text out result/figures/crossover.png
    grep -q '^| 2,000 | \*\*' result/figures/crossover.md || fail "$(<result/figures/crossover.md)"
}

# A Python that starts with this module cannot find h5py.
test_plot_without_a_python_says_what_is_missing() {
    mkdir hidden
    echo 'import sys; sys.modules["h5py"] = None' >hidden/sitecustomize.py
    expect_status 3 env PYTHONPATH="$PWD/hidden" COHORT_PYTHON=/nowhere/python "$COHORT_BINARY" plot "$(reference_result)"
    expect_text err '/nowhere/python: No such file or directory'
    expect_text err '/usr/bin/python3: '
    expect_text err 'apt-get install python3-h5py python3-matplotlib'
}

test_plot_of_something_that_is_no_result_is_refused() {
    expect_status 2 cohort plot nowhere
    expect_text err nowhere
}

run_tests export "$@"
