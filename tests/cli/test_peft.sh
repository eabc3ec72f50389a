#!/usr/bin/env bash
# PEFT folders that devices start from: those that Cohort wrote, and those that PEFT itself wrote.
# shellcheck source=result.sh
source "$(dirname "${BASH_SOURCE[0]}")/result.sh"

gpt2_tiny=$COHORT_SOURCE_DIR/tests/reference/gpt2_tiny
check_peft=$COHORT_SOURCE_DIR/tests/reference/check_peft.py

require_peft() {
    local candidate
    for candidate in "${COHORT_PYTHON:-}" /usr/bin/python3 python3; do
        command -v "${candidate:-none}" >/dev/null || continue
        python=$candidate
        "$candidate" -c 'import peft, torch, transformers' 2>/dev/null && return
    done
    skip 'no Python with torch, transformers, peft (COHORT_PYTHON names one)'
}

# Shards of a cycle of tokens that the tiny base has, and a configuration on them; populations follow.
write_configuration() {
    local token
    mkdir shards
    for token in {0..1999}; do printf '%b' "\\x$(printf %x $((token * token * 7 % 61)))\\0"; done >shards/train_0.bin
    cp shards/train_0.bin shards/valid_0.bin
    head -c 66 shards/train_0.bin >shards/test_0.bin
    cat >one.yaml <<YAML
base: {checkpoint: $gpt2_tiny}
data: {corpus: shards, tokens_per_device: 0, sequence: 32}
train: {rounds: 3, local_steps: 5, batch: 4, learning_rate: 1.0e-2, router: {every: 3, steps: 2}}
experts: {rank: 4, alpha: 8}
evaluate: {every: 3, windows: 1}
populations:
YAML
}

# Settings under which a run leaves its adapters as they are: what it evaluates and saves is what it started from.
still=(--set train.rounds=1 --set train.local_steps=1 --set evaluate.every=1 --set train.learning_rate=1e-30 --set train.router.steps=0
    --set train.weight_decay=0)

loss_of() { # result, population
    cohort export "$1" --table loss | sed -n "s/^[0-9]*,$2,42,0,test,//p" | tail -n 1
}

test_what_was_exported_starts_a_run_with_the_same_bits() {
    write_configuration
    cat >>one.yaml <<'YAML'
  - {name: lora, method: fedavg, devices: 2, generalists: 0, specialists: 0, attention: {rank: 3}, lora: {up: 4, down: 5, alpha: {down: 3}}, tied: {rank: 2, vector: bias}}
  - {name: routed, method: comigs, devices: 2, specialists: [1, 2], lora: {out: 2}}
  - {name: plain, method: local, devices: 1, generalists: 0, specialists: 1, attention: {rank: 0}}
YAML
    expect_status 0 cohort run one.yaml --out trained --quiet
    expect_status 0 cohort export trained --adapters adapters
    [[ -f adapters/lora-seed42/device1/tied.safetensors && -f adapters/lora-seed42/device1/lora/adapter_config.json && -f adapters/routed-seed42/device1/specialist1/adapter_config.json ]] ||
        fail "$(find adapters)"
    expect_status 0 cohort run one.yaml --out again --quiet "${still[@]}" --set adapters=adapters
    expect_status 0 cohort export again --adapters same
    diff -r adapters same || fail 'other adapters came back'
    # A device's folder by itself, for a population of one.
    sed -i '/name: [^p]/d; s/name: plain/name: alone/' one.yaml
    expect_status 0 cohort run one.yaml --out alone --quiet "${still[@]}" --set adapters=adapters/plain-seed42
    expect_status 0 cohort export alone --adapters one
    diff -r adapters/plain-seed42 one/alone-seed42 || fail 'another adapter came back'
}

# Gradients that are summed over layers, devices of unlike packs, and an average.
test_what_all_layers_share_is_the_same_in_any_waves() {
    require h5diff hdf5-tools
    write_configuration
    cat >>one.yaml <<'YAML'
  - {name: both, method: fedavg, devices: 3, generalists: 0, specialists: 0, attention: {rank: 2}, tied: {rank: 3, vector: column_bias}}
  - {name: vector, method: local, devices: 2, generalists: 0, specialists: 1, attention: {rank: 0}, tied: {vector: bias, linears: out down}}
  - {name: without, method: comigs, devices: 2}
YAML
    expect_status 0 cohort run one.yaml --out one --quiet
    expect_status 0 cohort run one.yaml --out two --quiet --set threads=1 --set wave_tokens=128
    expect_same one/summary.csv two/summary.csv 'the summaries'
    h5diff one/checkpoint.h5 two/checkpoint.h5 /parameters || fail 'other adapters'
    expect_status 0 cohort export one --adapters kept
    [[ -f kept/both-seed42/device0/tied.safetensors && -f kept/vector-seed42/device1/specialist0/adapter_config.json &&
        ! -e kept/without-seed42/device0/tied.safetensors ]] || fail "$(find kept)"
    python3 - kept/both-seed42/device*/tied.safetensors <<'PYTHON'
import json, struct, sys
packs = []
for path in sys.argv[1:]:
    data = open(path, "rb").read()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    assert len(header) == 12, sorted(header)  # A, B and a vector for each of four linears
    shapes = {name: header[name]["shape"] for name in header}
    assert shapes["tied.attention.qkv.A"] == [3, 48] and shapes["tied.mlp.proj.vector"] == [48], shapes
    for name, tensor in header.items():
        begin, end = tensor["data_offsets"]
        assert any(data[8 + size + begin : 8 + size + end]), name + " has not learned"
    packs.append(data)
assert packs[0] == packs[1] == packs[2], "the average is not the same on all devices"
PYTHON
}

