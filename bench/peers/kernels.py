"""The work of cohort-bench's cases in PyTorch, in a process that answers requests on standard input (measure/peers.h has the protocol).

Ways to do the work ("forms"), each for the cases that it has a formula for:
  torch.bmm       one product a device and operation, weights of all experts concatenated, ragged devices padded to the longest
  torch.compile   the same formula, compiled (needs a C++ compiler or Triton)
  E copies        of the expert layer: every expert is a whole MLP with its own two large products, as the formula is usually written
On a GPU the work is recorded as a CUDA graph where PyTorch can.

Other kernels: --peer MODULE:FUNCTION, a module that Python can import (PYTHONPATH). FUNCTION(job) returns None where it has nothing to
offer for job.case ("lora/forward", "expert_expand/forward", ...; `cohort-bench kernels --list` names all), else a function without
arguments that does the work on tensors made beforehand and returns its outputs, {name: tensor}. `job` is described at class Job.
A wrong output means no time.
"""

import argparse
import glob
import importlib
import os
import resource
import signal
import sys
import time

import numpy
import torch
import torch.nn.functional as F

MAX_EXPERTS = 16


class Job:
    """A point of a case.

    case, precision, tokens, width, ffn, devices, experts, top_k, router_rows, rank_sum, ranks: as in cohort-bench's axes
    dtype       torch dtype of activations and frozen weights;   device: torch device
    first       [devices + 1] first token of every device (a list)
    inputs      {name: tensor}, activations [tokens, columns]; zh, gates, g, q, p, dw, h are float32, the others dtype
    pack(name)  [devices, rows, columns] float32 parameters: router [R, D], a1 [S, D], b1 [S, F], a2 [S, F], b2 [S, D]
                (of expert e the rows job.rows(e)), qkv_a [a, D], qkv_b [a, 3 D]
    padded(t)   [tokens, columns] -> [devices, longest, columns], zeros where a device is shorter;   packed(t): back again
    """

    F32_TENSORS = {"zh", "gates", "g", "q", "p", "dw", "h", "lse", "stats"}

    def __init__(self, folder, device):
        self.folder, self.device = folder, device
        words = dict(line.rstrip("\n").split(" ", 1) for line in open(os.path.join(folder, "job.txt")))
        self.words = words
        self.case, self.precision = words["case"], words["precision"]
        self.dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        for name in "tokens width ffn devices experts top_k router_rows rank_sum attention_rank kinds".split():
            setattr(self, name, int(words[name]))
        self.ranks = [int(words[f"rank{e}"]) for e in range(self.experts)]
        self.checked = [int(d) for d in words["checked"].split(",")]
        counts = numpy.fromfile(os.path.join(folder, "tokens.i32"), dtype=numpy.int32)
        self.first = [0, *numpy.cumsum(counts).tolist()]
        self.longest = int(counts.max())
        self.even = int(counts.min()) == self.longest
        row = torch.arange(self.tokens)
        owner = torch.repeat_interleave(torch.arange(self.devices), torch.from_numpy(counts.astype(numpy.int64)))
        self.place = (owner * self.longest + row - torch.tensor(self.first[:-1])[owner]).to(device)
        self.inputs = {}
        for key, value in words.items():
            path = os.path.join(folder, key[len("columns_") :] + ".f32")
            if key.startswith("columns_") and os.path.exists(path):
                name = key[len("columns_") :]
                self.inputs[name] = self.read(name, (self.tokens, int(value)), name not in self.F32_TENSORS)
        path = os.path.join(folder, "packs.f32")
        self.packs = None
        if os.path.exists(path):
            kinds = torch.from_numpy(numpy.fromfile(path, dtype=numpy.float32).reshape(self.kinds, -1)).to(device)
            index = torch.arange(self.devices, device=device)
            self.packs = kinds[index % self.kinds].contiguous()
            self.kind_rows, self.kind_index = kinds, index

    def read(self, name, shape, activation):
        values = numpy.fromfile(os.path.join(self.folder, name + ".f32"), dtype=numpy.float32).reshape(shape)
        return torch.from_numpy(values).to(self.device, self.dtype if activation else torch.float32)

    def moment(self, number):
        rows = self.kind_rows[(self.kind_index + 1 + number) % self.kinds]
        return rows.clone() if number == 1 else rows * rows

    def part(self, name):
        """Offset, rows and columns in a pack."""
        d, f, s, a = self.width, self.ffn, self.rank_sum, self.attention_rank
        at = {name: int(self.words[name]) for name in ("route", "b1", "a2", "b2", "qkv_a", "qkv_b")}
        return {
            "router": (at["route"], self.router_rows, d),
            "a1": (at["route"] + self.router_rows * d, s, d),
            "route": (at["route"], self.router_rows + s, d),
            "b1": (at["b1"], s, f),
            "a2": (at["a2"], s, f),
            "b2": (at["b2"], s, d),
            "qkv_a": (at["qkv_a"], a, d),
            "qkv_b": (at["qkv_b"], a, 3 * d),
        }[name]

    def pack(self, name, packs=None):
        offset, rows, columns = self.part(name)
        packs = self.packs if packs is None else packs
        return packs[:, offset : offset + rows * columns].view(self.devices, rows, columns)

    def rows(self, expert):
        first = sum(self.ranks[:expert])
        return slice(first, first + self.ranks[expert])

    def padded(self, tensor):
        if self.even:
            return tensor.view(self.devices, self.longest, -1)
        out = tensor.new_zeros(self.devices * self.longest, tensor.shape[-1])
        return out.index_copy_(0, self.place, tensor).view(self.devices, self.longest, -1)

    def packed(self, tensor):
        flat = tensor.reshape(self.devices * self.longest, -1)
        return flat if self.even else flat[self.place]

    def expert_of_rank(self):
        """[S] which expert a row of a pack belongs to."""
        return torch.tensor([e for e, rank in enumerate(self.ranks) for _ in range(rank)], device=self.device)

    def hyper(self, group):
        return {name: float(self.words[f"{group}_{name}"]) for name in ("learning_rate", "weight_decay", "beta1", "beta2", "epsilon", "step")}

    def frozen(self, name, shape):
        return self.read(name, shape, True)


