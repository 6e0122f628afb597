"""Waiting for what another machine has written, where the file system shows it late.

A network file system remembers for some time that a file was absent, and goes on saying so after another machine made
it. Listing the folder makes it ask its server again. So a file that must be there is looked for several times, with the
folder listed in between, and only then is it missing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

LIMIT = 30.0
"""Seconds that a file which was written may stay unseen. By default NFS asks anew about a folder after 30 s or
more, and at once when the folder is listed."""

_FIRST, _LONGEST = 0.02, 2.0
"""Seconds between the first two looks, and the most between two."""


def awaited(look: Callable[[], T | None], folders: tuple[Path, ...], limit: float | None = None) -> T | None:
    """What `look` finds, looked for until it finds something or `limit` seconds (default LIMIT) are over.

    Args:
        folders: where it should appear; listed before every look but the first.
    """
    end, pause = time.monotonic() + (LIMIT if limit is None else limit), _FIRST
    found = look()
    while found is None:
        for folder in folders:
            with suppress(OSError), os.scandir(folder) as entries:
                for _ in entries:
                    pass
        found = look()
        left = end - time.monotonic()
        if found is not None or left <= 0:
            break
        time.sleep(min(pause, left))
        pause = min(pause * 2, _LONGEST)
    return found
