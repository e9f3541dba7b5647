#!/usr/bin/env bash
# Builds the image and writes it to a file, as a docker-archive: what `docker load`, `podman load`
# and `ctr images import` take. `make image` calls it; all it is told comes by the environment.
#
#   IMAGE       its name and tag             ARCHIVE     the file; "" = none, the builder keeps it only
#   BASE        Debian with Python           WHEELHOUSE  a folder made by image/wheelhouse.sh
#   BUILDER     buildah, podman or docker    IMAGE_FLAGS more options for its `build`
#   CA          certificates (PEM) to trust while fetching wheels: a site may inspect TLS. By default
#               those that pip and others are told to trust: PIP_CERT, SSL_CERT_FILE
#   PIP_CONF    a pip.conf for fetching wheels: a site may have an index of its own. By default
#               PIP_CONFIG_FILE, or one that holds PIP_INDEX_URL
#   SOURCE      URL of the repository, and REVISION, the commit where git cannot tell: for the labels
#   SOURCE_DATE_EPOCH  the time that all files get; that of the commit if not set
#
# CA and PIP_CONF are mounted for that one step, as build secrets, and are in no layer.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

builder=${BUILDER:-}
for name in buildah podman docker; do
    [[ -n $builder ]] || builder=$(command -v "$name" || true)
done
if [[ -z $builder ]]; then
    echo "error: there is neither buildah nor podman nor docker" >&2
    echo "hint: Debian, Ubuntu: apt-get install buildah" >&2
    exit 1
fi
kind=$(basename "$builder")
given=dist/wheelhouse
work=$(mktemp -d)
trap 'rm -rf "$work" "$given"' EXIT

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' backup/__init__.py)
image=${IMAGE:-localhost/deepgram-journal-backup:$version}
# What the image is made of; a change elsewhere does not make it another image.
inputs=(Dockerfile .dockerignore LICENSE README.md backup image pyproject.toml uv.lock)
revision=${REVISION:-}
if [[ -z $revision ]] && revision=$(git rev-parse HEAD 2>/dev/null) &&
    [[ -n $(git status --porcelain -- "${inputs[@]}") ]]; then
    revision+=-dirty
fi
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || true)}

options=(--file Dockerfile --tag "$image" --label "org.opencontainers.image.version=$version")
[[ -z $revision ]] || options+=(--label "org.opencontainers.image.revision=$revision")
[[ -z ${SOURCE:-} ]] || options+=(--label "org.opencontainers.image.source=$SOURCE")
[[ -z ${BASE:-} ]] || options+=(--build-arg "BASE=$BASE")

ca=${CA:-${PIP_CERT:-${SSL_CERT_FILE:-}}}
[[ -z $ca ]] || options+=(--secret "id=ca,src=$ca")
pip_conf=${PIP_CONF:-${PIP_CONFIG_FILE:-}}
if [[ -z $pip_conf && -n ${PIP_INDEX_URL:-} ]]; then
    pip_conf=$work/pip.conf
    printf '[global]\nindex-url = %s\n' "$PIP_INDEX_URL" >"$pip_conf"
fi
[[ -z $pip_conf ]] || options+=(--secret "id=pip,src=$pip_conf")

if [[ -n $epoch ]]; then
    options+=(--build-arg "SOURCE_DATE_EPOCH=$epoch")
    [[ $kind == docker ]] || options+=(--timestamp "$epoch")
fi
# The format that knows all the settings of docker's; podman and buildah would write OCI's.
[[ $kind == docker ]] || options+=(--format docker)
# The isolation of buildah that needs no runtime, and works inside a container too.
export BUILDAH_ISOLATION=${BUILDAH_ISOLATION:-chroot}

# A context has to hold what a build copies, so the folder is copied into it.
rm -rf "$given"
if [[ -n ${WHEELHOUSE:-} ]]; then
    mkdir -p "$given"
    cp "$WHEELHOUSE"/*.whl "$given"
fi

read -ra more <<<"${IMAGE_FLAGS:-}"
DOCKER_BUILDKIT=1 "$builder" build "${options[@]}" "${more[@]}" .

archive=${ARCHIVE-dist/image.tar}
[[ -n $archive ]] || exit 0
mkdir -p "$(dirname "$archive")"
rm -f "$archive" # an archive that exists is not written anew
case $kind in
    buildah) buildah push --quiet "$image" "docker-archive:$archive:$image" ;;
    podman) podman save --quiet --format docker-archive --output "$archive" "$image" ;;
    *) "$builder" save --output "$archive" "$image" ;;
esac
echo "$image is in $archive"
