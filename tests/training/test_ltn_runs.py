"""LTN: killed at random it goes on as if nothing had been, and two processes are one, with MoCo and with BYOL."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from tests.support.pictures import Pictures
from training import create_backbone, create_method
from training.data.loader import DataLoader
from training.data.rgb import PICTURES
from training.engine import checkpoint
from training.engine.loop import fabric_of, fit
from training.engine.settings import OptimSettings, TrainSettings
from training.transforms.rgb import picture_preprocess
from training.transforms.view import View

ROOT = Path(__file__).parents[2]
OPTIONS = {
    "positives": 3,
    "stride": 2,
    "queue": {"size": 48, "momentum": 0.9},
    "projector": {"hidden": 16, "width": 8},
    "time": {"hidden": 16, "directions": 8},
}
FRAMEWORKS = ("moco", "byol")


def run(framework: str, folder: Path, name: str, fabric=None, world: int = 1, epochs: int = 1, save: float = 300.0):
    """A run in double precision, as one of `world` processes."""
    torch.manual_seed(0)
    backbone = create_backbone("slow_r50", 0, PICTURES, 3, channels_base=2, depths=(1, 1, 1, 1))
    method = create_method("ltn", backbone=backbone, framework=framework, **OPTIONS).double()
    draw = method.sample_transform(picture_preprocess(PICTURES, (16, 16)), View(4, "none"))
    rank = 0 if fabric is None else fabric.global_rank
    loader = DataLoader(Pictures(24), draw, 8 // world, seed=5, shard=(rank, world))
    settings = TrainSettings(
        epochs=epochs,
        optim=OptimSettings(lr=0.05),
        log_every=1,
        grad_clip=None,
        precision="64-true",
        save_every=save,
    )
    fit(method, loader, settings, folder / name, fabric or fabric_of("64-true"))


HEAD = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
import torch
torch.set_num_threads(1)
from tests.training.test_ltn_runs import FRAMEWORKS, run
"""
PROCESSES = (
    HEAD
    + """
from lightning_fabric import Fabric

def main(fabric):
    for framework in FRAMEWORKS:
        run(framework, Path({folder!r}), framework + "2", fabric, 2)

if __name__ == "__main__":
    Fabric(accelerator="cpu", devices=2, precision="64-true", strategy="ddp_spawn").launch(main)
"""
)
CHILD = HEAD + "run('moco', Path({folder!r}), {name!r}, epochs=8, save=0.0)\n"


def last(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read(folder / "last.safetensors")[0]


@pytest.mark.release
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_are_one(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(PROCESSES.format(paths=[str(ROOT)], folder=str(tmp_path)))
    other = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, text=True)
    for framework in FRAMEWORKS:
        run(framework, tmp_path, f"{framework}1")
    assert other.wait(500) == 0, other.stderr.read()
    for framework in FRAMEWORKS:
        one, two = last(tmp_path / f"{framework}1"), last(tmp_path / f"{framework}2")
        assert one.keys() == two.keys()
        for key in one:
            torch.testing.assert_close(two[key], one[key], rtol=1e-7, atol=1e-9, msg=f"{framework} {key}")


@pytest.mark.release
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_random_it_goes_on_bit_for_bit(tmp_path):
    def child(name: str) -> subprocess.Popen[str]:
        code = CHILD.format(paths=[str(ROOT)], folder=str(tmp_path), name=name)
        return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)

    whole, rng, kills = child("whole"), random.Random(4), 0
    for _ in range(3):
        process = child("killed")
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
    process = child("killed")
    assert process.wait(300) == 0, process.stderr.read()
    assert whole.wait(300) == 0, whole.stderr.read()
    one, two = last(tmp_path / "whole"), last(tmp_path / "killed")
    assert kills and one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
