#!/usr/bin/env bash
# Where commands write: whatever stands at --out, it is filled as it is, or refused before any work.
# shellcheck source=result.sh
source "$(dirname "${BASH_SOURCE[0]}")/result.sh"

table() { cohort export "$(reference_result)" --table loss "$@"; }

make_text() {
    mkdir text
    for i in {1..12}; do for j in {1..60}; do echo "page $i, line $j of $((i * j * 7919 % 10007))"; done >"text/$i.txt"; done
}

# ---- Files ----

test_table_into_a_device_leaves_the_device() {
    if ! mknod null c 1 3 || ! (: >null); then skip 'device nodes cannot be made here'; fi
    expect_status 0 table --out null
    [[ -c null && $(ls) == $'err\nnull\nout' ]] || fail "$(ls -l)"
    expect_status 4 table --out /dev/full
    expect_text err '/dev/full: cannot be written: No space left on device'
}

test_table_into_a_fifo_reaches_its_reader() {
    local reader
    mkfifo pipe
    timeout 20 cat pipe >got &
    reader=$!
    expect_status 0 table --out pipe
    wait "$reader" || fail 'the reader waited in vain'
    [[ -p pipe ]] || fail 'the FIFO is gone'
    expect_same got <(table) 'what was read and the table'
}

test_table_into_open_files_of_the_shell() {
    table >expected
    table --out >(cat >substituted; mv substituted whole)
    wait_until $$ test -e whole
    expect_same whole expected 'the table by process substitution and the table'
    { echo first; table --out /dev/fd/3; echo last >&3; } 3>by_number >&3
    { echo first; table --out /dev/stdout; echo last; } >by_name
    { echo first; cat expected; echo last; } >both
    expect_same by_number both 'a table between two lines'
    expect_same by_name both 'a table between two lines'
    { table --out "/proc/$BASHPID/fd/1"; } | cat >piped
    expect_same piped expected 'the table through the pipe of another process'
    table --out /dev/fd/1 | cat >piped
    expect_same piped expected 'the table through a pipe'
    expect_status 2 table --out /dev/fd/77
    expect_text err '/dev/fd/77: cannot be written: Bad file descriptor'
}

test_table_through_a_link_replaces_what_it_leads_to() {
    table >expected
    mkdir there
    echo old >there/target.csv
    chmod 640 there/target.csv
    ln -s there/target.csv link.csv
    ln -s "$PWD/link.csv" again.csv
    ln -s new.csv there/dangling.csv
    expect_status 0 table --out again.csv
    expect_status 0 table --out there/dangling.csv
    [[ -L again.csv && -L link.csv && -L there/dangling.csv ]] || fail "$(ls -l . there)"
    expect_same there/target.csv expected 'the target of two links and the table'
    expect_same there/new.csv expected 'the target that was not there and the table'
    [[ $(stat -c %a there/target.csv) == 640 ]] || fail 'the permissions of the file were changed'
    ln -s one two
    ln -s two one
    expect_status 2 table --out one
    expect_text err 'one: cannot be written: Too many levels of symbolic links'
}

test_table_touches_no_other_file() {
    local before
    mkdir here
    echo mine | tee here/loss.csv.partial here/loss.csv.tmp >here/loss.csv
    expect_status 0 table --out here/loss.csv
    [[ $(cat here/loss.csv.partial here/loss.csv.tmp) == $'mine\nmine' ]] || fail 'a file of somebody was overwritten'
    before=$(<here/loss.csv)
    (
        ulimit -f 1
        expect_status 4 cohort export "$(reference_result)" --table routing --out here/loss.csv
    ) || fail 'a table beyond the limit was written'
    [[ $(<here/loss.csv) == "$before" && $(ls here) == $'loss.csv\nloss.csv.partial\nloss.csv.tmp' ]] || fail "$(ls here)"
}

test_table_onto_a_folder_is_refused() {
    mkdir folder
    expect_status 2 table --out folder
    expect_text err 'folder: cannot be written: Is a directory'
    expect_status 2 table --out nowhere/loss.csv
    expect_text err 'nowhere/loss.csv: cannot be written: No such file or directory'
}

test_table_in_a_format_that_there_is_not_is_refused() {
    local name
    for name in loss.parquet loss.XLSX loss.csv.gz; do
        expect_status 2 table --out "$name"
        expect_text err "--out $name: tables are written as CSV and nothing else; name it ${name%.*}.csv"
        [[ ! -e $name ]] || fail "$name was written"
    done
    expect_status 2 cohort export "$(reference_result)" --table all --out tables.parquet
    expect_text err 'tables are written as CSV'
    expect_status 0 table --out loss.v1.2
}

# A link that leads to where the summary will be.
test_table_through_a_link_into_the_result_is_refused() {
    cp -r "$(reference_result)" result
    rm result/summary.csv
    ln -s result/summary.csv link.csv
    expect_status 2 cohort export result --table loss --out link.csv
    expect_text err "--out link.csv is the result's own summary.csv"
    [[ ! -e result/summary.csv ]] || fail 'the summary was made'
}

