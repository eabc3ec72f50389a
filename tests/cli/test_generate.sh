#!/usr/bin/env bash
# Text from devices: cohort generate.
# shellcheck source=result.sh
source "$(dirname "${BASH_SOURCE[0]}")/result.sh"

greedy=$COHORT_SOURCE_DIR/tests/reference/make_gpt2_greedy.py

# The tokens of one text, of output that names its device.
text_of() { # name, file
    grep -A1 -xF -- "--- $1" "$2" | tail -n 1
}

# A base whose tokens are bytes, and devices as they start.
bytes_configuration() {
    cat >bytes.yaml <<'YAML'
seed: 3
base: {layers: 2, width: 32, heads: 2, vocabulary: 256, pretrain: {tokens: 0}}
data: {tokens_per_device: 2000, sequence: 48, synthetic: {topics: 2, vocabulary: 64, branching: 4}}
train: {rounds: 1, local_steps: 1, batch: 1}
experts: {rank: 4}
populations:
  - {name: alone, method: local, devices: 2}
  - {name: both, method: comigs, devices: 2, seeds: [3, 4]}
YAML
}

test_all_devices_of_a_population_are_printed_by_name() {
    expect_status 0 cohort generate "$(reference_result)" --tokens 1,2,3 --max-tokens 7 --population both
    [[ $(grep -c '^--- both (seed [78]), device [0-3]$' out) == 8 ]] || fail "eight names: $(<out)"
    [[ $(grep -cE '^1,2,3(,[0-9]+){7}$' out) == 8 ]] || fail "eight texts of ten tokens: $(<out)"
    [[ $(grep -E '^1,' out | sort -u | wc -l) -gt 1 ]] || fail "devices with different text write the same: $(<out)"
    [[ ! -s err ]] || fail "$(<err)"
}

test_a_device_writes_the_same_alone_and_on_any_number_of_threads() {
    local -a sampled=(--tokens '1,2' --tokens 9 --max-tokens 12 --temperature 1.5 --top-k 20 --seed 5)
    expect_status 0 cohort generate "$(reference_result)" "${sampled[@]}"
    mv out all
    [[ $(grep -c '^---' all) == 50 ]] || fail "two texts of 25 devices: $(grep -c '^---' all)"
    expect_status 0 cohort generate "$(reference_result)" "${sampled[@]}" --threads 1
    expect_same all out 'texts on one thread and on several'
    expect_status 0 cohort generate "$(reference_result)" "${sampled[@]}" --population both --device 2
    [[ $(text_of 'both (seed 7), device 2' out) == "$(text_of 'both (seed 7), device 2' all)" ]] || fail "$(<out)"
    [[ $(text_of 'both (seed 8), device 2' out) == "$(text_of 'both (seed 8), device 2' all)" ]] || fail "$(<out)"
    expect_status 0 cohort generate "$(reference_result)" "${sampled[@]:0:8}" --top-k 20 --seed 6
    ! cmp -s all out || fail 'another seed gives the same texts'
}

test_text_ends_at_the_end_token_or_with_the_context() {
    local first
    expect_status 0 cohort generate "$(reference_result)" --tokens 1,2,3 --max-tokens 9 --population pooled
    first=$(cut -d, -f5 out)
    expect_status 0 cohort generate "$(reference_result)" --tokens 1,2,3 --max-tokens 9 --population pooled --eos "$first" --json
    grep -q '"end": "end token"' out || fail "$(<out)"
    expect_status 0 cohort generate "$(reference_result)" --tokens 1,2,3 --max-tokens 900 --population pooled --json
    grep -q '"end": "context"' out || fail "$(<out)"
    expect_status 0 cohort generate "$(reference_result)" --tokens 1,2,3 --max-tokens 900 --population pooled
    [[ $(tr , '\n' <out | wc -l) == 33 ]] || fail "a context of 32 and the token after it: $(<out)"
}

test_a_configuration_is_decoded_as_its_devices_start() {
    bytes_configuration
    expect_status 0 cohort generate bytes.yaml --prompt 'Hello, ' --max-tokens 8 --population alone --device 1
    [[ $(head -c 7 out) == 'Hello, ' && $(stat -c %s out) == 16 ]] || fail "prompt, eight bytes and a line's end: $(od -c out)"
    expect_status 0 cohort generate bytes.yaml --prompt Hi --prompt 'zwölf' --max-tokens 4 --json --speed
    require python3 python3
    python3 - <<'PYTHON'
import json
out = json.load(open("out", encoding="utf-8"))
texts = out["texts"]
assert [(t["population"], t["seed"], t["device"], t["prompt"]) for t in texts] == [
    (p, s, d, i) for p, s in (("alone", 3), ("both", 3), ("both", 4)) for d in (0, 1) for i in (0, 1)], texts
assert all(len(t["tokens"]) == 4 and t["text"] == bytes(t["tokens"]).decode(errors="replace") for t in texts), texts
assert out["speed"]["step_tokens_per_second"] > 0 and out["speed"]["share_of_memory_floor"] > 0, out["speed"]
PYTHON
}

