"""What many tests read and none changes: made once in a run of the tests, whichever worker needs it first.

Tests that want it changed copy it (`copied`), which costs milliseconds, and build again in the copy.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dataengine
from dataengine.builder import BuildResult
from dataengine.pipeline.engine import Engine

SERIAL = Engine(serial=True)
CLIPS = 12
"""Ordinary clips of the corpus: the fewest that the rendered source makes. The planted defects come on top."""

SETTINGS = ("plan.clips_per_unit=7", "pose.max_fps=5.0", "filters.length.min=5")
"""A fifth of the frames, and the shortest clip shortened with them: a build takes a sixth of the time, and the same
path through the program."""


def run_folder(factory: pytest.TempPathFactory) -> Path:
    """The temporary folder that all workers of this run of the tests have in common."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` that all workers share; the first that asks makes it with `make(folder)`, the others wait."""
    folder = run_folder(factory) / "shared" / name
    done = folder.with_name(f"{name}.done")
    folder.parent.mkdir(exist_ok=True)
    with folder.with_name(f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            done.touch()
    return folder


def copied(finished: Path, folder: Path) -> Path:
    """A copy of a finished build at `folder`/out, times of files included."""
    return Path(shutil.copytree(finished, folder / "out", copy_function=shutil.copy2))


def build_sample(corpus: Path, out: Path, *overrides: str, **options: Any) -> BuildResult:
    """Build posecap with the built-in experts from the corpus, as the shared build is made."""
    arguments = {"overlay": "core", "engine": SERIAL, "overrides": [*SETTINGS, *overrides]}
    return dataengine.build("posecap", {"sample": str(corpus)}, out, **{**arguments, **options})
