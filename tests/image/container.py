"""An image in a docker-archive: what it says, what it holds, and how it runs, without an engine.

It is run as a pod with the security context that Kubernetes calls `restricted` would: root file
system read-only, the image's own user, no capability, no new privileges, process 1 of its own PID
namespace, and here no network either. What a runtime adds (a memory limit, seccomp) is left to the
tests on real nodes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

_WHITEOUT = ".wh."
_SECONDS = 60

# $1 the root, $2 the user, mounts as SOURCE:TARGET:ro|rw up to "--", then variables and the words.
_START = """
set -eu
root=$1 user=$2
shift 2
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 dev "$root/dev"
for device in null zero full random urandom; do
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
while [ "$1" != -- ]; do
    source=${1%%:*} rest=${1#*:}
    target=$root${rest%:*}
    mkdir -p "$target"
    mount --bind "$source" "$target"
    mount -o "remount,bind,${rest##*:}" "$target"
    shift
done
shift
mount -o remount,bind,ro "$root"
exec chroot "$root" setpriv --reuid="${user%:*}" --regid="${user#*:}" --clear-groups \
    --no-new-privs --inh-caps=-all --bounding-set=-all env -i "$@"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A directory that the container sees."""

    source: Path
    target: str
    mode: str = "rw"


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """The unpacked files of an image."""

    root: Path
    config: Mapping[str, Any]

    def start(
        self, *words: str, mounts: Sequence[Mount] = (), **variables: str
    ) -> subprocess.Popen[str]:
        """Start it; words take the place of the image's CMD, as in a pod's `args`."""
        if os.geteuid() != 0:
            pytest.skip("needs root, to mount and to become another user")
        given = [f"{name}={value}" for name, value in variables.items()]
        # fmt: off
        return subprocess.Popen(
            [
                "unshare", "--mount", "--pid", "--ipc", "--uts", "--net", "--fork", "--kill-child",
                "sh", "-c", _START, "sh", str(self.root), self.config["User"],
                *(f"{mount.source}:{mount.target}:{mount.mode}" for mount in mounts), "--",
                *self.config["Env"], "HOME=/", *given,
                *self.config["Entrypoint"], *(words or self.config["Cmd"]),
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        # fmt: on

    def run(
        self, *words: str, mounts: Sequence[Mount] = (), **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        with self.start(*words, mounts=mounts, **variables) as process:
            try:
                stdout, stderr = process.communicate(timeout=_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return subprocess.CompletedProcess(words, process.returncode, stdout, stderr)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image in a file."""

    archive: Path
    names: tuple[str, ...]
    document: Mapping[str, Any]
    """The image's configuration: architecture, config, history."""
    layers: tuple[str, ...]
    """Their files in the archive, the lowest first."""

    @classmethod
    def read(cls, archive: Path) -> Image:
        """Read what it says of itself."""
        with tarfile.open(archive) as files:
            entry = json.loads(_content(files, "manifest.json"))[0]
            document = json.loads(_content(files, entry["Config"]))
        return cls(
            archive=archive,
            names=tuple(entry["RepoTags"]),
            document=document,
            layers=tuple(entry["Layers"]),
        )

    @property
    def config(self) -> Mapping[str, Any]:
        """How a runtime is to start it."""
        config: Mapping[str, Any] = self.document["config"]
        return config

    def own_layers(self) -> tuple[str, ...]:
        """Give those above the base: above the last one that brings a Python."""
        of_base = 0
        with tarfile.open(self.archive) as files:
            for number, name in enumerate(self.layers, 1):
                with tarfile.open(fileobj=files.extractfile(name)) as layer:
                    if any(m.isreg() and "/bin/python3." in m.name for m in layer):
                        of_base = number
        return self.layers[of_base:]

    def members(self, layer: str) -> list[tarfile.TarInfo]:
        """Give the entries of a layer."""
        with (
            tarfile.open(self.archive) as files,
            tarfile.open(fileobj=files.extractfile(layer)) as members,
        ):
            return members.getmembers()

    def compressed_bytes(self, layer: str) -> int:
        """Give the size of a layer in a registry: gzip, at the level that is the default."""
        gzip = zlib.compressobj(6, wbits=31)
        size = 0
        with tarfile.open(self.archive) as files:
            stream = files.extractfile(layer)
            assert stream is not None
            while block := stream.read(1 << 20):
                size += len(gzip.compress(block))
        return size + len(gzip.flush())

    def unpack(self, root: Path) -> Container:
        """Lay the layers over each other, below a directory that is made."""
        root.mkdir(parents=True)
        with tarfile.open(self.archive) as files:
            for name in self.layers:
                with tarfile.open(fileobj=files.extractfile(name)) as layer:
                    for member in layer:
                        _lay(layer, member, root)
        root.chmod(0o755)
        return Container(root=root, config=self.config)


def _lay(layer: tarfile.TarFile, member: tarfile.TarInfo, root: Path) -> None:
    name = PurePosixPath(member.name)
    if not name.name.startswith(_WHITEOUT):
        # Made by ourselves, and trusted: said so where Python asks for it, which 3.11.2 does not.
        trusted: Any = {"filter": "fully_trusted"} if hasattr(tarfile, "data_filter") else {}
        layer.extract(member, root, **trusted)
        return
    hidden = root / name.parent / name.name.removeprefix(_WHITEOUT)
    if hidden.is_dir() and not hidden.is_symlink():
        shutil.rmtree(hidden)
    else:
        hidden.unlink(missing_ok=True)


def _content(files: tarfile.TarFile, name: str) -> bytes:
    stream = files.extractfile(name)
    assert stream is not None
    return stream.read()
