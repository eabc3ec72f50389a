#!/usr/bin/env bash
# Runs of several processes, by real MPI: the results of one, whatever their number and whatever happens to them.
# shellcheck source=result.sh
source "$(dirname "${BASH_SOURCE[0]}")/result.sh"

build=${COHORT_BINARY%/*}
config=$cli/processes.yaml
mpi=(mpirun --oversubscribe --allow-run-as-root --bind-to none)

# What Open MPI's plugins leave allocated cannot be told from leaks once they are unloaded: leaks are looked for in runs of one process.
require_mpi() {
    export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0
    require mpirun openmpi-bin
    [[ $(ldd "$COHORT_BINARY") == *libmpi* ]] || skip 'this build has no MPI (Debian: libopenmpi-dev)'
}

# Made once: the run that one process makes.
single_result() {
    shared_result "$config"
}

# ---- What is the same

expect_equal() { # file, file, dataset
    local kind=-d
    [[ $3 == / || $3 == /traffic ]] && kind=-g
    expect_same <(cd "${1%/*}" && h5dump "$kind" "$3" "${1##*/}") <(cd "${2%/*}" && h5dump "$kind" "$3" "${2##*/}") "$3 of $1 and $2"
}

# Content of a result: numbers of training within 1e-5, all that is counted, drawn or chosen exactly.
expect_close_results() { # folder, folder
    local dataset
    require h5dump hdf5-tools
    for dataset in loss/train loss/valid loss/test loss/test_after routing/gate_mean routing/tokens/gates; do
        expect_close "$1/trace.h5" "$2/trace.h5" "/$dataset"
    done
    for dataset in populations devices rounds traffic/bytes_up traffic/bytes_down routing/tokens/ids routing/tokens/devices routing/token_share \
        sampling/windows/train sampling/windows/valid; do
        expect_equal "$1/trace.h5" "$2/trace.h5" "/$dataset"
    done
    for dataset in parameters moment1 moment2 carried; do expect_close "$1/checkpoint.h5" "$2/checkpoint.h5" "/$dataset"; done
    for dataset in device_expert_steps device_router_steps bytes_up bytes_down stopped; do
        expect_equal "$1/checkpoint.h5" "$2/checkpoint.h5" "/$dataset"
    done
    expect_close_summaries "$1/summary.csv" "$2/summary.csv"
}

# A deviation is judged as part of its mean, four columns on from the name.
expect_close_summaries() { # file, file
    paste -d, "$1" "$2" | awk -F, '
        { for (i = 1; i <= NF / 2; i++) {
              a = $i; b = $(i + NF / 2); scale = i == 5 ? $4 : a
              if (a == b) continue
              if (a !~ /^[0-9.e+-]+$/ || b !~ /^[0-9.e+-]+$/ || (a - b) ^ 2 > (1e-5 * scale) ^ 2) { print a " is not " b; exit 1 } } }
        END { if (NR < 2) { print "no rows"; exit 1 } }' >said || fail "$1 and $2: $(<said)"
}

# ---- Sums

check_collective() { # processes, expected way, argument
    local p
    expect_status 0 "${mpi[@]}" -n "$1" "$build/tests/collective/collective-check" "${@:3}"
    for ((p = 0; p < $1; p++)); do expect_text out "process $p of $1: ok $2"; done
}

test_collective_calls() {
    require_mpi
    expect_status 0 "$build/tests/collective/collective-check"
    expect_text out 'process 0 of 1: ok local'
    check_collective 2 mpi
    check_collective 3 mpi
}

# The library that it finds stands in for NVIDIA's; the memory is the host's.
test_sums_of_a_device_s_memory_go_by_nccl_where_all_can() {
    require_mpi
    LD_LIBRARY_PATH=$build/tests/collective check_collective 3 nccl device
    NCCL_STAND_IN=refuse LD_LIBRARY_PATH=$build/tests/collective check_collective 2 mpi device
}

