"""Clients batched by hand on one shared base: one product a base matrix for all devices, bmm for what each device has of its own.

The factorised layer of shared_base.py with one more dimension in front, the device. A group of devices goes through the model at a
time, so that its activations stay in cache; the loss of a group is the sum of its devices' mean losses, whose gradient is each device's
own. torch.compile fuses what lies between the products, where a C++ compiler is at hand.

This is the quickest of the forms tried on a CPU. In tokens per second of processor time, one thread, 16 devices x 1 window and 4 x 8 of
the small shape: compiled 8,800 and 10,000; eager 8,500 and 8,600; torch.func's vmap of grad over shared_base.py 7,100 at 16 x 1 (it has
no batching rule for the backward of attention); one client after another (shared_base.py) 6,700 and 8,200.

Options: compile=0 leaves it eager, group=N sets the devices of a group.
"""

import os
import shutil
from types import SimpleNamespace

import torch
import torch.nn.functional as F

import families
import inputs
import measure
from shared_base import gates_of

COMPILED_GROUP_TOKENS, EAGER_GROUP_TOKENS = 2048, 1024


def stack(job, devices):
    """Parameters of a group, [devices, in, out]: already as bmm wants them, LoRA scales applied where they are used."""
    layers = []
    for tensors in zip(*(inputs.read_adapters(job, device) for device in devices)):
        experts = range(job.experts)

        def take(name, tensors=tensors):
            return torch.stack([of_device[name].t() for of_device in tensors]).contiguous()

        trained = {
            "qkv_a": torch.cat([take(f"{site}.A") for site in families.qkv_sites(job)], dim=2),
            "out_a": take("attention.out.A"),
            "out_b": take("attention.out.B"),
            "a1": torch.cat([take(f"expert.{e}.{site}.A") for e in experts for site in families.fc_sites(job)], dim=2),
            "b2": torch.cat([take(f"expert.{e}.proj.B") for e in experts], dim=1),
        }
        for i, site in enumerate(families.qkv_sites(job)):
            trained[f"qkv_b_{i}"] = take(f"{site}.B")
        for e in experts:
            for i, site in enumerate(families.fc_sites(job)):
                trained[f"b1_{e}_{i}"] = take(f"expert.{e}.{site}.B")
            trained[f"a2_{e}"] = take(f"expert.{e}.proj.A")
        for tensor in trained.values():
            tensor.requires_grad_()
        layers.append(SimpleNamespace(trained=trained, router=take("router")))
    return layers


def shared(x, weight, bias):
    """All devices through one frozen matrix."""
    return F.linear(x.flatten(0, 1), weight, bias).view(*x.shape[:2], -1)


def expanded(base, h, lora, name, count, scale):
    """base + scale x (the products of `count` factors with their columns of h, side by side)."""
    if count == 1:
        return torch.baddbmm(base, h, lora[f"{name}_0"], alpha=scale)
    parts = h.chunk(count, dim=-1)
    return torch.add(base, torch.cat([torch.bmm(part, lora[f"{name}_{i}"]) for i, part in enumerate(parts)], dim=-1), alpha=scale)


def attention(job, table, base, lora, x):
    count = len(families.qkv_sites(job))
    qkv = expanded(shared(x, *base.qkv), torch.bmm(x, lora["qkv_a"]), lora, "qkv_b", count, job.attention_scale)
    y = families.attend(job, table, qkv.view(-1, job.sequence, qkv.shape[-1])).view(*x.shape[:2], -1)
    return torch.baddbmm(shared(y, *base.out), torch.bmm(y, lora["out_a"]), lora["out_b"], alpha=job.attention_scale)


def mixture(job, base, lora, router, x):
    u = shared(x, *base.fc)
    shrunk = torch.bmm(x, torch.cat([router, lora["a1"]], dim=2))
    gates = gates_of(shrunk[..., : job.experts], job.top_k)
    count = len(families.fc_sites(job))
    m, weighted, ranks = None, [], job.rank * count
    for e in range(job.experts):
        h = shrunk[..., job.experts + e * ranks : job.experts + (e + 1) * ranks]
        a = families.activate(job, expanded(u, h, lora, f"b1_{e}", count, job.scale))
        gate = gates[..., e, None]
        m = gate * a if m is None else torch.addcmul(m, gate, a)
        weighted.append(gate * torch.bmm(a, lora[f"a2_{e}"]))
    return torch.baddbmm(shared(m, *base.proj), torch.cat(weighted, dim=2), lora["b2"], alpha=job.scale)


def block(job, table, frozen, lora, router, x):
    x = x + attention(job, table, frozen, lora, families.norm(job, x, frozen.norm_1))
    return x + mixture(job, frozen, lora, router, families.norm(job, x, frozen.norm_2))


def head(job, base, x, targets):
    """Mean loss of each device."""
    logits = F.linear(families.norm(job, x, base.norm).flatten(0, 1), base.head)
    return F.cross_entropy(logits, targets.flatten(), reduction="none").view(len(x), -1).mean(dim=1)


def losses_of(parts, job, table, base, group, windows):
    """windows [devices, batch, sequence + 1]; parts: block and head, compiled or not. All layers and groups share their code."""
    run_block, run_head = parts
    ids, targets = windows[..., :-1], windows[..., 1:]
    x = F.embedding(ids, base.wte)
    x = (x if base.wpe is None else x + base.wpe[: job.sequence]).flatten(1, 2)
    for frozen, layer in zip(base.layers, group):
        x = run_block(job, table, frozen, layer.trained, layer.router, x)
    return run_head(job, base, x, targets)


def group_size(job, options, compiled):
    """The largest divisor of the number of devices whose tokens are few enough."""
    tokens = COMPILED_GROUP_TOKENS if compiled else EAGER_GROUP_TOKENS
    wanted = max(1, int(options.get("group", tokens // (job.batch * job.sequence))))
    return max(size for size in range(1, job.devices + 1) if job.devices % size == 0 and size <= wanted)


def build(job, options):
    compiled = options.get("compile", "1") != "0" and shutil.which(os.environ.get("CXX", "g++")) is not None
    parts = [torch.compile(part, dynamic=False) if compiled else part for part in (block, head)]
    base, table = inputs.read_base(job), families.rotary_table(job)
    size = group_size(job, options, compiled)
    groups = [stack(job, range(first, first + size)) for first in range(0, job.devices, size)]
    optimizer = measure.adamw(job, [p for group in groups for layer in group for p in layer.trained.values()], fused=True)

    def step(windows, learning_rate):
        measure.set_rate(optimizer, learning_rate)
        optimizer.zero_grad(set_to_none=True)
        losses = []
        for group, own in zip(groups, windows.split(size)):
            of_devices = losses_of(parts, job, table, base, group, own)
            of_devices.sum().backward()
            losses.append(of_devices.detach())
        optimizer.step()
        return torch.cat(losses).tolist()

    step.form = f"{'compiled' if compiled else 'eager'}, {size} devices at a time"
    return step


if __name__ == "__main__":
    measure.main(__doc__, build)