test_what_cannot_be_decoded_is_refused() {
    local result
    result=$(reference_result)
    bytes_configuration
    expect_status 2 cohort generate "$result"
    expect_text err '--prompt is missing'
    expect_status 2 cohort generate "$result" --prompt text
    expect_text err "this one's vocabulary has 64, and Cohort has no tokenizer: give ids with --tokens"
    expect_status 2 cohort generate bytes.yaml --prompt ''
    expect_text err '--prompt is empty'
    expect_status 2 cohort generate bytes.yaml --prompt "$(printf 'x%.0s' {1..49})"
    expect_text err "a prompt of 49 tokens is longer than the base's context of 48"
    expect_status 2 cohort generate bytes.yaml --prompt x --tokens 1
    expect_text err 'exclude each other'
    for ids in '1,64' '1,,2' '1,' x ''; do
        expect_status 2 cohort generate "$result" --tokens "$ids"
        expect_text err "--tokens '$ids'"
    done
    expect_status 2 cohort generate "$result" --tokens 1 --population nobody
    expect_text err 'no such device; there are alone (seed 7, devices 0 to 3), averaged'
    expect_status 2 cohort generate bytes.yaml --prompt x --device 2
    expect_text err 'bytes.yaml: no such device; there are alone (seed 3, devices 0 to 1), both (seed 3, devices 0 to 1)'
    expect_status 2 cohort generate "$result" --tokens 1 --eos 64
    expect_text err '--eos 64 is no token; the vocabulary has 64'
    expect_status 2 cohort generate "$result" --tokens 1 --temperature -1
    expect_text err "--temperature '-1' must be a number from 0 to 1000000"
    expect_status 2 cohort generate bytes.yaml --prompt x --backend cpu --set precision=bf16
    expect_text err "--set precision: bf16 needs a GPU, and texts would be decoded on the cpu backend; set precision: f32"
    expect_status 2 cohort generate "$result" --tokens 1 --max-tokens 0
    expect_text err "--max-tokens '0' must be a whole number"
    expect_status 2 cohort generate nowhere --tokens 1
    expect_text err nowhere
}

# A base with a long context: 1,000,000 tokens of it cannot be kept, but a few can.
test_what_the_memory_cannot_hold_is_refused() {
    local -x COHORT_CACHE=$PWD/cache
    bytes_configuration
    expect_status 3 cohort generate bytes.yaml --prompt x --set memory_limit=1
    expect_text err 'the base and the adapters need '
    expect_text err 'MiB of memory and only 0 MiB of memory_limit are left'
    [[ $(wc -l <err) == 1 && ! -s out && ! -e cache ]] || fail "$(<err)"
    sed -i 's/^base: .*/base: {family: llama, layers: 2, width: 32, heads: 2, vocabulary: 256, context: 1000000, pretrain: {tokens: 0, sequence: 48}}/' bytes.yaml
    expect_status 3 cohort generate bytes.yaml --prompt x --max-tokens 1000000 --set memory_limit=400
    expect_text err 'a text of 1000000 tokens needs '
    expect_text err ' MiB of memory_limit are left: 488 MiB go to its keys and values; ask for fewer tokens'
    [[ $(wc -l <err) == 1 && ! -s out ]] || fail "$(<err)"
    expect_status 0 cohort generate bytes.yaml --prompt x --max-tokens 4 --set memory_limit=400
    [[ $(grep -c '^---' out) == 6 ]] || fail "six devices: $(<out)"
}

# Before a base is made.
test_a_variant_that_is_missing_is_named_first() {
    local -x COHORT_CACHE=$PWD/cache
    bytes_configuration
    sed -i 's/method: local,/& base: {variant: nowhere},/; s/tokens: 0}/tokens: 1000}/' bytes.yaml
    expect_status 2 cohort generate bytes.yaml --prompt x
    expect_text err 'nowhere: there is no such file or folder'
    [[ $(wc -l <err) == 1 && ! -e cache ]] || fail "$(<err)"
}

test_a_result_without_a_checkpoint_is_refused() {
    cp -r "$(reference_result)" result
    rm result/checkpoint.h5
    expect_status 2 cohort generate result --tokens 1
    expect_text err 'result: has no checkpoint yet (checkpoint.h5)'
    mkdir empty
    expect_status 2 cohort generate empty --tokens 1
    expect_text err 'empty/config.yaml'
}

