"""The HTTP client of a build that fetches: limits shared below a data root, several transfers at once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from dataengine.io.disk_budget import DiskBudget
from dataengine.io.http import HttpClient
from dataengine.io.http_policy import HttpPolicy
from dataengine.io.storage import Stopped

T = TypeVar("T")


class Transfers(HttpClient):
    """Everything that goes over the network while a build fetches.

    Args:
        policy: limits.
        root: the data root; its folder `.fetch` holds what processes share.
        disk: how much may be written; by default what the disk holds.
    """

    disk: DiskBudget

    def __init__(self, policy: HttpPolicy, root: Path, disk: DiskBudget | None = None) -> None:
        super().__init__(policy, root / ".fetch", disk or DiskBudget(root))

    def each(self, work: Callable[[T], None], items: Iterable[T]) -> None:
        """Call `work` on every item, `connections` at a time; the first exception ends the rest and is raised.

        Threads are daemons, so that a stalled connection never keeps an interrupted program alive.
        """
        waiting, errors, lock = deque(items), list[BaseException](), threading.Lock()

        def worker() -> None:
            while not self.stop.is_set():
                with lock:
                    if not waiting or errors:
                        return
                    item = waiting.popleft()
                try:
                    work(item)
                except Stopped:
                    return
                except BaseException as error:
                    errors.append(error)

        count = min(self.policy.connections, len(waiting))
        threads = [threading.Thread(target=worker, daemon=True) for _ in range(count)]
        try:
            for thread in threads:
                thread.start()
            while not errors and any(thread.is_alive() for thread in threads):
                for thread in threads:
                    thread.join(0.1)
        except BaseException:
            self.stop.set()
            raise
        if errors:
            self.stop.set()
            raise errors[0]
