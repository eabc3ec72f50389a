#!/usr/bin/env bash
# check.sh [--peers] [--minutes M] [--arch sm_NN]: builds the CUDA backend, the conformance cases and the bench on a machine with a GPU, with nothing but the
# CUDA toolkit and a C compiler, then runs
#   conformance     every case against the float64 oracle, f32 and bf16, and twice for the same bits
#   instructions    what portable.cuh wraps (mma, ldmatrix, cp.async, shuffles), which tests/simt can only imitate
#   sanitizer       compute-sanitizer (memcheck, racecheck) on small waves
#   bench           cohort-bench, verified before it is timed; --peers: beside PyTorch
# and writes results/gpu/HARDWARE-REVISION.json with all of it. Everything is built in build-gpu/.
set -euo pipefail

root=$(dirname "$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")")
output=$root/build-gpu
minutes=10 peers=() architecture=native

say() { printf 'gpu-check: %s\n' "$*" >&2; }
die() {
    say "$@"
    exit 3
}

while (($#)); do
    case $1 in
    --peers) peers=(--peers) ;;
    --minutes)
        [[ ${2:-} =~ ^[0-9]+$ ]] || {
            say "--minutes needs a number of minutes"
            exit 2
        }
        minutes=$2
        shift
        ;;
    --arch)
        architecture=${2:?--arch needs a value, such as sm_90a}
        shift
        ;;
    *)
        say "unknown option $1; known: --peers, --minutes M, --arch sm_NN"
        exit 2
        ;;
    esac
    shift
done

nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null) || die "nvcc was not found: install the CUDA toolkit, or put it on PATH"
command -v nvidia-smi >/dev/null || die "nvidia-smi was not found: this machine has no NVIDIA driver, and so no GPU that could be checked"
nvidia-smi -L >/dev/null 2>&1 || die "the driver names no GPU: $(nvidia-smi -L 2>&1 | head -n 1)"
toolkit=$(dirname "$(dirname "$(readlink -f "$nvcc")")")
jobs=$(nproc)

# ---- Build

include=(-I"$root/kernels" -I"$root/sim" -I"$root/tests" -I"$root/tests/simt" -I"$root/bench")
revision=$(git -C "$root" rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
[[ -z $(git -C "$root" status --porcelain --untracked-files=no 2>/dev/null) ]] || revision+=-changed
c_flags=(-std=gnu11 -O2 -g -Wall -DCOHORT_CUDA -D_GNU_SOURCE=1 -fPIC "-DCOHORT_BENCH_PEERS=\"$root/bench/peers\""
    "-DCOHORT_GIT_REVISION=\"$revision\"" "${include[@]}")
cuda_flags=(-std=c++17 -O3 -lineinfo -arch="$architecture" -DCOHORT_CUDA
    "-DCOHORT_CUBLASLT=\"$toolkit/lib64/libcublasLt.so\"" "${include[@]}")
libraries=(-lpthread -lm -ldl)

object_of() { printf '%s/objects/%s.o' "$output" "$(tr / _ <<<"${1#"$root"/}")"; }

compile_one() { # source
    local object
    object=$(object_of "$1")
    case $1 in
    *.c) "${CC:-cc}" "${c_flags[@]}" -c "$1" -o "$object" ;;
    *) "$nvcc" "${cuda_flags[@]}" -c "$1" -o "$object" ;;
    esac
}

compile() { # sources
    local source
    local -i running=0
    for source in "$@"; do
        compile_one "$source" &
        if ((++running >= jobs)); then
            wait -n || die "a source does not compile (see above)"
            ((running--))
        fi
    done
    while ((running-- > 0)); do wait -n || die "a source does not compile (see above)"; done
}

link() { # program, sources
    local source program=$1
    local -a objects=()
    shift
    for source in "$@"; do objects+=("$(object_of "$source")"); done
    "$nvcc" -o "$output/$program" "${objects[@]}" "${libraries[@]}"
}

cd "$root"
mkdir -p "$output/objects" results/gpu
backend=("$root"/kernels/*.c "$root"/kernels/cuda/*.cu "$root"/kernels/cuda/gpu/*.cu)
reference=("$root"/tests/oracle/*.c "$root"/sim/base/layout.c "$root"/sim/train/model.c "$root"/sim/train/model_pretraining.c
    "$root"/sim/kernel_problem.c "$root"/sim/problems.c "$root"/sim/{output_folder,writable}.c)
for source in "$root"/tests/conformance/*.c; do
    [[ $source == */test_*.c || $source == */bits.c ]] || reference+=("$source")
