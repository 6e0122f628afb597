"""Progress of long work: a bar on a terminal, lines elsewhere, nothing where nobody reads it; always to stderr.

Nothing that takes longer than `SOON` seconds is silent: work that has counted nothing yet says so, and what is waited
for is named with the time elapsed.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, Self

EVERY = 10.0
"""Seconds between two lines where stderr is no terminal."""

SOON = 2.0
"""Seconds after which work and waiting say their first line."""


class Progress:
    """What a command says while it runs; this base class says nothing."""

    @contextmanager
    def step(self, name: str, total: int | None, unit: str = "clips") -> Iterator[Callable[[int], None]]:
        """Run one step inside the block.

        Args:
            name: of the step.
            total: units of the step, None where unknown.
            unit: what is counted.

        Yields:
            A function that takes how many more units are done.
        """
        del name, total, unit
        yield lambda count: None

    @contextmanager
    def steps(self, names: Sequence[tuple[str, int]], unit: str = "clips") -> Iterator[list[Callable[[int], None]]]:
        """Run several steps at the same time inside the block; as `step` of each (name, total)."""
        with ExitStack() as stack:
            yield [stack.enter_context(self.step(name, total, unit)) for name, total in names]

    @contextmanager
    def waiting(self, what: str | Callable[[], str], since: float | None = None) -> Iterator[None]:
        """Name what the block waits for, and the time elapsed, as soon as it takes longer than `SOON` seconds.

        Not to be used inside of `step` or `steps`, which show the time elapsed themselves.

        Args:
            what: is waited for; a function is asked for the words each time, in another thread.
            since: when the waiting began, by `time.monotonic`; now, unless another block waited for the same before.
        """
        del what, since
        yield

    def say(self, text: str) -> None:
        """Print one line."""


_CURRENT: ContextVar[Progress | None] = ContextVar("progress", default=None)


@contextmanager
def shown_by(progress: Progress) -> Iterator[None]:
    """Inside the block `current()` is `progress`: for work that no argument leads to."""
    before = _CURRENT.set(progress)
    try:
        yield
    finally:
        _CURRENT.reset(before)


def current() -> Progress:
    """What shows the progress of the work under way; says nothing outside of `shown_by`."""
    return _CURRENT.get() or Progress()


class ConsoleProgress(Progress):
    """Shows each step as a `Bar`."""

    @contextmanager
    def step(self, name: str, total: int | None, unit: str = "clips") -> Iterator[Callable[[int], None]]:
        if total == 0:
            yield lambda count: None
            return
        with Bar(name, total, unit) as bar:
            yield bar.advance

    @contextmanager
    def steps(self, names: Sequence[tuple[str, int]], unit: str = "clips") -> Iterator[list[Callable[[int], None]]]:
        bars: list[Bar] = []
        with ExitStack() as stack:
            for name, total in names:
                if total:
                    bars.append(stack.enter_context(Bar(name, total, unit, above=bars[0] if bars else None)))
            shown = iter(bars)
            yield [next(shown).advance if total else lambda count: None for _, total in names]

    @contextmanager
    def waiting(self, what: str | Callable[[], str], since: float | None = None) -> Iterator[None]:
        begun = time.monotonic() if since is None else since

        def text() -> str:
            return f"{what if isinstance(what, str) else what()}  after {clock(time.monotonic() - begun)}"

        with _meanwhile(_spinner if sys.stderr.isatty() else _lines, text):
            yield

    def say(self, text: str) -> None:
        _print(text)


@contextmanager
def _meanwhile(show: Callable[..., None], *given: Any) -> Iterator[None]:
    """Call `show(over, *given)` in another thread if the block takes longer than `SOON` seconds; `over` ends it."""
    over = threading.Event()

    def watch() -> None:
        if not over.wait(SOON):
            show(over, *given)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _lines(over: threading.Event, text: Callable[[], str]) -> None:
    _print(text())
    while not over.wait(EVERY):
        _print(text())


def _spinner(over: threading.Event, text: Callable[[], str]) -> None:
    from rich.console import Console

    with Console(stderr=True).status(text()) as status:
        while not over.wait(0.5):
            status.update(text())


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Bar:
    """Count, rate, elapsed and remaining time of one step. Off a terminal a line comes now and then, also while nothing
    is counted.

    Args:
        name: of the step.
        total: units of the step, None where unknown.
        unit: what is counted.
        done: units that an earlier run has done; they count for no rate.
        above: the bar of a step that runs at the same time, under which this one is shown.
    """

    def __init__(self, name: str, total: int | None, unit: str = "", done: int = 0, above: Bar | None = None) -> None:
        self.name, self.total, self.unit, self.above = name, total, unit, above
        self.done = self._first = done
        self._begun = self._shown = time.monotonic()
        self._text = self._said = ""
        self._rich: Any = None
        self._place: Any = None
        self._group: list[Bar] = [self] if above is None else above._group
        self._ticking = ExitStack()

    def __enter__(self) -> Self:
        if self.above is not None:
            self._group.append(self)
        elif not sys.stderr.isatty():
            self._ticking.enter_context(_meanwhile(self._tick))
        if sys.stderr.isatty():
            self._rich = self._bars() if self.above is None else self.above._rich
            if self.above is None:
                self._rich.start()
            self._place = self._rich.add_task(self.name, total=self.total, completed=self.done, text="")
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._ticking.close()
        if self._rich is not None:
            if self.total is None:
                self._rich.update(self._place, total=max(self.done, 1), completed=max(self.done, 1))
            if self.above is None:
                self._rich.stop()
        elif kind is None and (self.total is None or self.done < self.total):
            self._line()

    def advance(self, count: int = 1, text: str = "") -> None:
        """Count units as done.

        Args:
            count: units.
            text: what to show in place of the rate; stays until another one comes.
        """
        self.done += count
        self._text = text or self._text
        if self._rich is not None:
            self._rich.update(self._place, completed=self.done, text=self._text or self._rate())
        elif self.done == self.total or time.monotonic() - self._shown > EVERY:
            self._line()

    def _tick(self, over: threading.Event) -> None:
        """Show the first bar of the group that is not full, where none of them has shown a line for a while."""
        limit = SOON / 2  # the other bars began a moment later
        while True:
            quiet = time.monotonic() - max(bar._shown for bar in self._group)
            left = [bar for bar in self._group if bar.total is None or bar.done < bar.total]
            if left and quiet >= limit:
                left[0]._line()
            limit = EVERY
            if over.wait(1.0):
                return

    def _bars(self) -> Any:
        from rich import progress
        from rich.console import Console

        return progress.Progress(
            progress.TextColumn("{task.description:<8}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn(f"{self.unit}  {{task.fields[text]}}"),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
            console=Console(stderr=True),
            speed_estimate_period=120,
        )

    def _rate(self) -> str:
        seconds = time.monotonic() - self._begun
        return f"{(self.done - self._first) / seconds:.1f}/s" if seconds else ""

    def _line(self) -> None:
        self._shown = time.monotonic()
        seconds = self._shown - self._begun
        if self.total is None:
            head = f"{self.name} {self.done} {self.unit}" if self.done else self.name
        else:
            head = f"{self.name} {self.done}/{self.total} {self.unit}"
        counted = self.done - self._first
        if self.total is None or (not counted and self.done < self.total):
            tail = f"after {clock(seconds)}"
        else:
            tail = f"left {clock(seconds / max(counted, 1) * (self.total - self.done))}"
        rate = self._text or (self._rate() if counted else "")
        line = "  ".join(filter(None, (head.strip(), rate, tail)))
        if line != self._said:
            _print(line)
        self._said = line


def clock(seconds: float) -> str:
    """A duration as hours:minutes:seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
