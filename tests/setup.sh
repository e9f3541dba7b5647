#!/bin/sh
# What the tests need and Python cannot bring: FUSE, for file systems that misbehave, and servers,
# for sinks. Installs or builds it where that is possible, else says what is missing; the tests that
# need it are skipped with a reason, which CI=true makes a failure.
set -u

have_fuse() {
    command -v fusermount3 >/dev/null && PATH=$PATH:/sbin:/usr/sbin ldconfig -p | grep -q libfuse3
}

if ! have_fuse && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing fuse3"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y \
        --no-install-recommends fuse3; } >/dev/null || echo "apt-get could not install fuse3" >&2
fi

have_fuse || echo "missing: libfuse3 and fusermount3 (Debian, Ubuntu: apt-get install fuse3)" >&2
[ -w /dev/fuse ] || echo "missing: a /dev/fuse that can be opened (docker: --device /dev/fuse)" >&2
"$(dirname "$0")/servers/build.sh"
exit 0
