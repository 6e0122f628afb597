"""What runs: sessions, those that a process keeps, and batches that several of them share."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self, TypeVar, cast

from dataengine.core.errors import ComponentError
from dataengine.core.types import Frames

S = TypeVar("S", bound="Session")


class Session:
    """What runs: owns a network, a lock, a process or threads until it is closed. A context manager.

    Subclasses give back what they own in `release`, which is called once.

    Attributes:
        concurrent: whether several threads may use the session at the same time.
        upload: brings frames (T, H, W, 3) to the accelerator of the session, which takes what it returns in place of
            frames. Callers upload frames once for all sessions. None: the session takes frames of the host.
    """

    concurrent: ClassVar[bool] = False
    upload: Callable[[Frames], Any] | None = None
    _closed: bool = False

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self) -> None:
        """Give back what the session owns. Closing again does nothing."""
        if not self._closed:
            self._closed = True
            self.release()

    def release(self) -> None:
        """Give back what the session owns; called once, by `close`. Default: nothing."""

    def require_open(self) -> None:
        """Raise where the session was closed.

        Raises:
            ComponentError: the session is closed.
        """
        if self._closed:
            raise ComponentError(f"{type(self).__name__} is closed: load the component again")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SessionCache:
    """Sessions that one process keeps: opened once for a purpose, closed when another is wanted and at exit.

    A worker runs many units with one recipe. The session of a purpose (for example the pose pass) stays
    open from unit to unit; a new key, as of another recipe or device, closes it and opens the next.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[object, Session]] = {}

    def get(self, purpose: str, key: object, load: Callable[[], S]) -> S:
        """The open session of a purpose; `load` opens it where there is none under this key."""
        known, session = self._kept.get(purpose, (None, None))
        if session is not None and not session.closed and known == key:
            return cast(S, session)
        if session is not None:
            del self._kept[purpose]
            session.close()
        opened = load()
        self._kept[purpose] = key, opened
        return opened

    def close(self) -> None:
        """Close every session."""
        while self._kept:
            _, (_, session) = self._kept.popitem()
            session.close()


SESSIONS = SessionCache()
"""The sessions of this process."""


atexit.register(SESSIONS.close)


class Batcher(Protocol):
    """Runs a network on many images in batches (see `dataengine.experts.batching`)."""

    def run(self, network: Any, pixels: Any) -> list[Any]:
        """One answer per image of (N, h, w, 3) uint8 `pixels`, on the host or on a device."""
        ...
