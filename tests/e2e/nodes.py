"""A cluster of two nodes on this machine, with its control plane, and what can befall it.

    with nodes(tmp_path, [archive]) as made:
        made.plane.kubectl("get", "nodes")
        made.kill("node-a")             # dead, and nobody is told
        made.restart("node-a")          # as after a power cut
        with made.without_apiserver(): ...

Everything has its place by the number of a slot, which is taken with a lock: the network of the
nodes, the bridge, the cgroups. So several can be there at once, and who has the lock knows that
whatever is found in its place was left by one that was killed, and removes it first.

This machine gets a bridge with an address, cables, and cgroups, all called `jb-e2e-N`; the rest is
in the namespaces of the nodes (`tests.e2e.machine`).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.cluster.controlplane import ControlPlane, until
from tests.e2e import cgroups, images, plane, volumes
from tests.e2e.daemons import Daemon, answers
from tests.e2e.machine import Machine, Wiring, run
from tests.e2e.programs import PATH, server_program
from tests.servers import process

NAMES = ("node-a", "node-b")

_SLOTS = 8
_READY_SECONDS = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A place for one cluster on this machine."""

    number: int
    lock: Path
    """Who has it locked has the place; it holds the name of the directory of the last one."""

    @property
    def name(self) -> str:
        """What is this cluster's on this machine is called so, or begins with it."""
        return f"jb-e2e-{self.number}"

    def address(self, host: int) -> str:
        """Give an address in the network of the nodes; 1 is this machine."""
        return f"10.245.{self.number}.{host}"

    def left(self) -> list[str]:
        """Name all that is there of it: links and cgroups."""
        found = subprocess.run(
            ["ip", "-brief", "link"], capture_output=True, text=True, check=True, env={"PATH": PATH}
        ).stdout
        links = [line.split()[0].partition("@")[0] for line in found.splitlines()]
        return [
            *(link for link in links if link.startswith(self.name)),
            *map(str, cgroups.left(self.name)),
        ]

    def clear(self) -> None:
        """Remove what is there of it."""
        for link in self.left():
            if not link.startswith("/"):
                subprocess.run(
                    ["ip", "link", "del", link],
                    capture_output=True,
                    check=False,  # one end of a cable goes with the other
                    env={"PATH": PATH},
                )
        cgroups.remove(self.name)
        if files := self.lock.read_text():
            shutil.rmtree(files, ignore_errors=True)  # gone already, unless the last one was killed
        self.lock.write_text("")


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """A cluster that runs."""

    slot: Slot
    plane: ControlPlane
    machines: Mapping[str, Machine]
    volumes: Path
    """The directory whose directories are volumes."""

    @property
    def gateway(self) -> str:
        """The address of this machine, for pods and nodes: of servers that tests have here."""
        return self.slot.address(1)

    def node(self, name: str) -> Any:
        """Read a node, as the API has it, or nothing."""
        answer = self.plane.call("GET", f"/api/v1/nodes/{name}")
        return answer.body if answer.status == 200 else {}

    def kill(self, name: str) -> None:
        """Switch a node off, at once: it is dead, and in the API its pods go on running."""
        self.machines[name].switch_off()

    def processes(self, pod_uid: str) -> list[int]:
        """Find the processes of a pod, in the numbers of this machine; not the one that pauses."""
        found = []
        for directory in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended
                is_its = f"/pod{pod_uid}/" in (directory / "cgroup").read_text()
                if is_its and (directory / "comm").read_text() != "pause\n":
                    found.append(int(directory.name))
        return found

    @contextmanager
    def unplugged(self, name: str) -> Iterator[None]:
        """Have a node out of reach inside the block; its pods go on, and nobody hears of them."""
        self.machines[name].unplug()
        try:
            yield
        finally:
            self.machines[name].plug_in_again()

    @contextmanager
    def without_apiserver(self) -> Iterator[None]:
        """Have no API server inside the block; pods go on."""
        self.plane.stop_apiserver()
        try:
            yield
        finally:
            self.plane.start_apiserver()

    def recover(self) -> None:
        """Have all run that a test may have stopped."""
        self.plane.start_apiserver()
        for name in self.machines:
            self.restart(name)

    def restart(self, name: str) -> None:
        """Start a node again, unless it runs, and wait until pods can run on it."""
        machine = self.machines[name]
        if machine.is_on:
            return
        began = datetime.now(UTC).replace(microsecond=0)
        machine.switch_on()
        self.await_ready(name, since=began)

    def await_ready(self, name: str, *, since: datetime | None = None) -> None:
        """Wait until a node is ready, has said so since then, and can mount volumes."""
        until(
            lambda: self._is_ready(name, since or datetime.min.replace(tzinfo=UTC)),
            f"{name} is ready",
            seconds=_READY_SECONDS,
        )

    def _is_ready(self, name: str, since: datetime) -> bool:
        node = self.node(name)
        conditions = node.get("status", {}).get("conditions", [])
        ready = any(
            c["type"] == "Ready"
            and c["status"] == "True"
            and datetime.fromisoformat(c["lastHeartbeatTime"]) >= since
            for c in conditions
        )
        if not ready or node["spec"].get("taints"):
            return False
        drivers = self.plane.call("GET", f"/apis/storage.k8s.io/v1/csinodes/{name}").body
        return bool(drivers.get("spec", {}).get("drivers"))


