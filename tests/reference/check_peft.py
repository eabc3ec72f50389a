#!/usr/bin/env python3
"""Asks PEFT itself whether an exported adapter means what Cohort computed. tests/cli/test_export.sh runs it.

    check_peft.py logits BASE FOLDER              FOLDER/{adapter/, tokens.i32, logits.f32}, written by tests/unit/adapters/test_peft.c
    check_peft.py loss BASE ADAPTER SHARD TOKENS EXPECTED
                                                  mean loss (nats per token) of the shard's first window of TOKENS tokens
    check_peft.py make BASE ADAPTER RANK ALPHA MODULE...
                                                  writes an adapter as PEFT does, both factors of it random

Needs torch, transformers and peft (pip install torch transformers peft; used with 2.15.0, 5.23.0 and 0.21.2). Every tensor of the file
must find its place in the model, and the adapter must change what the base computes, or nothing was compared. PEFT computes in float64.
"""
import argparse
import array
import os
import pathlib
import sys
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"

import peft
import safetensors.torch
import torch
import transformers

TOLERANCE = 1e-4


def read(path, kind):
    values = array.array(kind)
    values.frombytes(pathlib.Path(path).read_bytes())
    return values.tolist()


def load(base, adapter):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PEFT warns about keys that it misses or does not know
        model = transformers.AutoModelForCausalLM.from_pretrained(base)
        model = peft.PeftModel.from_pretrained(model, adapter)
    expected = set(safetensors.torch.load_file(pathlib.Path(adapter) / "adapter_model.safetensors"))
    found = set(peft.get_peft_model_state_dict(model))
    if expected != found:
        sys.exit(f"PEFT's model and the file hold different tensors: {sorted(expected ^ found)}")
    return model.double().eval()


@torch.no_grad()
def logits_of(model, tokens):
    """With the adapter, and without."""
    ids = torch.tensor([tokens])
    with model.disable_adapter():
        plain = model(ids).logits[0]
    return model(ids).logits[0], plain


def compare_logits(base, folder):
    folder = pathlib.Path(folder)
    tokens = read(folder / "tokens.i32", "i")
    logits, plain = logits_of(load(base, folder / "adapter"), tokens)
    ours = torch.tensor(read(folder / "logits.f32", "f")).double().reshape(logits.shape)
    return (ours - logits).abs().max().item(), (plain - logits).abs().max().item(), "a logit"


def compare_loss(base, adapter, shard, sequence, expected):
    text = read(shard, "H")[: sequence + 1]
    logits, plain = logits_of(load(base, adapter), text[:-1])
    targets = torch.tensor(text[1:])
    loss = torch.nn.functional.cross_entropy(logits, targets).item()
    without = torch.nn.functional.cross_entropy(plain, targets).item()
    return abs(loss - expected), abs(loss - without), "the loss"


def make(base, adapter, rank, alpha, modules):
    torch.manual_seed(1)
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, use_rslora=True, target_modules=modules, fan_in_fan_out=True,
                             task_type="CAUSAL_LM", init_lora_weights=False)
    model = peft.get_peft_model(transformers.GPT2LMHeadModel.from_pretrained(base), config)
    model.save_pretrained(adapter)


def main():
    parser = argparse.ArgumentParser()
    modes = parser.add_subparsers(dest="mode", required=True)
    logits = modes.add_parser("logits")
    logits.add_argument("base")
    logits.add_argument("folder")
    loss = modes.add_parser("loss")
    for name, kind in (("base", str), ("adapter", str), ("shard", str), ("sequence", int), ("expected", float)):
        loss.add_argument(name, type=kind)
    made = modes.add_parser("make")
    for name, kind, many in (("base", str, None), ("adapter", str, None), ("rank", int, None), ("alpha", float, None), ("modules", str, "+")):
        made.add_argument(name, type=kind, nargs=many)
    options = vars(parser.parse_args())
    if options["mode"] == "make":
        options.pop("mode")
        make(**options)
        return
    compare = {"logits": compare_logits, "loss": compare_loss}[options.pop("mode")]
    error, effect, what = compare(**options)
    print(f"{what} is off by at most {error:.2e}; the adapter changes it by up to {effect:.2e}")
    if not error <= TOLERANCE:
        sys.exit(f"{what} is off by {error:g}, more than {TOLERANCE:g}")
    if effect < 100 * TOLERANCE:
        sys.exit("the adapter changes next to nothing: this compares nothing")


if __name__ == "__main__":
    main()
