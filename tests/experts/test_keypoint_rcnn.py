"""Keypoint R-CNN: the same people as torchvision's own network finds with the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")

from dataengine.core.errors import ComponentError
from dataengine.experts import create
from dataengine.experts.checkpoints import read_state
from dataengine.experts.keypoint_rcnn import decode, empty_network
from tests.support.torch_setup import one_thread, random_weights, scene

WIDTH, HEIGHT = 320, 256


@pytest.fixture(scope="module")
def expert(tmp_path_factory: pytest.TempPathFactory) -> Any:
    one_thread()
    options = {"width": WIDTH, "height": HEIGHT, "threshold": 0.6, "min_score": 0.0, "min_mean": 0.0}
    return random_weights.keypoint_rcnn(tmp_path_factory.mktemp("rcnn"), **options)


def test_as_torchvision(expert: Any) -> None:
    import torch

    picture = scene(WIDTH, HEIGHT)
    (mine,) = expert.load().infer(picture[None])
    network = empty_network("the test").eval()
    network.load_state_dict(read_state(Path(expert.checkpoint)))
    network.roi_heads.score_thresh, network.roi_heads.detections_per_img = 0.6, 8
    network.transform.min_size, network.transform.max_size = (HEIGHT,), WIDTH
    with torch.inference_mode():
        (theirs,) = network([torch.from_numpy(picture).permute(2, 0, 1) / 255])
    assert len(mine) == len(theirs["boxes"]) > 3
    np.testing.assert_allclose(mine[:, 4], theirs["scores"].numpy(), atol=1e-4)
    np.testing.assert_allclose(mine[:, :4] + 0.5, theirs["boxes"].numpy(), atol=0.02)
    joints, points = mine[:, 5:].reshape(-1, 17, 3), theirs["keypoints"].numpy()
    away = np.abs(joints[..., :2] + 0.5 - points[..., :2])
    # theirs lies on whole pixels of the box, ours on eighths of a cell; in boxes smaller than the map theirs skips
    # cells
    large = (mine[:, 2:4] - mine[:, :2] > 56).all(-1)
    assert large.sum() >= 2
    # random maps have other places almost as likely as the best
    assert np.mean((away[large] < 1).all(-1)) > 0.6
    assert np.median(away[large]) < 0.5


def test_a_peak_between_cells_is_found() -> None:
    import torch

    at = np.array([[20.3, 30.7], [5.0, 50.2]])
    y, x = np.mgrid[:56, :56]
    logits = 8 - ((x - at[:, 0, None, None]) ** 2 + (y - at[:, 1, None, None]) ** 2) / 2
    box = torch.tensor([[10.0, 20.0, 66.0, 132.0]])
    got = decode(torch.from_numpy(logits[None].astype(np.float32)), box).numpy()[0]
    np.testing.assert_allclose((got[:, :2] + 0.5 - [10, 20]) / [1, 2] - 0.5, at, atol=0.2)
    assert (got[:, 2] > 0.7).all()


def test_pictures_are_multiples_of_32() -> None:
    with pytest.raises(ComponentError, match="width = 500: a multiple of 32"):
        create("keypoint_rcnn", width=500)
