"""Both commands end in one line where the machine is too small or fails, and in a traceback for our own mistakes."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from dataengine.core.console import application, execute


def run(error: Exception, monkeypatch: pytest.MonkeyPatch) -> int:
    app = application("tool", "A tool.")

    @app.command()
    def fail() -> None:
        raise error

    @app.command()
    def other() -> None: ...

    monkeypatch.setattr(sys, "argv", ["tool", "fail"])
    with pytest.raises(SystemExit) as ended:
        execute(app, "tool")
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            RuntimeError("CUDA out of memory. Tried to allocate 2 GiB.\nmore"),
            "out_of_memory: CUDA out of memory. Tried ",
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out_of_memory: DefaultCPUAllocator"),
        (MemoryError(), "out_of_memory: MemoryError; take less at a time"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "gpu_failed: CUDA error: an illegal"),
    ],
)
def test_a_machine_that_is_too_small_is_one_line(error: Any, said: str, capsys: Any, monkeypatch: Any) -> None:
    assert run(error, monkeypatch) == 1
    told = capsys.readouterr()
    assert told.err.startswith(f"tool: {said}") and told.err.count("\n") == 1 and not told.out


def test_a_mistake_of_ours_is_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="shapes differ"):
        run(RuntimeError("shapes differ"), monkeypatch)
