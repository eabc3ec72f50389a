#!/usr/bin/env bash
# Populations on variants of the base: what they compute, download and save, and what is refused.
# shellcheck source=result.sh
source "$(dirname "${BASH_SOURCE[0]}")/result.sh"

# Made once: a base as a folder, and two experts trained on it, as PEFT folders.
material() {
    local folder=${TMPDIR:-/tmp}/cohort-test-variants
    if [[ ! -e $folder ]]; then
        mkdir "$folder"
        cohort pretrain "$tiny" --out "$folder/base" --quiet >&2 || fail 'no base'
        cohort export "$(reference_result)" --adapters "$folder/adapters" --population alone >&2 || fail 'no adapters'
        mv "$folder/adapters/alone-seed7/device0/specialist0" "$folder/one"
        mv "$folder/adapters/alone-seed7/device1/specialist1" "$folder/two"
    fi
    printf '%s\n' "$folder"
}

# A configuration on a base, with these populations (a line each).
configuration() { # base folder, populations...
    cat <<CONFIG
seed: 7
base: {checkpoint: $1}
data: {tokens_per_device: 1000, valid_tokens_per_device: 500, test_tokens_per_device: 500, sequence: 32, synthetic: {topics: 2, vocabulary: 64, branching: 4}}
train: {rounds: 3, local_steps: 3, batch: 2, router: {every: 2, steps: 1}}
experts: {rank: 2}
attention: {rank: 2}
evaluate: {every: 1, windows: 2}
checkpoint: {every: 1}
populations:
CONFIG
    printf '  - {%s}\n' "${@:2}"
}

mixture='method: comigs, devices: 2'

# Losses of a population, all kinds, devices and rounds.
losses_of() { # result, population
    cohort export "$1" --table loss | awk -F, -v name="$2" 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == "population") c = i } $c == name'
}

expect_same_losses() { # result, population, result, population
    losses_of "$1" "$2" | sed "s/\b$2\b/X/" >left.txt
    losses_of "$3" "$4" | sed "s/\b$4\b/X/" >right.txt
    [[ $(wc -l <left.txt) -gt 10 ]] || fail "hardly any loss of $2"
    expect_same left.txt right.txt "the losses of $2 in $1 and of $4 in $3"
}

# ---- The same

# A folder of factors, the whole folded model as a variant and as the base, and its linears in a file: all one.
test_a_variant_is_a_base_with_its_weights() {
    require h5diff hdf5-tools
    local at form
    at=$(material)
    configuration "$at/base" "name: p, $mixture, base: {variant: $at/one}" >factors.yaml
    expect_status 0 cohort pretrain factors.yaml --population p --out whole
    expect_status 0 cohort pretrain factors.yaml --population p --out linears.safetensors
    configuration "$at/base" "name: p, $mixture, base: {variant: whole}" >whole_variant.yaml
    configuration "$at/base" "name: p, $mixture, base: {variant: linears.safetensors}" >linears.yaml
    configuration whole "name: p, $mixture" >loaded.yaml
    configuration "$at/base" "name: p, $mixture" >plain.yaml
    for form in loaded plain factors whole_variant linears; do expect_status 0 cohort run $form.yaml --out $form --quiet; done
    for form in factors whole_variant linears; do
        expect_same_losses loaded p $form p
        h5diff loaded/checkpoint.h5 $form/checkpoint.h5 /parameters >&2 || fail "$form: other parameters"
        h5diff loaded/trace.h5 $form/trace.h5 /routing >&2 || fail "$form: other gates"
    done
    losses_of plain p >right.txt
    ! cmp -s left.txt right.txt || fail 'the variant changes nothing'
}