# The CUDA backend on the CPU: a run whose averages never leave the "GPUs".
test_a_run_of_two_gpus() {
    local simt=$build/tests/simt/cohort
    local small=(--backend cuda --quiet --set train.rounds=2 --set train.local_steps=1 --set data.sequence=8 --set evaluate.windows=1
        --set trace.routing_windows=0 --set 'populations=[{name: two, method: comigs, devices: 2}]')
    require_mpi
    [[ -x $simt ]] || skip 'CUDA kernels were not built for the CPU'
    "$simt" run "$config" --out one "${small[@]}"
    export NCCL_STAND_IN_COUNT=$PWD/sums LD_LIBRARY_PATH=$build/tests/collective
    expect_status 0 "$simt" run "$config" --out two --processes 2 "${small[@]}"
    [[ $(wc -l <sums) == 4 ]] || fail "two processes sum once a round: $(<sums)"
    expect_close one/checkpoint.h5 two/checkpoint.h5 /parameters
    expect_close_summaries one/summary.csv two/summary.csv
}

test_one_process_ends_all() {
    require_mpi
    expect_status 5 "${mpi[@]}" -n 2 "$build/tests/collective/collective-check" abort
}

# ---- Runs

test_two_and_three_processes_agree_with_one() {
    local n
    require_mpi
    for n in 2 3; do
        expect_status 0 cohort run "$config" --out "result-$n" --processes "$n" --quiet
        [[ ! -s out && ! -s err ]] || fail "said with --quiet: $(cat out err)"
        expect_close_results "$(single_result)" "result-$n"
        expect_same <(ls -A "result-$n") <(ls -A "$(single_result)") 'the files'
    done
}

test_the_same_command_twice_gives_the_same_bits() {
    require_mpi
    cohort run "$config" --out first --processes 2 --quiet
    cohort run "$config" --out second --processes 2 --quiet
    expect_same_results first second
}

# Devices that hold unequal amounts of text, and so weigh differently in an average.
uneven_text() { # writes uneven.yaml and its shards
    local token source part
    mkdir shards
    for token in {0..1299}; do printf '%b' "\\x$(printf %x $((token * token * 7 % 61)))\\0"; done >shards/train_1.bin
    head -c 800 shards/train_1.bin >shards/train_0.bin
    for source in 0 1; do
        for part in valid test; do cp "shards/train_$source.bin" "shards/${part}_$source.bin"; done
    done
    cat >uneven.yaml <<YAML
base: {layers: 2, width: 32, heads: 2, pretrain: {tokens: 0}}
data: {corpus: shards, tokens_per_device: 0, sequence: 32}
train: {rounds: 3, local_steps: 2, batch: 2}
experts: {rank: 4}
attention: {rank: 2}
evaluate: {every: 1, windows: 4}
populations:
  - {name: weighed, method: fedavg, devices: 5}
  - {name: alike, method: fedavg, devices: 5, aggregate: {weights: uniform}}
YAML
}

test_weights_by_tokens_sum_over_processes() {
    local n
    require_mpi
    uneven_text
    cohort run uneven.yaml --out one --quiet
    for n in 2 3; do
        expect_status 0 cohort run uneven.yaml --out "$n" --processes "$n" --quiet
        expect_close one/trace.h5 "$n/trace.h5" /loss/test_after
        expect_close one/checkpoint.h5 "$n/checkpoint.h5" /parameters
        expect_close_summaries one/summary.csv "$n/summary.csv"
    done
    grep -q '^weighed,.*,tokens,' one/summary.csv || fail "$(<one/summary.csv)"
    grep -q '^alike,.*,uniform,' one/summary.csv || fail "$(<one/summary.csv)"
    [[ $(cut -d, -f4 one/summary.csv | sed -n 2p) != "$(cut -d, -f4 one/summary.csv | sed -n 3p)" ]] || fail 'the weights change nothing'
}