# A base that transformers makes, with a sharp head and an end token that comes: the tokens are those that it writes, until two logits are
# as good as equal.
test_tokens_are_those_of_transformers() {
    local python prompt line=0
    local -a prompts=(7 '1,2,3,4,5' '200,3,3,150,9,9,9,80')
    require_python torch transformers
    "$python" - >log 2>&1 <<'PYTHON' || fail "$(<log)"
import torch, transformers
torch.manual_seed(4)
config = transformers.GPT2Config(n_layer=3, n_embd=96, n_head=4, vocab_size=300, n_positions=64, n_inner=200, bos_token_id=None,
                                 eos_token_id=None, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
model = transformers.GPT2LMHeadModel(config).eval()
with torch.no_grad():
    for name, tensor in model.named_parameters():
        if not name.endswith("bias") and "ln_" not in name:
            tensor.mul_(6 if "wte" in name else 20 if "wpe" in name else 10)
    first = model.generate(torch.tensor([[7]]), do_sample=False, max_new_tokens=13, pad_token_id=0)[0].tolist()
model.config.eos_token_id = model.generation_config.eos_token_id = first[13]
model.save_pretrained("base")
PYTHON
    cat >one.yaml <<'YAML'
base: {checkpoint: base}
data: {tokens_per_device: 600, sequence: 32, synthetic: {topics: 1, vocabulary: 64, branching: 4}}
train: {rounds: 1, local_steps: 1, batch: 1}
populations:
  - {name: one, method: local, generalists: 0, specialists: 1, devices: 1}
YAML
    "$python" "$greedy" base 50 "${prompts[@]}" >expected 2>log || fail "$(<log)"
    for prompt in "${prompts[@]}"; do
        line=$((line + 1))
        expect_status 0 cohort generate one.yaml --tokens "$prompt" --max-tokens 50
        sed -n "${line}p" expected >sure
        [[ $(tr , '\n' <sure | wc -l) -ge 10 ]] || fail "only $(<sure) is sure"
        [[ "$(<out)," == "$prompt,$(<sure),"* ]] || fail "after $prompt: $(<out), transformers has $(<sure)"
    done
    expect_status 0 cohort generate one.yaml --tokens 7 --max-tokens 50 --json
    grep -q '"end": "end token"' out || fail "the end token of config.json is not known: $(<out)"
}

# The same of two Llamas, with rope of Llama-3 and a head of its own, and with the biases of a Qwen2: devices that start from a PEFT folder,
# a variant that has it folded in, and the base as it is.
test_tokens_of_llamas_and_adapters_are_those_of_transformers() {
    local python model device
    require_python torch transformers peft
    PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$(dirname "$greedy") "$python" - >log 2>&1 <<'PYTHON' || fail "$(<log)"
import peft, torch, transformers
from make_gpt2_greedy import go_on
torch.manual_seed(4)
sizes = dict(vocab_size=120, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=64, eos_token_id=None, bos_token_id=None)
scaling = dict(rope_type="llama3", rope_theta=5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
               original_max_position_embeddings=16)
models = {
    "llama": transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**sizes, head_dim=16, tie_word_embeddings=False, rope_parameters=scaling)),
    "qwen2": transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**sizes, tie_word_embeddings=True)),
}
for name, model in models.items():
    with torch.no_grad():
        for key, tensor in model.named_parameters():
            if key.endswith("bias"):
                tensor.normal_(0, 0.3)
            elif "norm" not in key:
                tensor.mul_(8)
    model.save_pretrained(name)
    expected = [go_on(model.eval(), [7, 3, 99], 40)]
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, lora_alpha=4, use_rslora=True, target_modules=["k_proj", "down_proj"]))
    with torch.no_grad():
        for key, tensor in model.named_parameters():
            if "lora_B" in key:
                tensor.normal_(0, 1)
    model.save_pretrained(name + "-adapter")
    expected.append(go_on(model.merge_and_unload().eval(), [7, 3, 99], 40))
    assert all(sure >= 15 for _, sure in expected) and expected[0][0][:9] != expected[1][0][:9], expected
    with open(name + ".expected", "w") as out:
        for tokens, sure in expected:
            out.write(",".join(map(str, [7, 3, 99] + tokens[:sure])) + "\n")
PYTHON
    for model in llama qwen2; do
        cat >one.yaml <<YAML
base: {checkpoint: $model}
data: {tokens_per_device: 600, sequence: 32, synthetic: {topics: 1, vocabulary: 64, branching: 4}}
train: {rounds: 1, local_steps: 1, batch: 1}
experts: {alpha: 4}
attention: {rank: 0}
populations:
  - {name: plain, method: local, generalists: 0, specialists: 1, devices: 1}
  - {name: started, method: fedavg, generalists: 0, specialists: 0, lora: {k: 2, down: 2}, devices: 2, adapters: $model-adapter}
  - {name: folded, method: local, generalists: 0, specialists: 1, devices: 1, base: {variant: $model-adapter}}
YAML
        expect_status 0 cohort generate one.yaml --tokens 7,3,99 --max-tokens 40
        for device in 'plain (seed 42), device 0:1' 'started (seed 42), device 0:2' 'started (seed 42), device 1:2' 'folded (seed 42), device 0:2'; do
            sed -n "${device##*:}p" $model.expected >sure
            [[ "$(text_of "${device%:*}" out)," == "$(<sure),"* ]] || fail "$model: ${device%:*}: $(<out), transformers has $(<sure)"
        done
    done
}

run_tests generate "$@"