@contextmanager
def nodes(
    directory: Path, archives: Sequence[Path], *, number: int | None = None
) -> Iterator[Nodes]:
    """Start a cluster.

    Args:
        directory: below which it has its files, in a new directory.
        archives: the docker-archives of images that its nodes are to have.
        number: the slot to take, once it is free; else any that is.
    """
    with ExitStack() as stack:
        slot = stack.enter_context(_slot(number))
        stack.callback(slot.clear)
        files = Path(tempfile.mkdtemp(prefix="nodes-", dir=directory))
        files.chmod(0o755)
        slot.lock.write_text(str(files))
        run("ip", "link", "add", slot.name, "type", "bridge")
        run("ip", "address", "add", f"{slot.address(1)}/24", "dev", slot.name)
        run("ip", "link", "set", slot.name, "up")

        control_plane, users = stack.enter_context(
            plane.control_plane(files, address=slot.address(1), nodes=NAMES)
        )
        volumes.introduce(control_plane)
        folder = files / "volumes"
        folder.mkdir()
        machines = {
            name: _machine(slot, number, files, folder, users)
            for number, name in enumerate(NAMES, 1)
        }
        made = Nodes(slot=slot, plane=control_plane, machines=machines, volumes=folder)
        for machine in machines.values():
            stack.callback(machine.switch_off)
        stack.enter_context(_attacher(made, files))
        pause = files / "pause.tar"
        images.write_pause(pause)
        with ThreadPoolExecutor(len(machines)) as threads:
            for _ in threads.map(lambda m: _install(m, [pause, *archives]), machines.values()):
                pass
        for name in machines:
            made.await_ready(name)
        yield made


def _install(machine: Machine, archives: Sequence[Path]) -> None:
    machine.switch_on()
    for archive in archives:
        machine.import_image(archive)


def _machine(
    slot: Slot, number: int, files: Path, folder: Path, users: Mapping[str, Path]
) -> Machine:
    name = NAMES[number - 1]
    disk = files / name
    disk.mkdir()
    others = [other for other in range(1, len(NAMES) + 1) if other != number]
    return Machine(
        name=name,
        wiring=Wiring(
            bridge=slot.name,
            cable=f"{slot.name}-{number}",
            address=slot.address(10 + number),
            gateway=slot.address(1),
            pods=f"10.244.{number}.0/24",
            routes={f"10.244.{other}.0/24": slot.address(10 + other) for other in others},
        ),
        disk=disk,
        cgroup=f"{slot.name}/{name}",
        volumes=folder,
        kubeconfigs={
            "kubelet": users[plane.node_user(name)],
            "kube-proxy": users[plane.PROXY],
        },
    )


@contextmanager
def _attacher(made: Nodes, files: Path) -> Iterator[None]:
    """Run what attaches volumes to nodes: external-attacher, and the driver that it asks."""
    with ExitStack() as stack:
        sockets = stack.enter_context(tempfile.TemporaryDirectory(prefix="csi-"))  # a short path
        socket = Path(sockets, "csi.sock")
        port = stack.enter_context(process.reserved_port())
        daemons = [
            Daemon(
                command=lambda: [
                    server_program("driver"),
                    "--controller",
                    f"--endpoint={socket}",
                    f"--root={made.volumes}",
                ],
                log=files / "csi-controller.log",
                ready=socket.exists,
            ),
            Daemon(
                command=lambda: [
                    server_program("csi-attacher"),
                    f"--csi-address={socket}",
                    f"--kubeconfig={made.plane.kubeconfig}",
                    f"--http-endpoint={process.HOST}:{port}",
                    "--retry-interval-max=5s",
                ],
                log=files / "csi-attacher.log",
                ready=lambda: answers(f"http://{process.HOST}:{port}/metrics"),
            ),
        ]
        for daemon in daemons:
            stack.callback(daemon.stop)
            daemon.start()
            daemon.await_ready()
        yield


@contextmanager
def _slot(number: int | None) -> Iterator[Slot]:
    """Take a place that no one has, and clear it of what a killed one has left there."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    locks = caches / "deepgram-journal-backup" / "e2e"
    locks.mkdir(parents=True, exist_ok=True)
    for taken in range(_SLOTS) if number is None else [number]:
        slot = Slot(number=taken, lock=locks / str(taken))
        with slot.lock.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (fcntl.LOCK_NB if number is None else 0))
            except BlockingIOError:
                continue
            slot.clear()
            yield slot
            return
    message = f"there are {_SLOTS} clusters of tests on this machine already"
    raise RuntimeError(message)
