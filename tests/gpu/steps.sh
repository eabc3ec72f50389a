# steps.sh - the steps of a check, in order of what they are worth. Each leaves its verdict in summary.json
# and what it printed in one of the other files, whether it ends well or not.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # report.sh's and check.sh's variables

selected() { [[ -z $only || ",$only," == *",$1,"* ]]; }

# ---- Machine

# Where cuBLASLt may lie that the loader does not know: the toolkit's folders, and those that pip lays
# beside PyTorch.
cublas_folders() {
    printf '%s\n' "$toolkit"/lib64 "$toolkit"/lib "$toolkit"/targets/*/lib
    timeout 20 "${COHORT_PYTHON:-python3}" -c '
import os
import nvidia
for folder in nvidia.__path__:
    for part in ("cu13/lib", "cublas/lib"):
        print(os.path.join(folder, part))' 2>/dev/null || true
}

step_cublas() {
    local folder known name=libcublasLt.so.${facts[nvcc]%%.*}
    begin_step cuBLASLt
    [[ $name != *. ]] || name+='[0-9]*'
    known=$(ldconfig -p 2>/dev/null | sed -n "s/.*=> \\(.*$name\\)\$/\\1/p" | head -n 1)
    while [[ -z $known ]] && read -r folder; do
        known=$(compgen -G "$folder/$name" | head -n 1) || known=''
        [[ -z $known ]] || export LD_LIBRARY_PATH=$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    done < <(tr ':' '\n' <<<"${LD_LIBRARY_PATH:-}"; cublas_folders)
    if [[ -n $known ]]; then
        end_step passed "$known"
    else
        end_step failed "$name is known neither to the loader nor in the toolkit's folders and Python's: base products have no library"
    fi
}

step_instructions() {
    selected instructions && have instructions instructions || return 0
    begin_step instructions
    within 20 "$bin/instructions" "$work/tap" >>"$out/log.txt" 2>&1
    keep_tap instructions
    end_by_tap "$work/tap"
}

# ---- Conformance

keep_tap() { # title
    printf '# %s\n' "$1" >>"$out/conformance.tap"
    cat "$work/tap" >>"$out/conformance.tap" 2>/dev/null || true
}

groups() { sed -n '/^static const char \*const GROUPS\[\]/,/;$/p' "$root"/tests/conformance/cases.c | grep -o '"[a-z]*"' | tr -d '"'; }

# A GPU's error fails every later call of its process, without the operation's name: the group once more,
# waiting after each.
asks_again() {
    ((rc > 128)) || out_of_time || grep -qsiE 'illegal|misaligned|unspecified launch|device-side' "$work/tap"
}

once_more() { # group; the members of a step that the second run adds
    local -a first=("$rc" "$took" "$limit" "$cut")
    COHORT_CUDA_SYNC=1 within 15 "$bin/conformance" "$work/again" "$1::" "$wave" >"$work/again.log" 2>&1
    printf '"waiting_after_each": {"status": %d, "passed": %d, "last_lines": %s}' \
        "$rc" "$(grep -c '^ok ' "$work/again" 2>/dev/null)" \
        "$(tail -qn 3 "$work/again" "$work/again.log" 2>/dev/null | quoted_lines)" >"$work/members"
    { printf '# conformance %s, waiting after each operation\n' "$1"; cat "$work/again"; } >>"$out/conformance.tap" 2>/dev/null
    tail -n 20 "$work/again.log" >>"$out/log.txt"
    rc=${first[0]} took=${first[1]} limit=${first[2]} cut=${first[3]}
}

step_conformance() { # limits, group
    local name="conformance $2${1:+, $1 limits}"
    local -x COHORT_CUDA_LIMITS=$1
    [[ -n $1 ]] || unset COHORT_CUDA_LIMITS
    have "$name" conformance || return 0
    begin_step "$name"
    rm -f "$work/tap" "$work/again"
    : >"$work/members"
    within 45 "$bin/conformance" "$work/tap" "$2::" "$wave" >"$work/log" 2>&1
    tail -n 20 "$work/log" >>"$out/log.txt"
    keep_tap "$name"
    ! asks_again || ((deadline - SECONDS < 4)) || once_more "$2"
    end_by_tap "$work/tap" "$(cat "$work/members")"
}

# Both settings of the borders between regimes, where the backend has them.
steps_conformance() {
    selected conformance || return 0
    local limits group
    local -a settings=('')
    ! grep -qsa COHORT_CUDA_LIMITS "$bin/conformance" || settings=(large small)
    for limits in "${settings[@]}"; do
        for group in $(groups); do step_conformance "$limits" "$group"; done
    done
    [[ -n ${settings[0]} ]] || skip_step 'conformance, small limits' 'this backend has one setting of its limits'
}

# ---- Bench

bench_step() { # name, seconds, arguments of cohort-bench
    local name=$1 seconds=$2 measured skipped why verdict=passed
    shift 2
    have "$name" cohort-bench || return 0
    begin_step "$name"
    rm -f "$work/json"
    within "$seconds" "$bin/cohort-bench" kernels "$@" --backend cuda --warm --json "$work/json" >"$work/table" 2>"$work/log"
    { printf '\n# %s\n' "$name"; cat "$work/table" "$work/log"; } >>"$out/bench.txt"
    printf '{"step": %s, "status": %d, "result": %s}\n' "$(quoted "$name")" "$rc" \
        "$([[ -s $work/json ]] && tr -d '\n' <"$work/json" || printf null)" >>"$out/bench.jsonl"
    measured=$(grep -cE ' 0/[0-9]+ +warm ' "$work/table")
    skipped=$(grep -c '  skipped: ' "$work/table")
    why=$(ending ", with $measured measured")
    if [[ -n $why ]]; then
        $cut && verdict='not finished' || verdict=failed
    elif ((rc != 0)); then
        verdict=failed why="$(grep -m1 -E 'WRONG|FAILED' "$work/table" || tail -n 1 "$work/log") (exit status $rc)"
    elif ((measured == 0)); then
        verdict='not run' why=$(sed -n 's/.*  skipped: //p' "$work/table" | head -n 1)
        [[ -n $why ]] || why='nothing was measured'
    elif ((skipped > 0)); then
        why="$skipped left out: $(sed -n 's/.*  skipped: //p' "$work/table" | head -n 1)"
    fi
    end_step "$verdict" "$why" "\"measured\": $measured, \"skipped\": $skipped, \"status\": $rc"
}

# The sizes of a wave: 64 k tokens at the width of GPT-2 124M, few rich devices to many poor ones; and what
# a CPU can play.
choose_sizes() {
    facts[sizes]="64 k tokens, width 768"
    rule=(--seconds 0.25 --samples 6) at=(--tokens 65536 --width 768 --precision bf16)
    pair=(--experts 2 --rank 8) many=(--experts 8 --rank 16)
    few=16 some=256 most=4096 short=128 long=1024 wave='' sanitized=odd
    model=(--sequence 128 --vocabulary 50257 --layers 12 --attention-rank 8)
    quick=(--set train.rounds=3)
    $small || return 0
    facts[sizes]="small: nothing here says how fast anything is"
    rule=(--seconds 0.001 --samples 2) at=(--tokens 40 --width 32 --precision bf16)
    pair=(--experts 2 --rank 4) many=(--experts 3 --rank 4)
    few=2 some=3 most=4 short=16 long=32 wave='one token' sanitized='one token'
    model=(--sequence 16 --vocabulary 50 --layers 2 --attention-rank 4)
    quick=(--set train.rounds=1 --set train.local_steps=2 --set train.batch=1 --set base.pretrain.tokens=2048
        --set data.sequence=16 --set data.tokens_per_device=1500 --set evaluate.windows=1
        --set populations.0.devices=2 --set populations.1.devices=2 --set populations.2.devices=2)
}

steps_bench() {
    selected bench || return 0
    local three=$few,$some,$most
    bench_step 'bench expert_activation' 75 expert_activation "${at[@]}" "${pair[@]}" --devices "$three" "${rule[@]}"
    bench_step 'bench expert_layer' 50 expert_layer "${at[@]}" "${pair[@]}" --devices "$few,$some" "${rule[@]}"
    bench_step 'bench route' 25 route "${at[@]}" "${pair[@]}" --devices "$few,$most" "${rule[@]}"
    bench_step 'bench expert_expand' 25 expert_expand "${at[@]}" "${pair[@]}" --devices "$few,$most" "${rule[@]}"
    bench_step 'bench lora' 20 lora "${at[@]}" --devices "$few" "${rule[@]}"
    bench_step 'bench attention' 20 attention "${at[@]}" --sequence "$short,$long" "${rule[@]}"
    bench_step 'bench norm' 15 norm "${at[@]}" "${rule[@]}"
    bench_step 'bench head' 20 head "${at[@]}" "${model[@]:0:4}" "${rule[@]}"
    bench_step 'bench adamw' 30 adamw "${at[@]}" "${pair[@]}" --devices "$some,$most" "${rule[@]}"
    bench_step 'bench linear' 15 linear "${at[@]}" "${rule[@]}"
    bench_step 'bench expert_layer, eight experts' 25 expert_layer "${at[@]}" "${many[@]}" --devices "$some" "${rule[@]}"
    bench_step 'bench expert_activation, f32 and swiglu' 40 expert_activation "${at[@]:0:4}" "${pair[@]}" \
        --devices "$few" --precision f32 --mlp gelu,swiglu "${rule[@]}"
}

# Of many devices the packs of all fill the GPU: where they do not fit, a smaller LoRA of the attention.
steps_model() {
    selected model || return 0
    local n
    bench_step 'model, small' 20 model --tokens 40 --sequence 16 --width 32 --layers 2 --vocabulary 99 \
        --devices 3 --experts 2 --rank 4 --attention-rank 4 --distribution skew --precision f32,bf16 "${rule[@]}"
    for n in "$few" "$some" "$most"; do
        bench_step "model, N = $n" 60 model "${at[@]}" "${pair[@]}" "${model[@]}" --devices "$n" "${rule[@]}"
    done
    [[ ${step_entries[-1]} == *'"verdict": "not run"'*memory* ]] || return 0
    bench_step "model, N = $most, attention LoRA of rank 2" 60 model "${at[@]}" "${pair[@]}" "${model[@]:0:6}" \
        --attention-rank 2 --devices "$most" "${rule[@]}"
}

# ---- Tools of the toolkit

tool_of() {
    command -v "$1" || { compgen -G "$toolkit/bin/$1" || compgen -G "/opt/nvidia/nsight-compute/*/$1"; } | head -n 1
}

