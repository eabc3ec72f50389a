#!/usr/bin/env bash
# ./cohort itself: nothing here builds more than the tests have built already.
# shellcheck source=result.sh
source "$(dirname "${BASH_SOURCE[0]}")/result.sh"

launcher=$COHORT_SOURCE_DIR/cohort

# The launcher runs the release build; where the tests are those of another build it would have to be made first.
require_release_build() { [[ $COHORT_BINARY -ef $COHORT_SOURCE_DIR/build/cohort ]] || skip 'these are the tests of another build folder'; }

test_alone_shows_help() {
    local command
    expect_status 0 "$launcher"
    for command in 'cohort run' 'cohort test' 'cohort check' 'cohort info'; do expect_text out "$command"; done
}

test_unknown_test_option_is_refused() {
    expect_status 2 "$launcher" test --sanitise
    expect_text err --sanitize
    expect_status 2 "$launcher" test --compiler tcc
    expect_text err tcc
}

test_works_through_a_link_from_another_folder() {
    require_release_build
    mkdir 'a folder'
    cp "$tiny" 'a folder/tiny.yaml'
    ln -s "$launcher" 'a folder/linked'
    cd 'a folder'
    expect_status 0 ./linked check tiny.yaml
    expect_text out uneven
}

test_exit_status_is_the_program_s() {
    require_release_build
    expect_status 2 "$launcher" run missing.yaml
    expect_text err missing.yaml
}

# Said, never judged: a busy machine must not fail a test.
test_time_that_the_launcher_adds() {
    require_release_build
    local begin=$EPOCHREALTIME
    expect_status 0 "$launcher" help methods
    awk -v from="$begin" -v to="$EPOCHREALTIME" \
        'BEGIN { printf "%s%.2f s for a command through the launcher\n", (to - from > 0.3) ? "warning: " : "", to - from }'
}

run_tests launcher "$@"
