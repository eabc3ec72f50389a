"""The best open kernel for training many LoRAs at once that can be imported, on the point lora/forward:

1. axolotl's ScatterMoE kernels for many adapters (axolotl, or its package scattermoe_lora alone on PYTHONPATH)
2. PyTorch's grouped matrix product, which mixture-of-experts training uses (bf16 on a GPU)

    cohort-bench kernels lora/forward --peer bench.peers.multi_lora:work        in the root of the tree
"""

import importlib

import torch

SCATTERMOE = ("axolotl.integrations.kernels.libs.scattermoe_lora.kernels.ops", "scattermoe_lora.kernels.ops")


def scattermoe():
    for name in SCATTERMOE:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def scattermoe_product(job, ops):
    """product(x [T, K], w [N, K, C]) -> [T, C], a device's rows by its own matrix."""
    counts = torch.tensor(job.first[1:], device=job.device) - torch.tensor(job.first[:-1], device=job.device)
    owner = torch.repeat_interleave(torch.arange(job.devices, device=job.device), counts)
    order = torch.arange(job.tokens, device=job.device)

    def product(x, w):
        return ops.scatter2scatter(
            X=x, W=w, k=1, sorted_expert_idxs=owner, sorted_scattered_idxs=order, x_grouped=True, y_grouped=True
        )

    return product


def grouped_product(job):
    grouped = getattr(torch.nn.functional, "grouped_mm", None) or torch._grouped_mm
    ends = torch.tensor(job.first[1:], device=job.device, dtype=torch.int32)
    return lambda x, w: grouped(x, w, offs=ends)


def product_of(job):
    ops = scattermoe()
    return scattermoe_product(job, ops) if ops else grouped_product(job)


def forward(job, product):
    x, y = job.inputs["x"], job.inputs["y"].clone()
    a = job.pack("qkv_a").to(job.dtype).transpose(1, 2).contiguous()
    b = job.pack("qkv_b").to(job.dtype).contiguous()

    def run():
        h = product(x, a)
        return {"h": h, "y": y + product(h, b)}

    return run


def work(job):
    if job.case != "lora/forward":
        return None
    run = forward(job, product_of(job))
    run()  # one that cannot is named at once
    return run
