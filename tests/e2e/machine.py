"""A node: a machine of namespaces, with containerd, a kubelet, kube-proxy and a CSI driver.

A node has mounts, processes, a network and a host name of its own. It has a cable to a bridge, at
which this machine is the control plane; it can be switched off and on again, and its cable pulled.

- Switched off is dead: the first process of its PID namespace is killed, so the kernel kills all
  the others: kubelet, containerd, shims, pods. Nothing is told to anyone, and in the API its pods
  go on running. That is also how it ends, so nothing needs to be found and ended one by one.
- With its last process its mounts and its network, with bridges, addresses and rules, are gone.
  On disk is what a disk would have: images, containers that no longer run, directories of pods.
- The first process dies with the process of the tests, however that ends.
- What a kubelet would set for the whole machine (`/proc/sys/vm`, `/proc/sys/kernel`) it finds set
  already, in files that are mounted over the true ones.
- `/run`, `/var/lib` and `/var/log` are its own, so that paths are the usual ones, and short: those
  of sockets have to be. `/mnt` is its disk. All else is this machine's, and the same for all nodes.

What namespaces do not hold are cgroups. Those are below one directory, and removed with the node.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.cluster.programs import program
from tests.e2e import cgroups
from tests.e2e.daemons import Daemon, answers
from tests.e2e.images import PAUSE
from tests.e2e.programs import CNI, PATH, server_program

DRIVER = "shared-folder.csi.test"
"""The name of the CSI driver."""

POD_NETWORK = "10.244.0.0/16"

_CONTAINERD = "/run/containerd/containerd.sock"
_SOCKET = f"/var/lib/kubelet/plugins/{DRIVER}.sock"
_REGISTRATION = f"/var/lib/kubelet/plugins_registry/{DRIVER}.sock"
_COMMAND_SECONDS = 120

_Command = Callable[[], Sequence[str | Path]]

# It takes leave of processes whose parents are gone, as the first one has to.
_INIT = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
open("/mnt/up", "w").close()
while signal.sigwait([signal.SIGCHLD]):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
"""

# $1 the disk, $2 the name, $3 the interpreter, $4 the first process
_BOOT = """
hostname "$2"
mount --make-rshared /
mount --bind "$1" /mnt
mkdir -p /mnt/kubelet /mnt/containerd /mnt/pods
for directory in run var/lib var/log; do
    mount -t tmpfs -o mode=755 tmpfs "/$directory"
done
mkdir -p /run/lock /run/sys
for directory in kubelet containerd; do
    mkdir "/var/lib/$directory"
    mount --bind "/mnt/$directory" "/var/lib/$directory"
done
mkdir -p /var/lib/kubelet/plugins /var/lib/kubelet/plugins_registry
set -- "$3" "$4" vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000
interpreter=$1 init=$2
shift 2
for setting; do
    key=${setting%=*}
    file=/run/sys/$(echo "$key" | tr / .)
    echo "${setting#*=}" >"$file"
    mount --bind "$file" "/proc/sys/$key"
done
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
exec "$interpreter" -ISc "$init"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """Where a node is in the network."""

    bridge: str
    """The link of this machine that its cable goes to."""
    cable: str
    """The end of the cable that is on this machine."""
    address: str
    gateway: str
    """This machine."""
    pods: str
    """The addresses of its pods, as a network."""
    routes: Mapping[str, str]
    """The networks of other nodes' pods, and who leads there."""


