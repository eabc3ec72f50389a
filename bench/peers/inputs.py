"""What all programs of a side-by-side read: job.json, base/, adapters/, tokens/, windows.csv (bench/side_by_side/job.h describes them).

Tensors come out with PyTorch's orientation: a linear is [out, in], a LoRA factor A is [rank, in], B is [out, rank].
"""

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace

import torch


def read_safetensors(path):
    """A file is 8 bytes of header length, a JSON header, and the bytes of the tensors; all of ours are float32."""
    data = bytearray(Path(path).read_bytes())
    end = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8:end]).items():
        if name == "__metadata__":
            continue
        if entry["dtype"] != "F32":
            raise ValueError(f"{path}: {name} is {entry['dtype']}; only F32 is read here")
        first, last = entry["data_offsets"]
        values = torch.frombuffer(data, dtype=torch.float32, count=(last - first) // 4, offset=end + first)
        tensors[name] = values.reshape(entry["shape"]).clone()
    return tensors


def read_job(folder):
    job = SimpleNamespace(**json.loads(Path(folder, "job.json").read_text()))
    job.folder = Path(folder)
    job.scale = job.alpha / math.sqrt(job.rank)
    job.attention_scale = job.alpha / math.sqrt(job.attention_rank)
    job.tokens_a_step = job.devices * job.batch * job.sequence
    return job


def read_gpt2(job, tensors):
    """Hugging Face's Conv1D matrices are [in, out] and get transposed."""

    def take(name):
        tensor = tensors.pop("transformer." + name)
        return tensor.t().contiguous() if name.startswith("h.") and tensor.dim() == 2 else tensor

    base = SimpleNamespace(wte=take("wte.weight"), wpe=take("wpe.weight"), norm=(take("ln_f.weight"), take("ln_f.bias")), layers=[])
    base.head = base.wte
    for layer in range(job.layers):
        pairs = {}
        for ours, theirs in (
            ("norm_1", "ln_1"),
            ("qkv", "attn.c_attn"),
            ("out", "attn.c_proj"),
            ("norm_2", "ln_2"),
            ("fc", "mlp.c_fc"),
            ("proj", "mlp.c_proj"),
        ):
            pairs[ours] = (take(f"h.{layer}.{theirs}.weight"), take(f"h.{layer}.{theirs}.bias"))
        base.layers.append(SimpleNamespace(**pairs))
    return base


def read_llama(job, tensors):
    """q, k and v become one matrix, and so do gate and up. There are no biases."""

    def take(*names):
        return torch.cat([tensors.pop(f"model.{name}.weight") for name in names]), None

    base = SimpleNamespace(wte=take("embed_tokens")[0], wpe=None, norm=take("norm"), layers=[])
    base.head = tensors.pop("lm_head.weight", base.wte)
    for layer in range(job.layers):
        at = f"layers.{layer}."
        base.layers.append(
            SimpleNamespace(
                norm_1=take(at + "input_layernorm"),
                qkv=take(*(f"{at}self_attn.{name}_proj" for name in "qkv")),
                out=take(at + "self_attn.o_proj"),
                norm_2=take(at + "post_attention_layernorm"),
                fc=take(at + "mlp.gate_proj", at + "mlp.up_proj"),
                proj=take(at + "mlp.down_proj"),
            )
        )
    return base


def read_base(job):
    """wte, wpe (None with rotary positions), norm, head, and per layer the pairs (weight, bias or None) norm_1, qkv, out, norm_2, fc, proj."""
    tensors = read_safetensors(job.folder / "base" / "model.safetensors")
    return read_llama(job, tensors) if job.family == "llama" else read_gpt2(job, tensors)


def read_adapters(job, device):
    """One dictionary a layer: attention.qkv.A, attention.out.B, router, expert.0.fc.A, expert.1.proj.B, ..."""
    layers = [{} for _ in range(job.layers)]
    for name, tensor in read_safetensors(job.folder / "adapters" / f"adapters_0_{device}.safetensors").items():
        _, layer, rest = name.split(".", 2)
        layers[int(layer)][rest] = tensor
    return layers


def read_windows(job):
    """Token ids [steps, devices, batch, sequence + 1]: inputs are all but the last, targets all but the first."""
    windows = torch.empty(job.steps, job.devices, job.batch, job.sequence + 1, dtype=torch.long)
    texts = []
    for device in range(job.devices):
        data = bytearray((job.folder / "tokens" / f"train_{device}.bin").read_bytes())
        texts.append(torch.frombuffer(data, dtype=torch.uint16).long())
    with open(job.folder / "windows.csv", newline="") as file:
        for row in csv.DictReader(file):
            device, step, index, offset = (int(row[key]) for key in ("device", "step", "index", "offset"))
            windows[step, device, index] = texts[device][offset : offset + job.sequence + 1]
    return windows
