"""What differs between the two families of bases: GPT-2 and Llama.

A fused linear is one matrix of the base that several LoRAs change, each in columns of its own: q, k and v of Llama, gate and up.
"""

import torch
import torch.nn.functional as F


def qkv_sites(job):
    """Names and columns of the LoRAs of the attention's fused input."""
    if job.family == "gpt2":
        return {"attention.qkv": 3 * job.width}
    queries, keys = job.heads * job.head_size, job.kv_heads * job.head_size
    return {"attention.q": queries, "attention.k": keys, "attention.v": keys}


def fc_sites(job):
    """Names and columns of an expert's LoRAs of the MLP's input."""
    return {"fc": job.ffn} if job.family == "gpt2" else {"gate": job.ffn, "fc": job.ffn}


def norm(job, x, pair):
    weight, bias = pair
    if job.family == "gpt2":
        return F.layer_norm(x, (job.width,), weight, bias, job.norm_epsilon)
    return F.rms_norm(x, (job.width,), weight, job.norm_epsilon)


def activate(job, u):
    if job.family == "gpt2":
        return F.gelu(u, approximate="tanh")
    gate, up = u.chunk(2, dim=-1)
    return F.silu(gate) * up


def rotary_table(job):
    """cos and sin [sequence, head_size], or None with learned positions."""
    if job.family == "gpt2":
        return None
    frequency = job.rope_theta ** (-torch.arange(0, job.head_size, 2, dtype=torch.float64) / job.head_size)
    angle = torch.outer(torch.arange(job.sequence, dtype=torch.float64), frequency).repeat(1, 2)
    return angle.cos().float(), angle.sin().float()


def rotate(x, table):
    first, second = x.chunk(2, dim=-1)
    return x * table[0] + torch.cat((-second, first), dim=-1) * table[1]


def attend(job, table, qkv):
    """[sequences, tokens, q | k | v] -> [sequences, tokens, heads x head_size]."""
    sequences, tokens, _ = qkv.shape
    parts = qkv.view(sequences, tokens, job.heads + 2 * job.kv_heads, job.head_size).transpose(1, 2)
    q, k, v = parts.split((job.heads, job.kv_heads, job.kv_heads), dim=1)
    if table is not None:
        q, k = rotate(q, table), rotate(k, table)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=job.kv_heads < job.heads)
    return y.transpose(1, 2).reshape(sequences, tokens, -1)
