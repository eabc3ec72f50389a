#!/usr/bin/env bash
# check.sh [--minutes M] [--out DIR] [--only STEP,STEP] [--small] [--arch sm_NN] [--build-only]
#
# What a machine with a GPU says of the CUDA backend, within so many minutes (8), with nothing but the CUDA
# toolkit and a C compiler. In order of value, each bounded in time, each in the output folder as soon as it
# is known:
#   instructions  what portable.cuh wraps      conformance   every case against the float64 oracle, a process per group
#   bench         the key operations           model         the whole expert step of GPT-2 124M, 64 k tokens, N = 16, 256, 4,096
#   sanitizer     memcheck and racecheck       ncu           the hottest kernels
#   quickstart    CUDA against CPU             peers         PyTorch, on three points
# The folder (results/gpu/HARDWARE-REVISION) has seven files at most: summary.json (report.sh), log.txt,
# conformance.tap, bench.txt and bench.jsonl, sanitizer.txt, ncu.txt. Exit status: 0 all passed, 4 something
# failed, 3 something could not run, 5 ended by a signal.
#
# --build-only makes build-gpu/programs.tgz, which needs no GPU and runs on other machines: where it lies in
# the tree there, and was made of the same sources, nothing is built. --small: sizes that a CPU can play, or
# a first try.
set -uo pipefail

root=$(dirname "$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")")
output=$root/build-gpu bin=$root/build-gpu/bin
# shellcheck disable=SC2034 # used by what is sourced
minutes=8 only='' small=false architecture='' build_only=false folder='' no_programs=''
known=instructions,conformance,bench,model,sanitizer,ncu,quickstart,peers
# shellcheck source=stamp.sh
source "$root/tests/gpu/stamp.sh"
# shellcheck source=report.sh
source "$root/tests/gpu/report.sh"
# shellcheck source=steps.sh
source "$root/tests/gpu/steps.sh"

die() { # exit status, message
    local status=$1
    shift
    say "$@"
    exit "$status"
}

needs_value() { [[ -n ${2:-} ]] || die 2 "$1 needs a value"; }

while (($#)); do
    case $1 in
    --build-only) build_only=true ;;
    --small) small=true ;;
    --minutes | --out | --only | --arch)
        needs_value "$@"
        case $1 in
        --minutes) minutes=$2 ;;
        --out) folder=$(realpath -m -- "$2") ;;
        --only) only=$2 ;;
        --arch) architecture=$2 ;;
        esac
        shift
        ;;
    *) die 2 "unknown option $1; known: --minutes M, --out DIR, --only STEP,STEP, --small, --arch sm_NN, --build-only" ;;
    esac
    shift
done
[[ $minutes =~ ^[0-9]+(\.[0-9]+)?$ && $minutes == *[1-9]* ]] ||
    die 2 "--minutes $minutes: must be a number of minutes, such as 8 or 0.5"
