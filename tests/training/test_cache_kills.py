"""Trainings that share a cache, are killed at random and go on, end with the bytes of one that had no cache."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import tomli_w

from tests.support import motion_files
from tests.support.motion_files import TABLES
from training import config
from training.runs.train import train

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import sys
sys.path[:0] = [{root!r}]
import torch
torch.set_num_threads(1)
from training import config
from training.runs.train import train
train(config.load({file!r}, ["run.workers={workers}"]), {out!r})
"""


def start(folder, out, workers):
    code = CHILD.format(root=str(ROOT), file=str(folder / "run.toml"), workers=workers, out=str(folder / out))
    return subprocess.Popen([sys.executable, "-c", code], start_new_session=True)


def lines(path):
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.release
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_trainings_with_one_cache_killed_at_random_end_as_without(tmp_path):
    """Both at once, one with a worker process; the cache stays warm, is deleted and is torn between the kills."""
    motion_files.write(tmp_path / "motions.npz")
    own = {"epochs": 4, "cache": str(tmp_path / "cache"), "save_every": 0.0}
    tables = {**TABLES, "run": {**TABLES["run"], **own}, "data": {"train": [str(tmp_path / "motions.npz")]}}
    (tmp_path / "run.toml").write_text(tomli_w.dumps(tables))
    rng = np.random.default_rng(0)
    for between in ("warm", "deleted", "torn"):
        children = [start(tmp_path, "one", 0), start(tmp_path, "two", 1)]
        logs = [tmp_path / name / "log.jsonl" for name in ("one", "two")]
        begun, seen = time.monotonic(), [lines(log) for log in logs]
        while time.monotonic() < begun + 300 and all(child.poll() is None for child in children):
            if all(lines(log) >= before + 3 for log, before in zip(logs, seen)):
                break
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.1))
        for child in children:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        if between == "deleted":
            shutil.rmtree(tmp_path / "cache")
        elif between == "torn":
            for file in (tmp_path / "cache").rglob("*.*"):
                if file.suffix in (".data", ".index"):
                    os.truncate(file, int(file.stat().st_size * rng.uniform(0.3, 1)))
    for child in [start(tmp_path, "one", 0), start(tmp_path, "two", 1)]:
        assert child.wait(500) == 0
    tables["run"]["cache"] = "off"
    train(config.validate(tables, "test"), tmp_path / "whole")
    whole = weights(tmp_path / "whole")
    for name in ("one", "two"):
        own = weights(tmp_path / name)
        assert own.keys() == whole.keys() and all(own[key].tobytes() == whole[key].tobytes() for key in whole)
    assert list((tmp_path / "cache").rglob("*.data"))


def weights(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")
