"""Clients one after another on one shared base, with the factorised expert layer: what a careful PyTorch user would write.

The frozen weights exist once. The mixture is linear around its activation, so all experts share the two large products, and the A
factors of all experts ride in one product with the router:

    U = W_fc x + b_fc    [z | h] = [R | A1] x    m = sum_e w_e act(U + s B1_e h_e)    y = W_pr m + b_pr + s sum_e w_e B2_e A2_e a_e

With SwiGLU, W_fc is gate and up in one matrix, and B1_e h_e is a pair.
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F

import families
import inputs
import measure


def make_client(job, device):
    """The parameters of one device; what it shares with nobody. The router is not trained by expert steps."""
    layers = []
    for tensors in inputs.read_adapters(job, device):
        experts = range(job.experts)
        layer = SimpleNamespace(
            qkv_a=torch.cat([tensors[f"{site}.A"] for site in families.qkv_sites(job)]),
            qkv_b=[tensors[f"{site}.B"] for site in families.qkv_sites(job)],
            out_a=tensors["attention.out.A"],
            out_b=tensors["attention.out.B"],
            a1=torch.cat([tensors[f"expert.{e}.{site}.A"] for e in experts for site in families.fc_sites(job)]),
            b1=[[tensors[f"expert.{e}.{site}.B"] for site in families.fc_sites(job)] for e in experts],
            a2=[tensors[f"expert.{e}.proj.A"] for e in experts],
            b2=torch.cat([tensors[f"expert.{e}.proj.B"] for e in experts], dim=1),
        )
        pairs = [b for of_expert in layer.b1 for b in of_expert]
        trained = [layer.qkv_a, *layer.qkv_b, layer.out_a, layer.out_b, layer.a1, layer.b2, *pairs, *layer.a2]
        layer.trained = [tensor.requires_grad_() for tensor in trained]
        layer.router = tensors["router"]
        layers.append(layer)
    return layers


def gates_of(logits, top_k):
    kept, chosen = torch.topk(logits, min(top_k, logits.shape[-1]))
    return torch.zeros_like(logits).scatter(-1, chosen, torch.softmax(kept, dim=-1))


def expanded(base, h, factors, scale):
    """base + scale x (the products of each factor with its columns of h, side by side)."""
    if len(factors) == 1:
        return torch.addmm(base, h, factors[0].t(), alpha=scale)
    parts = zip(h.chunk(len(factors), dim=-1), factors)
    return torch.add(base, torch.cat([F.linear(part, b) for part, b in parts], dim=-1), alpha=scale)


def attention(job, table, base, lora, x, batch):
    qkv = expanded(F.linear(x, *base.qkv), F.linear(x, lora.qkv_a), lora.qkv_b, job.attention_scale)
    y = families.attend(job, table, qkv.view(batch, job.sequence, -1)).flatten(0, 1)
    return F.linear(y, *base.out) + job.attention_scale * F.linear(F.linear(y, lora.out_a), lora.out_b)


def mixture(job, base, lora, x):
    u = F.linear(x, *base.fc)
    shrunk = F.linear(x, torch.cat([lora.router, lora.a1]))
    gates = gates_of(shrunk[:, : job.experts], job.top_k)
    m, weighted, ranks = None, [], job.rank * len(lora.b1[0])
    for e in range(job.experts):
        h = shrunk[:, job.experts + e * ranks : job.experts + (e + 1) * ranks]
        a = families.activate(job, expanded(u, h, lora.b1[e], job.scale))
        gate = gates[:, e, None]
        m = gate * a if m is None else torch.addcmul(m, gate, a)
        weighted.append(gate * F.linear(a, lora.a2[e]))
    return torch.addmm(F.linear(m, *base.proj), torch.cat(weighted, dim=1), lora.b2.t(), alpha=job.scale)


def loss_of(job, table, base, client, windows):
    ids, targets = windows[:, :-1], windows[:, 1:]
    x = F.embedding(ids, base.wte)
    x = (x if base.wpe is None else x + base.wpe[: job.sequence]).flatten(0, 1)
    for frozen, lora in zip(base.layers, client):
        x = x + attention(job, table, frozen, lora, families.norm(job, x, frozen.norm_1), len(ids))
        x = x + mixture(job, frozen, lora, families.norm(job, x, frozen.norm_2))
    return F.cross_entropy(F.linear(families.norm(job, x, base.norm), base.head), targets.flatten())


def build(job, options):
    base, table = inputs.read_base(job), families.rotary_table(job)
    clients = [make_client(job, device) for device in range(job.devices)]
    optimizers = [measure.adamw(job, [p for layer in client for p in layer.trained], fused=True) for client in clients]

    def step(windows, learning_rate):
        losses = []
        for client, optimizer, own in zip(clients, optimizers, windows):
            measure.set_rate(optimizer, learning_rate)
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(job, table, base, client, own)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    return step


if __name__ == "__main__":
    measure.main(__doc__, build)
