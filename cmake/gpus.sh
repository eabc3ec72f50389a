#!/bin/sh
# gpus.sh NVCC: what that compiler is to generate code for on this machine, one architecture a line (80, 90a): those of its GPUs.
# Nothing where there is none that the kernels are made for (compute capability 8.0 or later).
set -eu

found=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | grep -x '[0-9][0-9]*\.[0-9]' | tr -d . | sort -u) || true
known=$("$1" --list-gpu-arch 2>/dev/null) || true
for capability in $found; do
    case $capability in
    ? | [1-7]?) ;;
    90) echo 90a ;;
    # A GPU that is newer than the compiler takes what its driver compiles from the PTX for 8.0.
    *) if echo "$known" | grep -qx "compute_$capability"; then echo "$capability"; else echo 80; fi ;;
    esac
done | sort -u
