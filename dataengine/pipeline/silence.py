"""A scheduler that is connected and answers nothing, such as one whose process was stopped.

Dask waits for an answer without end. Here it is said that there is none, and after a limit the connections are broken,
so that whatever waits for the scheduler fails at once as it does for one that is gone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

SILENT = 60.0
"""Seconds without an answer of a scheduler before the driver says so, and between two such lines."""

LIMIT = 600.0
"""Seconds without an answer after which a build ends; a scheduler with a hundred thousand tasks answers in seconds."""

CLOSING = 5.0
"""Seconds that a scheduler gets for each answer when a build ends."""


@contextmanager
def answering(client: Any, limit: float, told: Callable[[float, bool], None] = lambda s, over: None) -> Iterator[None]:
    """Wait in the block for an answer of a scheduler, for `limit` seconds.

    Args:
        client: Dask's client, whose connections are broken then.
        told: takes the seconds without an answer, every `SILENT` seconds and at the limit, and whether that is over.
    """
    answered, begun = threading.Event(), time.monotonic()

    def watch() -> None:
        left = limit
        while left > 0 and not answered.wait(min(SILENT, left)):
            seconds = time.monotonic() - begun
            left = limit - seconds
            told(seconds, left <= 0)
        while left <= 0 and not answered.is_set():
            abort(client)
            answered.wait(1.0)  # what the block asks next waits for the same scheduler

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        answered.set()
        watching.join()


def abort(client: Any) -> None:
    """Break the connections of a client to its scheduler; it does not connect again."""

    def broken() -> None:
        client.status = "closing"
        if client.scheduler_comm is not None:
            client.scheduler_comm.abort()
        for held in (client.rpc.occupied, client.rpc.available):
            for comm in [comm for comms in held.values() for comm in comms]:
                comm.abort()
        client.rpc.remove(client.scheduler.address, reason="it is silent")  # what is about to connect, too

    with suppress(RuntimeError):  # its loop has ended
        client.loop.add_callback(broken)
