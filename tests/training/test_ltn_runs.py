"""LTN: killed at random it goes on as if nothing had been, and two processes are one, with MoCo and with BYOL."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from tests.support.method_runs import check_kills, check_two_processes, train_double
from tests.support.pictures import Pictures
from training import create_backbone, create_method
from training.data.rgb import PICTURES
from training.transforms.rgb import picture_preprocess
from training.transforms.view import View

OPTIONS = {
    "positives": 3,
    "stride": 2,
    "queue": {"size": 48, "momentum": 0.9},
    "projector": {"hidden": 16, "width": 8},
    "time": {"hidden": 16, "directions": 8},
}


def run(framework: str, folder: Path, fabric=None, world: int = 1, epochs: int = 1, save: float = 300.0) -> None:
    """A run in double precision, as one of `world` processes."""
    torch.manual_seed(0)
    backbone = create_backbone("slow_r50", 0, PICTURES, 3, channels_base=2, depths=(1, 1, 1, 1))
    method = create_method("ltn", backbone=backbone, framework=framework, **OPTIONS).double()
    draw = method.sample_transform(picture_preprocess(PICTURES, (16, 16)), View(4, "none"))
    train_double(method, draw, Pictures(24), 8, folder, fabric, world, epochs, save)


@pytest.mark.release
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_processes_are_one(tmp_path):
    check_two_processes(__name__, run, ("moco", "byol"), tmp_path)


@pytest.mark.release
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_random_it_goes_on_bit_for_bit(tmp_path):
    check_kills(__name__, "moco", tmp_path)
