"""Clients one after another, each with a model of its own and a copy of the MLP for each expert.

The way published research code works: every client is a complete torch.nn.Module (a deep copy of the base), an expert is a whole MLP
whose two linears carry LoRA, and the mixture adds up the experts' outputs:

    y = sum_e w_e MLP_e(x),   MLP_e(x) = (W_pr + s B2_e A2_e) gelu((W_fc + s B1_e A1_e) x + b_fc) + b_pr
"""

import torch
import torch.nn.functional as F
from torch import nn

import inputs
import measure


class LoraLinear(nn.Module):
    """y = W x + b + s B A x; W and b are this module's own copies."""

    def __init__(self, base, a, b, scale):
        super().__init__()
        weight, bias = base
        self.weight = nn.Parameter(weight.clone(), requires_grad=False)
        self.bias = nn.Parameter(bias.clone(), requires_grad=False)
        self.lora_a = nn.Parameter(a)
        self.lora_b = nn.Parameter(b)
        self.scale = scale

    def forward(self, x):
        return F.linear(x, self.weight, self.bias) + self.scale * F.linear(F.linear(x, self.lora_a), self.lora_b)


class Norm(nn.Module):
    def __init__(self, base, epsilon):
        super().__init__()
        self.weight = nn.Parameter(base[0].clone(), requires_grad=False)
        self.bias = nn.Parameter(base[1].clone(), requires_grad=False)
        self.epsilon = epsilon

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.epsilon)


class Attention(nn.Module):
    def __init__(self, job, base, lora):
        super().__init__()
        self.heads = job.heads
        self.qkv = LoraLinear(base.qkv, lora["attention.qkv.A"], lora["attention.qkv.B"], job.attention_scale)
        self.out = LoraLinear(base.out, lora["attention.out.A"], lora["attention.out.B"], job.attention_scale)

    def forward(self, x):
        batch, tokens, width = x.shape
        q, k, v = (part.view(batch, tokens, self.heads, -1).transpose(1, 2) for part in self.qkv(x).split(width, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, tokens, width))


class Expert(nn.Module):
    def __init__(self, job, base, lora, index):
        super().__init__()
        name = f"expert.{index}"
        self.fc = LoraLinear(base.fc, lora[f"{name}.fc.A"], lora[f"{name}.fc.B"], job.scale)
        self.proj = LoraLinear(base.proj, lora[f"{name}.proj.A"], lora[f"{name}.proj.B"], job.scale)

    def forward(self, x):
        return self.proj(F.gelu(self.fc(x), approximate="tanh"))


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
        self.ln_1 = Norm(base.ln_1, job.norm_epsilon)
        self.attention = Attention(job, base, lora)
        self.ln_2 = Norm(base.ln_2, job.norm_epsilon)
        self.mixture = Mixture(job, base, lora)

    def forward(self, x):
        x = x + self.attention(self.ln_1(x))
        return x + self.mixture(self.ln_2(x))


class Gpt(nn.Module):
    def __init__(self, job, base, adapters):
        super().__init__()
        self.wte = nn.Parameter(base.wte.clone(), requires_grad=False)
        self.wpe = nn.Parameter(base.wpe.clone(), requires_grad=False)
        self.blocks = nn.ModuleList(Block(job, layer, lora) for layer, lora in zip(base.layers, adapters))
        self.ln_f = Norm(base.ln_f, job.norm_epsilon)

    def forward(self, windows):
        ids, targets = windows[:, :-1], windows[:, 1:]
        x = F.embedding(ids, self.wte) + self.wpe[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def build(job, options):
    base = inputs.read_base(job)
    clients = [Gpt(job, base, inputs.read_adapters(job, device)) for device in range(job.devices)]
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
