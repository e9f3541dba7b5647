#!/usr/bin/env bash
# Makes a base image like the public one out of Debian's packages, for a machine that cannot pull
# images, once a month, into the cache of the user. Prints where it is, as `make image BASE=` takes
# it. Needs root, debootstrap, buildah and a mirror of Debian.
#
#     make image BASE="$(tests/image/base.sh)"
set -euo pipefail

suite=trixie
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
cache=${XDG_CACHE_HOME:-${HOME:?}/.cache}/deepgram-journal-backup/base
# A change of this script makes another one; and so does a new month, for Debian's security updates.
hash=$(sha256sum "${BASH_SOURCE[0]}" | cut -c -16)
archive=$cache/$suite-$hash-$(date -u +%Y%m).tar

missing=()
for package in buildah debootstrap; do
    command -v "$package" >/dev/null || missing+=("$package")
done
if ((${#missing[@]})); then
    if [[ $EUID != 0 ]] || ! command -v apt-get >/dev/null; then
        echo "missing: ${missing[*]} (Debian, Ubuntu: apt-get install ${missing[*]})" >&2
        exit 1
    fi
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
        "${missing[@]}" debian-archive-keyring >/dev/null
fi

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9 # of two that want it at once, one makes it
if [[ ! -s $archive ]]; then
    rm -f "$cache"/"$suite"-*.tar # of before
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    echo "making a base image of Debian $suite, once" >&2
    if ! debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv \
        "$suite" "$work/root" "$mirror" >"$work/log" 2>&1; then
        tail -n 20 "$work/log" >&2
        exit 1
    fi
    # What Debian's own images leave out too.
    rm -rf "$work"/root/var/cache/apt/* "$work"/root/var/lib/apt/lists/* "$work"/root/var/log/*.log \
        "$work"/root/usr/share/{doc,info,locale,man}
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$work/root" / >/dev/null
    buildah config --cmd bash \
        --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    buildah commit --quiet --format docker --rm "$container" \
        "docker-archive:$work/base.tar:localhost/debian-python:$suite" >/dev/null
    mv "$work/base.tar" "$archive"
fi
echo "docker-archive:$archive"
