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
from training.runs.fuse import train_streams
from training.runs.run import load_run
from training.runs.seeds import train_seeds


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


def test_a_folder_of_several_runs_is_no_run(tmp_path):
    config = made(motion_files.write(tmp_path / "motions.npz"), run={"epochs": 1})
    training.train(config, tmp_path / "runs" / "seed0", stop_after=1)
    with pytest.raises(TrainingError, match=r"runs holds runs \(seed0\) and is none itself: give another --out"):
        training.train(config, tmp_path / "runs")
    with pytest.raises(TrainingError, match=r"runs is no run: .*give one of the runs that it holds, such as .*seed0$"):
        load_run(tmp_path / "runs")
    for several in (
        lambda: train_seeds(config, tmp_path / "runs" / "seed0", 2),
        lambda: train_streams(config, tmp_path / "runs" / "seed0", ["joint", "motion"]),
    ):
        with pytest.raises(TrainingError, match="seed0 is a run itself, and several runs need a folder of their own"):
            several()


def test_a_network_is_read_from_the_checkpoint_before_where_the_latest_is_torn(tmp_path):
    config = made(motion_files.write(tmp_path / "motions.npz"), run={"epochs": 1})
    for step in (1, 2):
        training.train(config, tmp_path / "run", stop_after=step)
    last = tmp_path / "run" / "last.safetensors"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.warns(UserWarning, match=r"not a whole checkpoint.*; taken is previous\.safetensors, of step 1"):
        assert load_run(tmp_path / "run").step == 1
    last.unlink()
    with pytest.warns(UserWarning, match=r"last\.safetensors.*; taken is previous\.safetensors, of step 1"):
        assert load_run(tmp_path / "run").step == 1
