"""Sessions for clips in several threads, also of experts that one thread alone may use.

Three kinds of sessions come together in a pose pass. Those that any number of threads may use are shared as they are.
Of the others, an expert that looks at the given frames alone is used by one thread at a time. An expert that remembers
the frames of a clip gets a session for each clip in flight, opened when it is first needed. So one such expert does
not take batches across clips from all others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from dataengine.core.component import (
    ClipFrames,
    DetectorSession,
    Expert,
    ExpertSession,
    Session,
)
from dataengine.core.types import Float, Frames, Poses


class OneAtATimeExpert(ExpertSession):
    """A session of an expert that one thread at a time uses; the others wait. It does not own the session."""

    concurrent = True

    def __init__(self, session: ExpertSession) -> None:
        self.session = session
        self.upload = session.upload
        self._turn = threading.Lock()

    def predict(self, frames: Frames, boxes: Sequence[Float] | None = None) -> list[Poses]:
        """As `ExpertSession.predict`."""
        with self._turn:
            return self.session.predict(frames, boxes)

    def start_clip(self) -> None:
        """As `ExpertSession.start_clip`."""
        with self._turn:
            self.session.start_clip()

    def observe(self, batch: ClipFrames, boxes: Sequence[Float] | None = None) -> list[Poses]:
        """As `ExpertSession.observe`."""
        with self._turn:
            return self.session.observe(batch, boxes)


class OneAtATimeDetector(DetectorSession):
    """A session of a detector that one thread at a time uses; the others wait. It does not own the session."""

    concurrent = True

    def __init__(self, session: DetectorSession) -> None:
        self.session = session
        self.upload = session.upload
        self._turn = threading.Lock()

    def detect(self, frames: Frames) -> list[Float]:
        """As `DetectorSession.detect`."""
        with self._turn:
            return self.session.detect(frames)


class SessionPerClip(Session):
    """The sessions of one expert that remembers frames: each clip has one for itself from its first frame to its last.

    Args:
        first: a session that is open; the pool owns it from now on.
        load: opens another one.
        most: of them at once; more clips wait.
    """

    concurrent = True

    def __init__(self, first: ExpertSession, load: Callable[[], ExpertSession], most: int) -> None:
        self._load = load
        self._most = most
        self._every = [first]
        self._free = [first]
        self._changed = threading.Condition()
        self._opening = threading.Lock()

    @contextmanager
    def lease(self) -> Iterator[ExpertSession]:
        """A session that nobody else uses meanwhile."""
        session = self._take()
        try:
            yield session
        finally:
            with self._changed:
                self._free.append(session)
                self._changed.notify()

    def _take(self) -> ExpertSession:
        with self._changed:
            while not self._free:
                self.require_open()
                if len(self._every) < self._most and self._opening.acquire(blocking=False):
                    break
                self._changed.wait()
            else:
                return self._free.pop()
        try:
            opened: ExpertSession | None = self._load()
        except Exception:
            opened = None  # those that are open have to do
        finally:
            self._opening.release()
        with self._changed:
            if opened is None:
                self._most = len(self._every)
            else:
                self._every.append(opened)
            self._changed.notify_all()
        return self._take() if opened is None else opened

    def release(self) -> None:
        """Close every session."""
        for session in self._every:
            session.close()


def for_threads(session: ExpertSession, expert: Expert, device: str, most: int) -> ExpertSession | SessionPerClip:
    """The sessions of an expert for clips in several threads; the kind is told by the session and the expert."""
    if session.concurrent:
        return session
    if expert.remembers_frames:
        return SessionPerClip(session, lambda: expert.load(device), most)
    return OneAtATimeExpert(session)


def detector_for_threads(session: DetectorSession) -> DetectorSession:
    """The session of a detector for clips in several threads."""
    return session if session.concurrent else OneAtATimeDetector(session)