# ---- Folders ----

# Runs a command that fills the folder it is given last; every sort of empty folder is filled as it is.
fills_any_empty_folder() { # file that must be there, command...
    local file=$1 kind place
    shift
    for kind in current link slash lost deep; do
        mkdir "$kind" "$kind.aside"
        place=$kind
        case $kind in
        link) rmdir link && ln -s link.aside link ;;
        slash) place=slash// ;;
        lost) mkdir lost/lost+found ;;
        deep) place=deep/new/er/. ;;
        esac
        if [[ $kind == current ]]; then
            (cd current && "$@" . >&2 && [[ -e $file ]]) || fail "in the current folder: $(ls -A current)"
        else
            expect_status 0 "$@" "$place"
        fi
        [[ -e $place/$file ]] || fail "$kind: found only $(ls -A "$place")"
        [[ -z $(find . -name '*.partial*') ]] || fail "$kind: left $(find . -name '*.partial*')"
    done
    [[ -L link && -e link.aside/$file ]] || fail 'the link was replaced'
    [[ ! -e empty ]] || fail 'a folder is left over'
}

# A file system of its own, as a container's volume is.
fills_a_mount_point() { # file, command...
    mkdir volume
    # shellcheck disable=SC2016
    unshare -m bash -c 'mount -t tmpfs none volume && "${@:2}" volume >&2 && ls volume' - "$@" >listed 2>said ||
        if grep -qE 'unshare|mount|ermi' said; then skip 'nothing can be mounted here'; else fail "$(<said)"; fi
    grep -qx "$1" listed || fail "the volume holds only: $(<listed)"
}

refuses_occupied_places() { # command...
    mkdir occupied
    echo mine >occupied/file
    ln -s nowhere dangling
    for place in occupied occupied/file occupied/file/below dangling; do
        expect_status 2 "$@" "$place"
        expect_text err "$place"
    done
    [[ $(ls -A occupied) == file && $(<occupied/file) == mine && ! -e nowhere ]] || fail 'something was changed'
}

test_shards_into_any_empty_folder() {
    make_text
    local -a data=("$COHORT_BINARY" data --quiet "a=$PWD/text" --out)
    fills_any_empty_folder train_0.bin "${data[@]}"
    refuses_occupied_places "${data[@]}"
    fills_a_mount_point train_0.bin "${data[@]}"
}

test_adapters_into_any_empty_folder() {
    local -a adapters=("$COHORT_BINARY" export "$(reference_result)" --population alone --adapters)
    fills_any_empty_folder alone-seed7 "${adapters[@]}"
    refuses_occupied_places "${adapters[@]}"
    fills_a_mount_point alone-seed7 "${adapters[@]}"
}

test_base_into_any_empty_folder() {
    local -a pretrain=("$COHORT_BINARY" pretrain "$tiny" --quiet --out)
    fills_any_empty_folder model.safetensors "${pretrain[@]}"
    refuses_occupied_places "${pretrain[@]}"
    expect_status 0 "${pretrain[@]}" current # an earlier base gives way
    [[ $(ls -A current) == $'config.json\nmodel.safetensors' ]] || fail "$(ls -A current)"
    fills_a_mount_point model.safetensors "${pretrain[@]}"
}

test_result_into_any_empty_folder() {
    local -a run=("$COHORT_BINARY" run "$tiny" --quiet --set train.rounds=1 --out)
    fills_any_empty_folder summary.csv "${run[@]}"
    refuses_occupied_places "${run[@]}"
    fills_a_mount_point summary.csv "${run[@]}"
}

test_tables_into_any_folder() {
    local -a tables=("$COHORT_BINARY" export "$(reference_result)" --table all --out)
    fills_any_empty_folder loss.csv "${tables[@]}"
    echo occupied >file
    expect_status 2 "${tables[@]}" file
    expect_status 2 "${tables[@]}" file/below
    fills_a_mount_point loss.csv "${tables[@]}"
}

# /sys is a place where not even root makes folders.
test_a_folder_that_cannot_be_made_says_why() {
    [[ -d /sys/kernel ]] || skip 'there is no /sys'
    local why
    why=$(LC_ALL=C mkdir /sys/kernel/cohort 2>&1) && { rmdir /sys/kernel/cohort; skip '/sys takes folders here'; }
    expect_status 2 cohort export "$(reference_result)" --table all --out /sys/kernel/cohort
    expect_text err "${why##*: }"
}

# A table that would have been written is not, where the adapters have no place.
test_nothing_is_exported_where_one_part_is_refused() {
    mkdir occupied
    echo mine >occupied/file
    expect_status 2 table --out loss.csv --adapters occupied
    [[ ! -e loss.csv ]] || fail 'the table was written'
}

test_figures_that_have_no_place_are_refused_before_python_starts() {
    echo file >occupied
    expect_status 2 cohort plot "$(reference_result)" --out occupied
    expect_text err 'occupied: the figures cannot be written there: occupied is no folder'
}

run_tests outputs "$@"
