"""Sources of clips."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from dataengine.core.component.configuration import Component
from dataengine.core.errors import ComponentError
from dataengine.core.types import Clip


class Source(Component, ABC):
    """A source of clips (frozen dataclass; its fields are its whole configuration).

    Attributes:
        makes_media: whether the source makes its own media with `prepare`.
        own_ids: whether video ids are of this source alone, such as names of files, so that no published list of
            videos can name them.
        brings_poses: whether its clips are poses that somebody saved, in place of videos.
    """

    makes_media: ClassVar[bool] = False
    own_ids: ClassVar[bool] = False
    brings_poses: ClassVar[bool] = False

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of its classes by number, where the source numbers its classes. Default: none."""
        return ()

    @abstractmethod
    def discover(self, root: Path) -> Iterator[Clip]:
        """Yield every planned clip in an order that depends on the files alone.

        A row that cannot be read becomes a clip with a `reason`. A row whose media file is absent becomes a
        clip with `media` ''.

        Raises:
            SourceError: nothing under `root` can be used at all.
        """

    def remarks(self, root: Path) -> Iterator[str]:
        """What a user should know of the files under `root` beside the clips, one line each.

        Raises:
            SourceError: as `discover`.
        """
        return iter(())

    def prepare(self, cache: Path) -> Path:
        """Make the media of a source that makes its own, under a folder for caches.

        Returns:
            The root to give to `discover`.

        Raises:
            ComponentError: the source makes no media.
        """
        raise ComponentError(f"{type(self).__name__} makes no media of its own: say where they lie, NAME=PATH")