@dataclass(kw_only=True)
class Machine:
    """A node, switched on or off."""

    name: str
    wiring: Wiring
    disk: Path
    cgroup: str
    """Below which its pods are, in every hierarchy."""
    volumes: Path
    """What the CSI driver mounts is below it."""
    kubeconfigs: Mapping[str, Path]
    """Of the programs that talk to the API server."""
    _init: Daemon | None = field(default=None, init=False, repr=False)

    @property
    def is_on(self) -> bool:
        """Tell whether it runs."""
        return self._init is not None

    @property
    def pid(self) -> int:
        """The first process of the node, in the numbers of this machine."""
        assert self._init is not None, f"{self.name} is switched off"
        return self._init.child()

    def switch_on(self) -> None:
        """Start it, unless it runs; return when its programs are ready, not yet in the API."""
        if self._init:
            return
        (self.disk / "up").unlink(missing_ok=True)
        cgroups.create(self.cgroup)
        self._init = Daemon(
            command=lambda: [
                *("unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork"),
                *("--kill-child", "--mount-proc", "--propagation", "slave"),
                *("sh", "-euc", _BOOT, "sh", self.disk, self.name, sys.executable, _INIT),
            ],
            log=self.disk / "init.log",
            ready=(self.disk / "up").exists,
        )
        self._init.start()
        try:
            self._init.await_ready()
            self._plug_in()
            self._configure()
            for daemon in self.daemons.values():
                daemon.start()
            for daemon in self.daemons.values():
                daemon.await_ready()
        except BaseException:
            self.switch_off()
            raise

    def switch_off(self) -> None:
        """Have all of its processes killed, unless it is off; no one is told."""
        init, self._init = self._init, None
        if not init:
            return
        try:
            os.kill(init.child(), signal.SIGKILL)
        except (IndexError, OSError):  # it had not come so far, or is dead
            init.stop()
        else:
            init.forget()  # which returns when the last process of the node is gone
        for daemon in self.daemons.values():
            daemon.stop()  # what waited for them, on this machine
        subprocess.run(
            ["ip", "link", "del", self.wiring.cable],
            capture_output=True, check=False, env={"PATH": PATH},
        )  # fmt: skip
        cgroups.remove(self.cgroup)

    def unplug(self) -> None:
        """Pull its cable: it goes on, and no one can reach it."""
        run("ip", "link", "set", self.wiring.cable, "down")

    def plug_in_again(self) -> None:
        """Put the cable back."""
        run("ip", "link", "set", self.wiring.cable, "up")

    def run(self, *command: str | Path) -> str:
        """Run a command on it; return what it prints.

        Raises:
            RuntimeError: it ended with another code than 0.
        """
        return run(*self._enter(), *command)

    def import_image(self, archive: Path) -> None:
        """Put an image where its kubelet finds it."""
        self.run("ctr", "-a", _CONTAINERD, "-n", "k8s.io", "images", "import", archive)

    @cached_property
    def daemons(self) -> dict[str, Daemon]:
        """Its programs, in the order in which they are started."""
        address = self.wiring.address
        return {
            "containerd": self._daemon(
                "containerd",
                lambda: ["containerd", "--config=/mnt/containerd.toml"],
                lambda: answers(f"http://{address}:1338/v1/metrics"),
            ),
            "kubelet": self._daemon(
                "kubelet", self._kubelet, lambda: answers(f"http://{address}:10248/healthz")
            ),
            "kube-proxy": self._daemon(
                "kube-proxy", self._proxy, lambda: answers(f"http://{address}:10256/healthz")
            ),
            "csi-driver": self._daemon(
                "csi-driver", self._driver, lambda: self._has(_REGISTRATION)
            ),
        }

    def _daemon(self, name: str, command: _Command, ready: Callable[[], bool]) -> Daemon:
        return Daemon(
            command=lambda: [*self._enter(), *command()],
            log=self.disk / f"{name}.log",
            ready=ready,
        )

    def _kubelet(self) -> Sequence[str | Path]:
        # It ends where containerd is not ready yet, and is started anew, as by any init system.
        return [
            *("sh", "-c", 'until "$@"; do sleep 0.2; done', "sh"),
            program("kubelet"),
            "--config=/mnt/kubelet.json",
            f"--kubeconfig={self.kubeconfigs['kubelet']}",
            f"--hostname-override={self.name}",
            f"--node-ip={self.wiring.address}",
            "--root-dir=/var/lib/kubelet",
            "--cert-dir=/var/lib/kubelet/pki",
        ]

    def _proxy(self) -> Sequence[str | Path]:
        return [
            program("kube-proxy"),
            f"--kubeconfig={self.kubeconfigs['kube-proxy']}",
            f"--hostname-override={self.name}",
            "--proxy-mode=iptables",
            f"--cluster-cidr={POD_NETWORK}",
            f"--healthz-bind-address={self.wiring.address}:10256",
            f"--metrics-bind-address={self.wiring.address}:10249",
            # What it would set else is the whole machine's.
            *("--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0s"),
            "--conntrack-tcp-timeout-close-wait=0s",
        ]

    def _driver(self) -> Sequence[str | Path]:
        return [
            server_program("driver"),
            f"--endpoint={_SOCKET}",
            f"--registration={_REGISTRATION}",
            f"--node={self.name}",
            f"--root={self.volumes}",
        ]

    def _has(self, path: str) -> bool:
        """Tell whether a path is there on the node."""
        return os.path.lexists(f"/proc/{self.pid}/root{path}")

    def _enter(self) -> Sequence[str]:
        """Give the words before a command with which it runs in the node."""
        names = ("--mount", "--net", "--pid", "--uts", "--ipc")
        return ("nsenter", "--target", str(self.pid), *names, "--wd=/", "--")

    def _plug_in(self) -> None:
        """Connect it to the bridge, and tell it the ways."""
        wiring, pid = self.wiring, str(self.pid)
        cable = ("ip", "link", "add", wiring.cable, "type", "veth", "peer", "name", "eth0")
        run(*cable, "netns", pid)
        run("ip", "link", "set", wiring.cable, "master", wiring.bridge, "up")
        self.run("ip", "address", "add", f"{wiring.address}/24", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")
        self.run("ip", "route", "add", "default", "via", wiring.gateway)
        for network, way in wiring.routes.items():
            self.run("ip", "route", "add", network, "via", way)

    def _configure(self) -> None:
        """Write what its programs read."""
        (self.disk / "resolv.conf").touch()
        (self.disk / "containerd.toml").write_text(self._containerd_toml())
        network = self.disk / "cni" / "10-bridge.conflist"
        network.parent.mkdir(exist_ok=True)
        network.write_text(json.dumps(self._network()))
        (self.disk / "kubelet.json").write_text(json.dumps(self._kubelet_configuration()))

    def _containerd_toml(self) -> str:
        cri = 'plugins."io.containerd.grpc.v1.cri"'
        return f"""
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
address = "{_CONTAINERD}"
[metrics]
address = "{self.wiring.address}:1338"
[plugins."io.containerd.internal.v1.opt"]
path = "/var/lib/containerd/opt"
[{cri}]
sandbox_image = "{PAUSE}"
restrict_oom_score_adj = true # lowering it takes a right that a container of CI lacks
[{cri}.cni]
bin_dir = "{CNI}"
conf_dir = "/mnt/cni"
[{cri}.containerd]
default_runtime_name = "runc"
[{cri}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[{cri}.containerd.runtimes.runc.options]
SystemdCgroup = false
"""

    def _network(self) -> Any:
        return {
            "cniVersion": "1.0.0",
            "name": "pods",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "cni0",
                    "isGateway": True,
                    "ipMasq": True,
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": self.wiring.pods}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                        "dataDir": "/run/cni",
                    },
                }
            ],
        }

    def _kubelet_configuration(self) -> Any:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.wiring.address,
            "healthzBindAddress": self.wiring.address,
            # Only this machine reaches it, on a network that ends here.
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "containerRuntimeEndpoint": f"unix://{_CONTAINERD}",
            "podLogsDir": "/mnt/pods",
            "volumePluginDir": "/var/lib/kubelet/volumeplugins",
            "resolvConf": "/mnt/resolv.conf",  # there are no names
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.cgroup}",
            "enforceNodeAllocatable": [],
            "failCgroupV1": False,
            "failSwapOn": False,
            "seccompDefault": True,
            # How soon others hear of volumes that it has let go, and miss it when it is gone.
            "nodeStatusUpdateFrequency": "2s",
            "nodeLeaseDurationSeconds": 8,
            # A full disk or little memory is the machine's, and no reason to end a pod of a test.
            "evictionHard": {"memory.available": "10Mi", "nodefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
        }


def run(*command: str | Path) -> str:
    """Run a command of an administrator; return what it prints.

    Raises:
        RuntimeError: it ended with another code than 0.
    """
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_COMMAND_SECONDS,
        check=False,
        env={"PATH": PATH},
    )
    if done.returncode:
        message = f"{' '.join(map(str, command))}: {done.stderr.strip()}"
        raise RuntimeError(message)
    return done.stdout
