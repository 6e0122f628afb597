"""Two trainings in one folder would write into each other's checkpoints: the second is refused."""

from __future__ import annotations

import functools
import os
import signal
import time

import pytest

torch = pytest.importorskip("torch")

from dataengine.core.errors import TrainingError
from dataengine.io import storage
from tests.support import motion_files
from tests.training.test_runs import made
from training.runs import train as training


def test_a_folder_is_held_by_one_until_it_ends(tmp_path):
    with storage.alone(tmp_path), pytest.raises(BlockingIOError), storage.alone(tmp_path, 0.0):
        pass
    with storage.alone(tmp_path, 0.0):
        assert not list(tmp_path.iterdir())
    ready, told = os.pipe()
    owner = os.fork()
    if not owner:
        with storage.alone(tmp_path):
            if os.fork():
                os.write(told, b"1")
                time.sleep(60)
            else:  # lives on for a while, as the workers of a loader may, and holds nothing
                time.sleep(10)
        os._exit(0)
    os.read(ready, 1)
    with pytest.raises(BlockingIOError), storage.alone(tmp_path, 0.0):
        pass
    os.kill(owner, signal.SIGKILL)
    os.waitpid(owner, 0)
    with storage.alone(tmp_path, 0.0):
        pass


def test_a_second_training_in_a_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "alone", functools.partial(storage.alone, patience=0.0))
    config = made(motion_files.write(tmp_path / "motions.npz"))
    (tmp_path / "run").mkdir()
    with storage.alone(tmp_path / "run"), pytest.raises(TrainingError, match="another process trains in this folder"):
        training.train(config, tmp_path / "run", stop_after=1)
    assert not list((tmp_path / "run").iterdir())
    training.train(config, tmp_path / "run", stop_after=1)