# Small waves: the sanitizer makes every access a hundred times slower.
step_sanitizer() { # tool, group
    local name="$1 $2" sanitizer
    have "$name" conformance || return 0
    sanitizer=$(tool_of compute-sanitizer) || true
    [[ -n $sanitizer ]] || { skip_step "$name" 'compute-sanitizer is not installed' && return 0; }
    begin_step "$name"
    rm -f "$work/tap"
    within 45 "$sanitizer" --tool "$1" --error-exitcode 9 "$bin/conformance" "$work/tap" "$2::" "$sanitized" \
        >"$work/log" 2>&1
    { printf '\n# %s\n' "$name"; tail -n 200 "$work/log"; } >>"$out/sanitizer.txt"
    if [[ ! -s $work/tap ]] && grep -qiE 'not supported|failed to initialize' "$work/log"; then
        end_step 'not run' "$(grep -m1 -iE 'not supported|failed to initialize' "$work/log")"
    elif ((rc == 9)) || grep -qE 'ERROR SUMMARY: [1-9]|SUMMARY: [1-9][0-9]* hazard' "$work/log"; then
        end_step failed "$(grep -m1 -E 'Invalid|Race reported|hazard|ERROR SUMMARY: [1-9]' "$work/log")" "\"status\": $rc"
    elif ((rc == 0)) && ! grep -qE 'ERROR SUMMARY: 0 errors|RACECHECK SUMMARY: 0 hazards' "$work/log"; then
        end_step failed "$1 printed no summary" "\"status\": $rc"
    else
        end_by_tap "$work/tap"
    fi
}

