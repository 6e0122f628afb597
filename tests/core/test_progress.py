"""Progress on a terminal and off it."""

from __future__ import annotations

import io
import sys
import time

import pytest

from dataengine.core import progress
from dataengine.core.progress import Bar, ConsoleProgress, Progress, clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_off_a_terminal_there_are_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    with ConsoleProgress().step("pose", 4) as advance:
        advance(2)
        advance(2)
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("pose 2/4 clips  ") and "/s  left 0:00:00" in first and last.startswith("pose 4/4 clips")


def test_lines_are_few_and_the_last_one_always_comes(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("step", 1000) as bar:
        for _ in range(999):
            bar.advance()
    with ConsoleProgress().step("curate", None):
        pass
    with ConsoleProgress().step("nothing", 0) as advance:
        advance(0)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 999/1000", "curate"]


def test_what_an_earlier_run_did_counts_for_no_rate(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("step", 10, done=9) as bar:
        bar.advance(1, "loss 0.5")
    assert capsys.readouterr().err == "step 10/10  loss 0.5  left 0:00:00\n"


def test_a_step_that_fails_says_nothing_more(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError), Bar("step", 10):
        raise ValueError
    assert capsys.readouterr().err == ""


def test_on_a_terminal_there_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    with ConsoleProgress().step("plan", None) as advance:
        advance(7)
    with Bar("step", 3, "clips") as bar:
        bar.advance(3, "half way")
    shown = screen.getvalue()
    assert "plan" in shown and "7/7" in shown and "3/3" in shown and "half way" in shown and "left" in shown


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    silent = Progress()
    silent.say("a line")
    with silent.step("plan", None) as advance:
        advance(3)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0:00:00"), (59.6, "0:01:00"), (3661, "1:01:01"), (1e6, "277:46:40")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_work_that_has_counted_nothing_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps at the same time, of which the first is not full: its line comes, and comes again."""
    monkeypatch.setattr(progress, "SOON", 0.01)
    monkeypatch.setattr(progress, "EVERY", 0.01)
    seen, until = "", time.monotonic() + 60
    with ConsoleProgress().steps([("pose", 4), ("measure", 4)]):
        while seen.count("\n") < 2 and time.monotonic() < until:
            time.sleep(0.01)
            seen += capsys.readouterr().err
    assert seen.startswith("pose 0/4 clips  after 0:00:0") and "measure" not in seen and seen.count("\n") >= 2


@pytest.mark.parametrize("terminal", [False, True])
def test_what_is_waited_for_is_named_with_the_time_elapsed(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SOON", 0.01)
    monkeypatch.setattr(sys, "stderr", screen := Terminal() if terminal else io.StringIO())
    until = time.monotonic() + 60
    with ConsoleProgress().waiting(lambda: "worker processes start: 0 of 2"):
        while "0 of 2" not in screen.getvalue() and time.monotonic() < until:
            time.sleep(0.01)
    assert "worker processes start: 0 of 2  after 0:00:0" in screen.getvalue()


def test_waiting_that_is_short_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with ConsoleProgress().waiting("putting the dataset in place"):
        pass
    with pytest.raises(ValueError), Progress().waiting("nothing"):
        raise ValueError
    assert capsys.readouterr().err == ""


def test_a_line_is_not_said_twice_and_waiting_goes_on_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(progress, "SOON", 0.0)
    monkeypatch.setattr(progress, "_print", said.append)
    monkeypatch.setattr(progress, "clock", lambda seconds: f"{seconds // 60:.0f} min")
    with ConsoleProgress().step("plan", None):
        while not said:
            time.sleep(0.01)
    assert said == ["plan  after 0 min"]
    with ConsoleProgress().waiting("worker processes start", since=time.monotonic() - 70):
        while len(said) < 2:
            time.sleep(0.01)
    assert said[1] == "worker processes start  after 1 min"
