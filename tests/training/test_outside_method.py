"""A method of several networks, with partners, a head per frame and a trained text encoder, from another package."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.support.motions import CLASSES, Motions
from tests.support.plugins import OUTSIDE, install
from training import config as configs
from training.engine import checkpoint
from training.runs.run import load_run
from training.runs.train import train

ROOT = Path(__file__).parents[2]
ENTRY_POINTS = "[training.methods]\ntwo_networks = outside.two_networks:TwoNetworks\n"
FRAMES = 20


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The package installed, and a file of 6 motions on 4 bodies with captions."""
    install(tmp_path / "site", "mine", ENTRY_POINTS, OUTSIDE.parent, monkeypatch)
    clips = Motions(24, 1).clips
    motion, body = np.divmod(np.arange(24), 4)
    np.savez(
        tmp_path / "data.npz",
        keypoints=np.stack([clip.keypoints[:, :FRAMES] for clip in clips]),
        label=motion % 4,
        label_names=np.array(CLASSES),
        motion=motion,
        body=body,
        caption=np.array([f"somebody can {CLASSES[k % 4]}" for k in motion]),
        split=np.array(["train"] * 24),
        joint_names=np.array(Motions(1).skeleton.joints),
    )
    return tmp_path


def tables(folder: Path, **run) -> dict:
    return {
        "run": {"epochs": 3, "batch": 8, "workers": 0, "log_every": 1, "probe_every": 1, "tensorboard": False, **run}
        | {"cache": "off", "floors": False},
        "data": {"train": [str(folder / "data.npz")], "val": [str(folder / "data.npz")], "val_split": ""},
        "preprocess": {"people": 1},
        "view": {"frames": 16, "steps": "weak"},
        "backbone": {"name": "stgcn", "channels_base": 4, "blocks": [1, 1]},
        "method": {"name": "two_networks"},
        "optim": {
            "lr": 0.02,
            "groups": {
                "text": {"lr": 0.5, "schedule": "warm_restarts", "restart_every": 1.0},
                "decoder": {"schedule": "constant", "weight_decay": 0.0},
            },
        },
    }


def made(folder: Path, **run):
    return configs.validate(tables(folder, **run), "the test")


def test_it_is_trained_stopped_and_gone_on_as_one_run(package):
    whole = train(made(package), package / "whole")
    log = whole.history.log
    assert whole.history.steps == 9 and np.isfinite(whole.history.losses).all()
    assert {"part_retargeting", "part_time", "part_caption", "lr_text", "lr_decoder"} <= log[-2].keys()
    probes = [line["probe_retargeting"] for line in log if "probe_retargeting" in line]
    assert len(probes) == 3 and probes[-1] < probes[0]
    train(made(package), package / "run", stop_after=4)
    train(made(package), package / "run")
    for name in ("model", "decoder", "text", "last"):
        one, two = ((package / run / f"{name}.safetensors").read_bytes() for run in ("whole", "run"))
        assert one == two, name
    before = checkpoint.read(package / "whole" / "text.safetensors")[0]
    run = load_run(package / "whole")
    assert list(run.method.networks) == ["backbone", "decoder", "text"]
    assert torch.equal(run.method.text.table.weight, before["table.weight"])


CHILD = """
import sys
sys.path[:0] = {paths!r}
import json, torch
torch.set_num_threads(1)
from training import config as configs
from training.runs.train import train
if __name__ == "__main__":
    train(configs.validate(json.loads({tables!r}), "the test"), {folder!r}, device="cpu")
"""


def child(package: Path, folder: Path, **run) -> subprocess.Popen:
    script = package / f"{folder.name}.py"
    paths = [str(ROOT), str(OUTSIDE.parent), str(package / "site")]
    script.write_text(CHILD.format(paths=paths, tables=json.dumps(tables(package, **run)), folder=str(folder)))
    return subprocess.Popen([sys.executable, str(script)], start_new_session=True, cwd=ROOT)


def losses(folder: Path) -> list[float]:
    lines = (folder / "log.jsonl").read_text().splitlines() if (folder / "log.jsonl").exists() else []
    return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]


@pytest.mark.slow
def test_killed_it_goes_on_as_the_same_run(package):
    train(made(package, save_every=0.0), package / "whole")
    begun, process = time.monotonic(), child(package, package / "run", save_every=0.0)
    path = package / "run" / "log.jsonl"
    while process.poll() is None and time.monotonic() < begun + 240:
        if path.exists() and len(path.read_text().splitlines()) > 3:
            os.killpg(process.pid, signal.SIGKILL)
            break
        time.sleep(0.02)
    process.wait()
    train(made(package, save_every=0.0), package / "run")
    names = ("last", "model", "decoder", "text")
    whole, run = (
        [(package / folder / f"{name}.safetensors").read_bytes() for name in names] for folder in ("whole", "run")
    )
    assert whole == run and losses(package / "run") == losses(package / "whole")


@pytest.mark.release
@pytest.mark.slow
def test_two_processes_are_one(package):
    """Weights, statistics and optimiser after an epoch, in double precision."""
    train(made(package, epochs=1, precision="64-true"), package / "one", device="cpu")
    process = child(package, package / "two", epochs=1, precision="64-true", devices=2)
    assert process.wait(280) == 0
    one, two = (checkpoint.read(package / name / "last.safetensors")[0] for name in ("one", "two"))
    assert one.keys() == two.keys() and len(losses(package / "two")) == 3
    assert losses(package / "two") == pytest.approx(losses(package / "one"), rel=1e-6)
    for key in one:
        torch.testing.assert_close(two[key], one[key], rtol=1e-6, atol=1e-8, msg=key)
