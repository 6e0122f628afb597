"""Where media come from when they do not lie here: each fetcher knows one way to obtain them.

What is fetched lies under DATA_ROOT/<source>, as the source's own code finds it; what processes
share, and parts of downloads, lie in `.fetch` beside it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from dataengine.core.component import Component
from dataengine.core.errors import MediaError
from dataengine.core.types import Clip

if TYPE_CHECKING:
    from dataengine.fetch.mirrors import Mirror
    from dataengine.fetch.transfers import Transfers

Report: TypeAlias = Callable[[str, MediaError | None], None]
"""Is called once per clip: with its id, and with the failure or None."""


@dataclass(frozen=True)
class Site:
    """Where the files of one source are fetched to.

    Attributes:
        source: its name.
        root: DATA_ROOT/<source>.
        mirror: where copies of the source are, as far as known.
        transfers: the HTTP client.
        max_bytes: largest media file.
        again: reasons for which files that are gone for good are asked for again.
    """

    source: str
    root: Path
    mirror: Mirror | None
    transfers: Transfers
    max_bytes: int
    again: frozenset[str] = frozenset()

    @property
    def state(self) -> Path:
        """The folder of what is under way and known."""
        return self.root / ".fetch"


class Fetcher(Component, ABC):
    """A way to obtain media files (frozen dataclass; its fields are its whole configuration)."""

    @abstractmethod
    def fetch(self, clips: Sequence[Clip], site: Site, report: Report) -> None:
        """Have the media files of `clips`, none of which lies under the root yet, and report each.

        A clip that this fetcher knows no way for is reported as media_missing.
        """
