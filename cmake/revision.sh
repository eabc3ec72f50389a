#!/bin/sh
# revision.sh SOURCE_DIR HEADER: writes the header that defines COHORT_GIT_REVISION, only if it would change.
set -eu
revision=$(git -C "$1" describe --always --dirty 2>/dev/null || echo unknown)
line="#define COHORT_GIT_REVISION \"$revision\""
if [ "$(cat "$2" 2>/dev/null)" != "$line" ]; then
    mkdir -p "$(dirname "$2")"
    printf '%s\n' "$line" >"$2"
fi
