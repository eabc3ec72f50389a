# nvcc.sh LOG NVCC ARGUMENTS...: runs the compiler, keeps what it says in LOG, and shows it only where it failed.
log=$1
shift
"$@" >"$log" 2>&1 || {
    status=$?
    cat "$log" >&2
    exit $status
}