# LoRA on all seven linears of a Llama, of ranks of their own, trained there and folded.
test_a_variant_of_a_llama_is_a_llama_with_its_weights() {
    require h5diff hdf5-tools
    local base=$COHORT_SOURCE_DIR/tests/reference/llama/smollm options=(--set data.synthetic.vocabulary=37 --quiet) form
    configuration "$base" 'name: p, method: local, devices: 1, generalists: 0, specialists: 0,
     lora: {q: 3, k: 2, v: 2, out: 3, gate: 2, up: 4, down: 2, alpha: {k: 5}}' >train.yaml
    expect_status 0 cohort run train.yaml --out trained "${options[@]}"
    expect_status 0 cohort export trained --adapters adapters
    configuration "$base" "name: p, $mixture, base: {variant: $(dirname adapters/p-seed7/device0/*/adapter_config.json)}" >factors.yaml
    expect_status 0 cohort pretrain factors.yaml --population p --out whole
    configuration whole "name: p, $mixture" >loaded.yaml
    configuration "$base" "name: p, $mixture" >plain.yaml
    for form in loaded plain factors; do expect_status 0 cohort run $form.yaml --out $form "${options[@]}"; done
    expect_same_losses loaded p factors p
    h5diff loaded/checkpoint.h5 factors/checkpoint.h5 /parameters >&2 || fail 'other parameters'
    losses_of plain p >right.txt
    ! cmp -s left.txt right.txt || fail 'the variant changes nothing'
}

# Decoded together: each population with its own variant, as on a base of those weights.
test_devices_write_with_the_variant_of_their_population() {
    local at
    at=$(material)
    configuration "$at/base" "name: p, $mixture, base: {variant: $at/one}" >one.yaml
    expect_status 0 cohort pretrain one.yaml --population p --out whole
    configuration whole "name: p, $mixture" >loaded.yaml
    configuration "$at/base" "name: plain, $mixture" "name: p, $mixture, base: {variant: $at/one}" >both.yaml
    expect_status 0 cohort run loaded.yaml --out loaded --quiet
    expect_status 0 cohort run both.yaml --out both --quiet
    expect_status 0 cohort generate loaded --tokens 1,2,3 --max-tokens 24 --temperature 1 --population p
    mv out left
    expect_status 0 cohort generate both --tokens 1,2,3 --max-tokens 24 --temperature 1 --population p
    expect_same left out 'texts on the variant and on the base of its weights'
    expect_status 0 cohort generate both --tokens 1,2,3 --max-tokens 24 --temperature 1
    [[ $(tail -n 5 out) == "$(tail -n 5 left)" ]] || fail "beside a population without variant: $(<out)"
    [[ $(head -n 5 out | sed 's/plain/p/') != "$(head -n 5 left)" ]] || fail 'the variant changes nothing'
}

test_populations_side_by_side_are_what_each_is_alone() {
    local at name populations=()
    at=$(material)
    configuration "$at/base" "name: t, $mixture, base: {variant: $at/two}" >two.yaml
    cohort pretrain two.yaml --population t --out dense --quiet
    populations=("name: plain, $mixture" "name: one, $mixture, base: {variant: $at/one}"
        "name: two, method: fedavg, devices: 3, base: {variant: dense}" "name: again, $mixture, seeds: [7, 8], base: {variant: $at/one}")
    configuration "$at/base" "${populations[@]}" >all.yaml
    expect_status 0 cohort run all.yaml --out all --quiet
    expect_status 0 cohort run all.yaml --out small --quiet --threads 1 --set wave_tokens=64
    for name in 0 1 2 3; do
        configuration "$at/base" "${populations[$name]}" >alone.yaml
        expect_status 0 cohort run alone.yaml --out "alone$name" --quiet
    done
    for name in plain:0 one:1 two:2 again:3; do
        expect_same_losses all "${name%:*}" "alone${name#*:}" "${name%:*}"
        expect_same_losses all "${name%:*}" small "${name%:*}"
    done
}

