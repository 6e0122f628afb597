"""The commands run in this process, which saves the seconds that a process of their own takes to import."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest


class Answer(NamedTuple):
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


def run(main: Callable[[], None], name: str, *arguments: str) -> Answer:
    """Run the entry point `main` of the command `name` with these arguments."""
    told, complaint = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(told), contextlib.redirect_stderr(complaint):
        patch.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    return Answer(int(ended.value.code or 0), told.getvalue(), complaint.getvalue())


def dataengine(*arguments: str) -> Answer:
    """Run `dataengine` with these arguments."""
    from dataengine.cli import main

    return run(main, "dataengine", *arguments)


def dataengine_train(*arguments: str) -> Answer:
    """Run `dataengine-train` with these arguments."""
    from training.cli import main

    return run(main, "dataengine-train", *arguments)
