#!/bin/sh
# Fetches into a folder every wheel that the image is built from, each with the hash that uv.lock
# or image/tools.txt gives for it. It is the only step that needs a network: the Dockerfile runs it,
# unless `make image WHEELHOUSE=DIR` brings a folder from elsewhere.
#
#     image/wheelhouse.sh DIR [PYTHON MACHINE]
#
# Wheels are those for the Python and the machine that it runs on. For an image of another kind say
# which (`3.13 aarch64`), and run it with that Python too should uv.lock come to hold a marker on
# its version: pip judges markers by its own.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "${1:?where to}"
wheels=$(cd "$1" && pwd)
python=${2:-}
machine=${3:-}

# All that runs on the glibc of Debian trixie, 2.41, the newest first, as pip has it for its own
# machine. It takes only what is named, and some wheels have only the old name of 2.17 (PEP 599).
set --
if [ -n "$python" ]; then
    set -- --python-version "$python"
    for minor in $(seq 41 -1 5); do
        set -- "$@" --platform "manylinux_2_${minor}_${machine:?of which machine}"
        [ "$minor" != 17 ] || set -- "$@" --platform "manylinux2014_${machine}"
    done
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"

# Wheels only: to build one would run what nobody has pinned. No resolver either: the lists are whole.
download() {
    "$work/venv/bin/pip" --disable-pip-version-check --quiet download --require-hashes --no-deps \
        --only-binary :all: --dest "$wheels" "$@"
}

"$work/venv/bin/pip" --disable-pip-version-check --quiet install --require-hashes --no-deps \
    --only-binary :all: --requirement "$here/tools.txt"
"$work/venv/bin/uv" export --quiet --frozen --offline --no-default-groups --no-emit-project \
    --project "$here/.." --output-file "$work/locked.txt"
download "$@" --requirement "$here/tools.txt"
download "$@" --requirement "$work/locked.txt"
