# harness.sh - tests as shell functions. A script sources it, defines functions test_NAME and ends with
#     run_tests GROUP "$@"           the arguments are the TAP file to write and a text to filter by
# Each test runs in a subshell of its own with -e, in an empty folder; it fails by `fail MESSAGE` or a failing command, and is skipped by
# `skip REASON`.
# shellcheck shell=bash
set -euo pipefail

fail() {
    printf 'FAIL: %s\n' "$*" >&2
    exit 1
}

skip() {
    printf 'SKIP: %s\n' "$*" >&2
    exit 77
}

require() { command -v "$1" >/dev/null || skip "$1 is not installed${2:+ (Debian: $2)}"; }

# Runs a command and keeps its output in ./out and ./err; fails unless it exits with the expected status.
expect_status() { # status, command...
    local expected=$1 status=0
    shift
    "$@" >out 2>err || status=$?
    ((status == expected)) && return
    tail -n 15 out err >&2
    fail "expected exit status $expected, got $status: $*"
}

expect_text() { # file, fixed string
    grep -qF -- "$2" "$1" && return
    head -n 40 "$1" >&2
    fail "expected '$2' in $1"
}

expect_same() { # file, file, what
    local difference
    difference=$(diff -- "$1" "$2") && return
    head -n 10 <<<"$difference" >&2
    fail "$3 differ"
}

expect_empty_folder() {
    local content
    content=$(ls -A "$1")
    [[ -z $content ]] || fail "expected nothing in $1, found: $content"
}

result_line() { # status, name, log
    case $1 in
    0) printf 'ok - %s\n' "$2" ;;
    77) printf 'ok - %s # SKIP %s\n' "$2" "$(sed -n 's/^SKIP: //p' "$3")" ;;
    *)
        printf 'not ok - %s\n' "$2"
        sed 's/^/  /' "$3"
        [[ -s $3 ]] || printf '  a command failed (exit status %d)\n' "$1"
        ;;
    esac
}

run_one() { # group, test function
    local folder status
    folder=$(mktemp -d)
    set +e
    (
        set -e
        cd "$folder"
        "$2"
    ) >"$folder.log" 2>&1
    status=$?
    set -e
    cat "$folder.log"
    result_line "$status" "$1::${2#test_}" "$folder.log" >>"$tap"
    rm -rf "$folder" "$folder.log"
}

run_tests() { # group, TAP file, filter
    local name tap=$2 filter=${3:-}
    local -a names
    # In the order in which they are written.
    shopt -s extdebug
    mapfile -t names < <(declare -F | sed -n 's/^declare -f \(test_.*\)/\1/p' | while read -r name; do declare -F "$name"; done |
        sort -n -k2 | awk -v filter="$filter" -v group="$1" 'index(group "::" substr($1, 6), filter) { print $1 }')
    shopt -u extdebug
    printf '1..%d\n' "${#names[@]}" >"$tap"
    for name in "${names[@]}"; do run_one "$1" "$name"; done
    ! grep -q '^not ok' "$tap"
}
