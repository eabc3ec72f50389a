#!/usr/bin/env python3
"""Makes llama/NAME/ and llama/NAME.json: what Hugging Face's Llama and Qwen2 compute, for tests/unit/base/test_base_logits.c to compare with.

Needs torch and transformers (pip install torch transformers; made with 2.15.0 and 5.24.0). The tests run it with other seeds and
sizes where they find both (COHORT_PYTHON names a Python that has them); what it makes by default is kept beside it.

    python3 make_llama_reference.py [FOLDER [SCALE [SEED]]]      default: llama/ in the script's own folder, 1, 42

Four models have the ratios of published ones (heads, key heads, MLP, rotary positions, biases, head tied or not), two layers and small
widths; the others have what those lack. SCALE multiplies the width of a head, of the model and of the MLP. As in
make_gpt2_reference.py, weights are large enough that a wrong pair order, mask or epsilon cannot hide, gains and biases are random,
and logits and losses come from a float64 run of the stored weights.
"""
import json
import pathlib
import shutil
import sys

import torch
import transformers

VOCABULARY = 37
CONTEXT = 40
LENGTHS = (13, 40)  # the second fills all positions
STD = {"embed_tokens": 0.5, "lm_head": 0.25, "bias": 0.2, "gain": 0.3}

LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
# Waves of 6 to 400 tokens, so that all three ranges of the scaling show within the positions that are tried.
LLAMA3_NEAR = LLAMA3 | {"factor": 8.0, "original_max_position_embeddings": 48}

# family, width, heads, key heads, MLP, dtype, other settings
MODELS = {
    "smollm": ("Llama", 36, 9, 3, 96, torch.bfloat16, {"tie_word_embeddings": True}),
    "llama32": ("Llama", 32, 8, 2, 128, torch.bfloat16, {"tie_word_embeddings": True, "rope_theta": 5e5, "rope_scaling": LLAMA3}),
    "qwen25": ("Qwen2", 28, 14, 2, 152, torch.float16, {"tie_word_embeddings": True, "rope_theta": 1e6}),
    "tinyllama": ("Llama", 32, 16, 2, 88, torch.bfloat16, {"shards": True, "rms_norm_eps": 1e-5}),
    "biases": ("Llama", 24, 4, 1, 20, torch.float32,
               {"attention_bias": True, "mlp_bias": True, "head_dim": 10, "rope_theta": 1e2, "rope_scaling": LLAMA3_NEAR, "rms_norm_eps": 1e-2}),
    "heads": ("Llama", 24, 3, 3, 40, torch.bfloat16, {"head_dim": 16}),
}


def make_config(name, scale):
    family, width, heads, kv_heads, ffn, _, given = MODELS[name]
    given = {key: value for key, value in given.items() if key != "shards"}
    if "head_dim" in given:
        given["head_dim"] *= scale
    return getattr(transformers, family + "Config")(
        hidden_size=width * scale, num_hidden_layers=2, num_attention_heads=heads, num_key_value_heads=kv_heads, intermediate_size=ffn * scale,
        vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, bos_token_id=None, eos_token_id=None, **given)


@torch.no_grad()
def draw_weights(model, scale, generator):
    for name, tensor in sorted(model.named_parameters()):
        noise = torch.randn(tensor.shape, generator=generator)
        kind = name.split(".")[-2]
        if "norm" in name:
            tensor.copy_(1 + STD["gain"] * noise)
        elif name.endswith("bias"):
            tensor.copy_(STD["bias"] * noise)
        elif kind in STD:
            tensor.copy_(STD[kind] * noise / scale**0.5)
        else:
            tensor.copy_(1.5 * noise / tensor.shape[1]**0.5)


def save(model, name, folder):
    """At the dtype of the table; in several files, and so with an index, where it says so."""
    if folder.exists():
        shutil.rmtree(folder)
    bytes_of = sum(p.numel() * p.element_size() for p in model.parameters())
    model.save_pretrained(folder, max_shard_size=bytes_of // 2 if MODELS[name][6].get("shards") else bytes_of * 2)
    (folder / "generation_config.json").unlink(missing_ok=True)
    for path in folder.iterdir():
        path.chmod(0o644)


@torch.no_grad()
def evaluate(model, tokens):
    """Logits [tokens, vocabulary]; the loss is the mean over all tokens but the first of -log p(token | those before), in nats."""
    logits = model(torch.tensor([tokens])).logits[0]
    loss = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(tokens[1:]))
    return {"tokens": tokens, "loss": loss.item(), "logits": [[float(f"{x:.9g}") for x in row] for row in logits.tolist()]}


def make(name, folder, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    model = getattr(transformers, MODELS[name][0] + "ForCausalLM")(make_config(name, scale))
    draw_weights(model, scale, generator)
    save(model.to(MODELS[name][5]), name, folder / name)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / name, attn_implementation="eager").double().eval()
    sequences = [torch.randint(0, VOCABULARY, (n,), generator=generator).tolist() for n in LENGTHS]
    reference = {
        "made_with": f"torch {torch.__version__}, transformers {transformers.__version__}, float64",
        "sequences": [evaluate(model, tokens) for tokens in sequences],
    }
    with open(folder / f"{name}.json", "w", encoding="utf-8") as out:
        json.dump(reference, out, separators=(",", ":"))
        out.write("\n")
    for s in reference["sequences"]:
        logits = torch.tensor(s["logits"])
        print(f"{name}: {len(s['tokens'])} tokens: loss {s['loss']:.6f} nats, logits {logits.min():.2f} to {logits.max():.2f}, std {logits.std():.2f}")


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "llama")
    scale, seed = (int(sys.argv[i]) if len(sys.argv) > i else otherwise for i, otherwise in ((2, 1), (3, 42)))
    folder.mkdir(exist_ok=True)
    for name in MODELS:
        make(name, folder, scale, seed)


if __name__ == "__main__":
    main()
