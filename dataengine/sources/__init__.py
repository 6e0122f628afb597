"""Where clips come from: each file reads one way of laying out annotations and media."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

from dataengine.core.types import Clip


@runtime_checkable
class Source(Protocol):
    """A source of clips (frozen dataclass; its fields are its whole configuration).

    A source that makes its own media has in addition `prepare(cache: Path) -> Path`, which
    returns the root to give to `discover`.
    """

    def discover(self, root: Path) -> Iterator[Clip]:
        """Yield every planned clip in an order that depends on the files alone.

        A row that cannot be read becomes a clip with a `reason`; a row whose media file is absent
        becomes a clip with `media` ''.

        Raises:
            SourceError: nothing under `root` can be used at all.
        """
        ...
