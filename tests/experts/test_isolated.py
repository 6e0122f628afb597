"""Isolated experts under crashes, hangs, rubbish and the death of either side."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataengine.core.errors import ComponentError, ExpertError
from dataengine.core.types import Poses
from dataengine.experts.isolation import process
from dataengine.experts.isolation.isolated import Isolated, join_poses, split_poses
from dataengine.experts.isolation.process import IsolatedProcess, script_command

WORKER = str(Path(__file__).parents[1] / "support" / "misbehaving_worker.py")
FRAMES = np.arange(2 * 6 * 8 * 3, dtype=np.uint8).reshape(2, 6, 8, 3)


def worker(deadline: float = 20.0, **options: Any) -> IsolatedProcess:
    return IsolatedProcess("test", [sys.executable, WORKER], options, deadline, start_deadline=20.0)


@pytest.fixture(scope="module")
def shared() -> Iterator[IsolatedProcess]:
    """One worker for the tests that leave it alive."""
    alive = worker()
    yield alive
    alive.close()


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No test may leave shared memory behind."""
    before = shared_memory()
    yield
    assert shared_memory() <= before


def shared_memory() -> set[str]:
    """Names in shared memory that this library could have made; other programs use it as well."""
    return {p.name for p in Path("/dev/shm").iterdir() if p.name.startswith(("psm_", "dataengine"))}


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_gone(pid: int, seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while is_alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not is_alive(pid)


def test_frames_and_arrays_arrive(shared: IsolatedProcess) -> None:
    array = np.array([[np.nan, 1.5]], np.float32)
    header, arrays = shared.ask({"x": 1}, [array, np.zeros((0, 5), np.float32)], FRAMES)
    assert header["sums"] == FRAMES.sum((1, 2, 3)).tolist()
    np.testing.assert_array_equal(arrays[0], array)
    assert arrays[1].shape == (0, 5)
    assert shared.info["hello"] == "world"


@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (3, 2, 9, 3), (5, 480, 640, 3), (1, 4, 4, 3), (0, 4, 4, 3)])
def test_frames_of_any_size_and_order(shared: IsolatedProcess, shape: tuple[int, ...]) -> None:
    frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    mirrored = frames[:, ::-1, ::-1]  # not contiguous
    header, _ = shared.ask({}, (), mirrored)
    assert header["shape"] == list(shape)
    assert header["sums"] == frames.sum((1, 2, 3)).tolist()


@pytest.mark.parametrize("do", ["print", "chatter", "write frames"])
def test_prints_and_writes_do_no_harm(shared: IsolatedProcess, do: str) -> None:
    starts = max(shared.starts, 1)
    frames = FRAMES.copy()
    assert shared.ask({"do": do}, (), frames)[0]["sums"] == FRAMES.sum((1, 2, 3)).tolist()
    np.testing.assert_array_equal(frames, FRAMES)
    assert shared.starts == starts
    assert len(shared.last_words) <= process.TAIL


@pytest.mark.parametrize(
    ("do", "message", "kind"),
    [
        ("raise", "ValueError: these frames are no good", ("expert_failed", False)),
        ("allocate", "Error", ("out_of_memory", True)),
    ],
)
def test_an_exception_is_an_answer(shared: IsolatedProcess, do: str, message: str, kind: tuple[str, bool]) -> None:
    shared.start()
    starts = shared.starts
    with pytest.raises(ExpertError, match=message) as caught:
        shared.ask({"do": do}, (), FRAMES)
    assert (caught.value.kind, caught.value.retryable) == kind
    shared.ask({})
    assert shared.starts == starts


@pytest.mark.parametrize("do", ["crash", "exit"])
def test_one_crash_costs_one_restart(tmp_path: Path, do: str) -> None:
    one = worker()
    header, _ = one.ask({"do": do, "marker": str(tmp_path / "crashed")}, (), FRAMES)
    assert header["sums"] == FRAMES.sum((1, 2, 3)).tolist()
    assert one.starts == 2
    one.close()


