#!/bin/sh
# The programs of a control plane, for tests/cluster: from KUBEBUILDER_ASSETS where all of them are
# there (a control plane is of one version, and what envtest brings lacks the controllers), else
# built. tests/cluster/programs.py looks in the same places. Never a failure, as build.sh.
set -u

if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
    missing=
    for program in etcd kube-apiserver kube-controller-manager kube-scheduler kubectl; do
        [ -x "$KUBEBUILDER_ASSETS/$program" ] || missing="$missing $program"
    done
    [ -n "$missing" ] || exit 0
    echo "KUBEBUILDER_ASSETS is not used, for it lacks$missing"
fi

exec "$(dirname "$0")/../servers/build.sh" etcd kubernetes/kube-apiserver \
    kubernetes/kube-controller-manager kubernetes/kube-scheduler kubernetes/kubectl
