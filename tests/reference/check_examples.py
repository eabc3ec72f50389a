"""Training losses of the first step, by transformers: the mean over the tokens of the drawn examples' responses.

    check_examples.py CORPUS BASE WINDOWS.csv LOSS.csv

Reads shards of examples from their description in sim/data/examples.h. Device i has all of source i."""
import csv
import struct
import sys

import numpy as np
import torch
from transformers import GPT2LMHeadModel

TOLERANCE = 1e-5


def examples_of(path):
    data = open(path, "rb").read()
    magic, version, width, n, tokens, _ = struct.unpack_from("<8sIIqqQ", data)
    assert (magic, version) == (b"COHORTEX", 1), path
    ids = np.frombuffer(data, {2: "<u2", 4: "<u4"}[width], tokens, 40 + 24 * n)
    for i in range(n):
        first, prompt, length, _ = struct.unpack_from("<qiiq", data, 40 + 24 * i)
        yield prompt, ids[first:first + length].astype(np.int64)


@torch.no_grad()
def loss_of(model, example):
    """Summed loss of the response, and its tokens."""
    prompt, ids = example
    logits = model(torch.tensor(ids[None, :-1])).logits[0].double()
    losses = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
    return losses[prompt - 1:].sum().item(), len(ids) - prompt


def main(corpus, base, windows, losses):
    model = GPT2LMHeadModel.from_pretrained(base).float().eval()
    drawn = {}
    for row in csv.DictReader(open(windows)):
        if row["part"] == "train":
            drawn.setdefault(int(row["device"]), []).append(int(row["offset"]))
    said = {int(row["device"]): float(row["loss"]) for row in csv.DictReader(open(losses)) if row["split"] == "train"}
    assert drawn and drawn.keys() == said.keys()
    for device, numbers in sorted(drawn.items()):
        examples = list(examples_of(f"{corpus}/train_{device}.bin"))
        loss, tokens = map(sum, zip(*(loss_of(model, examples[i]) for i in numbers)))
        if abs(loss / tokens - said[device]) > TOLERANCE * said[device]:
            sys.exit(f"device {device}: {said[device]}, but transformers {loss / tokens}")


main(*sys.argv[1:])