# ---- Formulas. Products are in the job's dtype, router logits and gates in float32.


def gates_of(job, logits):
    """[..., E] weights of the chosen experts, 0 elsewhere."""
    if job.router_rows == 0:
        return torch.full((*logits.shape[:-1], job.experts), 1.0 / job.experts, device=job.device)
    kept, chosen = torch.topk(logits, job.top_k, dim=-1)
    if job.top_k == 1:
        weights = torch.gather(torch.softmax(logits, dim=-1), -1, chosen)
    else:
        weights = torch.softmax(kept, dim=-1)
    return torch.zeros_like(logits).scatter(-1, chosen, weights)


def route_forward(job):
    x = job.padded(job.inputs["x"])
    weight = job.pack("route").to(job.dtype).transpose(1, 2).contiguous()

    def work(x, weight):
        zh = torch.bmm(x, weight).float()
        return zh, gates_of(job, zh[..., : job.router_rows] if job.router_rows else zh[..., :1])

    def outputs(zh, gates):
        return {"zh": job.packed(zh), "gates": F.pad(job.packed(gates), (0, MAX_EXPERTS - job.experts))}

    return work, (x, weight), outputs


def mixed_activation(job, u, h, gates, b1, a2):
    """m and g of all experts: u + h_e B1_e, GELU, mix by gates, shrink."""
    m, g = None, []
    for e in range(job.experts):
        rows = job.rows(e)
        a = F.gelu(torch.baddbmm(u, h[..., rows], b1[:, rows]), approximate="tanh")
        g.append(torch.bmm(a, a2[:, rows].transpose(1, 2)))
        part = a * gates[..., e : e + 1].to(a.dtype)
        m = part if m is None else m + part
    return m, torch.cat(g, dim=-1)


