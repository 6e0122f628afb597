"""What happened while a build ran: `work/journal.jsonl`, append-only, one JSON object per line.

The journal explains; nothing is decided by it. Lines have `event`:

==========  ==========================================================================================
build       a build began
trouble     an attempt committed nothing: pass, unit, attempt, host, pid, kind, detail, clip_id, trace
lost        an attempt lost its worker, which died or was ended at the deadline: pass, unit, attempt, host, pid, reason
host        a host was set aside: host, detail
gpu         a GPU was set aside, and its host goes on: host, gpu, detail
set_aside   a unit was set aside for this build: pass, unit, kind, detail, host
worked      units that a host finished in a pass since the line before: pass, host, units, clips, seconds
==========  ==========================================================================================
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

JOURNAL = "journal.jsonl"


class Journal:
    """The journal of a build.

    Args:
        work: the work folder of the build; None to keep no journal.
    """

    def __init__(self, work: Path | None) -> None:
        self.path = None if work is None else work / JOURNAL

    def note(self, event: str, **facts: Any) -> None:
        """Append a line. A disk that is full or gone costs the line, not the build."""
        if self.path is None:
            return
        line = json.dumps({"time": round(time.time(), 3), "event": event, **facts}, ensure_ascii=False)
        with suppress(OSError), self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def read(self) -> Iterator[dict[str, Any]]:
        """The lines, the oldest first; a line that a crash cut off is skipped."""
        if self.path is None or not self.path.exists():
            return
        with self.path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                with suppress(ValueError):
                    yield json.loads(line)
