"""The networks with their authors' weights against their own runtime, where both are here."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from dataengine import experts
from dataengine.core import registry
from dataengine.core.types import Frames
from dataengine.experts.nanodet import NORMALISATION
from dataengine.io import weights

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def parity(shared_data: Path) -> Path:
    return shared_data / "parity"


def figure(folder: Path, name: str) -> Frames:
    picture = cv2.imread(str(folder / f"figure_{name}.png"))
    assert picture is not None
    return np.ascontiguousarray(picture[None, ..., ::-1])


def needs(name: str) -> None:
    if not weights.present(name):
        pytest.skip(f"dataengine weights {name} gets them")


def test_multipose_reads_the_drawn_figure_as_its_authors_program_does(parity: Path) -> None:
    needs("movenet_multipose")
    with np.load(parity / "tfjs_movenet-multipose.npz") as saved:
        wanted = saved["Identity"][0, 0]
    with experts.create("movenet_multipose", size=320, min_score=0.0).load() as session:
        (poses,) = session.predict(figure(parity, "256x320"))
    joints, box = wanted[:51].reshape(17, 3), wanted[51:55][[1, 0, 3, 2]] * [320, 256, 320, 256]
    assert len(poses) == 1
    assert np.allclose(poses.coords[0] + 0.5, joints[:, 1::-1] * [320, 256], atol=1e-2)
    assert np.allclose(poses.scores[0], joints[:, 2], atol=1e-4)
    assert np.allclose(poses.boxes[0], [*(box - 0.5), wanted[55]], atol=1e-2)


def test_nanodet_gives_the_outputs_of_its_authors_program(parity: Path) -> None:
    needs("nanodet")
    picture = figure(parity, "416x416")
    with np.load(parity / "tfjs_nanodet.npz") as saved:
        wanted = {name: saved[name][0] for name in saved.files}
    with registry.create("detectors", "nanodet").load() as session:
        maps = session.network.heads(NORMALISATION(picture, np.float32).transpose(0, 2, 3, 1))
        (boxes,) = session.detect(picture)
    outputs = zip(("Identity", "Identity_1", "Identity_2"), ("Identity_3", "Identity_4", "Identity_5"), (8, 16, 32))
    for scores, sides, stride in outputs:
        assert np.allclose(maps[f"scores_{stride}"].reshape(-1, 80), wanted[scores], atol=1e-5)
        assert np.allclose(maps[f"boxes_{stride}"].reshape(-1, 44), wanted[sides], atol=1e-3)
    assert len(boxes) == 1 and boxes[0, 4] > 0.6
    drawn = np.argwhere((picture[0] != picture[0, 0, 0]).any(-1))
    assert boxes[0, 1] < np.median(drawn[:, 0]) < boxes[0, 3] and boxes[0, 0] < np.median(drawn[:, 1]) < boxes[0, 2]
