"""Leases, with real processes: one holder at a time, refusals that say who, dead holders succeeded."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dataengine.core.errors import LeaseError
from dataengine.io import lease as leases
from dataengine.io.lease import lease

HOLD = """
import sys, time
from pathlib import Path
from dataengine.io.lease import lease
with lease(Path(sys.argv[1]), "build", "build"):
    print("held", flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def holder(folder: Path) -> Any:
    """Another process that holds the lease."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


def written(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / ".leases" / "build.json").read_text())
    return found


def test_a_second_process_is_refused_in_one_line_that_says_who(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        with pytest.raises(LeaseError) as refused, lease(tmp_path, "build", "gc"):
            pass
        text = str(refused.value)
        assert f"{tmp_path} is in use: build by process {process.pid} on {os.uname().nodename} since 20" in text
        assert "stop it, then run the command again" in text and "\n" not in text
        process.send_signal(signal.SIGKILL)
        process.wait()
        with lease(tmp_path, "build", "gc"):
            assert written(tmp_path)["purpose"] == "gc"
    assert not (tmp_path / ".leases" / "build.json").exists()


def test_who_waits_gets_it_when_it_is_given_back(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        threading.Timer(0.5, process.kill).start()
        with lease(tmp_path, "build", "gc", wait=60):
            assert process.wait(60) != 0 and written(tmp_path)["purpose"] == "gc"


def test_a_thread_of_control_goes_on_holding_it_and_another_thread_is_refused(tmp_path: Path) -> None:
    refused = []

    def other() -> None:
        try:
            with lease(tmp_path, "build", "gc"):
                pass
        except LeaseError as error:
            refused.append(str(error))

    with lease(tmp_path, "build", "takedown") as outer:
        with lease(tmp_path, "build", "rewrite") as inner:
            assert inner is outer
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        with lease(tmp_path, "dataset", "rewrite"):
            outer.check()
    assert len(refused) == 1 and "takedown by process" in refused[0]


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks."""

    def flock(file: Any, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.fixture
def other_machine(tmp_path: Path) -> Path:
    """A lease that a process of another machine holds."""
    place = tmp_path / ".leases"
    place.mkdir()
    facts = {"host": "node7", "boot": "another", "pid": 4, "started": 1, "purpose": "build", "token": "t"}
    path = place / "build.json"
    path.write_text(json.dumps({**facts, "since": "2026-01-01T00:00:00+00:00"}))
    return path


def test_without_locks_a_living_process_counts_and_a_dead_one_does_not(tmp_path: Path, no_locks: None) -> None:
    with holder(tmp_path) as process:
        with pytest.raises(LeaseError, match=f"process {process.pid}"), lease(tmp_path, "build", "gc"):
            pass
        process.kill()
        process.wait()
        with lease(tmp_path, "build", "gc"):
            pass


@pytest.mark.parametrize("locks", [True, False])
def test_another_machine_counts_as_long_as_it_gives_signs_of_life(
    tmp_path: Path, other_machine: Path, locks: bool, request: pytest.FixtureRequest
) -> None:
    if not locks:
        request.getfixturevalue("no_locks")
    words = r"build by process 4 on node7 since 2026-01-01.*last sign of life \d+ s ago.* 120 s is taken over"
    with pytest.raises(LeaseError, match=words), lease(tmp_path, "build", "gc"):
        pass
    long_ago = time.time() - leases.EXPIRES - 60
    os.utime(other_machine, (long_ago, long_ago))
    with lease(tmp_path, "build", "gc"):
        assert written(tmp_path)["purpose"] == "gc"
    assert [path.name for path in (tmp_path / ".leases").iterdir()] == ["build.lock"]


def test_a_holder_notices_that_it_was_taken_for_dead(tmp_path: Path) -> None:
    with lease(tmp_path, "build", "build") as mine:
        mine.check()
        path = tmp_path / ".leases" / "build.json"
        taken = {**json.loads(path.read_text()), "host": "node7", "pid": 9, "token": "another"}
        path.write_text(json.dumps(taken))
        with pytest.raises(LeaseError, match=re.escape("build by process 9 on node7 holds the folder now")):
            mine.check()
    assert path.exists(), "what another holds is not removed"


def test_signs_of_life_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEWED", 0.02)
    with lease(tmp_path, "build", "build"):
        path = tmp_path / ".leases" / "build.json"
        os.utime(path, (1, 1))
        until = time.monotonic() + 30
        while path.stat().st_mtime < 2:
            assert time.monotonic() < until
            time.sleep(0.02)


def test_a_record_of_a_writer_that_was_killed_is_nobody(tmp_path: Path) -> None:
    (tmp_path / ".leases").mkdir()
    (tmp_path / ".leases" / "build.json").write_text('{"host": "no')
    with lease(tmp_path, "build", "build"):
        assert written(tmp_path)["pid"] == os.getpid()


def test_a_folder_that_cannot_be_written_to_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LeaseError, match="cannot be written to"), lease(tmp_path / "file", "build", "build"):
        pass