def test_two_crashes_are_an_error_and_the_next_request_is_not() -> None:
    one = worker()
    with pytest.raises(ExpertError, match="SIGKILL") as caught:
        one.ask({"do": "crash"}, (), FRAMES)
    assert (caught.value.kind, caught.value.retryable) == ("expert_crashed", True)
    assert "about to go" in caught.value.__notes__[0]
    assert "about" not in caught.value.detail  # details go into data sets: nothing there that varies
    assert one.starts == 2
    assert one.ask({}, (), FRAMES)[0]["sums"] == FRAMES.sum((1, 2, 3)).tolist()
    one.close()


@pytest.mark.parametrize("do", ["hang", "hang holding the lock", "stop"])
def test_a_hang_ends_at_the_deadline(do: str) -> None:
    one = worker(deadline=0.4)
    one.start()
    before = time.monotonic()
    with pytest.raises(ExpertError, match=r"0\.4 s") as caught:
        one.ask({"do": do}, (), FRAMES)
    assert (caught.value.kind, caught.value.retryable) == ("expert_timeout", True)
    assert time.monotonic() - before < 60  # it would hang for ever
    assert one.pid is None
    one.close()


def test_a_stopped_worker_does_not_block_a_long_request() -> None:
    one = worker(deadline=2.0)
    one.start()
    assert one.pid is not None
    os.kill(one.pid, signal.SIGSTOP)
    _, arrays = one.ask({}, [np.zeros(1 << 20, np.float32)])  # far more than a pipe holds
    assert len(arrays[0]) == 1 << 20
    assert one.starts == 2
    one.close()


def test_a_hang_at_the_start_is_a_timeout() -> None:
    one = IsolatedProcess("test", [sys.executable, WORKER], {"hang at start": True}, 5.0, start_deadline=2.0)
    with pytest.raises(ExpertError, match="expert_timeout"):
        one.start()
    assert one.starts == 2


@pytest.mark.parametrize("kind", ["text", "huge", "damaged", "pickle", "another", "twice"])
def test_rubbish_is_a_crash(kind: str) -> None:
    one = IsolatedProcess("test", lambda: [sys.executable, WORKER, kind, str(one._count + 1)], deadline=10.0)
    with pytest.raises(ExpertError, match="its process") as caught:
        one.ask({}, (), FRAMES)
    assert caught.value.kind == "expert_crashed"
    assert one.starts == 2
    one.close()


def test_refused_options_and_missing_programs_are_not_retried() -> None:
    one = worker(refuse=True)
    with pytest.raises(ExpertError, match="these weights are no good") as caught:
        one.start()
    assert (one.starts, caught.value.retryable) == (1, False)
    with pytest.raises(ExpertError, match="cannot be started"):
        IsolatedProcess("test", ["/no/such/program"]).start()


def test_closing_and_forgetting_end_the_process_and_leak_nothing() -> None:
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    one = worker()
    one.ask({}, (), FRAMES)
    first = one.pid
    one.close()
    one.close()
    one.ask({}, (), FRAMES)
    second = one.pid
    with pytest.raises(ExpertError):
        one.ask({"do": "crash"}, (), FRAMES)
    del one
    gc.collect()
    assert first and second and wait_gone(first) and wait_gone(second)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


PARENT = """
import sys, threading
sys.path.insert(0, {folder!r})
import numpy as np
from dataengine.experts.isolation.process import IsolatedProcess
one = IsolatedProcess("test", [sys.executable, {worker!r}], deadline=100.0)
print(one.ask({{"do": "pid"}})[0]["pid"], flush=True)
one.ask({{"do": {do!r}}}, (), np.zeros((1, 4, 4, 3), np.uint8))
"""


