"""Write the reference pages into a folder: `python -m tools.reference DIR`."""

from __future__ import annotations

import sys
from pathlib import Path

from tools.reference import pages

if __name__ == "__main__":
    for name, (_, text) in pages().items():
        path = Path(sys.argv[1]) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