def activation_forward(job):
    u = job.padded(job.inputs["u"])
    h = job.padded(job.inputs["zh"][:, job.router_rows :].to(job.dtype).contiguous())
    gates = job.padded(job.inputs["gates"])
    b1, a2 = (job.pack(name).to(job.dtype).contiguous() for name in ("b1", "a2"))

    def work(u, h, gates, b1, a2):
        return mixed_activation(job, u, h, gates, b1, a2)

    return work, (u, h, gates, b1, a2), lambda m, g: {"m": job.packed(m), "g": job.packed(g)}


def expand_forward(job):
    g = job.padded(job.inputs["g"])
    gates = job.padded(job.inputs["gates"])
    b2, owner = job.pack("b2").to(job.dtype).contiguous(), job.expert_of_rank()
    y = job.padded(job.inputs["y"]).clone()

    def work(y, g, gates, b2):
        return (torch.baddbmm(y, (g * gates[..., owner]).to(b2.dtype), b2),)

    return work, (y, g, gates, b2), lambda out: {"y": job.packed(out)}


def lora_forward(job):
    x, y = job.padded(job.inputs["x"]), job.padded(job.inputs["y"]).clone()
    a = job.pack("qkv_a").to(job.dtype).transpose(1, 2).contiguous()
    b = job.pack("qkv_b").to(job.dtype).contiguous()

    def work(x, y, a, b):
        h = torch.bmm(x, a)
        return h, torch.baddbmm(y, h, b)

    return work, (x, y, a, b), lambda h, out: {"h": job.packed(h), "y": job.packed(out)}


def lora_backward(job):
    x, dy, h = (job.padded(job.inputs[name]) for name in ("x", "dy", "h"))
    dx, h = job.padded(job.inputs["dx"]).clone(), h.to(job.dtype)
    a, b = (job.pack(name).to(job.dtype).contiguous() for name in ("qkv_a", "qkv_b"))

    def work(x, dy, h, dx, a, b):
        q = torch.bmm(dy, b.transpose(1, 2))
        return torch.baddbmm(dx, q, a), torch.bmm(q.transpose(1, 2), x), torch.bmm(h.transpose(1, 2), dy)

    def outputs(dx, da, db):
        return {"dx": job.packed(dx), "gradients": gradient_packs(job, {"qkv_a": da, "qkv_b": db})}

    return work, (x, dy, h, dx, a, b), outputs


def linear_forward(job):
    x, weight, bias = job.inputs["x"], job.frozen("weight", (job.ffn, job.width)), job.frozen("bias", (job.ffn,))

    def work(x, weight, bias):
        return (F.linear(x, weight, bias),)

    return work, (x, weight, bias), lambda y: {"y": y}


def gradient_packs(job, parts):
    """[checked, pack] with the given parts, zeros elsewhere."""
    packs = torch.zeros(len(job.checked), job.packs.shape[1], device=job.device)
    for name, gradient in parts.items():
        offset, rows, columns = job.part(name)
        packs[:, offset : offset + rows * columns] = gradient[job.checked].float().reshape(len(job.checked), -1)
    return packs