test_more_processes_than_devices() {
    local few=(--set train.rounds=2 --set 'populations=[{name: two, method: comigs, devices: 2}]' --quiet)
    require_mpi
    cohort run "$config" --out one "${few[@]}"
    expect_status 0 cohort run "$config" --out three "${few[@]}" --processes 3
    expect_close three/trace.h5 one/trace.h5 /loss/test_after
    expect_equal three/trace.h5 one/trace.h5 /sampling/windows/train
    expect_close three/checkpoint.h5 one/checkpoint.h5 /moment2
    expect_close_summaries one/summary.csv three/summary.csv
}

test_one_table_and_one_progress() {
    require_mpi
    expect_status 0 cohort run "$config" --set train.rounds=2 --out result --processes 2
    [[ $(grep -c '^population ' out) == 1 && $(grep -c '^uneven ' out) == 1 ]] || fail "$(<out)"
    expect_text out '2 processes, each'
    [[ $(grep -c '^train 8/8 ' err) == 1 ]] || fail "$(<err)"
}

test_check_plans_every_process() {
    expect_status 0 cohort check --no-measure "$config" --processes 3
    [[ $(grep -cE '^Process [012] of 3, with [0-9]+ devices?$' out) == 3 ]] || fail "$(<out)"
    awk '/^Process/ { devices += $(NF - 1) } END { exit devices != 28 }' out || fail "not 28 devices in all: $(<out)"
}

# ---- What becomes of a run

long=(--set train.rounds=60 --quiet)

long_result() {
    shared_result "$config" "${long[@]}"
}

start() { # processes, options; the id is in $run
    "$COHORT_BINARY" run "$config" --out result --processes "$@" >out 2>err &
    run=$!
}

is_process() { # process id, its number in a run of result
    grep -qzx "OMPI_COMM_WORLD_RANK=$2" "/proc/$1/environ" 2>/dev/null && [[ $(readlink "/proc/$1/cwd") == "$PWD" ]]
}

kill_process() { # number
    local pid status=0
    for pid in $(pgrep -x cohort); do ! is_process "$pid" "$1" || kill -KILL "$pid"; done
    wait "$run" || status=$?
    ((status == 4)) || fail "expected exit status 4 after process $1 was killed, got $status: $(<err)"
    expect_text err "process $1 of"
    expect_text err 'signal 9'
    expect_text err '--resume'
    [[ $(wc -l <err) == 1 ]] || fail "more than one message: $(<err)"
    [[ ! -e result/summary.csv ]] || fail 'the run was over before'
    ! pgrep -x cohort | while read -r pid; do ! is_process "$pid" 0 || echo left; done | grep -q left || fail 'process 0 is still there'
}

file_is_newer() { [[ $1 -nt $2 ]]; }

test_a_killed_process_is_named_and_any_number_goes_on() {
    require_mpi
    start 2 "${long[@]}"
    wait_until "$run" test -e result/checkpoint.h5
    kill_process 1
    touch mark
    start 3 "${long[@]}" --resume
    wait_until "$run" file_is_newer result/checkpoint.h5 mark
    kill_process 0
    expect_status 0 cohort run "$config" --out result "${long[@]}" --resume
    expect_close_results "$(long_result)" result
}

test_interrupted_within_a_round_and_resumed_by_another_number() {
    local steps=(--set train.rounds=2 --set train.local_steps=150)
    require_mpi
    start 2 "${steps[@]}"
    wait_until "$run" test -e result/trace.h5
    sleep 0.3
    kill -TERM "$run"
    local status=0
    wait "$run" || status=$?
    ((status == 5)) || fail "exit status $status: $(<err)"
    expect_text err 'of 150, which is saved'
    [[ $(grep -c interrupted err) == 1 ]] || fail "$(<err)"
    expect_status 0 cohort run "$config" --out result "${steps[@]}" --quiet --resume --processes 3
    expect_status 0 cohort run "$config" --out whole "${steps[@]}" --quiet
    expect_close_results whole result
}

