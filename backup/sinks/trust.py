"""Whom TLS trusts: the public certificate authorities, and those of the site.

A site's own CA is added to the public ones and does not replace them, so that a store on the
premises and one in a public cloud can be used in one run.
"""

from __future__ import annotations

import os
import ssl
from functools import cache
from pathlib import Path

import certifi

from backup.errors import ConfigError

SETTING = "BACKUP_CA_CERT_FILE"


@cache
def ca_bundle(ca_cert_file: Path) -> str:
    """Return the path of a file with the public certificates and those of this file, both PEM.

    The file lives in memory (memfd_create(2)) for as long as the process: a container's root file
    system may be read-only, without a directory for temporary files.

    Raises:
        ConfigError: it cannot be read, or holds no certificate.
    """
    try:
        own = ca_cert_file.read_text(encoding="ascii")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=own)
    except (ValueError, ssl.SSLError) as error:  # an SSLError is an OSError too: it goes first
        message = f"{SETTING}: {ca_cert_file} holds no certificate in PEM form"
        raise ConfigError(message, "it should begin with -----BEGIN CERTIFICATE-----") from error
    except OSError as error:
        message = f"{SETTING}: cannot read {ca_cert_file}: {error.strerror}"
        raise ConfigError(message, "mount the file there, readable for this process") from error
    fd = os.memfd_create("ca-bundle")
    with open(fd, "wb", closefd=False) as bundle:
        bundle.write(Path(certifi.where()).read_bytes() + b"\n" + own.encode())
    return f"/proc/self/fd/{fd}"


def tls_problem(text: str) -> tuple[str, str]:
    """Return in a few words why a TLS connection failed, and what to do.

    Args:
        text: what OpenSSL said, wherever an SDK has put it.
    """
    for signs, problem, fix in _PROBLEMS:
        if any(sign in text.lower() for sign in signs):
            return problem, fix
    return "the TLS connection failed", f"check the endpoint, and {SETTING}"


_NAME = "use the name that stands in the certificate as the endpoint"
_PROBLEMS = (
    (
        {"no such file"},
        "the file of trusted certificates is not there",
        f"check AWS_CA_BUNDLE, and {SETTING}",
    ),
    ({"certificate has expired"}, "the server's certificate has expired", "renew it"),
    (
        {"certificate is not yet valid"},
        "the server's certificate is not yet valid",
        "compare this node's clock with the server's",
    ),
    (
        {"doesn't match", "hostname mismatch"},
        "the server's certificate is for another host name",
        _NAME,
    ),
    ({"ip address mismatch"}, "the server's certificate is for another address", _NAME),
    (
        {"certificate_verify_failed"},
        "the server's certificate is signed by a CA that is not trusted",
        f"put the CA's certificate (PEM) into a file, and its path into {SETTING}",
    ),
    (
        {"wrong_version_number", "record layer failure"},
        "the server does not speak TLS there",
        "give http:// if it is plain HTTP, or another port",
    ),
)
"""What OpenSSL says, in lower case and in the order in which it is looked for."""