[[ -z $architecture || $architecture =~ ^sm_[0-9]+a?$ ]] || die 2 "--arch $architecture: must be of the form sm_90"
for step in ${only//,/ }; do
    [[ ",$known," == *",$step,"* ]] || die 2 "--only $step: no such step; known: ${known//,/, }"
done

toolkit=${CUDA_HOME:-/usr/local/cuda}
nvcc=$(command -v nvcc || ls "$toolkit/bin/nvcc" 2>/dev/null || true)
[[ -z $nvcc ]] || toolkit=$(dirname "$(dirname "$(readlink -f "$nvcc")")")
revision=$(git -C "$root" rev-parse --short=12 HEAD 2>/dev/null || cat "$bin/revision" 2>/dev/null || echo unknown)
[[ -z $(git -C "$root" status --porcelain --untracked-files=no 2>/dev/null) ]] || revision+=-changed
cd "$root" || die 3 "no folder $root"

if $build_only; then
    [[ -n $nvcc ]] || die 3 "nvcc was not found: install the CUDA toolkit, or put it on PATH"
    say "building for ${architecture:-sm_90}"
    status=0
    export NVCC=$nvcc COHORT_REVISION=$revision
    bash tests/gpu/build.sh "$output" "${architecture:-sm_90}" pack || status=3
    tail -n 1 "$output/build.txt" >&2
    say "wrote build-gpu/programs.tgz, $(($(stat -c %s "$output/programs.tgz") >> 20)) MiB"
    exit "$status"
fi

# ---- A GPU, an output folder, programs

command -v nvidia-smi >/dev/null ||
    die 3 "nvidia-smi was not found: this machine has no NVIDIA driver, and so no GPU that could be checked"
gpus=$(timeout 20 nvidia-smi -L 2>&1) || die 3 "the driver names no GPU: $(head -n 1 <<<"$gpus")"
gpu_fact() { timeout 20 nvidia-smi --query-gpu="$1" --format=csv,noheader 2>/dev/null | head -n 1; }
facts[hardware]=$(gpu_fact name) facts[driver]=$(gpu_fact driver_version)
facts[nvcc]=$([[ -z $nvcc ]] || "$nvcc" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')
facts[revision]=$revision facts[date]=$(date -u +%F) facts[minutes]=$minutes
out=${folder:-$root/results/gpu/$(tr -cs 'A-Za-z0-9\n' - <<<"${facts[hardware]}")-$revision}
mkdir -p "$out" || die 3 "$out cannot be made"
rm -f "$out"/{summary.json,log.txt,conformance.tap,bench.txt,bench.jsonl,sanitizer.txt,ncu.txt}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'interrupted INT' INT
trap 'interrupted TERM' TERM
trap 'interrupted HUP' HUP
read -r scale seconds < <(awk -v m="$minutes" 'BEGIN { printf "%g %d", m / 8, m * 60 }')
deadline=$seconds # of this script's own clock
choose_sizes

# Machine code for 9.0 runs on 9.x alone, and is compiled anew elsewhere.
fits_this_gpu() {
    local made own
    made=$(cat "$bin/architecture" 2>/dev/null) own=sm_$(gpu_fact compute_cap | tr -d .)
    [[ $made == native || $made == "$own" || $made == "${own}a" ]]
}

# Those that lie here, made of these sources for this GPU, if they start at all.
usable() {
    [[ $(cat "$bin/stamp" 2>/dev/null) == "$(sources_stamp "$root")" ]] && fits_this_gpu || return 1
    [[ -x $bin/instructions ]] || return 0 # it is known why
    within 20 "$bin/instructions" /dev/null >/dev/null 2>&1
    ((rc <= 1))
}

unpack() {
    [[ -s $output/programs.tgz ]] && rm -rf "$bin" && tar -xzf "$output/programs.tgz" -C "$output" 2>>"$out/log.txt"
}

obtain_programs() {
    begin_step programs
    if usable; then
        facts[programs]='were there'
    elif unpack && usable; then
        facts[programs]='came with the tree'
    elif [[ -z $nvcc ]]; then
        no_programs='nvcc was not found, and no programs of these sources lie in build-gpu'
        rm -rf "$bin"
        end_step failed "$no_programs"
        return
    else
        say "building with $("$nvcc" --version | tail -n 1)"
        local -x NVCC=$nvcc COHORT_REVISION=$revision
        within 300 bash tests/gpu/build.sh "$output" "${architecture:-native}" >>"$out/log.txt" 2>&1
        facts[programs]='were built here'
        no_programs=$(ending '')
    fi
    facts[build]=$(cat "$bin/build" 2>/dev/null)
    if [[ -n $no_programs ]]; then
        end_step failed "the build: $no_programs"
    elif compgen -G "$bin/*.reason" >/dev/null; then
        cat "$output/build.txt" >>"$out/log.txt" 2>/dev/null
        local program reasons=''
        for program in instructions conformance cohort-bench; do
            [[ ! -s $bin/$program.reason ]] || reasons+="${reasons:+; }$program: $(cat "$bin/$program.reason")"
        done
        if [[ -n $reasons ]]; then
            end_step failed "$reasons"
        else
            end_step passed "${facts[programs]}, but for cohort: $(cat "$bin/cohort.reason")"
        fi
    else
        end_step passed "${facts[programs]}"
    fi
}

# ---- The check

say "$minutes minutes on ${facts[hardware]}; results go to $out"
write_summary
step_cublas
obtain_programs
step_instructions
steps_conformance
steps_bench
steps_model
steps_sanitizer
steps_ncu
step_quickstart
steps_peers
ended=true
write_summary
verdict=$(verdict_of_all)
say "$verdict after $((SECONDS - begun)) s; see $out/summary.json"
case $verdict in
passed) exit 0 ;;
failed) exit 4 ;;
*) exit 3 ;;
esac