def layer_step(job, mlp):
    """Forward, autograd's backward and AdamW; mlp(job, x, residual, route, b1, a2, b2, frozen) gives y."""
    names = ("route", "b1", "a2", "b2")
    start = {name: job.pack(name).clone() for name in names}
    moments = [{name: job.pack(name, job.moment(m)).clone() for name in names} for m in (1, 2)]
    parameters = [start[name].requires_grad_() for name in names]
    x = job.padded(job.inputs["x"]).clone().requires_grad_()
    residual, dy = job.padded(job.inputs["residual"]), job.padded(job.inputs["dy"])
    frozen = (
        job.frozen("W_fc", (job.ffn, job.width)),
        job.frozen("b_fc", (job.ffn,)),
        job.frozen("W_pr", (job.width, job.ffn)),
        job.frozen("b_pr", (job.width,)),
    )
    experts, router = job.hyper("experts"), job.hyper("router")

    def update(p, g, m, v, hyper):
        with torch.no_grad():
            m.lerp_(g, 1 - hyper["beta1"])
            v.mul_(hyper["beta2"]).addcmul_(g, g, value=1 - hyper["beta2"])
            scale = 1 - hyper["beta2"] ** hyper["step"]
            p.mul_(1 - hyper["learning_rate"] * hyper["weight_decay"])
            rate = hyper["learning_rate"] / (1 - hyper["beta1"] ** hyper["step"])
            p.addcdiv_(m, (v / scale).sqrt_().add_(hyper["epsilon"]), value=-rate)

    def work():
        y = mlp(job, x, residual, *parameters, frozen)
        gradients = torch.autograd.grad(y, [x, *parameters], dy)
        for name, p, g in zip(names, parameters, gradients[1:]):
            m, v = moments[0][name], moments[1][name]
            r = job.router_rows if name == "route" else 0
            if r:
                update(p[:, :r], g[:, :r], m[:, :r], v[:, :r], router)
            update(p[:, r:], g[:, r:], m[:, r:], v[:, r:], experts)
        return y.detach(), gradients[0], *gradients[1:]

    def outputs(y, dx, *gradients):
        return {
            "y": job.packed(y),
            "dx": job.packed(dx),
            "gradients": gradient_packs(job, dict(zip(names, gradients))),
            "parameters": gradient_packs(job, {n: p.detach() for n, p in zip(names, parameters)}),
            "moment1": gradient_packs(job, moments[0]),
            "moment2": gradient_packs(job, moments[1]),
        }

    return work, (), outputs


def shared(x, weight, bias):
    return F.linear(x.flatten(0, 1), weight, bias).view(*x.shape[:2], -1)


def factorised(job, x, residual, route, b1, a2, b2, frozen):
    """One base product for all experts."""
    w_fc, b_fc, w_pr, b_pr = frozen
    zh = torch.bmm(x, route.to(x.dtype).transpose(1, 2))
    logits, h = zh[..., : job.router_rows].float(), zh[..., job.router_rows :]
    gates = gates_of(job, logits if job.router_rows else zh[..., :1].float())
    m, g = mixed_activation(job, shared(x, w_fc, b_fc), h, gates, b1.to(x.dtype), a2.to(x.dtype))
    weight = gates.to(x.dtype)[..., job.expert_of_rank()]
    y = shared(m, w_pr, None) + b_pr * gates.sum(-1, keepdim=True).to(x.dtype) + residual
    return torch.baddbmm(y, g * weight, b2.to(x.dtype))


def copies(job, x, residual, route, b1, a2, b2, frozen):
    """Every expert a whole MLP."""
    w_fc, b_fc, w_pr, b_pr = frozen
    r, y = job.router_rows, residual
    logits = torch.bmm(x, route[:, :r].to(x.dtype).transpose(1, 2)).float() if r else x[..., :1].float()
    gates, a1 = gates_of(job, logits).to(x.dtype), route[:, r:].to(x.dtype)
    b1, a2, b2 = (t.to(x.dtype) for t in (b1, a2, b2))
    for e in range(job.experts):
        rows = job.rows(e)
        u = torch.baddbmm(shared(x, w_fc, b_fc), torch.bmm(x, a1[:, rows].transpose(1, 2)), b1[:, rows])
        a = F.gelu(u, approximate="tanh")
        out = torch.baddbmm(shared(a, w_pr, b_pr), torch.bmm(a, a2[:, rows].transpose(1, 2)), b2[:, rows])
        y = y + gates[..., e : e + 1] * out
    return y


BATCHED = {
    "route/forward": route_forward,
    "expert_activation/forward": activation_forward,
    "expert_expand/forward": expand_forward,
    "lora/forward": lora_forward,
    "lora/backward": lora_backward,
    "linear/forward": linear_forward,
    "expert_layer/step": lambda job: layer_step(job, factorised),
}


# ---- Forms


def used():
    """Of all threads of this process: CPU seconds, seconds that they waited for a core, involuntary context switches."""
    queued = 0
    for path in glob.glob("/proc/self/task/*/schedstat"):
        try:
            with open(path) as file:
                queued += int(file.read().split()[1])
        except OSError:  # the thread has ended
            pass
    return time.process_time(), 1e-9 * queued, resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


