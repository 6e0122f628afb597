"""A training in several processes is the training in one, however they are started."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import tomli_w

from dataengine.core.errors import TrainingError
from tests.support import motion_files
from tests.support.motion_files import TABLES
from training import config, distributed
from training.engine import checkpoint
from training.runs.fuse import train_streams
from training.runs.seeds import train_seeds

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ["-m", "training.cli", "train", "small.toml", "--data", "motions.npz", "--device", "cpu"]


def started(folder, *command):
    """A process in a folder, with one thread."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *command], cwd=folder, env=environment, **pipes)


def torchrun(folder, nodes, each, rank, port, *more):
    """What torchrun starts on one machine of `nodes`."""
    options = [f"--nnodes={nodes}", f"--nproc-per-node={each}", f"--node-rank={rank}"]
    options += ["--master-addr=127.0.0.1", f"--master-port={port}"]
    return started(folder, "-m", "torch.distributed.run", *options, *COMMAND, *more)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.release
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_processes_are_one_however_they_are_started(tmp_path):
    """By the command itself, by torchrun, and by torchrun on two machines; in double precision."""
    motion_files.write(tmp_path / "motions.npz")
    tables = {**TABLES, "run": {**TABLES["run"], "name": "small", "precision": "64-true", "epochs": 1}}
    (tmp_path / "small.toml").write_text(tomli_w.dumps(tables))
    alone = started(tmp_path, *COMMAND, "--out", "one")
    itself = started(tmp_path, *COMMAND, "--out", "itself", "--set", "run.devices=2")
    by_torchrun = torchrun(tmp_path, 1, 2, 0, free_port(), "--out", "torchrun")
    said = {}
    for name, process in (("one", alone), ("itself", itself), ("torchrun", by_torchrun)):
        said[name] = process.communicate(timeout=500)
        assert process.returncode == 0, said[name][1]
    port = free_port()
    machines = [torchrun(tmp_path, 2, 1, rank, port, "--out", "machines") for rank in range(2)]
    for machine in machines:
        _, error = machine.communicate(timeout=500)
        assert machine.returncode == 0, error
    whole = checkpoint.read(tmp_path / "one" / "model.safetensors")[0]
    for name in ("itself", "torchrun", "machines"):
        own = checkpoint.read(tmp_path / name / "model.safetensors")[0]
        assert own.keys() == whole.keys()
        for key in whole:
            torch.testing.assert_close(own[key], whole[key], rtol=1e-6, atol=1e-9, msg=f"{name} {key}")
    assert said["torchrun"][0].count("steps, 1 epochs") == said["itself"][0].count("steps, 1 epochs") == 1


def test_what_torchrun_says(monkeypatch, tmp_path):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    assert distributed.launched() is None and distributed.is_first()
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "RANK": "5"}.items():
        monkeypatch.setenv(name, value)
    assert distributed.launched() == (2, 4) and not distributed.is_first()
    small = config.validate({**TABLES, "data": {"train": ["x.npz"]}}, "test")
    with pytest.raises(TrainingError, match="torchrun started this"):
        train_seeds(small, tmp_path, 2)
    with pytest.raises(TrainingError, match="torchrun started this"):
        train_streams(small, tmp_path, ("joint", "bone"))
