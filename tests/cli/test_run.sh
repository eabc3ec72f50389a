#!/usr/bin/env bash
# A whole run of a tiny configuration, and what it leaves.
# shellcheck source=result.sh
source "$(dirname "${BASH_SOURCE[0]}")/result.sh"

test_result_holds_the_promised_files_and_no_others() {
    local result
    result=$(reference_result)
    expect_same <(ls -A "$result") <(printf '%s\n' checkpoint.h5 config.yaml summary.csv trace.h5) 'the files of a result'
}

test_summary_has_its_header_and_a_row_per_population() {
    local summary
    summary=$(reference_result)/summary.csv
    [[ $(head -n 1 "$summary") == population,method,devices,test_ppl_mean,test_ppl_std,bytes_up,bytes_down,* ]] ||
        fail "header: $(head -n 1 "$summary")"
    expect_same <(cut -d, -f1,2 "$summary" | tail -n +2) - 'populations and methods' <<'CSV'
alone,local
averaged,fedavg
pooled,centralized
mixture,pfedmoe
both,comigs
both,comigs
uneven,comigs
CSV
    awk -F, 'NF != columns && NR > 1 { exit 1 } { columns = NF }' "$summary" || fail 'rows of different length'
}

# The vocabulary has 64 ids of which 4 can follow: a learner is between 1 and 64, and only what is averaged travels.
test_summary_numbers_are_possible() {
    tail -n +2 "$(reference_result)/summary.csv" | awk -F, '
        !($4 > 1 && $4 < 64 && $5 >= 0 && $5 < 64) { print "perplexity: " $0; wrong = 1 }
        ($2 == "local" || $2 == "centralized") != ($6 == 0 && $7 == 0) { print "traffic: " $0; wrong = 1 }
        END { exit wrong }' || fail 'see above'
}

# As the configuration promises: what shares is ahead by far more than chance, and what averages everything loses some of it.
test_quickstart_shows_that_sharing_wins() {
    cohort run "$COHORT_SOURCE_DIR/configs/quickstart.yaml" --out result --quiet
    awk -F, '
        NR > 1 { mean[$1] = $4; error[$1] = $5 / sqrt($3); after[$1] = $8; bound = exp($16) }
        END {
            for (name in mean) {
                if (mean[name] < bound) { print name " is below the bound"; exit 1 }
                if (name == "local") continue
                apart = (mean["local"] - mean[name]) / sqrt(error["local"] ^ 2 + error[name] ^ 2)
                if (apart < 5 || mean[name] > 0.9 * mean["local"]) { print name ": " apart " standard errors"; exit 1 }
            }
            if (after["comigs-1g1s"] >= after["fedavg"]) { print "averaging costs fedavg nothing"; exit 1 }
        }' result/summary.csv || fail "$(<result/summary.csv)"
}

# The entropy of synthetic text, as a perplexity, beside what was reached; of real text it is not known.
test_closing_table_has_the_bound_that_the_entropy_sets() {
    local bound
    expect_status 0 cohort run "$tiny" --out result --set train.rounds=1
    bound=$(awk -F, '$1 == "alone" { printf "%.3f", exp($16) }' result/summary.csv)
    grep -Eq '^population .* averaged +bound +MB up' out || fail "$(<out)"
    grep -Eq "^alone .* $bound +0.00 +0.00$" out || fail "no bound of $bound: $(<out)"
    mkdir shards
    for part in train valid test; do head -c 4000 "$tiny" | tr -c '[:lower:]' 'a' | sed 's/./&\x0/g' >"shards/${part}_0.bin"; done
    expect_status 0 cohort run "$tiny" --out real --set train.rounds=1 --set data.corpus="$PWD/shards" --set base.vocabulary=256 \
        --set base.pretrain.tokens=0 --set 'populations=[{name: one, method: local, devices: 1, data: {tokens_per_device: 200}}]' \
        --set data.valid_tokens_per_device=0 --set data.test_tokens_per_device=0
    ! grep -q bound out || fail "$(<out)"
}

test_same_command_twice_gives_the_same_result() {
    cohort run "$tiny" --out again --quiet
    expect_same_results "$(reference_result)" again
}

test_threads_and_wave_size_change_no_bit() {
    cohort run "$tiny" --out other --quiet --set threads=1 --set wave_tokens=100
    expect_same "$(reference_result)/summary.csv" other/summary.csv 'the summaries'
}