test_a_killed_run_goes_on_with_its_variants() {
    local at
    at=$(material)
    configuration "$at/base" "name: plain, $mixture" "name: one, $mixture, base: {variant: $at/one}" >c.yaml
    expect_status 0 cohort run c.yaml --out whole --quiet --set train.rounds=30
    "$COHORT_BINARY" run c.yaml --out result --quiet --set train.rounds=30 >&2 &
    run=$!
    wait_until "$run" test -e result/checkpoint.h5
    kill -KILL "$run"
    wait "$run" 2>/dev/null || true
    [[ ! -e result/summary.csv ]] || fail 'the run was over before it was killed'
    expect_status 0 cohort run c.yaml --out result --quiet --set train.rounds=30 --resume
    expect_same_results whole result
}

test_processes_share_a_run_on_variants() {
    require mpirun openmpi-bin
    [[ $(ldd "$COHORT_BINARY") == *libmpi* ]] || skip 'this build has no MPI (Debian: libopenmpi-dev)'
    export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0
    local at
    at=$(material)
    configuration "$at/base" "name: one, method: local, devices: 2, base: {variant: $at/one}" \
        "name: two, method: local, devices: 3, base: {variant: $at/two}" >c.yaml
    expect_status 0 cohort run c.yaml --out alone --quiet
    expect_status 0 cohort run c.yaml --out together --quiet --processes 2
    expect_same_losses alone one together one
    expect_same_losses alone two together two
    expect_same alone/summary.csv together/summary.csv 'the summaries'
}

# PEFT merges the same folder into the same base; transformers loads what is written.
test_peft_merges_to_the_same_weights() {
    local at
    at=$(material)
    require_python torch transformers peft safetensors
    configuration "$at/base" "name: p, $mixture, base: {variant: $at/one}" >c.yaml
    expect_status 0 cohort pretrain c.yaml --population p --out whole
    "$python" - "$at/base" "$at/one" whole <<'PYTHON' >&2 || fail 'PEFT merges to other weights'
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, adapter, whole = sys.argv[1:]
ours = AutoModelForCausalLM.from_pretrained(whole).state_dict()
before = AutoModelForCausalLM.from_pretrained(base).state_dict()
merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).merge_and_unload().state_dict()
assert ours.keys() == merged.keys()
changed = [name for name in merged if not torch.equal(merged[name], before[name])]
assert len(changed) == 8, changed
for name in merged:
    assert torch.allclose(ours[name], merged[name], rtol=1e-5, atol=1e-7), name
    assert name in changed or torch.equal(ours[name], before[name]), name
PYTHON
}

# ---- Traffic

# GPT-2 of width 32: LoRA of rank 4 on fc and proj of 2 layers, 2 x 2 x 4 x (32 + 128) values, and of rank 2 on attention, 2 x 2 x (32 + 96)
# and 2 x 2 x (32 + 32); the linears themselves are 2 x (32 x 96 + 32 x 32 + 2 x 32 x 128) weights.
test_a_variant_is_downloaded_in_the_first_round() {
    local at factors=$((4 * (2 * 2 * 4 * (32 + 128) + 2 * 2 * (32 + 96) + 2 * 2 * (32 + 32)))) dense=$((4 * 2 * (32 * 96 + 32 * 32 + 2 * 32 * 128)))
    at=$(material)
    configuration "$at/base" "name: f, method: local, devices: 2, base: {variant: $at/one}" >c.yaml
    cohort pretrain c.yaml --population f --out linears.safetensors --quiet
    configuration "$at/base" "name: f, method: local, devices: 2, base: {variant: $at/one}" "name: d, $mixture, base: {variant: linears.safetensors}" \
        "name: n, $mixture" >c.yaml
    expect_status 0 cohort run c.yaml --out result --quiet
    cohort export result --table traffic >traffic.csv
    awk -F, -v factors=$factors -v dense=$dense '
        NR == 1 { for (i = 1; i <= NF; i++) column[$i] = i; next }
        { name = $column["population"]; first = $column["round"] == 1; up = $column["bytes_up"]; extra = $column["bytes_down"] - up
          expected = !first || name == "n" ? 0 : name == "f" ? factors : dense
          if (extra != expected) { print name ", round " $column["round"] ": " extra " bytes, not " expected; exit 1 } n++ }
        END { if (n != 18) { print n " rows"; exit 1 } }' traffic.csv >said || fail "$(<said)"
    awk -F, -v factors=$factors 'NR == 1 { for (i = 1; i <= NF; i++) column[$i] = i } $1 == "f" && $column["bytes_down"] != 2 * factors { exit 1 }' \
        result/summary.csv || fail 'the summary counts otherwise'
    expect_status 0 cohort check --no-measure c.yaml
    expect_text out 'f has a variant of the base'
    expect_text out 'variants of the base'
}

