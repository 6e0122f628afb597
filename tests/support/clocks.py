"""A clock for promises about time that hold on a machine with other work, too."""

from __future__ import annotations

import threading
import time
from types import TracebackType


class BusyClock:
    """Counts the processor seconds that a busy loop obtains while the block runs.

    On an idle machine they are seconds. On a machine with other work the loop falls behind as much as the process
    that is waited for, so that "within 5 s" can be asserted as promised, without a wide margin for slow machines.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        begun = time.thread_time()
        while not self._stop.is_set():
            self.seconds = time.thread_time() - begun

    def __enter__(self) -> BusyClock:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
