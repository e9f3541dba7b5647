"""What ``aws s3 cp FILE s3://BUCKET/PREFIX/`` does: the AWS SDK's own managed transfer.

The command line tool calls the same ``s3transfer`` with the same defaults (parts of 8 MiB, ten at a
time), but takes longer to start, and has to be installed.

    python -m bench.upload FILE s3://BUCKET/PREFIX/
"""

from __future__ import annotations

import sys
from pathlib import Path

import boto3


def upload(path: Path, folder: str) -> None:
    """Store a file in a bucket, below a prefix that ends in a slash."""
    bucket, _, prefix = folder.removeprefix("s3://").partition("/")
    boto3.client("s3").upload_file(str(path), bucket, prefix + path.name)


if __name__ == "__main__":
    upload(Path(sys.argv[1]), sys.argv[2])
