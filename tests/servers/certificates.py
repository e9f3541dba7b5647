"""Certificates of a CA that exists for one test: good ones, and each kind of bad."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import trustme

from tests.servers.process import HOST


class Certificate(NamedTuple):
    """The files that a server wants."""

    chain: Path
    key: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """What the CA has issued, as files."""

    ca: Path
    """The CA's own, which a client is told to trust."""
    server: Certificate
    """For 127.0.0.1 and localhost."""
    expired: Certificate
    """For them too, some years ago."""
    elsewhere: Certificate
    """For another host."""
    other_ca: Path
    """A CA that has issued none of these."""


def certificates(directory: Path) -> Certificates:
    """Make a CA and what it issues, in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    ca, other = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(directory / "ca.pem")
    other.cert_pem.write_to_path(directory / "other-ca.pem")

    def issue(name: str, *hosts: str, until: datetime | None = None) -> Certificate:
        issued = ca.issue_cert(*hosts, not_after=until)
        made = Certificate(directory / f"{name}.pem", directory / f"{name}.key")
        for part in issued.cert_chain_pems:
            part.write_to_path(made.chain, append=True)
        issued.private_key_pem.write_to_path(made.key)
        return made

    return Certificates(
        ca=directory / "ca.pem",
        server=issue("server", HOST, "localhost"),
        expired=issue("expired", HOST, "localhost", until=datetime(2020, 1, 1, tzinfo=UTC)),
        elsewhere=issue("elsewhere", "storage.example"),
        other_ca=directory / "other-ca.pem",
    )
