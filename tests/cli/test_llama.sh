#!/usr/bin/env bash
# A base of the Llama family, from its folder through all that is done with a GPT-2.
# shellcheck source=result.sh
source "$(dirname "${BASH_SOURCE[0]}")/result.sh"

models=$COHORT_SOURCE_DIR/tests/reference/llama
check_peft=$COHORT_SOURCE_DIR/tests/reference/check_peft.py

# Three methods of tiny.yaml.
write_config() { # model
    config_on "$models/$1" >llama.yaml <<YAML
  - {name: alone, method: local, devices: 4}
  - {name: averaged, method: fedavg, devices: 4}
  - {name: comigs-1g1s, method: comigs, devices: 4}
YAML
}

test_check_run_and_info_name_the_base() {
    local base='llama, 2 layers of width 32, 16 heads (2 of keys and values), MLP 88, 37 ids'
    write_config tinyllama
    expect_status 0 cohort check --no-measure llama.yaml
    expect_text out "base: $base"
    expect_status 0 cohort run llama.yaml --out result
    expect_text out "base: $base"
    expect_status 0 cohort info result
    expect_text out "$base"
}

# Of every published layout that is kept here: what is trained gets better, and what is averaged travels.
test_every_layout_learns() {
    local model
    for model in "$models"/*/; do
        write_config "$(basename "$model")"
        expect_status 0 cohort run llama.yaml --out result --quiet
        cohort export result --table loss | awk -F, -v model="$model" '
            $5 == "test" && $1 == 2 { first[$2] += $6 } $5 == "test" && $1 == 6 { last[$2] += $6 }
            END { for (name in last) { n++; if (!(last[name] < 0.99 * first[name])) { print model, name, first[name], last[name]; wrong = 1 } }
                  exit wrong || n != 3 }' || fail 'see above'
        awk -F, 'NR > 1 && ($2 == "local") != ($6 == 0) { exit 1 }' result/summary.csv || fail "traffic: $(<result/summary.csv)"
        rm -r result
    done
}

file_is_newer() { [[ $1 -nt $2 ]]; }

test_killed_and_resumed_equals_uninterrupted() {
    local run options=(--set train.rounds=60 --quiet)
    write_config llama32
    expect_status 0 cohort run llama.yaml --out whole "${options[@]}"
    "$COHORT_BINARY" run llama.yaml --out result "${options[@]}" >started.log 2>&1 &
    run=$!
    wait_until "$run" test -e result/checkpoint.h5
    kill -KILL "$run"
    wait "$run" 2>/dev/null || true
    [[ ! -e result/summary.csv ]] || fail 'the run was over before it was killed'
    expect_status 0 cohort run llama.yaml --out result "${options[@]}" --resume
    expect_same_results whole result
}

# Losses and gates of every process's devices equal those of one process.
test_two_processes_give_the_numbers_of_one() {
    write_config qwen25
    expect_status 0 cohort run llama.yaml --out one --quiet
    expect_status 0 cohort run llama.yaml --out two --processes 2 --quiet
    cohort export one --table loss >one.csv
    cohort export two --table loss >two.csv
    [[ $(wc -l <one.csv) -gt 20 ]] || fail 'there are hardly any losses'
    paste -d, one.csv two.csv | awk -F, 'NR > 1 { d = $6 - $12; if (d < 0) d = -d; if (d > 1e-4 * $6) exit 1 }' ||
        fail 'losses of one and of two processes differ'
}

test_waves_of_any_size_and_any_threads_change_no_number() {
    write_config biases
    expect_status 0 cohort run llama.yaml --out one --quiet --set threads=1 --set wave_tokens=64
    expect_status 0 cohort run llama.yaml --out two --quiet --set threads=2
    expect_same one/summary.csv two/summary.csv 'the summaries'
    cohort export one --table loss >one.csv
    cohort export two --table loss >two.csv
    expect_same one.csv two.csv 'the losses'
}

# The whole way: a run, its last checkpoint as a PEFT folder, and the test loss that the trace holds.
expect_peft_to_agree() { # model, folder below adapters/, settings of the population...
    local model=$1 folder=$2 loss token
    shift 2
    mkdir shards
    for token in {0..1999}; do printf '%b' "\\x$(printf %x $((token * token * 7 % 37)))\\0"; done >shards/train_0.bin
    cp shards/train_0.bin shards/valid_0.bin
    head -c 66 shards/train_0.bin >shards/test_0.bin
    cat >one.yaml <<YAML
base: {checkpoint: $models/$model}
data: {corpus: shards, tokens_per_device: 0, sequence: 32}
train: {rounds: 3, local_steps: 5, batch: 4, learning_rate: 1.0e-2}
evaluate: {every: 3, windows: 1}
populations:
  - {name: one, method: local, devices: 1, $*}
YAML
    expect_status 0 cohort run one.yaml --out result --quiet
    expect_status 0 cohort export result --adapters adapters
    loss=$(cohort export result --table loss | sed -n 's/^3,one,42,0,test,//p')
    "$python" "$check_peft" loss "$models/$model" "adapters/one-seed42/device0/$folder" shards/test_0.bin 32 "$loss"
}

test_peft_computes_the_test_loss_of_an_expert() {
    local python
    require_python torch transformers peft safetensors
    expect_peft_to_agree llama32 specialist0 'generalists: 0, specialists: 1, experts: {rank: 4, alpha: 8}, attention: {rank: 3}'
}

test_peft_computes_the_test_loss_with_lora_on_every_linear() {
    local python
    require_python torch transformers peft safetensors
    expect_peft_to_agree biases lora 'generalists: 0, specialists: 0, lora: {q: 2, k: 3, v: 4, out: 5, gate: 6, up: 7, down: 8}'
}

described=(--set base.family=llama --set base.kv_heads=1 --set base.ffn=50 --set base.rope_theta=500)

test_a_described_llama_is_trained_kept_and_found_again() {
    local COHORT_CACHE=$PWD/cache
    export COHORT_CACHE
    expect_status 0 cohort pretrain "$tiny" "${described[@]}" --out base
    [[ $(find cache/bases -mindepth 1 -maxdepth 1 | wc -l) == 1 ]] || fail "kept: $(ls cache/bases)"
    expect_status 0 cohort run "$tiny" "${described[@]}" --out result --quiet
    expect_status 0 cohort pretrain "$tiny" "${described[@]}" --set base.rope_theta=501 --quiet
    [[ $(find cache/bases -mindepth 1 -maxdepth 1 | wc -l) == 2 ]] || fail "another base must be kept apart: $(ls cache/bases)"
    # As a checkpoint it is the same base.
    sed '/^base:/,/^data:/{/^data:/!d}' "$tiny" >given.yaml
    expect_status 0 cohort run given.yaml --set base.checkpoint=base --out given --quiet
    expect_same result/summary.csv given/summary.csv 'the summaries of a described base and of its folder'
}

test_transformers_loads_a_base_that_was_made_here() {
    local python
    require_python torch transformers
    expect_status 0 cohort pretrain "$tiny" "${described[@]}" --out base --quiet
    "$python" - base <<'PYTHON'
import sys
import torch, transformers
model, report = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], output_loading_info=True)
assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
config = model.config
assert (config.model_type, config.num_key_value_heads, config.intermediate_size) == ("llama", 1, 50), config
assert config.rope_parameters["rope_theta"] == 500, config
ids = torch.arange(33).reshape(1, 33) % 64
assert torch.isfinite(model(ids, labels=ids).loss)
PYTHON
}

# ---- What is refused ----

test_a_folder_of_an_unknown_family_is_refused() {
    write_config smollm
    cp -r "$models/smollm" folder
    sed -i 's/"model_type": "llama"/"model_type": "mistral"/' folder/config.json
    expect_status 2 cohort check llama.yaml --set base.checkpoint=folder
    expect_text err 'folder/config.json: model_type "mistral" is not supported; it must be one of "gpt2", "llama", "qwen2"'
}

test_rope_scaling_of_an_unknown_kind_is_refused() {
    write_config llama32
    cp -r "$models/llama32" folder
    sed -i 's/"rope_type": "llama3"/"rope_type": "yarn"/' folder/config.json
    expect_status 2 cohort check llama.yaml --set base.checkpoint=folder
    expect_text err 'rope_parameters of kind "yarn" is not supported; rope_type must be "default" or "llama3"'
}

test_heads_of_keys_that_do_not_divide_heads_are_refused() {
    write_config smollm
    cp -r "$models/smollm" folder
    sed -i 's/"num_key_value_heads": 3/"num_key_value_heads": 2/' folder/config.json
    expect_status 2 cohort run llama.yaml --set base.checkpoint=folder --out result
    expect_text err 'num_attention_heads (9) must be a multiple of num_key_value_heads (2)'
    [[ ! -e result ]] || fail 'a result was begun'
}

test_a_missing_shard_is_refused() {
    write_config tinyllama
    cp -r "$models/tinyllama" folder
    rm folder/model-00002-of-00003.safetensors
    expect_status 2 cohort run llama.yaml --set base.checkpoint=folder --out result
    expect_text err 'names the file model-00002-of-00003.safetensors, which is missing'
    [[ $(wc -l <err) == 1 ]] || fail "more than one message: $(<err)"
    [[ ! -e result ]] || fail 'a result was begun'
}

test_windows_longer_than_the_context_are_refused() {
    write_config smollm
    expect_status 2 cohort check llama.yaml --set data.sequence=41
    expect_text err 'knows 40 positions (max_position_embeddings in its config.json)'
}

run_tests llama "$@"
