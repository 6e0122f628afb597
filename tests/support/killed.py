"""Kill a process before the n-th change it makes to files, for every n."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate", "open", "shutil.rmtree")
"""Audit events of Python before a file operation; `open` counts where it may write."""
LIMIT = 500


def is_change(event: str, arguments: tuple[object, ...], under: str) -> bool:
    """Whether an audit event is a change to a file below the folder `under`."""
    if event not in CHANGES or not any(isinstance(a, (str, os.PathLike)) and under in os.fspath(a) for a in arguments):
        return False
    return event != "open" or bool(int(arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))  # type: ignore[call-overload]


def at_every_change(work: Callable[[int], None], under: Callable[[int], str]) -> Iterator[tuple[int, bool]]:
    """Run `work(n)` in a forked process that is killed before its n-th change to files under `under(n)`.

    Yields:
        n, and whether the process was killed; ends after the first that was not, which is the whole work.

    Raises:
        AssertionError: the work failed by itself.
    """
    for n in range(LIMIT):
        pid = os.fork()
        if pid == 0:
            _die_at(n, under(n))
            code = 1
            try:
                work(n)
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        assert killed or os.waitstatus_to_exitcode(status) == 0, f"the work ended with status {status}"
        yield n, killed
        if not killed:
            return
    raise AssertionError(f"more than {LIMIT} changes")


def _die_at(number: int, under: str) -> None:
    left = [number]

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if is_change(event, arguments, under):
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1

    sys.addaudithook(hook)
