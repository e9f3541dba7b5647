#!/bin/sh
# What tests/chart needs: Helm, helm-docs and actionlint, built once as the servers are, and the
# programs of a control plane. Never a failure, as build.sh, of which the one here is a link: it
# builds from the go.mod files beside itself. With HELM=helm-4 and the like, only that Helm.
set -u

here=$(dirname "$0")
if [ -n "${HELM:-}" ]; then
    exec "$here/build.sh" "$HELM"
fi
"$here/../servers/build.sh" helm
"$here/build.sh" helm-docs actionlint
exec "$here/../cluster/setup.sh"
