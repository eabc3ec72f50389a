#!/usr/bin/env python3
"""Makes gpt2_tiny/ and gpt2_tiny_logits.json: what Hugging Face's GPT-2 computes, for tests/unit/base/test_base_logits.c to compare with.

Needs torch and transformers (pip install torch transformers; made with 2.15.0 and 5.23.0). The tests do not run it: its output is
kept beside it, and running it again on the same versions gives the same files.

    python3 make_gpt2_reference.py [FOLDER]      default: the script's own folder

The weights are random but larger than GPT-2's initialisation, so that attention is far from uniform, the activation leaves its
linear range and logits differ by several units: a wrong transpose, head order, mask or epsilon cannot hide. Gains and biases are
random too. Logits and losses come from a float64 run of the float32 weights.
"""
import json
import pathlib
import sys

import torch
import transformers

LENGTHS = (23, 40)  # the second fills all positions
STD = {"wte": 0.5, "wpe": 0.3, "c_attn": 0.25, "c_fc": 0.25, "c_proj": 0.2, "bias": 0.2, "gain": 0.3}


def draw_weights(model, generator):
    for name, tensor in sorted(model.transformer.named_parameters()):
        noise = torch.randn(tensor.shape, generator=generator)
        if "ln_" in name and name.endswith("weight"):
            tensor.copy_(1 + STD["gain"] * noise)
        elif name.endswith("bias"):
            tensor.copy_(STD["bias"] * noise)
        else:
            tensor.copy_(STD[name.split(".")[-2]] * noise)


def make_model(folder):
    config = transformers.GPT2Config(
        n_layer=2, n_embd=48, n_head=3, vocab_size=61, n_positions=40, bos_token_id=None, eos_token_id=None,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    model = transformers.GPT2LMHeadModel(config)
    with torch.no_grad():
        draw_weights(model, torch.Generator().manual_seed(42))
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "model.safetensors").chmod(0o644)


@torch.no_grad()
def evaluate(model, tokens):
    """Logits [tokens, vocabulary]; the loss is the mean over all tokens but the first of -log p(token | those before), in nats."""
    logits = model(torch.tensor([tokens])).logits[0]
    loss = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(tokens[1:]))
    return {"tokens": tokens, "loss": loss.item(), "logits": [[float(f"{x:.9g}") for x in row] for row in logits.tolist()]}


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
    make_model(folder / "gpt2_tiny")
    model = transformers.GPT2LMHeadModel.from_pretrained(folder / "gpt2_tiny", attn_implementation="eager").double().eval()
    generator = torch.Generator().manual_seed(7)
    sequences = [torch.randint(0, 61, (n,), generator=generator).tolist() for n in LENGTHS]
    reference = {
        "made_with": f"torch {torch.__version__}, transformers {transformers.__version__}, float64",
        "sequences": [evaluate(model, tokens) for tokens in sequences],
    }
    with open(folder / "gpt2_tiny_logits.json", "w", encoding="utf-8") as out:
        json.dump(reference, out, separators=(",", ":"))
        out.write("\n")
    for s in reference["sequences"]:
        logits = torch.tensor(s["logits"])
        print(f"{len(s['tokens'])} tokens: loss {s['loss']:.6f} nats, logits {logits.min():.2f} to {logits.max():.2f}, std {logits.std():.2f}")


if __name__ == "__main__":
    main()
