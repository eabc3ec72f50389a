#!/usr/bin/env bash
# build.sh FOLDER ARCHITECTURE [pack]: the programs of `cohort gpu-check`, with the CUDA toolkit and a C
# compiler alone:
#
#   FOLDER/bin/instructions   what portable.cuh wraps (mma, ldmatrix, cp.async, shuffles), which tests/simt can only imitate
#   FOLDER/bin/conformance    every conformance case
#   FOLDER/bin/cohort-bench   the microbenchmarks
#   FOLDER/bin/cohort         the simulator, with both backends; only where its libraries are (they are laid into bin/lib)
#   FOLDER/bin/stamp          of the sources that they were made of; FOLDER/bin/architecture
#   FOLDER/build.txt          what the compilers said, how long each unit took
#
# They run on other machines: no processor of this one is asked for, no path of it is needed. A program that
# cannot be made leaves the reason in FOLDER/bin/PROGRAM.reason; the others are made all the same, and the
# exit status is 1. pack: all of it as FOLDER/programs.tgz.
set -euo pipefail

root=$(dirname "$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")")
output=$1 architecture=$2 pack=${3:-}
nvcc=${NVCC:-nvcc} jobs=$(nproc)
# shellcheck source=stamp.sh
source "$root/tests/gpu/stamp.sh"

revision=${COHORT_REVISION:-unknown}
include=(-I"$root/kernels" -I"$root/sim" -I"$root/tests" -I"$root/tests/simt" -I"$root/bench")
c_flags=(-std=gnu11 -O2 -Wall -DCOHORT_CUDA -D_GNU_SOURCE=1 -fPIC "${include[@]}"
    "-DCOHORT_GIT_REVISION=\"$revision\""
    '-DCOHORT_BENCH_PEERS="bench/peers"') # the bench runs in the root of the tree
code=(-arch=native)
# No PTX: it would double the size.
[[ $architecture == native ]] || code=(-gencode "arch=compute_${architecture#sm_},code=$architecture")
cuda_flags=(-std=c++17 -O3 -lineinfo "${code[@]}" -DCOHORT_CUDA '-DCOHORT_CUBLASLT="libcublasLt.so"'
    "${include[@]}")
# The simulator's own: its CPU backend is to be quick, on any processor of the last ten years.
sim_flags=(-DCOHORT_CPU -O3 -fopenmp -ffp-contract=fast -fno-math-errno -fno-trapping-math)
[[ $(uname -m) != x86_64 ]] || sim_flags+=(-march=x86-64-v3)
link_flags=(-Xcompiler -static-libgcc -Xcompiler -static-libstdc++ -lpthread -lm -ldl)
packages=(openblas hdf5-serial yaml-0.1 jansson)

# ---- Sources

backend=("$root"/kernels/*.c "$root"/kernels/cuda/*.cu "$root"/kernels/cuda/gpu/*.cu)
model=("$root"/sim/base/layout.c "$root"/sim/model/{adapt,family,gpt2,llama,model,model_pretraining,flops}.c
    "$root"/sim/support/{kernel_problem,problems,output_file,output_folder,writable}.c)
oracle=("$root"/tests/oracle/*.c)
cases=("$root"/bench/{rig,cases}/*.c)
conformance=("$root"/tests/simt/conformance.c)
for source in "$root"/tests/conformance/*.c; do
    [[ $source == */test_*.c || $source == */bits.c ]] || conformance+=("$source")
