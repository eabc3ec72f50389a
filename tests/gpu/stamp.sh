# stamp.sh - what programs are made of: a hash of all sources, so that programs of another tree are noticed.
# shellcheck shell=bash
sources_stamp() { # root
    (cd "$1" && find kernels sim bench tests -type f \
        \( -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' -o -name '*.hpp' -o -name build.sh \) -print0 |
        LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c 1-16)
}
