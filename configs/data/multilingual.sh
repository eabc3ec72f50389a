#!/usr/bin/env bash
# Builds the real multilingual corpus from Debian's manual pages:
#
#   data/multilingual   sources de, fr, it, nl: the pages' translations
#   data/english        source en: the pages themselves, for pre-training a base
#
# Packages are fetched by `apt-get download` and unpacked in a temporary folder; nothing is installed, root is not needed. Text is cleaned of
# markup and repeated boilerplate (clean_man.py), split by page, and written as bytes (vocabulary 256).
#
#   configs/data/multilingual.sh [--force] [--out FOLDER]      FOLDER is data unless given; --force builds again what is there
#
# COHORT names the program that makes the shards (./cohort of this repository unless set).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cohort=${COHORT:-$here/../../cohort}
out=data
force=no

# The translations, and the English pages they were made from.
packages=(manpages manpages-dev manpages-de manpages-de-dev manpages-fr manpages-fr-dev manpages-it manpages-it-dev
    manpages-nl manpages-nl-dev)
# Pages that come with the programs: more Italian and Dutch, of which there is least, and more English.
packages+=(apt apt-utils aptitude-common dpkg dpkg-dev man-db passwd login mc-data mplayer nmap adduser fakeroot
    git-man perl-doc libssl-doc bash systemd coreutils openssh-client rsync zsh-common)

say() { printf 'multilingual.sh: %s\n' "$*" >&2; }
fail() {
    say "$@"
    exit 3
}

while [ $# -gt 0 ]; do
    case $1 in
    --force) force=yes ;;
    --out) out=${2:?"--out needs a folder"} && shift ;;
    *)
        say "'$1' is no option; usage: configs/data/multilingual.sh [--force] [--out FOLDER]"
        exit 2
        ;;
    esac
    shift
done

if [ "$force" = no ] && [ -e "$out/multilingual/sources.json" ] && [ -e "$out/english/sources.json" ]; then
    say "$out/multilingual and $out/english are there; --force builds them again"
    exit 0
fi
for tool in apt-get dpkg-deb python3; do
    command -v "$tool" >/dev/null || fail "$tool is needed (Debian: apt, dpkg, python3)"
done
[ -x "$cohort" ] || command -v "$cohort" >/dev/null || fail "there is no program $cohort; set COHORT to the one that has the command data"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/packages" "$work/root"
chmod 755 "$work" && chmod 777 "$work/packages" # where apt runs as root, its unprivileged user writes here

say "fetching ${#packages[@]} packages, about 60 MB, into $work; nothing is installed"
if ! (cd "$work/packages" && apt-get -qq download "${packages[@]}"); then
    say "the packages cannot be fetched. Without network, build the corpus on a machine that has it and copy $out/ here."
    fail "With network, 'apt-get update' refreshes the lists of packages that apt may be missing; this script needs Debian 12's."
fi
for package in "$work"/packages/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x -C "$work/root" --no-same-owner --wildcards './usr/share/man/*' 2>/dev/null ||
        fail "$(basename "$package") has no manual pages"
done

say "cleaning"
python3 "$here/clean_man.py" "$work/root" "$work/text" >&2

mkdir -p "$out"
"$cohort" data --out "$work/multilingual" \
    "de=$work/text/de" "fr=$work/text/fr" "it=$work/text/it" "nl=$work/text/nl"
"$cohort" data --out "$work/english" "en=$work/text/en"
for corpus in multilingual english; do
    rm -rf "${out:?}/$corpus"
    mv "$work/$corpus" "$out/$corpus"
done
say "$out/multilingual and $out/english are ready"
