"""The object stores: a backup to servers on this machine, beside the same peers."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from bench.bucket import Bucket
from bench.contenders import Contender, compete, guide, ours, restic
from bench.part import Lineup, Part, Single
from bench.plan import Extent
from bench.records import make_small_journals
from bench.restic import Restic
from bench.results import Results, Series
from bench.singles import once, read_back
from bench.sizes import MIB
from bench.stage import Stage

_FILE = ours("file", "journal-backup to a directory")
_S3 = ours("s3", "journal-backup to S3", sinks=("s3",))
_GCS = ours("gcs", "journal-backup to GCS, emulated", sinks=("gcs",))
_THREE = ours("three", "journal-backup to all three", sinks=("file", "s3", "gcs"))
_HELD = ours("held", "journal-backup to all three, GCS in memory", sinks=("file", "s3", "gcs"))


def _contenders(restics: Iterable[Restic], buckets: Mapping[str, Bucket]) -> Iterator[Contender]:
    yield _FILE
    if "s3" in buckets:
        yield _S3
    if "gcs" in buckets:
        yield _GCS
    if len(buckets) > 1:
        yield _THREE
    if "s3" in buckets:
        for program in restics:
            yield restic("restic-s3", program, " to S3", _repository)
        yield guide("guide-s3", "the guide's tar czf, upload", _upload)


def _repository(stage: Stage) -> tuple[str, Mapping[str, str]]:
    bucket = stage.buckets["s3"]
    return f"s3:{bucket.endpoint}/{bucket.name}", bucket.environment


def _upload(stage: Stage) -> tuple[str, tuple[str, ...], Mapping[str, str]]:
    bucket = stage.buckets["s3"]
    copy = (sys.executable, "-m", "bench.upload")
    return f"s3://{bucket.name}/deepgram-journals", copy, bucket.environment


def _reading(stage: Stage, results: Results, extent: Extent) -> None:
    """Verify and restore a backup on S3."""
    compete(_S3, stage)
    read_back(stage, results, extent.rounds, sinks=("s3",), prefix="s3 ", suffix=", S3")


def _large(stage: Stage, results: Results, extent: Extent) -> None:
    """Back up a large journal: does memory grow with it?

    After each part of an upload fake-gcs-server hashes all that it has, so another GCS stands in;
    it is faster, so buffers are fuller, and the usual journal goes there too.
    """
    from bench.servers import holding_gcs  # noqa: PLC0415 - see _opened

    stage.set()
    results.singles.append(once(_S3, stage, "backup to S3"))
    stage.clear()
    with holding_gcs(stage.directory.with_name("gcs")) as gcs:
        stage = replace(stage, buckets={**stage.buckets, "gcs": gcs})
        usual = replace(stage, directory=stage.directory.with_name("usual"))
        usual = replace(usual, journal_bytes=usual.journal.stat().st_size)
        samples = [compete(_HELD, usual) for _ in range(extent.rounds)]
        title = f"backup to all three, {usual.journal_bytes // MIB:,} MiB, GCS in memory"
        results.singles.append(
            Series(name=_HELD.name, title=title, samples=samples, journal_bytes=usual.journal_bytes)
        )
        usual.clear()
        results.singles.append(once(_HELD, stage, "backup to all three"))


def _latency(stage: Stage, results: Results, extent: Extent) -> None:
    """Back up many small journals over a slow link, some at a time and one by one."""
    from bench.servers import far_away  # noqa: PLC0415 - see _opened

    with far_away(stage.buckets["s3"]) as bucket:
        slow = Stage(
            directory=stage.directory.with_name("latency"),
            journal_bytes=extent.small * MIB,
            buckets={"s3": bucket},
        )
        names = (f"journal-deepgram-billing-{n}" for n in range(extent.small))
        make_small_journals((slow.source / name / "journal" for name in names), MIB)
        title = f"{extent.small} journals of 1 MiB to S3, 50 ms away"
        for contender in (
            ours("latency", title, sinks=("s3",)),
            ours("one by one", f"{title}, one by one", sinks=("s3",), BACKUP_CONCURRENCY="1"),
        ):
            results.singles.append(
                Series(
                    name=contender.name,
                    title=contender.title,
                    samples=[compete(contender, slow)],
                    journal_bytes=slow.journal_bytes,
                )
            )


_SINGLES: dict[str, Single] = {"read-s3": _reading, "latency": _latency, "large-remote": _large}


@contextmanager
def _opened(directory: Path, restics: Iterable[Restic]) -> Iterator[Lineup]:
    from bench import servers  # noqa: PLC0415 - needs what the tests need

    found = servers.available()
    with servers.buckets(directory / "servers", found) as buckets:
        needed = {"read-s3": {"versitygw"}, "large-remote": {"versitygw"}}
        needed["latency"] = {"versitygw", "toxiproxy"}
        yield Lineup(
            contenders=[*_contenders(restics, buckets)],
            singles={n: s for n, s in _SINGLES.items() if needed[n] <= found.keys()},
            buckets=buckets,
            programs={sdk: version(sdk) for sdk in ("boto3", "google-cloud-storage")} | found,
        )


REMOTE = Part(
    name="remote",
    subject="Fresh backup of a journal of {} to servers on the same machine",
    against=("s3", "file"),
    names=("file", "s3", "gcs", "three", "restic-s3", "guide-s3", *_SINGLES),
    opened=_opened,
)
