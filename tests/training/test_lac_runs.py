"""Both stages of LAC, and ViA: killed at random they go on as if nothing had been, and two processes are one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from tests.support.method_runs import check_kills, check_two_processes, train_double
from tests.support.motions import Motions
from training import create_backbone, create_method
from training.engine import checkpoint
from training.engine.settings import OptimSettings
from training.transforms.preprocess import Preprocess
from training.transforms.view import View

AUTOENCODER = {"widths": (8, 12, 16), "directions": 12, "dropout": 0.0, "people": 1}
CONTRAST = {
    "steps": 4,
    "positives": 2,
    "queue": {"size": 48, "momentum": 0.9},
    "projector": {"hidden": 16, "width": 8},
}
VIA = {"directions": 4, "queue": CONTRAST["queue"], "projector": CONTRAST["projector"], "dropout": 0.0}


def generator(folder: Path) -> Path:
    """An autoencoder's file, the same in every process."""
    path = folder / f"generator{os.getpid()}" / "model.safetensors"
    torch.manual_seed(3)
    made = create_backbone("skeleton_autoencoder", 0, "body13", 2, **AUTOENCODER)
    layout = {"name": "body13", "joints": made.skeleton.joints, "bones": made.skeleton.bones}
    facts = {"backbone": {"name": "skeleton_autoencoder", **AUTOENCODER}, "channels": 2, "skeleton": layout}
    checkpoint.write(path, made.state_dict(), facts)
    return path


def run(stage: str, folder: Path, fabric=None, world: int = 1, epochs: int = 1, save: float = 300.0) -> None:
    """A stage in double precision, as one of `world` processes, in batches of two whole blocks."""
    torch.manual_seed(0)
    first = stage == "lac_retarget"
    if first:
        backbone, options = create_backbone("skeleton_autoencoder", 0, "body13", 3, **AUTOENCODER), {}
    else:
        backbone = create_backbone("stgcn", 0, "body13", 2, people=1, channels_base=4, blocks=(1, 1))
        options = VIA if stage == "via" else {**CONTRAST, "generator": str(generator(folder.parent))}
    method = create_method(stage, backbone=backbone, **options).double()
    draw = method.sample_transform(Preprocess("body13"), View(16, "weak", "body13"))
    optim = OptimSettings(lr=0.002, optimizer="adam", weight_decay=0.0) if first else None
    train_double(method, draw, Motions(48, 1, space=first), 16, folder, fabric, world, epochs, save, optim)


@pytest.mark.release
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_processes_are_one(tmp_path):
    check_two_processes(__name__, run, ("lac_retarget", "lac", "via"), tmp_path)


@pytest.mark.release
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("stage", ["lac", "via"])
def test_killed_at_random_it_goes_on_bit_for_bit(stage, tmp_path):
    check_kills(__name__, stage, tmp_path)
