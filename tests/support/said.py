"""Progress that keeps what is said, for tests."""

from __future__ import annotations

from dataengine.core.progress import Progress


class Said(Progress):
    """Keeps the lines that a build says.

    Attributes:
        lines: in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)