done
bench=("$root"/bench/command/{main,microbenchmarks,options,sweep_file}.c "$root"/bench/{compare,measure}/*.c
    "$root"/kernels/collective/*.c)
mapfile -t simulator < <(find "$root/sim" -name '*.c')
simulator+=("$root"/kernels/*.c "$root"/kernels/cpu/*.c "$root"/kernels/collective/*.c)

# ---- Units: a source, compiled for the GPU's programs or (sim) for the simulator

object_of() { # source, kind
    local name=${1#"$root"/}
    printf '%s/objects/%s%s.o' "$output" "${2:+$2_}" "${name//\//_}"
}

compile_unit() { # source, kind
    local object
    object=$(object_of "$1" "$2")
    case $1 in
    *.cu) "$nvcc" "${cuda_flags[@]}" -c "$1" -o "$object" ;;
    *) "${CC:-cc}" "${c_flags[@]}" ${2:+"${sim_flags[@]}" "${library_flags[@]}"} -c "$1" -o "$object" ;;
    esac
}

# Leaves OBJECT.log, OBJECT.seconds (user and system), and where it does not compile OBJECT.failed.
unit() { # source, kind
    local object
    object=$(object_of "$1" "$2")
    local TIMEFORMAT='%U %S'
    {
        time compile_unit "$1" "$2" >"$object.log" 2>&1 || printf '%s\n' "${1#"$root"/}" >"$object.failed"
    } 2>"$object.seconds"
}

# The slowest units first: what nvcc compiles, and of that what the experts are made of.
in_order() {
    printf '%s\n' "$@" | awk '{ print ($0 ~ /\/cuda\/expert/) ? 0 : ($0 ~ /\.cu$/) ? 1 : 2, $0 }' |
        sort -u | cut -d ' ' -f 2-
}

compile() { # kind, sources
    local kind=$1 source
    local -i running=0
    shift
    while read -r source; do
        unit "$source" "$kind" &
        ((++running < jobs)) || { wait -n && running+=-1; }
    done < <(in_order "$@")
    wait
}

# ---- Programs

# The first error of the first unit that failed, or nothing.
failed_unit() { # kind, sources
    local source object kind=$1
    shift
    for source in "$@"; do
        object=$(object_of "$source" "$kind")
        [[ -e $object.failed ]] || continue
        printf '%s does not compile: %s\n' "${source#"$root"/}" \
            "$(grep -m1 -iE 'error|fatal' "$object.log" || tail -n 1 "$object.log")"
        return
    done
}

complete=true
refuse() { # program, reason
    printf '%s\n' "$2" >"$output/bin/$1.reason"
    printf '%s is not made: %s\n' "$1" "$2" >&2
    complete=false
}

link() { # program, kind, libraries -- sources
    local program=$1 kind=$2 log=$output/objects/$1.link reason source
    local -a objects=() libraries=()
    shift 2
    while [[ $1 != -- ]]; do libraries+=("$1") && shift; done
    shift
    for source in "$@"; do
        if [[ $source == *.cu ]]; then
            objects+=("$(object_of "$source" '')")
        else
            objects+=("$(object_of "$source" "$kind")")
        fi
    done
    reason=$(failed_unit "$kind" "$@")
    [[ -n $reason || -z $kind ]] || reason=$(failed_unit '' "${backend[@]}")
    if [[ -n $reason ]]; then
        refuse "$program" "$reason"
    elif ! "$nvcc" -o "$output/bin/$program" "${objects[@]}" "${libraries[@]}" "${link_flags[@]}" >"$log" 2>&1; then
        refuse "$program" "it does not link: $(grep -m1 -iE 'undefined|error|multiple|cannot find' "$log")"
    fi
}

# Everything but the C library's own, which a machine must have of its age.
lay_libraries() { # program
    local library
    mkdir -p "$output/bin/lib"
    ldd "$1" | awk '$3 ~ /^\// { print $3 }' | grep -vE '/(libc|libm|libpthread|libdl|librt|ld-linux[^/]*)\.so' |
        while read -r library; do cp -L "$library" "$output/bin/lib/"; done
}

make_simulator() {
    local package
    local -a libraries
    for package in "${packages[@]}"; do
        pkg-config --exists "$package" 2>/dev/null || {
            printf 'it was built where %s is not installed\n' "$package" >"$output/bin/cohort.reason"
            return
        }
    done
    read -ra library_flags < <(pkg-config --cflags "${packages[@]}")
    read -ra libraries < <(pkg-config --libs "${packages[@]}")
    compile sim "${simulator[@]}"
    link cohort sim "${libraries[@]}" -Xcompiler -fopenmp -- "${simulator[@]}" "$root"/kernels/cuda/{,gpu/}*.cu
    [[ ! -x $output/bin/cohort ]] || lay_libraries "$output/bin/cohort"
}

# ---- What it took

report_times() { # wall seconds
    cat "$output"/objects/*.log "$output"/objects/*.link 2>/dev/null || true
    awk -v wall="$1" -v jobs="$jobs" '
        NF == 2 { n = FILENAME; sub(/.*\//, "", n); sub(/\.o\.seconds$/, "", n)
                  own = $1 + $2; sum += own; units++
                  if (own > longest) { longest = own; name = n } }
        END { printf "%d units, %.0f s of CPU, %d s on %d processors; on 16 at least %.0f s; the longest is %s, %.0f s\n",
              units, sum, wall, jobs, (sum / 16 > longest) ? sum / 16 : longest, name, longest }' "$output"/objects/*.seconds
}

rm -rf "${output:?}/objects" "${output:?}/bin" "$output/programs.tgz"
mkdir -p "$output/objects" "$output/bin"
cd "$root"
begin=$SECONDS
library_flags=()
portable=$root/tests/simt/test_portable.cu
compile '' "${backend[@]}" "${model[@]}" "${oracle[@]}" "${cases[@]}" "${conformance[@]}" "$portable" "${bench[@]}"
link instructions '' -- "$portable"
link conformance '' -- "${backend[@]}" "${model[@]}" "${oracle[@]}" "${cases[@]}" "${conformance[@]}"
link cohort-bench '' -- "${backend[@]}" "${model[@]}" "${oracle[@]}" "${cases[@]}" "${bench[@]}"
make_simulator
sources_stamp "$root" >"$output/bin/stamp"
printf '%s\n' "$architecture" >"$output/bin/architecture"
printf '%s\n' "$revision" >"$output/bin/revision"
report_times $((SECONDS - begin)) >"$output/build.txt"
tail -n 1 "$output/build.txt" >"$output/bin/build"
if [[ -n $pack ]]; then
    tar -czf "$output/programs.tgz.part" -C "$output" bin
    mv "$output/programs.tgz.part" "$output/programs.tgz"
fi
$complete