class Form:
    """work(*arguments) -> outputs; on a GPU replayed as a graph where that is possible."""

    def __init__(self, device, work, arguments, outputs):
        self.device, self.work, self.arguments, self.outputs, self.graph = device, work, arguments, outputs, None

    def run(self):
        return self.work(*self.arguments)

    def capture(self):
        if self.device.type != "cuda" or self.graph:
            return
        try:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self.run()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.run()
            self.graph = graph
        except RuntimeError:
            self.graph = False

    def time(self, count):
        self.capture()
        step = self.graph.replay if self.graph else self.run
        step()
        before = used()
        if self.device.type == "cuda":
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            for _ in range(count):
                step()
            end.record()
            torch.cuda.synchronize()
            seconds = begin.elapsed_time(end) / 1000
        else:
            start = time.perf_counter()
            for _ in range(count):
                step()
            seconds = time.perf_counter() - start
        return [seconds] + [now - then for now, then in zip(used(), before)]


def batched(job):
    make = BATCHED.get(job.case)
    return make and Form(job.device, *make(job))


def compiled(job):
    make = BATCHED.get(job.case)
    if not make:
        return None
    if job.case == "expert_layer/step":
        work, arguments, outputs = layer_step(job, torch.compile(factorised, dynamic=False))
    else:
        work, arguments, outputs = make(job)
        work = torch.compile(work, dynamic=False)
    return Form(job.device, work, arguments, outputs)


def e_copies(job):
    return Form(job.device, *layer_step(job, copies)) if job.case == "expert_layer/step" else None


def users(name):
    module, function = name.split(":", 1)
    function = getattr(importlib.import_module(module), function)

    def make(job):
        work = function(job)
        return work and Form(job.device, work, (), lambda outputs: outputs)

    return make


class Server:
    def __init__(self, device, forms):
        self.device, self.makers, self.forms, self.job = device, forms, [], None

    def hello(self):
        return "ready"

    def load(self, folder):
        self.forms, self.job = [], Job(folder, self.device)
        torch._dynamo.reset()
        lines = []
        for label, make in self.makers:
            try:
                form = make(self.job)
            except Exception as error:  # a peer that cannot is a line of the table, not the end of it
                lines.append(f"no {label}: {short(error)}")
                self.forms.append(None)
                continue
            if form:
                lines.append(f"ready {label}")
                self.forms.append(form)
        return "\n".join([str(len(lines)), *lines])

    def check(self, index, folder):
        form = self.forms[int(index)]
        got = form.run()
        outputs = form.outputs(got) if isinstance(got, dict) else form.outputs(*got)
        for name, tensor in outputs.items():
            tensor.detach().float().cpu().contiguous().numpy().tofile(os.path.join(folder, name + ".out"))
        return "done"

    def time(self, index, count):
        return "time %.9g %.9g %.9g %d" % tuple(self.forms[int(index)].time(int(count)))

    def answer(self, line):
        command, *words = line.split()
        try:
            return {"hello": self.hello, "load": self.load, "check": self.check, "time": self.time}[command](*words)
        except Exception as error:
            return f"failed {short(error)}"


def short(error):
    return f"{type(error).__name__}: {error}".replace("\n", " ")[:120]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peer", action="append", default=[])
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the end of its input ends it
    answers = os.fdopen(os.dup(1), "w")  # whatever else prints goes to standard error
    os.dup2(2, 1)
    torch.set_num_threads(options.threads)
    sys.path.insert(0, os.getcwd())
    forms = [("torch.bmm", batched), ("torch.compile of it", compiled), ("E copies", e_copies)]
    trouble = None
    for name in options.peer:
        try:
            forms.append((name, users(name)))
        except Exception as error:
            trouble = f"--peer {name}: {short(error)}"
    if options.device == "cuda" and not torch.cuda.is_available():
        trouble = "this PyTorch has no GPU"
    server = Server(torch.device(options.device), forms)
    for line in sys.stdin:
        print(f"failed {trouble}" if trouble else server.answer(line.strip()), file=answers, flush=True)


if __name__ == "__main__":
    main()
