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

run_tests elsewhere "$@"