test_neighbours_change_no_bit() {
    sed '/name: \(alone\|averaged\|pooled\|mixture\|uneven\)/d' "$tiny" >both.yaml
    cohort run both.yaml --out both --quiet
    expect_same <(grep ^both, both/summary.csv) <(grep ^both, "$(reference_result)/summary.csv") 'the rows of one population'
}

test_resolved_configuration_runs_to_the_same_summary() {
    cohort run "$(reference_result)/config.yaml" --out again --quiet
    expect_same "$(reference_result)/summary.csv" again/summary.csv 'the summaries'
}

test_set_overrides_the_file() {
    cohort run "$tiny" --out short --quiet --set train.rounds=1
    grep -qE 'rounds: *1$' short/config.yaml || fail "$(grep rounds short/config.yaml)"
}

test_default_output_is_a_folder_under_results() {
    cp "$tiny" here.yaml
    expect_status 0 cohort run here.yaml --set train.rounds=1
    compgen -G 'results/here-*/summary.csv' >/dev/null || fail "found only: $(find . -name summary.csv)"
    expect_text out summary.csv
}

test_quiet_run_says_nothing() {
    expect_status 0 cohort run "$tiny" --out result --quiet --set train.rounds=1
    [[ ! -s out && ! -s err ]] || fail "$(cat out err)"
}

test_pipe_gets_plain_lines() {
    expect_status 0 cohort run "$tiny" --out result --set train.rounds=2
    cat out err >all
    ! grep -q $'[\r\033]' all || fail 'control characters on a pipe'
    [[ -s all ]] || fail 'nothing was said'
}

# The rate that a share refers to is that of the threads OpenMP really gives.
test_speed_is_a_share_of_the_best_product_and_of_the_fma_peak() {
    expect_status 0 env OMP_THREAD_LIMIT=1 "$COHORT_BINARY" run "$tiny" --threads 4 --out result
    grep -qE '^expert steps: .* % of the best sgemm rate \([0-9.]+ GFLOP/s, .*\), [0-9]+ % of the FMA peak \(.*, 1 thread, OpenBLAS' out ||
        fail "$(grep -F 'expert steps' out)"
}

test_output_folder_with_content_is_refused_and_left_alone() {
    mkdir result
    echo mine >result/summary.csv
    expect_status 2 cohort run "$tiny" --out result
    expect_text err 'result: holds files that are no result'
    [[ $(ls -A result) == summary.csv && $(<result/summary.csv) == mine ]] || fail 'the folder was changed'
    cp "$tiny" result/config.yaml
    expect_status 2 cohort run "$tiny" --out result
    expect_text err 'holds a result already: add --resume'
}

test_empty_output_folder_is_taken() {
    mkdir result
    expect_status 0 cohort run "$tiny" --out result --quiet --set train.rounds=1
    [[ -s result/summary.csv ]] || fail 'no summary'
}

test_output_that_cannot_be_made_is_an_error() {
    echo file >occupied
    expect_status 2 cohort run "$tiny" --out occupied/result
    expect_text err occupied
}

test_info_describes_the_result() {
    local name
    expect_status 0 cohort info "$(reference_result)"
    for name in alone averaged pooled mixture both uneven; do expect_text out "$name"; done
}

test_trace_has_the_promised_tables() {
    local object
    require h5ls hdf5-tools
    h5ls -r "$(reference_result)/trace.h5" >objects
    for object in /populations /devices /loss/train /loss/valid /loss/test /routing/gate_mean /routing/token_share /routing/tokens \
        /traffic/bytes_up /traffic/bytes_down /time; do
        grep -qE "^$object +" objects || fail "no $object"
    done
}

test_trace_and_program_name_the_same_revision() {
    local revision
    require h5dump hdf5-tools
    git -C "$COHORT_SOURCE_DIR" rev-parse --quiet --verify HEAD >/dev/null || skip 'the sources are not a git repository'
    revision=$(cohort version | sed -n 's/.*(\(.*\))$/\1/p')
    [[ -n $revision && $revision != unknown ]] || fail "$(cohort version)"
    h5dump -a /git_revision "$(reference_result)/trace.h5" >attribute
    expect_text attribute "\"$revision\""
}

test_unknown_backend_is_refused() {
    expect_status 2 cohort run "$tiny" --out result --backend gpu
    expect_text err gpu
    [[ ! -e result ]] || fail 'something was written'
}

run_tests run "$@"
