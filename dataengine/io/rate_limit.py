"""Limits that all processes share: requests per second, bytes per second.

The state of a limit is one small file that changes under a lock, so that several processes (and machines
that see the same file system) keep to one limit together.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dataengine.io.storage import Stopped, check_stop, locked

_LONGEST = 86_400.0
"""Seconds ahead that a budget can be booked; more means that a clock was set back."""


@dataclass(frozen=True)
class RateLimiter:
    """Allows `rate` events per second, evenly spaced, to all who use the same file.

    Attributes:
        path: file with the time of the next free slot, in seconds since 1970; not touched without a limit.
        rate: events per second; None is no limit.
        stop: calls off whoever waits.
    """

    path: Path
    rate: float | None
    stop: threading.Event = field(default_factory=threading.Event, repr=False)

    def take(self, amount: float = 1.0) -> float:
        """Wait for the slot of `amount` events and return the seconds waited.

        Raises:
            Stopped: `stop` was set meanwhile.
        """
        if self.rate is None:
            return 0.0
        with self._next_slot() as slot:
            now = time.time()
            mine = max(now, slot[0])
            slot[0] = mine + amount / self.rate
        if self.stop.wait(max(0.0, mine - time.time())):
            raise Stopped
        return max(0.0, mine - now)

    def check(self) -> None:
        """Raise Stopped once `stop` is set."""
        check_stop(self.stop)

    def hold(self, seconds: float) -> None:
        """Allow nothing for so many seconds: a server asked for it."""
        if self.rate is not None:
            with self._next_slot() as slot:
                slot[0] = max(slot[0], time.time() + seconds)

    @contextmanager
    def _next_slot(self) -> Iterator[list[float]]:
        with locked(self.path, self.stop), self.path.open("r+b") as file:
            try:
                booked = float(file.read(40) or b"0")
            except ValueError:
                booked = 0.0
            slot = [booked if booked < time.time() + _LONGEST else 0.0]
            yield slot
            file.seek(0)
            file.write(f"{slot[0]:.6f}".encode())
            file.truncate()
