"""The progress of a run on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from dataengine.core.progress import Bar


class RunProgress:
    """The progress of a run on stderr; see `training.engine.loop.ProgressCallback`.

    Args:
        say: prints a line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._stack = ExitStack()
        self._bar = Bar("step", 0)

    def __enter__(self) -> RunProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def begin(self, total: int, done: int) -> None:
        """See `training.engine.loop.ProgressCallback`."""
        if done:
            self._say(f"goes on at step {done} of {total}")
        if done < total:
            self._bar = self._stack.enter_context(Bar("step", total, done=done))

    def step(self, entry: Mapping[str, Any] | None) -> None:
        """See `training.engine.loop.ProgressCallback`."""
        text = ""
        if entry is not None:
            text = f"epoch {entry['epoch']:.2f}  loss {entry['loss']:.3f}  {entry['clips_per_s']:.0f} clips/s"
        self._bar.advance(1, text)
