#!/bin/sh
# What the tests on real nodes need: Debian's containerd and what a node uses of it, and the programs
# of Kubernetes and of a CSI driver, Helm and object stores, which are built once. Installs or builds
# it where that is possible, else says what is missing; the tests are skipped with a reason, which
# CI=true makes a failure. Quick where all is there.
set -u
cd "$(dirname "$0")" || exit
PATH=$PATH:/usr/sbin:/sbin

# command:package
needed="containerd:containerd runc:runc ctr:containerd conntrack:conntrack iptables:iptables
    ip:iproute2 nsenter:util-linux unshare:util-linux"
missing=
for pair in $needed; do
    command -v "${pair%:*}" >/dev/null || missing="$missing ${pair#*:}"
done
[ -x /usr/lib/cni/bridge ] || [ -x /opt/cni/bin/bridge ] ||
    missing="$missing containernetworking-plugins"

if [ -n "$missing" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing$missing"
    # The tests start their own; what the package would start has no part in them.
    # shellcheck disable=SC2086 # as many words as there are packages
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -qq -y \
        --no-install-recommends $missing; } >/dev/null || echo "apt-get could not install$missing" >&2
elif [ -n "$missing" ]; then
    echo "missing:$missing (Debian, Ubuntu: apt-get install$missing)" >&2
fi

../cluster/setup.sh
exec ../servers/build.sh kubernetes/kubelet kubernetes/kube-proxy \
    external-attacher/csi-attacher csi-driver/driver csi-driver/pause \
    helm versitygw fake-gcs-server