# Weights come from the text that is open, so another number of processes goes on with the same.
test_weights_by_tokens_survive_an_interruption() {
    local status=0 steps=(--set train.rounds=2 --set train.local_steps=400)
    require_mpi
    uneven_text
    config=uneven.yaml
    start 2 "${steps[@]}"
    wait_until "$run" test -e result/trace.h5
    sleep 0.3
    kill -TERM "$run"
    wait "$run" || status=$?
    ((status != 0)) || fail 'the run was over before it was interrupted'
    expect_status 0 cohort run uneven.yaml --out result "${steps[@]}" --quiet --resume
    expect_status 0 cohort run uneven.yaml --out whole "${steps[@]}" --quiet
    expect_close whole/checkpoint.h5 result/checkpoint.h5 /parameters
    expect_close_summaries whole/summary.csv result/summary.csv
}

# ---- What is refused, and said once

expect_one_line() { # text
    expect_text err "$1"
    [[ $(grep -cF "$1" err) == 1 ]] || fail "said more than once: $(<err)"
}

test_a_bad_configuration_is_reported_once() {
    require_mpi
    sed 's/rounds: 4/rounds: -4/; s/  sequence: 32/  sequenze: 32/' "$config" >bad.yaml
    expect_status 2 "${mpi[@]}" -n 3 "$COHORT_BINARY" run bad.yaml --out result
    expect_one_line sequenze
    expect_one_line train.rounds
    expect_status 2 cohort run bad.yaml --out result --processes 3
    [[ $(wc -l <err) == 2 ]] || fail "$(<err)"
    [[ ! -e result ]] || fail 'something was written'
}

test_a_failure_of_one_process_is_that_of_all() {
    require_mpi
    mkdir adapters
    : >adapters/adapters_0_0.safetensors
    expect_status 2 cohort run "$config" --out result --processes 2 --set adapters=adapters \
        --set 'populations=[{name: two, method: local, devices: 2}]' --set base.pretrain.tokens=0
    grep -q 'adapters_0_0' err || fail "$(<err)"
    [[ ! -e result ]] || fail 'something was written'
}

test_only_the_process_that_fails_is_named() {
    require_mpi
    cohort run "$config" --set 'populations=[{name: two, method: local, devices: 2}]' --set train.rounds=1 --out made --quiet
    cohort export made --table windows --out windows.csv
    awk -F, -v OFS=, '{ print $(NF - 4), $(NF - 3), $(NF - 2), $(NF - 1), $NF }' windows.csv | grep -v '^1,train,3,' >given.csv
    expect_status 2 cohort run "$config" --out result --processes 2 --set data.windows=given.csv --set train.rounds=1 \
        --set 'populations=[{name: two, method: local, devices: 2}]'
    expect_one_line 'process 1 of 2: '
    expect_text err 'has no line for device 1, train, step 3'
}

test_a_full_disk_ends_all_processes() {
    require_mpi
    mkdir disk
    mount -t tmpfs -o size=600k tmpfs disk 2>/dev/null || skip 'no right to mount a file system'
    trap 'umount disk' EXIT
    expect_status 4 cohort run "$config" --out disk/result --processes 2 --quiet
    expect_text err 'No space left on device'
    [[ $(wc -l <err) == 1 ]] || fail "$(<err)"
    mount -o remount,size=20m disk
    expect_status 0 cohort run "$config" --out disk/result --processes 2 --quiet --resume
    expect_close_results "$(single_result)" disk/result
}

