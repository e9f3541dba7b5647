"""Start-up: libraries without what they import and this package does not use.

Most runs take less time than their imports. What a library imports for a feature of its own is as
long in coming as if it were used; so while the library is imported, a stand-in is found in its
place (docs.python.org/3/reference/import.html: ``sys.modules`` is looked at first). A later
import gets the real module.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def standing_in(**modules: ModuleType | None) -> Iterator[None]:
    """Let other modules be found for a while.

    Args:
        modules: what is found instead, by name, ``__`` for a dot; None: importing it fails.
    """
    given = {name.replace("__", "."): module for name, module in modules.items()}
    real = {name: sys.modules[name] for name in given if name in sys.modules}
    sys.modules.update(given)  # type: ignore[arg-type]  # typeshed knows modules alone
    try:
        yield
    finally:
        for name in given:
            del sys.modules[name]
        sys.modules.update(real)


_no_plugins = ModuleType("importlib.metadata")
_no_plugins.entry_points = lambda **_which: ()  # type: ignore[attr-defined]  # all that is asked

with standing_in(importlib__metadata=_no_plugins):
    from pydantic import BaseModel, ConfigDict

    class _First(BaseModel):
        """The first model: now pydantic looks for its plugins."""


class Frozen(BaseModel):
    """A model that never changes, and is built when it is needed."""

    model_config = ConfigDict(frozen=True, defer_build=True)
