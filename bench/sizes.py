"""Sizes as people write them: ``64MiB``, ``8GiB``."""

from __future__ import annotations

MIB = 1 << 20
_UNITS = {"GiB": 1 << 30, "MiB": MIB, "KiB": 1 << 10, "B": 1}


def parse_size(text: str) -> int:
    """Read a size such as ``512MiB``; a bare number is bytes.

    Raises:
        ValueError: it is not one.
    """
    for unit, factor in _UNITS.items():
        if text.endswith(unit):
            return int(float(text.removesuffix(unit)) * factor)
    return int(text)


def show_size(size: float) -> str:
    """Write a size in the largest unit that leaves at least one of it: ``1 GiB``, ``340 MiB``."""
    for unit, factor in _UNITS.items():
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:g} B"
