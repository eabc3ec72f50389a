"""The clock around the programs of a side-by-side: arguments, threads, timed steps, and lines of JSON.

A program gives main() a function that builds it: build(job, options) -> step, where step(windows, learning_rate) takes one AdamW step
of every device on windows [devices, batch, sequence + 1] and returns the devices' losses before it, in nats per token.
"""

import argparse
import ctypes
import json
import math
import platform
import time
from pathlib import Path

import torch

import inputs


def resident_peak():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def set_threads(torch_threads, blas_threads):
    """PyTorch sets MKL's threads along with its own; MKL's are set apart through MKL itself. True if that could be done."""
    torch.set_num_threads(torch_threads)
    if not torch.backends.mkl.is_available():
        return False
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        ctypes.CDLL(str(library)).MKL_Set_Num_Threads_Local(blas_threads)
    except (AttributeError, OSError):
        return False
    return True


def cosine(job, step):
    low = job.final_learning_rate
    return low + 0.5 * (job.learning_rate - low) * (1 + math.cos(math.pi * step / job.steps))


def set_rate(optimizer, learning_rate):
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def adamw(job, parameters, **options):
    return torch.optim.AdamW(
        parameters, lr=job.learning_rate, betas=(job.beta1, job.beta2), eps=job.epsilon, weight_decay=job.weight_decay, **options
    )


def take_steps(job, windows, step):
    seconds = []
    for number in range(job.steps):
        start = time.perf_counter()
        losses = step(windows[number], cosine(job, number))
        seconds.append(time.perf_counter() - start)
        print(json.dumps({"step": number, "loss": losses}), flush=True)
    return seconds


def main(description, build):
    start_bytes = resident_peak()
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("folder", help="what `cohort-bench peers --keep FOLDER` wrote")
    parser.add_argument("--torch-threads", type=int, default=1)
    parser.add_argument("--blas-threads", type=int, default=1)
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="of the program itself")
    arguments = parser.parse_args()
    blas_set = set_threads(arguments.torch_threads, arguments.blas_threads)
    job = inputs.read_job(arguments.folder)
    step = build(job, dict(option.split("=", 1) for option in arguments.option))
    seconds = take_steps(job, inputs.read_windows(job), step)
    timed = sorted(seconds[job.warmup :])
    median = timed[len(timed) // 2]
    end = {
        "step_seconds": seconds,
        "seconds_per_step": median,
        "tokens_per_second": job.tokens_a_step / median,
        "start_bytes": start_bytes,
        "peak_bytes": resident_peak(),
        "threads": {"torch": torch.get_num_threads(), "blas": arguments.blas_threads, "blas_set_apart": blas_set},
        "form": getattr(step, "form", "one device at a time"),
        "version": f"Python {platform.python_version()}, PyTorch {torch.__version__}",
    }
    print(json.dumps(end), flush=True)
