#!/usr/bin/env bash
# cohort-bench kernels and --compare: table, JSON, CSV, sweeps, peers, refusals. Nothing here depends on how long anything takes.
# shellcheck source=result.sh
source "$(dirname "${BASH_SOURCE[0]}")/result.sh"

bench=${COHORT_BINARY%/*}/cohort-bench
python_of_user=${COHORT_PYTHON:-}
unset COHORT_PYTHON
small=(--backend cpu --threads 1 --tokens 24 --width 32 --devices 2 --sequence 8 --vocabulary 40 --seconds 0.001 --samples 3)

require_bench() { [[ -x $bench ]] || skip 'cohort-bench is not part of this build'; }

test_the_table_shows_every_case_with_its_wrong_count() {
    require_bench
    expect_status 0 "$bench" kernels "${small[@]}" --warm
    [[ $(grep -cE '^[a-z_]+/[a-z]+/.* 0/[0-9]+  warm ' out) == $("$bench" kernels --list | grep -cE '^[a-z_]+/[a-z]+$') ]] ||
        fail "not every case has a line: $(cat out)"
    expect_text out 'copy '
    expect_text out ', 0 wrong, 0 skipped'
}

test_without_the_word_kernels_it_is_the_same() {
    require_bench
    expect_status 0 "$bench" norm/forward "${small[@]}" --warm
    expect_text out 'norm/forward/T24/D32/f32'
    [[ $(grep -c ' warm ' out) == 1 ]] || fail "more than one case: $(cat out)"
}

test_json_is_what_google_benchmark_writes() {
    require_bench
    require python3
    expect_status 0 "$bench" kernels norm "${small[@]}" --width 16,32 --warm --json out.json
    python3 - <<'PYTHON' || fail "not as Google Benchmark writes it: $(head -c 2000 out.json)"
import json
content = json.load(open("out.json"), parse_constant=lambda name: exit(f"{name} is no JSON"))
context, entries = content["context"], content["benchmarks"]
assert len(context["load_avg"]) == 3 and all(load >= 0 for load in context["load_avg"])
for key in ("date", "host_name", "executable", "num_cpus", "mhz_per_cpu", "cpu_scaling_enabled", "caches", "library_build_type"):
    assert key in context, key
for key in ("git_revision", "hardware", "backend", "copy_bytes_per_second", "schema_version"):
    assert context[key], key
runs = {e["run_name"] for e in entries}
assert len(runs) == 4, runs  # 2 directions, 2 widths (32 was given twice)
for entry in entries:
    for key in ("name", "family_index", "per_family_instance_index", "run_type", "repetitions", "threads", "iterations"):
        assert key in entry, key
    assert entry["time_unit"] == "us" and entry["real_time"] >= 0 and entry["cpu_time"] >= 0
    assert entry["wrong"] == 0 and entry["checked"] > 0 and entry["floor_us"] > 0
for run in runs:
    mine = [e for e in entries if e["run_name"] == run]
    samples = [e["real_time"] for e in mine if e["run_type"] == "iteration"]
    median = [e["real_time"] for e in mine if e.get("aggregate_name") == "median"]
    assert len(samples) == len({e["repetition_index"] for e in mine if e["run_type"] == "iteration"})
    assert {e["repetitions"] for e in mine} == {len(samples)}
    assert len(samples) >= 3 and len(median) == 1
    counted = {(e["samples"], e["undisturbed_samples"]) for e in mine if e["run_type"] == "aggregate"}
    assert len(counted) == 1 and all(n >= len(samples) and n >= m >= 0 for n, m in counted), counted
    assert {e["aggregate_name"] for e in mine if e["run_type"] == "aggregate"} >= {"mean", "median", "stddev", "cv"}
# compare.py weighs every repetition the same in its OVERALL_GEOMEAN.
assert len({sum(e["run_name"] == run and e["run_type"] == "iteration" for e in entries) for run in runs}) == 1
PYTHON
}

# Whatever kernels OpenBLAS chooses, the ceiling is the best product there is, and no share of it is several times too good.
test_slow_kernels_of_openblas_are_named_and_no_yardstick() {
    require_bench
    require python3
    grep -qw avx2 /proc/cpuinfo || skip 'this processor has no AVX2'
    OPENBLAS_CORETYPE=Prescott expect_status 0 "$bench" linear/forward --backend cpu --threads 1 --tokens 512 --width 256 --warm \
        --seconds 0.2 --json out.json
    [[ $(grep -c 'OpenBLAS uses its Prescott kernels (SSE) on this processor' out) == 1 ]] || fail "not named once: $(cat out)"
    python3 - <<'PYTHON' || fail "$(cat out)"
import json
content = json.load(open("out.json"))
context = content["context"]
assert context["gemm_f32_of"] == "Cohort's", context
assert 0 < context["gemm_f32_flops_per_second"] <= context["fma_f32_flops_per_second"], context
fastest = min(e["real_time"] for e in content["benchmarks"] if e["run_type"] == "iteration")
best = next(e for e in content["benchmarks"] if e["run_type"] == "iteration" and e["real_time"] == fastest)
assert best["percent_of_floor"] < 130, best
assert best["percent_of_fma_peak"] < 120, best
PYTHON
}

test_files_that_cannot_be_written_are_refused_before_the_work() {
    require_bench
    local option
    echo old >kept.json
    for option in --json --csv; do
        expect_status 2 "$bench" kernels norm/forward "${small[@]}" --warm --json kept.json "$option" nowhere/file
        expect_text err "nowhere/file: "
        [[ ! -s out && $(<kept.json) == old && $(ls) != *partial* ]] || fail "$option: measured first, or left something: $(ls; cat out)"
        expect_status 4 "$bench" kernels norm/forward "${small[@]}" --warm "$option" /dev/full
        expect_text err '/dev/full: cannot be written: No space left on device'
    done
}

test_interrupted_it_writes_what_it_has() {
    require_bench
    local pid status=0
    "$bench" kernels "${small[@]}" --warm --seconds 0.2 --samples 1000000 --json out.json >out 2>err &
    pid=$!
    wait_until "$pid" grep -qs ' warm ' out
    kill -INT "$pid"
    wait "$pid" || status=$?
    ((status == 5)) || fail "expected exit status 5, got $status"
    expect_text err interrupted
    expect_text out.json 'route/forward/T24'
    [[ $(tail -c 2 out.json) == '}' ]] || fail 'the JSON has no end'
}

test_csv_has_a_column_for_every_axis() {
    require_bench
    expect_status 0 "$bench" kernels lora "${small[@]}" --attention-rank 2,4 --warm --csv out.csv
    [[ $(wc -l <out.csv) == 5 ]] || fail "expected a header and 4 lines: $(cat out.csv)"
    [[ $(awk -F, '{ print NF }' out.csv | sort -u | wc -l) == 1 ]] || fail "lines of unequal length: $(cat out.csv)"
    expect_text out.csv 'name,measured,tokens,sequence,width,devices,'
    expect_text out.csv 'lora/forward/T24/D32/N2/a4/uniform/f32,"warm",24,,32,2,,,,,4,,,uniform,f32,cpu,0,'
    expect_status 0 "$bench" kernels route/forward "${small[@]}" --mlp gelu,swiglu --warm --csv mlp.csv
    expect_text mlp.csv '/r8/uniform/f32,"warm",24,,32,2,2,2,8,gelu,,,,uniform,'
    expect_text mlp.csv '/r8/swiglu/uniform/f32,"warm",24,,32,2,2,2,8,swiglu,,,,uniform,'
}

test_a_sweep_file_is_several_sweeps() {
    require_bench
    printf '%s\n' '- {filter: norm/forward, width: [32, 48], tokens: 16}' '- {filter: route, direction: forward, ranks: [2, 4], tokens: 16, width: 32}' >s.yaml
    expect_status 0 "$bench" kernels --sweep s.yaml --backend cpu --seconds 0.001 --samples 3 --warm
    expect_text out 'norm/forward/T16/D48/f32'
    expect_text out '/r2+4/uniform/f32'
    [[ $(grep -c ' warm ' out) == 3 ]] || fail "expected 3 times: $(cat out)"
}

test_the_sweeps_that_come_with_cohort_are_valid() {
    require_bench
    local file
    for file in "$COHORT_SOURCE_DIR"/configs/bench/*.yaml; do
        expect_status 3 "$bench" kernels --sweep "$file" --backend nowhere
        expect_text err 'backend'
    done
}

test_bad_sweep_files_are_refused_with_file_and_line() {
    require_bench
    printf '%s\n' '- {tokens: 16}' '- {filter: norm, tokens: many}' >bad.yaml
    expect_status 2 "$bench" kernels --sweep bad.yaml
    expect_text err "bad.yaml:2: tokens: 'many' must be a whole number"
    printf '%s\n' 'tokens: 16' >bad.yaml
    expect_status 2 "$bench" kernels --sweep bad.yaml
    expect_text err 'must be a list of sweeps'
    printf '%s\n' '- {colour: red}' >bad.yaml
    expect_status 2 "$bench" kernels --sweep bad.yaml
    expect_text err "'colour' is no axis"
    printf '%s\n' '- {tokens: [16' >bad.yaml
    expect_status 2 "$bench" kernels --sweep bad.yaml
    expect_text err 'bad.yaml:'
    expect_status 2 "$bench" kernels --sweep absent.yaml
    expect_text err 'absent.yaml'
}

one_message() { [[ $(wc -l <err) == 1 ]] || fail "expected one message: $(cat err)"; }

test_bad_axes_are_refused_before_anything_is_measured() {
    require_bench
    local arguments
    for arguments in '--tokens 4k' '--experts 17' '--rank 0' '--precision f16' '--distribution normal' '--direction up' '--tokens' \
        '--colour red' '--threads 0' '--noise x' '--peer module' 'no_such_case' 'norm lora' '--sweep a.yaml --tokens 3'; do
        # shellcheck disable=SC2086 # several words
        expect_status 2 "$bench" kernels $arguments
        one_message
        [[ ! -s out ]] || fail "$arguments: measured something: $(cat out)"
    done
}

test_impossible_points_are_skipped_by_name() {
    require_bench
    expect_status 0 "$bench" kernels route/forward "${small[@]}" --warm --top-k 2,3 --experts 2 --precision f32,bf16 --devices 100
    expect_text out 'skipped: there are more devices than tokens'
    expect_text out 'skipped: a token cannot choose more experts than there are'
    expect_text out 'skipped: the backend has no such precision'
}

# NAME FILE TIMES...: a file as --json writes it, of one case.
made() {
    local name=$1 file=$2 time separator=''
    shift 2
    {
        printf '{"context": {"hardware": "h"}, "benchmarks": ['
        for time in "$@"; do
            printf '%s{"name": "%s", "run_name": "%s", "run_type": "iteration", "real_time": %s, "time_unit": "us"}' "$separator" "$name" "$name" "$time"
            separator=,
        done
        printf ']}\n'
    } >"$file"
}

verdict_of() { # expected status, verdict, options...
    expect_status "$1" "$bench" --compare a.json b.json "${@:3}"
    grep -qE "^x .* $2\$" out || fail "expected $2: $(cat out)"
}

test_compare_tells_same_faster_slower_and_unclear() {
    require_bench
    made x a.json 100 101 100 99 100
    made x b.json 100 100 101 100 100
    verdict_of 0 same --fail-on-slower
    made x b.json 120 121 120 120 119
    verdict_of 0 slower
    verdict_of 4 slower --fail-on-slower
    verdict_of 0 same --threshold 30 --fail-on-slower
    made x b.json 80 81 80 80 79
    verdict_of 0 faster --fail-on-slower
    made x b.json 60 150 90 170 110
    verdict_of 0 unclear --fail-on-slower
    made y b.json 100
    expect_status 2 "$bench" --compare a.json b.json
    expect_text out 'only in A'
    expect_text err 'no case in common'
}

# FILE TIME:DISTURBED...: as made, of case x; a sample that is marked has no say.
made_marked() {
    local file=$1
    shift
    python3 - "$@" >"$file" <<'PYTHON'
import json, sys
entries = [{"name": "x", "run_name": "x", "run_type": "iteration", "time_unit": "us", "real_time": float(time), "disturbed": mark == "yes"}
           for time, mark in (word.split(":") for word in sys.argv[1:])]
json.dump({"context": {"hardware": "h"}, "benchmarks": entries}, sys.stdout)
PYTHON
}

test_compare_judges_undisturbed_samples_alone() {
    require_bench
    require python3
    made x a.json 100 101 100 99 100
    made_marked b.json 100:no 800:yes 101:no 800:yes 800:yes 100:no 800:yes
    verdict_of 0 same --fail-on-slower
    made_marked b.json 800:yes 800:yes 800:yes 100:no
    expect_status 0 "$bench" --compare a.json b.json --fail-on-slower
    expect_text out 'unclear: others disturbed nearly all samples of B'
    expect_text out '0 same, 0 faster, 0 slower, 1 unclear'
}

# The aggregates that Cohort writes are of more samples than the file lists.
test_compare_takes_medians_of_all_undisturbed_samples() {
    require_bench
    require python3
    made x a.json 100 101 100 99 100
    python3 - >b.json <<'PYTHON'
import json, sys
entry = {"run_name": "x", "time_unit": "us"}
of_all = dict(entry, run_type="aggregate", samples=90, undisturbed_samples=80)
json.dump({"context": {"hardware": "h"}, "benchmarks": [dict(entry, run_type="iteration", real_time=100, disturbed=False),
    dict(of_all, aggregate_name="median", real_time=130), dict(of_all, aggregate_name="spread", real_time=0.01)]}, sys.stdout)
PYTHON
    verdict_of 4 slower --fail-on-slower
    sed -i 's/"undisturbed_samples": 80/"undisturbed_samples": 2/g' b.json
    expect_status 0 "$bench" --compare a.json b.json --fail-on-slower
    expect_text out 'unclear: others disturbed nearly all samples of B'
}

test_compare_says_what_is_wrong_in_the_other_run() {
    require_bench
    made x/warm a.json 100 101 100
    printf '{"benchmarks": [{"name": "x", "run_name": "x", "run_type": "iteration", "error_occurred": true, "error_message": "3 of 4"},
             {"name": "y", "run_name": "y", "real_time": 1, "time_unit": "us"}]}' >b.json
    expect_status 2 "$bench" --compare a.json b.json
    expect_text out 'only in A: B has no time, it is wrong'
}

test_compare_reads_what_json_wrote() {
    require_bench
    expect_status 0 "$bench" kernels norm "${small[@]}" --warm --json a.json
    expect_status 0 "$bench" --compare a.json a.json
    [[ $(grep -cE ' 1\.000  (same|unclear)$|unclear: others disturbed' out) == 2 ]] || fail "$(cat out)"
}

test_compare_refuses_what_is_no_result() {
    require_bench
    made x a.json 1
    printf '{"benchmarks": 3}\n' >no.json
    printf 'x' >text.json
    expect_status 2 "$bench" --compare a.json
    expect_status 2 "$bench" --compare a.json absent.json
    expect_status 2 "$bench" --compare a.json no.json
    expect_status 2 "$bench" --compare text.json a.json
    expect_text err 'text.json:1'
}

test_without_pytorch_peers_are_left_out_and_it_says_how_to_get_it() {
    require_bench
    mkdir path
    printf '#!/bin/sh\nexit 1\n' >path/python3
    chmod +x path/python3
    PATH=$PWD/path:$PATH expect_status 0 "$bench" kernels norm/forward "${small[@]}" --warm --peers
    expect_text err 'pip install torch'
    expect_text out ' warm '
    expect_status 2 "$bench" kernels norm "${small[@]}" --peers --python /bin/false
    expect_text err '/bin/false'
}

python_with_torch() {
    require_bench
    python=${python_of_user:-python3}
    "$python" -c 'import torch' 2>/dev/null || skip 'no PyTorch; COHORT_PYTHON can name a Python that has it'
}

test_peers_in_pytorch_are_right_and_timed_beside_ours() {
    local python
    python_with_torch
    expect_status 0 "$bench" kernels lora "${small[@]}" --warm --peers --python "$python" --distribution skew --json out.json
    [[ $(grep -cE "^  torch\.bmm +0/[0-9]+ .* x Cohort's time" out) == 2 ]] || fail "$(cat out err)"
    expect_text out.json '/torch.bmm"'
    # Of few tokens some draws leave PyTorch's gradients 1e-5 off, just past what is allowed.
    expect_status 0 "$bench" kernels expert_layer "${small[@]/24/64}" --warm --peers --python "$python" --experts 3 \
        --distribution skew
    [[ $(grep -cE "^  (torch\.bmm|E copies) +0/[0-9]+ .* x Cohort's time" out) == 2 ]] || fail "$(cat out err)"
}

test_a_kernel_of_the_user_is_verified_like_all_others() {
    local python
    python_with_torch
    cat >mine.py <<'PYTHON'
import torch

def lora(job, wrong=False):
    if job.case != "lora/forward":
        return None
    x, y, a, b = job.padded(job.inputs["x"]), job.padded(job.inputs["y"]), job.pack("qkv_a"), job.pack("qkv_b")

    def work():
        h = torch.einsum("ntd,nrd->ntr", x, a)
        return {"h": job.packed(h), "y": job.packed(y + torch.einsum("ntr,nro->nto", h, b) * (1.001 if wrong else 1))}

    return work

def wrong(job):
    return lora(job, True)

def broken(job):
    raise RuntimeError("no luck today")
PYTHON
    expect_status 0 "$bench" kernels lora/forward "${small[@]}" --warm --python "$python" --peer mine:lora --peer mine:wrong --peer mine:broken
    grep -qE "^  mine:lora +0/[0-9]+ .* x Cohort's time" out || fail "mine:lora has no time: $(cat out)"
    grep -qE '^  mine:wrong +WRONG: [0-9]+ of [0-9]+, first in y' out || fail "mine:wrong is not wrong: $(cat out)"
    grep -qE '^  mine:broken +no time: RuntimeError: no luck today' out || fail "mine:broken is not named: $(cat out)"
    expect_status 2 "$bench" kernels lora "${small[@]}" --python "$python" --peer nowhere:lora
    expect_text err 'nowhere'
}

# The CUDA driver and kernels, played on the CPU: other memory, bf16, devices of unequal size.
test_every_case_is_right_on_the_cuda_backend() {
    local played=${COHORT_BINARY%/*}/tests/simt/bench
    [[ -x $played ]] || skip 'the CUDA kernels on the CPU are not part of this build'
    expect_status 0 "$played" kernels --backend cuda --tokens 40 --width 32 --devices 3 --sequence 16 --vocabulary 50 --experts 3 --rank 4 \
        --distribution skew --precision f32,bf16 --seconds 0.001 --samples 3 --warm
    expect_text out ', 0 wrong, 0 skipped'
    [[ $(grep -cE '^[a-z_]+/[a-z]+/.*/bf16 +0/[0-9]+  warm ' out) == 29 ]] || fail "not every case has a line in bf16: $(cat out)"
}