done
bench=("$root"/bench/measure/*.c "$root"/bench/cases/*.c)
for source in main microbenchmarks options compare compare_files sweep_file statistics process python folder; do bench+=("$root/bench/$source.c"); done
bench+=("$root"/kernels/collective/*.c)
oracle=()
for source in "$root"/tests/oracle/*.c; do
    [[ $source == */oracle_model.c || $source == */oracle_naive.c ]] || oracle+=("$source")
done
say "building with $("$nvcc" --version | tail -n 1)"
compile "${backend[@]}" "${reference[@]}" "$root/tests/simt/conformance.c" "$root/tests/simt/test_portable.cu" "${bench[@]}"
link conformance "${backend[@]}" "${reference[@]}" "$root/tests/simt/conformance.c"
link portable "$root/tests/simt/test_portable.cu"
link cohort-bench "${backend[@]}" "${oracle[@]}" "${bench[@]}" "$root"/sim/{problems,kernel_problem,output_folder,writable}.c

# ---- Run

# Results of a TAP file as JSON: counts, and the names of what failed.
tap_json() { # file
    awk '/^ok /{ passed++ } /^not ok /{ failed++; sub(/^not ok - /, ""); gsub(/["\\]/, ""); names = names (names ? ", " : "") "\"" $0 "\"" }
        END { printf "{\"passed\": %d, \"failed\": %d, \"failures\": [%s]}", passed, failed, names }' "$1"
}

say "conformance"
"$output/conformance" "$output/conformance.tap" || true
conformance=$(tap_json "$output/conformance.tap")
"$output/portable" "$output/portable.tap" || true
instructions=$(tap_json "$output/portable.tap")

# Small waves: the sanitizer makes every access a hundred times slower.
sanitizer=$(command -v compute-sanitizer || ls "$toolkit/bin/compute-sanitizer" 2>/dev/null || true)
sanitize() { # tool
    local log=$output/$1.log
    [[ -n $sanitizer ]] || {
        printf '"compute-sanitizer is not installed"'
        return
    }
    if timeout 240 "$sanitizer" --tool "$1" --error-exitcode 9 "$output/conformance" - model "one token" >"$log" 2>&1 &&
        timeout 240 "$sanitizer" --tool "$1" --error-exitcode 9 "$output/conformance" - '' odd >>"$log" 2>&1; then
        printf '"clean"'
    else
        printf '"%s"' "$(grep -m1 -E 'Invalid|Race reported|hazard|ERROR SUMMARY: [1-9]' "$log" | tr -d '"' || echo 'failed or ran out of time')"
    fi
}
say "compute-sanitizer"
memcheck=$(sanitize memcheck)
racecheck=$(sanitize racecheck)

say "bench (at most $minutes minutes)"
bench_file=$output/bench.json
rm -f "$bench_file"
# A wave of 64 k tokens at the width of GPT-2 124M: few rich devices to many poor ones.
axes=(--precision bf16 --tokens 65536 --width 768 --experts 2 --rank 8 --devices "16,256,4096")
bench_status=0
timeout $((minutes * 60)) "$output/cohort-bench" --backend cuda "${axes[@]}" --json "$bench_file" "${peers[@]}" >"$output/bench.log" 2>&1 || bench_status=$?
((bench_status == 0)) || say "the bench ended with status $bench_status (see build-gpu/bench.log)"
cat "$output/bench.log" >&2
[[ -s $bench_file ]] || printf 'null\n' >"$bench_file"

# ---- Report

hardware=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1)
driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1)
file=results/gpu/$(tr -cs 'A-Za-z0-9\n' - <<<"$hardware")-$revision.json
{
    printf '{\n"hardware": "%s",\n"driver": "%s",\n"nvcc": "%s",\n"revision": "%s",\n"date": "%s",\n' "$hardware" "$driver" \
        "$("$nvcc" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')" "$revision" "$(date -u +%F)"
    printf '"conformance": %s,\n"instructions": %s,\n"memcheck": %s,\n"racecheck": %s,\n"bench": ' "$conformance" "$instructions" "$memcheck" "$racecheck"
    cat "$bench_file"
    printf '}\n'
} >"$file.part"
mv "$file.part" "$file"
say "wrote $file: conformance $conformance, memcheck $memcheck, racecheck $racecheck"
[[ $conformance$instructions != *'"failed": '[1-9]* && $memcheck == '"clean"' && $racecheck == '"clean"' ]] && ((bench_status == 0))
