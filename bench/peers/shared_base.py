"""Clients one after another on one shared base, with the factorised expert layer: what a careful PyTorch user would write.

The frozen weights exist once. The mixture is linear around its activation, so all experts share the two large products, and the A
factors of all experts ride in one product with the router:

    U = W_fc x + b_fc    [z | h] = [R | A1] x    m = sum_e w_e gelu(U + s B1_e h_e)    y = W_pr m + b_pr + s sum_e w_e B2_e A2_e a_e
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F

import inputs
import measure


def make_client(job, device):
    """The parameters of one device; what it shares with nobody. The router is not trained by expert steps."""
    layers = []
    for tensors in inputs.read_adapters(job, device):
        experts = range(job.experts)
        layer = SimpleNamespace(
            qkv_a=tensors["attention.qkv.A"],
            qkv_b=tensors["attention.qkv.B"],
            out_a=tensors["attention.out.A"],
            out_b=tensors["attention.out.B"],
            a1=torch.cat([tensors[f"expert.{e}.fc.A"] for e in experts]),
            b1=[tensors[f"expert.{e}.fc.B"] for e in experts],
            a2=[tensors[f"expert.{e}.proj.A"] for e in experts],
            b2=torch.cat([tensors[f"expert.{e}.proj.B"] for e in experts], dim=1),
        )
        trained = [layer.qkv_a, layer.qkv_b, layer.out_a, layer.out_b, layer.a1, layer.b2, *layer.b1, *layer.a2]
        layer.trained = [tensor.requires_grad_() for tensor in trained]
        layer.router = tensors["router"]
        layers.append(layer)
    return layers


def gates_of(logits, top_k):
    kept, chosen = torch.topk(logits, min(top_k, logits.shape[-1]))
    return torch.zeros_like(logits).scatter(-1, chosen, torch.softmax(kept, dim=-1))


def attention(job, base, lora, x, batch):
    qkv = F.linear(x, *base.qkv) + job.attention_scale * F.linear(F.linear(x, lora.qkv_a), lora.qkv_b)
    q, k, v = (part.view(batch, job.sequence, job.heads, -1).transpose(1, 2) for part in qkv.split(job.width, dim=1))
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(-1, job.width)
    return F.linear(y, *base.out) + job.attention_scale * F.linear(F.linear(y, lora.out_a), lora.out_b)


def mixture(job, base, lora, x):
    u = F.linear(x, *base.fc)
    shrunk = F.linear(x, torch.cat([lora.router, lora.a1]))
    gates = gates_of(shrunk[:, : job.experts], job.top_k)
    m, weighted = None, []
    for e in range(job.experts):
        h = shrunk[:, job.experts + e * job.rank : job.experts + (e + 1) * job.rank]
        a = F.gelu(torch.addmm(u, h, lora.b1[e].t(), alpha=job.scale), approximate="tanh")
        gate = gates[:, e, None]
        m = gate * a if m is None else torch.addcmul(m, gate, a)
        weighted.append(gate * F.linear(a, lora.a2[e]))
    return torch.addmm(F.linear(m, *base.proj), torch.cat(weighted, dim=1), lora.b2.t(), alpha=job.scale)


def loss_of(job, base, client, windows):
    ids, targets = windows[:, :-1], windows[:, 1:]
    x = (F.embedding(ids, base.wte) + base.wpe[: job.sequence]).flatten(0, 1)
    for frozen, lora in zip(base.layers, client):
        x = x + attention(job, frozen, lora, F.layer_norm(x, (job.width,), *frozen.ln_1, job.norm_epsilon), len(ids))
        x = x + mixture(job, frozen, lora, F.layer_norm(x, (job.width,), *frozen.ln_2, job.norm_epsilon))
    x = F.layer_norm(x, (job.width,), *base.ln_f, job.norm_epsilon)
    return F.cross_entropy(F.linear(x, base.wte), targets.flatten())


def build(job, options):
    base = inputs.read_base(job)
    clients = [make_client(job, device) for device in range(job.devices)]
    optimizers = [measure.adamw(job, [p for layer in client for p in layer.trained], fused=True) for client in clients]

    def step(windows, learning_rate):
        losses = []
        for client, optimizer, own in zip(clients, optimizers, windows):
            measure.set_rate(optimizer, learning_rate)
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(job, base, client, own)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    return step


if __name__ == "__main__":
    measure.main(__doc__, build)