test_all_reduce_adds_up_over_processes() {
    require_bench
    local n
    expect_status 0 "$bench" all-reduce --backend cpu --most-mib 0.1 --seconds 0.001 --samples 3
    expect_text out 'one process: nothing travels'
    require mpirun openmpi-bin
    local -x ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0 # Open MPI's own, of libraries that it has unloaded by then
    for n in 2 3; do
        expect_status 0 mpirun --oversubscribe --allow-run-as-root -n "$n" "$bench" all-reduce --backend cpu --most-mib 0.1 --seconds 0.001 \
            --samples 3 --json out.json
        [[ $(grep -cE '^ +(4096|16384|65536) +[0-9]+ +mpi .* 0($| )' out) == 3 ]] || fail "expected 3 sizes, none wrong: $(cat out)"
        expect_text out.json "\"all_reduce/B65536/P$n/mpi\""
    done
    expect_status 2 "$bench" all-reduce --most-mib 0
}

# Machines with a GPU often have a C compiler and nothing else.
test_the_core_builds_with_a_c_compiler_alone() {
    require_bench
    local root=$COHORT_SOURCE_DIR
    local -a oracle
    mapfile -t oracle < <(find "$root/tests/oracle" -name '*.c' ! -name '*_naive.c')
    gcc -std=gnu11 -D_GNU_SOURCE=1 -O0 -Wall -Wextra -Werror -I"$root/bench" -I"$root/kernels" -I"$root/sim" -I"$root/tests" \
        -DCOHORT_BENCH_PEERS="\"$root/bench/peers\"" -o core "$root"/bench/command/{main,microbenchmarks,options,sweep_file}.c \
        "$root"/bench/{compare,measure,cases,rig}/*.c \
        "$root"/sim/support/{problems,kernel_problem,output_file,output_folder,writable}.c "$root"/sim/base/layout.c \
        "$root"/sim/model/{adapt,family,gpt2,llama,model,model_pretraining,flops}.c "${oracle[@]}" "$root"/kernels/*.c "$root"/kernels/collective/*.c -lm -ldl
    expect_status 0 ./core kernels --list
    expect_text out 'route/forward'
    expect_status 3 ./core kernels norm --sweep "$root/configs/bench/small.yaml"
    expect_text err 'without libyaml'
    expect_status 3 ./core --compare a.json b.json
    expect_text err 'without jansson'
    expect_status 3 ./core peers
    expect_text err 'without sim/'
}

run_tests bench_kernels "$@"