@pytest.mark.parametrize("do", ["hang", "hang holding the lock"])
def test_the_worker_dies_with_its_host(do: str) -> None:
    folder = str(Path(process.__file__).parents[3])
    code = PARENT.format(folder=folder, worker=WORKER, do=do)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        time.sleep(0.3)  # into the hang
        assert is_alive(pid)
        parent.send_signal(signal.SIGKILL)
        assert wait_gone(pid)


def test_a_thread_that_ends_does_not_take_the_worker_along() -> None:
    import threading

    one = worker()
    thread = threading.Thread(target=one.start)
    thread.start()
    thread.join()
    time.sleep(0.2)
    one.ask({}, (), FRAMES)
    assert one.starts == 1
    one.close()


def test_full_hd_frames_travel_fast(shared: IsolatedProcess) -> None:
    frames = np.zeros((8, 1080, 1920, 3), np.uint8)
    travelled, copied = [], []
    for _ in range(5):
        before = time.perf_counter()
        assert shared.ask({"do": "nothing"}, (), frames)[0] == {"id": shared._count, "arrays": 0}
        between = time.perf_counter()
        frames.copy()
        travelled.append(between - before)
        copied.append(time.perf_counter() - between)

    assert min(travelled) < 20 * min(copied)  # about as quick as a copy on an idle machine


def test_uv_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("UV", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ExpertError, match="pip install uv"):
        script_command(Path("some_worker.py"))


def test_uv_failing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "uv"
    fake.write_text("#!/bin/sh\necho 'no interpreter found for Python >=3.11, <3.13' >&2\nexit 2\n")
    fake.chmod(0o755)
    monkeypatch.setenv("UV", str(fake))
    with pytest.raises(ExpertError, match="no interpreter found") as caught:
        script_command(Path("some_worker.py"))
    assert not caught.value.retryable


def test_poses_survive_joining_and_splitting() -> None:
    rng = np.random.default_rng(0)
    poses = [
        Poses(*(rng.random((m, *shape)).astype(np.float32) for shape in ((13, 2), (13,), (5,))))
        for m in (2, 0, 0, 1)
    ]  # fmt: skip
    header, arrays = join_poses(poses, 13)
    for given, back in zip(poses, split_poses(header, arrays, 4, 13), strict=True):
        np.testing.assert_array_equal(given.coords, back.coords)
        np.testing.assert_array_equal(given.boxes, back.boxes)
    assert split_poses(*join_poses([], 13), 0, 13) == []
    with pytest.raises(ExpertError, match="5 frames of 13"):
        split_poses(header, arrays, 5, 13)


def test_any_registered_expert_runs_isolated() -> None:
    from dataengine.core import registry
    from dataengine.rendering import render_clip

    frames = render_clip(3, 3, condition="clean", num_people=1).frames
    here, there = (
        registry.create("experts", "synthetic_bottomup", {"max_people": 2}),
        Isolated("synthetic_bottomup", {"max_people": 2}),
    )
    assert (there.skeleton, there.needs_boxes, there.weights()) == (here.skeleton, here.needs_boxes, here.weights())
    assert pickle.loads(pickle.dumps(there)) == there  # noqa: S301, bytes of our own making
    with here.load() as own, there.load() as isolated:
        for a, b in zip(own.predict(frames), isolated.predict(frames), strict=True):
            np.testing.assert_array_equal(a.coords, b.coords)
            np.testing.assert_array_equal(a.scores, b.scores)
        assert isolated.predict(frames[:0]) == []
    boxes = [np.array([[10, 10, 200, 200, 1.0]], np.float32), np.zeros((0, 5)), np.zeros((0, 5))]
    with Isolated("synthetic_topdown").load() as boxed:
        assert [len(p) for p in boxed.predict(frames, boxes)][1:] == [0, 0]


def test_experts_with_a_memory_and_unknown_ones_are_not_wrapped() -> None:
    with pytest.raises(ComponentError, match="remembers"):
        Isolated("mediapipe")
    with pytest.raises(ComponentError, match="did you mean 'synthetic_topdown'"):
        Isolated("synthetic_topdwn")