# The loss that PEFT computes of its own adapter is that of every device that starts from it.
test_peft_computes_the_loss_of_a_device_that_starts_from_its_adapter() {
    local python
    require_peft
    write_configuration
    cat >>one.yaml <<'YAML'
  - {name: lora, method: local, devices: 2, generalists: 0, specialists: 0, lora: {qkv: 4, down: 4}, adapters: made}
  - {name: other, method: local, devices: 1, generalists: 0, specialists: 0, experts: {scaling: lora}, lora: {qkv: 4, down: 4}, adapters: made}
  - {name: random, method: local, devices: 1, generalists: 0, specialists: 0, lora: {qkv: 4, down: 4}}
YAML
    "$python" "$check_peft" make "$gpt2_tiny" made 4 2 attn.c_attn mlp.c_proj
    expect_status 0 cohort run one.yaml --out result --quiet "${still[@]}"
    "$python" "$check_peft" loss "$gpt2_tiny" made shards/test_0.bin 32 "$(loss_of result lora)"
    "$python" "$check_peft" loss "$gpt2_tiny" made shards/test_0.bin 32 "$(loss_of result other)"
    [[ $(loss_of result lora) != "$(loss_of result random)" ]] || fail 'the adapter changes nothing'
    expect_status 0 cohort export result --adapters kept
    cat >same.py <<'PYTHON'
import sys, safetensors.torch
a, b = (safetensors.torch.load_file(f"{folder}/adapter_model.safetensors") for folder in sys.argv[1:])
assert a.keys() == b.keys() and len(a) == 8, (a.keys(), b.keys())
assert all(a[name].equal(b[name]) for name in a if "lora_A" in name)
PYTHON
    "$python" same.py made kept/lora-seed42/device1/lora
}

# LoRAs alone, with an alpha and a rank of each, after training.
test_peft_computes_the_loss_of_a_device_without_experts() {
    local python
    require_peft
    write_configuration
    cat >>one.yaml <<'YAML'
  - {name: lora, method: local, devices: 1, generalists: 0, specialists: 0, lora: {qkv: 2, out: 3, up: 4, down: 5, alpha: {up: 3, down: 11}}}
  - {name: both, method: local, devices: 1, generalists: 0, specialists: 1, lora: {out: 3, up: 2, down: 5, alpha: {up: 3}}}
YAML
    expect_status 0 cohort run one.yaml --out result --quiet
    expect_status 0 cohort export result --adapters kept
    "$python" "$check_peft" loss "$gpt2_tiny" kept/lora-seed42/device0/lora shards/test_0.bin 32 "$(loss_of result lora)"
    "$python" "$check_peft" loss "$gpt2_tiny" kept/both-seed42/device0/specialist0 shards/test_0.bin 32 "$(loss_of result both)"
}

expect_refused() { # configuration, texts...
    local text
    expect_status 2 cohort run "$1" --out nowhere --quiet
    for text in "${@:2}"; do expect_text err "$text"; done
    expect_status 2 cohort check "$1"
    [[ ! -e nowhere ]] || fail 'a folder was made'
}

test_folders_that_do_not_fit_are_refused_with_their_line() {
    write_configuration
    cat >>one.yaml <<'YAML'
  - {name: lora, method: local, devices: 2, generalists: 0, specialists: 0, lora: {qkv: 4}}
YAML
    expect_status 0 cohort run one.yaml --out result --quiet
    expect_status 0 cohort export result --adapters kept
    sed 's/lora: {qkv: 4}/lora: {qkv: 3}, adapters: kept/' one.yaml >rank.yaml
    expect_refused rank.yaml "rank.yaml:7: adapters: kept/lora-seed42/device0/lora/adapter_model.safetensors" \
        "the LoRA on attn.c_attn has rank 4, the device's has 3; give lora.qkv that rank"
    sed 's/lora: {qkv: 4}/lora: {qkv: 4, up: 2}, adapters: kept/' one.yaml >missing.yaml
    expect_refused missing.yaml 'has no LoRA on mlp.c_fc, and the device has one of rank 2 there'
    sed -i 's/"bias": "none"/"bias": "all"/' kept/lora-seed42/device1/lora/adapter_config.json
    sed 's/lora: {qkv: 4}/lora: {qkv: 4}, adapters: kept/' one.yaml >bias.yaml
    expect_refused bias.yaml 'device1/lora/adapter_config.json: bias is all; only none'
    sed 's/lora: {qkv: 4}/lora: {q: 4}/' one.yaml >linear.yaml
    expect_refused linear.yaml "linear.yaml:7: population 'lora': lora.q: a layer of this base has no such linear; it has qkv, out, up, down"
}

run_tests peft "$@"
