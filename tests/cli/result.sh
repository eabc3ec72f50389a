# result.sh - running Cohort and comparing results.
# shellcheck shell=bash
# shellcheck source=../harness.sh
source "$(dirname "${BASH_SOURCE[0]}")/../harness.sh"

cli=$COHORT_SOURCE_DIR/tests/cli
tiny=$cli/tiny.yaml
# What tests share lies under a name of the program that made it: another program's is never taken for it.
shared=${TMPDIR:-/tmp}/cohort-test-$(sha256sum <"$COHORT_BINARY" | cut -c 1-16)
export COHORT_CACHE=$shared-cache # pre-trained once for all tests, except where a test has its own

cohort() { "$COHORT_BINARY" "$@"; }

# The first Python that has all of these modules, as $python; without one the test is skipped.
# shellcheck disable=SC2034
require_python() { # modules...
    local candidate modules=$*
    for candidate in "${COHORT_PYTHON:-}" /usr/bin/python3 python3; do
        command -v "${candidate:-none}" >/dev/null || continue
        # shellcheck disable=SC2034 # for the tests that source this
        python=$candidate
        "$candidate" -c "import importlib.util as u; raise SystemExit(any(u.find_spec(m) is None for m in '$modules'.split()))" && return
    done
    skip "no Python with ${modules// /, } (COHORT_PYTHON names one)"
}

# An uninterrupted run, made once for all tests that only look at it; its name is of all that it depends on.
shared_result() { # configuration, options
    local folder making
    folder=$shared-$( (cat "$1" && printf '%s\n' "${@:2}") | sha256sum | cut -c 1-16)
    making=$folder.$BASHPID
    if [[ ! -e $folder ]]; then
        rm -rf "$making"
        cohort run "$1" --out "$making" --quiet "${@:2}" >&2 || fail "$1 does not run"
        mv -T "$making" "$folder" 2>/dev/null || rm -rf "$making" # another test was faster
    fi
    printf '%s\n' "$folder"
}

reference_result() { shared_result "$tiny"; }

# The content of a trace that must not depend on the clock: everything but /time and the attribute created_utc.
trace_text() { # result folder
    local object
    local -a options=()
    require h5dump hdf5-tools
    for object in $(h5ls "$1/trace.h5" | awk '$1 != "time" { print "/" $1 }'); do
        if h5ls "$1/trace.h5" | grep -qE "^${object#/} +Group"; then options+=(-g "$object"); else options+=(-d "$object"); fi
    done
    for object in schema_version cohort_version git_revision config backend hardware seed; do options+=(-a "/$object"); done
    (cd "$1" && h5dump -m '%.17g' "${options[@]}" trace.h5)
}

# Its hash is taken over all of its content.
checkpoint_text() { # result folder
    (cd "$1" && h5dump -a /round -a /expert_step -a /router_step -a /config_hash -a /content_hash checkpoint.h5)
}

expect_same_results() { # folder, folder
    expect_same "$1/summary.csv" "$2/summary.csv" "the summaries of $1 and $2"
    trace_text "$1" >left.txt
    trace_text "$2" >right.txt
    [[ $(wc -l <left.txt) -gt 100 ]] || fail "h5dump shows hardly anything of $1/trace.h5"
    expect_same left.txt right.txt "the traces of $1 and $2"
    checkpoint_text "$1" >left.txt
    checkpoint_text "$2" >right.txt
    expect_same left.txt right.txt "the checkpoints of $1 and $2"
}

# The values of a dataset, one a line.
values_of() { # file, dataset
    h5dump -y -m '%.9g' -d "$2" "$1" | sed -n '/DATA {/,$p' | grep -oE -- '-?(nan|[0-9][0-9.e+-]*)'
}

# ||a - b|| <= 1e-5 ||a||, and no number where the other has none.
expect_close() { # file, file, dataset
    paste -d ' ' <(values_of "$1" "$3") <(values_of "$2" "$3") | awk -v what="$3" '
        NF != 2 { print what ": not equally many values"; exit 1 }
        ($1 ~ /nan/) != ($2 ~ /nan/) { print what ": value " NR " is " $1 ", " $2; exit 1 }
        $1 !~ /nan/ { n++; difference += ($1 - $2) ^ 2; norm += $1 ^ 2 }
        END { if (NR == 0) { print what ": no values"; exit 1 }
              if (sqrt(difference) > 1e-5 * sqrt(norm)) { print what ": differs by " sqrt(difference / norm); exit 1 } }' >said ||
        fail "$1, $2: $(<said)"
}

# tiny.yaml on a base of tests/reference, which knows 37 ids and 40 positions; populations come from standard input.
config_on() { # checkpoint
    cat <<YAML
seed: 7
base: {checkpoint: $1}
data:
  tokens_per_device: 4000
  valid_tokens_per_device: 1000
  test_tokens_per_device: 1000
  sequence: 32
  synthetic: {topics: 2, vocabulary: 37, branching: 4}
train: {rounds: 6, local_steps: 4, batch: 2, learning_rate: 1.0e-2, router: {every: 3, steps: 2}}
experts: {rank: 4}
attention: {rank: 2}
evaluate: {every: 2, windows: 4}
checkpoint: {every: 1}
populations:
YAML
    cat
}

# Waits until a condition holds; fails if it does not within five minutes, or if the process ends before.
wait_until() { # process id, command...
    local pid=$1 deadline=$((SECONDS + 300))
    shift
    until "$@"; do
        kill -0 "$pid" 2>/dev/null || fail "the process ended before: $*"
        ((SECONDS < deadline)) || fail "waited five minutes for: $*"
        sleep 0.01
    done
}