steps_sanitizer() {
    selected sanitizer || return 0
    local tool group
    for tool in memcheck racecheck; do
        for group in experts route; do step_sanitizer "$tool" "$group"; done
    done
}

step_ncu() { # name, kernels, arguments of cohort-bench
    local name="ncu $1" kernels=$2 profiler found why
    shift 2
    have "$name" cohort-bench || return 0
    profiler=$(tool_of ncu) || true
    [[ -n $profiler ]] || { skip_step "$name" 'ncu is not installed' && return 0; }
    begin_step "$name"
    within 60 "$profiler" --clock-control none --section SpeedOfLight --section WarpStateStats --section Occupancy --section LaunchStats \
        --section MemoryWorkloadAnalysis -k "regex:$kernels" --launch-count 12 "$bin/cohort-bench" kernels "$@" --backend cuda --warm \
        --seconds 0.01 --samples 1 >"$work/log" 2>&1
    { printf '\n# %s\n' "$name"; head -c 400000 "$work/log"; } >>"$out/ncu.txt"
    found=$(grep -oE "($kernels)[a-z_]*" "$work/log" | sort -u | tr '\n' ' ')
    why=$(ending '')
    if [[ -n $why ]]; then
        end_unended "$why"
    elif ((rc != 0)) || ! grep -q '==PROF== Profiling' "$work/log"; then
        end_step failed "it profiled nothing: $(grep -m1 -E 'ERROR|rror' "$work/log" || echo "exit status $rc")"
    else
        end_step passed "$found"
    fi
}

