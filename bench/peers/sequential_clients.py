"""Clients one after another, each with a model of its own and a copy of the MLP for each expert.

The way published research code works: every client is a complete torch.nn.Module (a deep copy of the base), an expert is a whole MLP
whose two linears carry LoRA, and the mixture adds up the experts' outputs:

    y = sum_e w_e MLP_e(x),   MLP_e(x) = (W_pr + s B2_e A2_e) act((W_fc + s B1_e A1_e) x + b_fc) + b_pr

Of a Llama base, q, k and v are three linears, and so are gate, up and down, as in the published models.
"""

import torch
import torch.nn.functional as F
from torch import nn

import families
import inputs
import measure


def owned(tensor):
    return None if tensor is None else nn.Parameter(tensor.clone(), requires_grad=False)


class LoraLinear(nn.Module):
    """y = W x + b + s B A x; W and b are this module's own copies."""

    def __init__(self, base, lora, name, scale):
        super().__init__()
        self.weight, self.bias = map(owned, base)
        self.lora_a, self.lora_b = nn.Parameter(lora[f"{name}.A"]), nn.Parameter(lora[f"{name}.B"])
        self.scale = scale

    def forward(self, x):
        return F.linear(x, self.weight, self.bias) + self.scale * F.linear(F.linear(x, self.lora_a), self.lora_b)


def linears(base, lora, sites, prefix, scale):
    """A linear for each site of a fused one."""
    weights = base[0].split(list(sites.values()))
    biases = [base[1]] if len(sites) == 1 else [None] * len(sites)
    return nn.ModuleList(LoraLinear(pair, lora, prefix + name, scale) for pair, name in zip(zip(weights, biases), sites))


class Norm(nn.Module):
    def __init__(self, job, base):
        super().__init__()
        self.job = job
        self.weight, self.bias = map(owned, base)

    def forward(self, x):
        return families.norm(self.job, x, (self.weight, self.bias))


class Attention(nn.Module):
    def __init__(self, job, base, lora):
        super().__init__()
        self.job, self.table = job, families.rotary_table(job)
        self.inputs = linears(base.qkv, lora, families.qkv_sites(job), "", job.attention_scale)
        self.out = LoraLinear(base.out, lora, "attention.out", job.attention_scale)

    def forward(self, x):
        qkv = torch.cat([linear(x) for linear in self.inputs], dim=-1) if len(self.inputs) > 1 else self.inputs[0](x)
        return self.out(families.attend(self.job, self.table, qkv))


class Expert(nn.Module):
    def __init__(self, job, base, lora, index):
        super().__init__()
        self.family = job.family
        self.fc = linears(base.fc, lora, families.fc_sites(job), f"expert.{index}.", job.scale)
        self.proj = LoraLinear(base.proj, lora, f"expert.{index}.proj", job.scale)

    def forward(self, x):
        if self.family == "gpt2":
            return self.proj(F.gelu(self.fc[0](x), approximate="tanh"))
        return self.proj(F.silu(self.fc[0](x)) * self.fc[1](x))


class Mixture(nn.Module):
    def __init__(self, job, base, lora):
        super().__init__()
        self.top_k = min(job.top_k, job.experts)
        self.router = nn.Parameter(lora["router"], requires_grad=False)  # an expert step does not train it
        self.experts = nn.ModuleList(Expert(job, base, lora, index) for index in range(job.experts))

    def forward(self, x):
        logits, chosen = torch.topk(F.linear(x, self.router), self.top_k)
        gates = torch.zeros(*x.shape[:-1], len(self.experts)).scatter(-1, chosen, torch.softmax(logits, dim=-1))
        return sum(gates[..., index, None] * expert(x) for index, expert in enumerate(self.experts))


class Block(nn.Module):
    def __init__(self, job, base, lora):
        super().__init__()
        self.norm_1 = Norm(job, base.norm_1)
        self.attention = Attention(job, base, lora)
        self.norm_2 = Norm(job, base.norm_2)
        self.mixture = Mixture(job, base, lora)

    def forward(self, x):
        x = x + self.attention(self.norm_1(x))
        return x + self.mixture(self.norm_2(x))


class Model(nn.Module):
    def __init__(self, job, base, adapters):
        super().__init__()
        self.wte, self.wpe = owned(base.wte), owned(base.wpe)
        self.head = self.wte if base.head is base.wte else owned(base.head)
        self.blocks = nn.ModuleList(Block(job, layer, lora) for layer, lora in zip(base.layers, adapters))
        self.norm = Norm(job, base.norm)

    def forward(self, windows):
        ids, targets = windows[:, :-1], windows[:, 1:]
        x = F.embedding(ids, self.wte)
        if self.wpe is not None:
            x = x + self.wpe[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.head)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def build(job, options):
    base = inputs.read_base(job)
    clients = [Model(job, base, inputs.read_adapters(job, device)) for device in range(job.devices)]
    optimizers = [measure.adamw(job, [p for p in client.parameters() if p.requires_grad]) for client in clients]

    def step(windows, learning_rate):
        losses = []
        for client, optimizer, own in zip(clients, optimizers, windows):
            measure.set_rate(optimizer, learning_rate)
            optimizer.zero_grad(set_to_none=True)
            loss = client(own)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    return step


if __name__ == "__main__":
    measure.main(__doc__, build)