test_a_population_that_diverges_stops_in_all_processes() {
    require_mpi
    local absurd='{name: absurd, method: comigs, devices: 4, train: {learning_rate: 10, weight_decay: 10}}'
    local both=(--set "populations=[$absurd, {name: good, method: fedavg, devices: 3}]" --set train.rounds=6 --quiet)
    expect_status 4 cohort run "$config" --out two "${both[@]}" --processes 2
    [[ $(wc -l <err) == 1 ]] || fail "$(<err)"
    expect_text err "population 'absurd'"
    expect_status 4 cohort run "$config" --out one "${both[@]}"
    expect_close_summaries one/summary.csv two/summary.csv
    expect_equal one/checkpoint.h5 two/checkpoint.h5 /stopped
    expect_close one/trace.h5 two/trace.h5 /loss/test
}

# Of a batch system that warns the processes too, and of a terminal that is gone.
test_signals_other_than_the_usual_save_as_well() {
    local signal status
    require_mpi
    for signal in USR2 HUP; do
        rm -rf result
        start 2 --set train.rounds=200 --set train.local_steps=20 --quiet
        wait_until "$run" test -e result/checkpoint.h5
        kill "-$signal" "$run"
        status=0
        wait "$run" || status=$?
        ((status == 5)) || fail "SIG$signal: exit status $status: $(<err)"
        expect_text err 'which is saved'
    done
}

# Before its rounds a run has nothing to save.
test_interrupted_before_the_first_step() {
    require_mpi
    start 2 --set base.pretrain.tokens=100000000
    wait_until "$run" grep -q '^pre-train' err
    kill -INT "$run"
    local status=0
    wait "$run" || status=$?
    ((status == 4)) || fail "exit status $status: $(<err)"
    expect_one_line interrupted
    [[ ! -e result ]] || fail 'something was written'
}

# What can be read once only is read by one, for all.
test_a_configuration_from_a_pipe() {
    require_mpi
    local few=(--set train.rounds=2 --quiet)
    cohort run "$config" --out file --processes 2 "${few[@]}"
    expect_status 0 cohort run <(cat "$config") --out substituted --processes 2 "${few[@]}"
    expect_status 0 cohort run /dev/stdin --out piped --processes 2 "${few[@]}" < <(cat "$config")
    expect_status 0 "${mpi[@]}" -n 2 "$COHORT_BINARY" run /dev/stdin --out joined "${few[@]}" < <(cat "$config")
    for folder in substituted piped joined; do expect_same_results file "$folder"; done
    expect_status 2 cohort run <(printf 'rounds: 3\n') --processes 2
    expect_text err 'rounds'
}

# An mpirun that tells its processes nothing, or what others tell theirs ($told). A program that started it again would never end: the
# second generation is refused.
pretend_mpirun() {
    mkdir -p bin
    cat >bin/mpirun <<'SH'
#!/bin/bash
((${GENERATION:-0} < 1)) || { echo "mpirun within mpirun" >&2; exit 9; }
export GENERATION=1
while [[ $1 != -n ]]; do shift; done
n=$2
shift 2
for ((i = 0; i < n; i++)); do
    ${told:+env PMI_SIZE="$n" PMI_RANK="$i"} "$@" &
done
wait -n
SH
    chmod +x bin/mpirun
}

test_an_mpirun_that_is_not_open_mpi_s_is_named_and_starts_nothing() {
    local -x PATH=$PWD/bin:$PATH
    local -x told
    pretend_mpirun
    for told in '' yes; do
        expect_status 3 timeout 60 "$COHORT_BINARY" run "$config" --processes 3 --out result
        expect_one_line "Open MPI's mpirun"
        [[ $(wc -l <err) == 1 ]] || fail "$(<err)"
    done
    printf '#!/bin/sh\necho unrecognized argument oversubscribe >&2\nexit 255\n' >bin/mpirun
    expect_status 3 "$COHORT_BINARY" run "$config" --processes 3 --out result
    expect_text err 'exit status 255'
    expect_text err openmpi-bin
    [[ ! -e result ]] || fail 'something was written'
}