# ---- What is refused

test_what_does_not_fit_the_base_is_refused() {
    local at command
    at=$(material)
    configuration "$COHORT_SOURCE_DIR/tests/reference/gpt2_tiny" "name: p, $mixture, base: {variant: $at/one}" >other.yaml
    configuration "$at/base" "name: p, $mixture, base: {variant: nowhere}" >missing.yaml
    for command in check 'run --out result'; do
        # shellcheck disable=SC2086
        expect_status 2 cohort $command other.yaml
        expect_text err "other.yaml:10: population 'p': base.variant: $at/one: the LoRA of transformer.h.0"
        expect_text err 'this base'
        # shellcheck disable=SC2086
        expect_status 2 cohort $command missing.yaml
        expect_text err 'nowhere: there is no such file or folder'
        [[ ! -e result ]] || fail 'something was written'
    done
    expect_status 2 cohort run "$tiny" --set base.variant=x
    expect_text err 'base.variant'
    expect_status 2 cohort pretrain other.yaml --population q --out x
    expect_text err "has no population 'q'"
    configuration "$at/base" "name: p, $mixture" >plain.yaml
    expect_status 2 cohort pretrain plain.yaml --population p --out x
    expect_text err "population 'p' has no base.variant"
    expect_status 2 cohort pretrain other.yaml --population p
    expect_text err 'write --out DIR too'
    [[ ! -e x ]] || fail 'something was written'
}

test_values_that_are_not_finite_are_refused_before_a_run() {
    local at name=adapter_model.safetensors command
    at=$(material)
    cp -r "$at/one" bad
    printf '\377\377\377\377' | dd of=bad/$name bs=1 seek=$(($(stat -c %s bad/$name) - 4)) conv=notrunc status=none
    configuration "$at/base" "name: p, $mixture, base: {variant: bad}" >c.yaml
    for command in check 'run --out result'; do
        # shellcheck disable=SC2086
        expect_status 2 cohort $command c.yaml
        expect_text err 'is NaN; weights must be finite numbers'
    done
    [[ ! -e result/trace.h5 ]] || fail 'a run has begun'
}

test_another_variant_is_another_run() {
    local at
    at=$(material)
    cp -r "$at/one" mine
    configuration "$at/base" "name: p, $mixture, base: {variant: mine}" >c.yaml
    expect_status 0 cohort run c.yaml --out result --quiet
    rm result/summary.csv
    rm -r mine
    cp -r "$at/two" mine
    expect_status 2 cohort run c.yaml --out result --quiet --resume
    expect_text err 'other contents'
    rm -r mine
    cp -r "$at/one" mine
    sed -i 's/, base: {variant: mine}//' c.yaml
    expect_status 2 cohort run c.yaml --out result --quiet --resume
    expect_text err 'base.variant'
}

# An adapter of a result is read without its base, and without the variant below it.
test_adapters_are_exported_without_the_variant() {
    local at
    at=$(material)
    cp -r "$at/one" mine
    configuration "$at/base" "name: p, $mixture, base: {variant: mine}" >c.yaml
    expect_status 0 cohort run c.yaml --out result --quiet
    rm -r mine
    expect_status 0 cohort export result --adapters adapters
    [[ -e adapters/p-seed7/device0/generalist0/adapter_model.safetensors ]] || fail 'no adapter'
}

run_tests variants "$@"
