"""One build, rewrite or gc at a time works on an OUT, with real processes; a takedown may come at any moment."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import dataengine
from dataengine.dataset.verify import verify
from dataengine.inspect.status import status
from tests.support.commands import dataengine as command
from tests.support.shared import SETTINGS, copied

BUILD = """
import sys, time
from pathlib import Path
from dataengine.core.progress import Progress
from tests.support.shared import build_sample

class Waits(Progress):
    def step(self, name, total, unit="clips"):
        if name == "curate":
            print("under way", flush=True)
            while not Path(sys.argv[3]).exists():
                time.sleep(0.05)
        return super().step(name, total, unit)

build_sample(Path(sys.argv[1]), Path(sys.argv[2]), "filters.motion.min=0.5", progress=Waits())
"""
"""A build that waits before it curates until a file is there."""


@contextlib.contextmanager
def build_under_way(corpus: Path, out: Path, go_on: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", BUILD, str(corpus), str(out), str(go_on)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "under way\n"
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def out(sample_build: Path, tmp_path: Path) -> Path:
    return copied(sample_build, tmp_path)


@pytest.mark.slow
def test_builds_and_gc_beside_a_build_are_refused_and_a_takedown_is_not(
    out: Path, corpus: Path, tmp_path: Path
) -> None:
    clip_id = dataengine.open(out).clips.collect()["clip_id"][0]
    staging = out / "work" / "staging" / "pose-u000000-of-a-worker.tar"
    staging.parent.mkdir(exist_ok=True)
    with build_under_way(corpus, out, tmp_path / "go-on") as process:
        staging.write_bytes(b"half")
        settings = [part for text in SETTINGS for part in ("--set", text)]
        arguments = ["--sources", f"sample={corpus}", "--out", str(out), "--engine", "serial", *settings]
        for second in (["build", "posecap", *arguments], ["gc", str(out)]):
            refused = command(*second)
            assert refused.returncode == 1, refused.stdout
            said = refused.stderr.splitlines()[-1]
            assert f"{out} is in use: build by process {process.pid} on " in said and "wait for it or stop it" in said
        taken = command("takedown", str(out), "--clip-id", clip_id, "--reason", "asked", "--rewrite")
        assert taken.returncode == 1 and "the takedown is recorded" in taken.stderr.splitlines()[-1]
        assert clip_id not in set(dataengine.open(out).clips.collect()["clip_id"])
        (tmp_path / "go-on").touch()
        assert process.wait(300) == 0
    assert staging.exists(), "what a worker may still write to stays"
    assert clip_id not in set(dataengine.open(out).clips.collect()["clip_id"]) and verify(out) == []
    assert command("gc", str(out), "--json").returncode == 0


@pytest.mark.slow
def test_a_build_that_was_killed_is_followed_by_the_next_at_once(out: Path, corpus: Path, tmp_path: Path) -> None:
    with build_under_way(corpus, out, tmp_path / "go-on") as process:
        process.kill()
        process.wait()
        begun = time.monotonic()
        done = command("gc", str(out))
        assert done.returncode == 0 and time.monotonic() - begun < 100, done.stderr
    assert status(out)["planned"]