# Of processes that cannot be joined, each would write to the same folder. The first speaks for all.
test_processes_of_other_launchers_are_refused() {
    local told size process
    for told in 'PMI_SIZE PMI_RANK' 'MPI_LOCALNRANKS MPI_LOCALRANKID' 'MV2_COMM_WORLD_SIZE MV2_COMM_WORLD_RANK' \
        'SLURM_STEP_NUM_TASKS SLURM_PROCID'; do
        read -r size process <<<"$told"
        expect_status 3 env "$size=3" "$process=0" "$COHORT_BINARY" run "$config" --out result
        expect_text err "3 processes ($size)"
        expect_text err '--processes 3'
        expect_status 3 env "$size=3" "$process=1" "$COHORT_BINARY" run "$config" --out result
        [[ ! -s err ]] || fail "both speak: $(<err)"
    done
    expect_status 3 env SLURM_NTASKS=3 SLURM_PROCID=1 "$COHORT_BINARY" run "$config" --out result
    expect_text err SLURM_NTASKS
    expect_status 3 env PMI_SIZE=3 PMI_RANK=0 "$build/cohort-bench" all-reduce
    expect_text err PMI_SIZE
    [[ ! -e result ]] || fail 'something was written'
}

# The script of a Slurm job with three tasks, a task of its own, and what a message says to type.
test_a_process_by_itself_is_not_taken_for_one_of_many() {
    local few=(--set train.rounds=1 --quiet)
    local -a remedy
    expect_status 0 env SLURM_NTASKS=3 SLURM_PROCID=0 "$COHORT_BINARY" run "$config" --out job "${few[@]}"
    expect_status 0 env SLURM_NTASKS=1 SLURM_STEP_NUM_TASKS=1 SLURM_PROCID=0 PMI_SIZE=1 PMI_RANK=0 "$COHORT_BINARY" run "$config" \
        --out task "${few[@]}"
    local -x SLURM_NTASKS=3 SLURM_STEP_NUM_TASKS=3 SLURM_PROCID=0 PMI_SIZE=3 PMI_RANK=0
    expect_status 3 cohort run "$config" --out own
    read -ra remedy < <(sed -n 's/.*put .\(env.*\). before.*/\1/p' err)
    expect_status 0 "${remedy[@]}" "$COHORT_BINARY" run "$config" --out own "${few[@]}"
}

# The launcher is one of many then: it must neither install nor build. What stands in for the program says how it was called.
test_the_launcher_only_starts_the_program_under_mpirun() {
    local told folder
    cp "$COHORT_SOURCE_DIR/cohort" cohort
    expect_status 3 env OMPI_COMM_WORLD_RANK=0 ./cohort run x.yaml
    expect_text err 'build on it before mpirun'
    folder=$(sed -n 's/.*(in \(build-[0-9a-f]*\)).*/\1/p' err)
    mkdir "$folder"
    printf '#!/bin/sh\necho called with "$@"\n' >"$folder/cohort"
    chmod +x "$folder/cohort"
    for told in OMPI_COMM_WORLD_RANK=1 PMI_SIZE=2 SLURM_STEP_NUM_TASKS=2; do
        expect_status 0 env "$told" ./cohort run x.yaml --quiet
        [[ $(<out) == 'called with run x.yaml --quiet' && ! -s err ]] || fail "$(cat out err)"
        [[ $(ls "$folder") == cohort ]] || fail "built all the same: $(ls "$folder")"
    done
}

test_numbers_of_processes_that_do_not_fit() {
    require_mpi
    expect_status 2 cohort run "$config" --processes 0
    expect_text err '--processes'
    expect_status 2 "${mpi[@]}" -n 2 "$COHORT_BINARY" run "$config" --processes 3 --out result
    expect_one_line 'mpirun has started 2'
    PATH=/nowhere expect_status 3 "$COHORT_BINARY" run "$config" --processes 2 --out result
    expect_text err openmpi-bin
}

run_tests processes "$@"