steps_ncu() {
    selected ncu || return 0
    step_ncu 'expert layer' 'expert_forward|expert_backward|route|one_pass' expert_layer "${at[@]}" "${pair[@]}" --devices "$few"
    step_ncu head 'head_row' head "${at[@]}" "${model[@]:0:4}"
}

# ---- The whole simulator

# The largest relative difference of the mean test losses of two summaries, by name of the column.
loss_difference() { # csv, csv
    awk -F, 'FNR == 1 { for (i = 1; i <= NF; i++) if ($i == "test_loss_mean") column = i; next }
        FNR == NR { loss[$1] = $column; n++; next }
        { d = ($column - loss[$1]) / loss[$1]; if (d < 0) d = -d; if (d > most) most = d; m++ }
        END { if (n == 0 || n != m || column == 0) print "none"; else printf "%.2e", most }' "$1" "$2"
}

step_quickstart() {
    selected quickstart && have quickstart cohort || return 0
    local backend why difference
    local -x COHORT_CACHE=$work/cache LD_LIBRARY_PATH=$bin/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    if ! timeout 20 "$bin/cohort" help >"$work/log" 2>&1; then
        skip_step quickstart "cohort does not start on this machine: $(tail -n 1 "$work/log")"
        return 0
    fi
    begin_step quickstart
    rm -rf "$work/cpu" "$work/cuda"
    for backend in cpu cuda; do # the base is made by the first and taken by the second
        within 60 "$bin/cohort" run "$root/configs/quickstart.yaml" --backend "$backend" --out "$work/$backend" --quiet \
            "${quick[@]}" >"$work/log" 2>&1
        tail -n 20 "$work/log" >>"$out/log.txt"
        why=$(ending " on $backend")
        [[ -n $why || $rc == 0 ]] || why="exit status $rc on $backend: $(tail -n 1 "$work/log")"
        if [[ -n $why ]]; then
            end_unended "$why"
            return 0
        fi
    done
    difference=$(loss_difference "$work/cpu/summary.csv" "$work/cuda/summary.csv")
    if awk -v d="$difference" 'BEGIN { exit !(d != "none" && d + 0 < 1e-3) }'; then
        end_step passed "test losses of CUDA and CPU differ by $difference at most"
    else
        end_step failed "test losses of CUDA and CPU differ by $difference, more than 1e-3"
    fi
}

# ---- The same work by others: torch.bmm, compiled, and the best open kernel for many LoRAs that can be
# imported

steps_peers() {
    selected peers || return 0
    local case python=${COHORT_PYTHON:-python3}
    if ! timeout 60 "$python" -c 'import torch' 2>/dev/null; then
        skip_step peers "$python cannot import torch"
        return 0
    fi
    for case in expert_layer/step expert_activation/forward lora/forward; do
        bench_step "peers $case" 60 "$case" "${at[@]}" "${pair[@]}" --devices "$some" "${rule[@]}" \
            --python "$python" --peers --peer bench.peers.multi_lora:work
    done
}
