"""The manifest, for all of them: what is valid comes back, what is not is refused cleanly."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
from hypothesis import given, settings
from hypothesis import strategies as st

from backup.errors import BackupError, ManifestError, UnsupportedFormatError
from backup.manifest import Manifest, parse, parse_mark
from docs.generate import schema
from tests import manifests

SEED = json.dumps(manifests.shared()).encode()
VALIDATOR = jsonschema.Draft202012Validator(schema())

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=8,
)


def failure(data: bytes) -> type[BackupError] | None:
    """Say with which declared error a manifest is refused; any other one is raised."""
    try:
        parse(data)
    except (ManifestError, UnsupportedFormatError) as error:
        return type(error)
    return None


@given(manifests.manifests())
def test_every_manifest_comes_back_from_its_bytes(manifest: Manifest) -> None:
    """With shared archives, odd names, any time and any text."""
    assert parse(manifest.to_bytes()) == manifest


@given(manifests.manifests())
def test_every_manifest_follows_the_published_schema(manifest: Manifest) -> None:
    """A reader that is built on it alone accepts whatever we write."""
    assert list(VALIDATOR.iter_errors(json.loads(manifest.to_bytes()))) == []


def objects(content: Any) -> list[dict[str, Any]]:
    """Give every object in some JSON, at whatever depth."""
    if isinstance(content, dict):
        return [content, *(o for value in content.values() for o in objects(value))]
    return [o for item in content for o in objects(item)] if isinstance(content, list) else []


@given(manifests.manifests(), st.data())
def test_fields_from_the_future_change_nothing(manifest: Manifest, data: st.DataObject) -> None:
    """Wherever a newer version puts them, and whatever they hold."""
    content = json.loads(manifest.to_bytes())
    chosen = data.draw(st.lists(st.sampled_from(objects(content)), min_size=1, max_size=3))
    for place in chosen:
        place["x_" + data.draw(st.text(max_size=5))] = data.draw(json_values)

    assert parse(json.dumps(content).encode()) == manifest


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_refused_with_a_declared_error(data: bytes) -> None:
    """What lies on a sink under the name of a manifest may be anything."""
    assert failure(data) is ManifestError


@settings(max_examples=150)
@given(st.data())
def test_a_damaged_manifest_is_read_or_refused_but_never_breaks(data: st.DataObject) -> None:
    """Bytes flipped, cut out or put in, anywhere."""
    damaged = bytearray(SEED)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged)))
        gone = data.draw(st.integers(0, 4))
        damaged[at : at + gone] = data.draw(
            st.binary(max_size=4) | st.sampled_from([b"-", b"9" * 400, b'"', b"1e999", b"null"])
        )

    assert failure(bytes(damaged)) in {None, ManifestError, UnsupportedFormatError}


@settings(max_examples=150)
@given(st.data())
def test_another_value_anywhere_is_read_or_refused_but_never_breaks(data: st.DataObject) -> None:
    """Valid JSON of the wrong shape; what is read can be written, and read again."""
    content = manifests.shared()
    place = data.draw(st.sampled_from(objects(content)))
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(json_values)
    try:
        manifest = parse(json.dumps(content).encode())
    except (ManifestError, UnsupportedFormatError):
        return

    assert parse(manifest.to_bytes()) == manifest


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_a_damaged_mark_is_refused_with_a_declared_error(data: bytes) -> None:
    """As a manifest is."""
    try:
        mark = parse_mark(data)
    except ManifestError:
        return

    assert parse_mark(mark.to_bytes()) == mark
