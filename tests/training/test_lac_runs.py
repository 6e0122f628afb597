"""Both stages of LAC, and ViA: killed at random they go on as if nothing had been, and two processes are one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from tests.support.motions import Motions
from training import create_backbone, create_method
from training.data.loader import DataLoader
from training.engine import checkpoint
from training.engine.loop import fabric_of, fit
from training.engine.settings import OptimSettings, TrainSettings
from training.transforms.preprocess import Preprocess
from training.transforms.view import View

ROOT = Path(__file__).parents[2]
AUTOENCODER = {"widths": (8, 12, 16), "directions": 12, "dropout": 0.0, "people": 1}
CONTRAST = {
    "steps": 4,
    "positives": 2,
    "queue": {"size": 48, "momentum": 0.9},
    "projector": {"hidden": 16, "width": 8},
}
VIA = {"directions": 4, "queue": CONTRAST["queue"], "projector": CONTRAST["projector"], "dropout": 0.0}
STAGES = ("lac_retarget", "lac", "via")


def generator(folder: Path) -> Path:
    """An autoencoder's file, the same in every process."""
    path = folder / f"generator{os.getpid()}" / "model.safetensors"
    torch.manual_seed(3)
    made = create_backbone("skeleton_autoencoder", 0, "body13", 2, **AUTOENCODER)
    layout = {"name": "body13", "joints": made.skeleton.joints, "bones": made.skeleton.bones}
    facts = {"backbone": {"name": "skeleton_autoencoder", **AUTOENCODER}, "channels": 2, "skeleton": layout}
    checkpoint.write(path, made.state_dict(), facts)
    return path


def run(stage: str, folder: Path, name: str, fabric=None, world: int = 1, epochs: int = 1, save: float = 300.0) -> None:
    """A stage in double precision, as one of `world` processes, in batches of two whole blocks."""
    torch.manual_seed(0)
    first = stage == "lac_retarget"
    if first:
        backbone, options = create_backbone("skeleton_autoencoder", 0, "body13", 3, **AUTOENCODER), {}
    else:
        backbone = create_backbone("stgcn", 0, "body13", 2, people=1, channels_base=4, blocks=(1, 1))
        options = VIA if stage == "via" else {**CONTRAST, "generator": str(generator(folder))}
    method = create_method(stage, backbone=backbone, **options).double()
    draw = method.sample_transform(Preprocess("body13"), View(16, "weak", "body13"))
    rank = 0 if fabric is None else fabric.global_rank
    loader = DataLoader(Motions(48, 1, space=first), draw, 16 // world, seed=5, shard=(rank, world))
    optim = OptimSettings(lr=0.002, optimizer="adam", weight_decay=0.0) if first else OptimSettings(lr=0.05)
    settings = TrainSettings(
        epochs=epochs, optim=optim, log_every=1, grad_clip=None, precision="64-true", save_every=save
    )
    fit(method, loader, settings, folder / name, fabric or fabric_of("64-true"))


HEAD = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
import torch
torch.set_num_threads(1)
from tests.training.test_lac_runs import STAGES, run
"""
PROCESSES = (
    HEAD
    + """
from lightning_fabric import Fabric

def main(fabric):
    for stage in STAGES:
        run(stage, Path({folder!r}), stage + "2", fabric, 2)

if __name__ == "__main__":
    Fabric(accelerator="cpu", devices=2, precision="64-true", strategy="ddp_spawn").launch(main)
"""
)
CHILD = HEAD + "run({stage!r}, Path({folder!r}), {name!r}, epochs=6, save=0.0)\n"


def last(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read(folder / "last.safetensors")[0]


@pytest.mark.release
@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(PROCESSES.format(paths=[str(ROOT)], folder=str(tmp_path)))
    other = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, text=True)
    for stage in STAGES:
        run(stage, tmp_path, f"{stage}1")
    assert other.wait(300) == 0, other.stderr.read()
    for stage in STAGES:
        one, two = last(tmp_path / f"{stage}1"), last(tmp_path / f"{stage}2")
        assert one.keys() == two.keys()
        for key in one:
            torch.testing.assert_close(two[key], one[key], rtol=1e-7, atol=1e-9, msg=f"{stage} {key}")


@pytest.mark.release
@pytest.mark.slow
@pytest.mark.parametrize("stage", ["lac", "via"])
def test_killed_at_random_it_goes_on_bit_for_bit(stage, tmp_path):
    code = {
        name: CHILD.format(paths=[str(ROOT)], folder=str(tmp_path), stage=stage, name=name)
        for name in ("whole", "killed")
    }
    whole = subprocess.Popen([sys.executable, "-c", code["whole"]], stderr=subprocess.PIPE, text=True)
    rng = random.Random(4)
    kills = 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code["killed"]], stderr=subprocess.PIPE, text=True)
        mark = tmp_path / "killed" / "log.jsonl"
        begun = len(mark.read_text().splitlines()) if mark.exists() else 0
        while process.poll() is None:  # after some steps of its own, wherever it is then
            if mark.exists() and len(mark.read_text().splitlines()) >= begun + 2:
                time.sleep(rng.uniform(0, 0.05))
                process.send_signal(signal.SIGKILL)
                kills += 1
                process.wait()
                break
            time.sleep(0.005)
    process = subprocess.run([sys.executable, "-c", code["killed"]], stderr=subprocess.PIPE, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    assert whole.wait(300) == 0, whole.stderr.read()
    one, two = last(tmp_path / "whole"), last(tmp_path / "killed")
    assert kills and one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
