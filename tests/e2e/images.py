"""Images for nodes that can pull none: that of the pause process is made here, in a docker-archive.

Kubernetes runs it in each pod, to hold the pod's namespaces. It is one static program.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

from tests.e2e.programs import server_program

PAUSE = "localhost/pause:1"


def write_pause(archive: Path) -> None:
    """Write the image of the pause process."""
    layer = _tar({"pause": server_program("pause").read_bytes()})
    config = {
        "architecture": _architecture(),
        "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [PAUSE], "Layers": ["layer.tar"]}]
    files = {
        "layer.tar": layer,
        "config.json": json.dumps(config).encode(),
        "manifest.json": json.dumps(manifest).encode(),
    }
    archive.write_bytes(_tar(files))


def name_in(archive: Path) -> str:
    """Give the name that an image has in its docker-archive."""
    with tarfile.open(archive) as files:
        manifest = files.extractfile("manifest.json")
        assert manifest is not None
        name: str = json.load(manifest)[0]["RepoTags"][0]
        return name


def _tar(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mode = 0o755
            tar.addfile(member, io.BytesIO(content))
    return data.getvalue()


def _architecture() -> str:
    """Give the name that Go and images have for this machine's processor."""
    names = {"x86_64": "amd64", "aarch64": "arm64"}
    return names[os.uname().machine]
