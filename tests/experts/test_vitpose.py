"""ViTPose and RT-DETR: the same answers as the image processors of transformers give with the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from dataengine.core.errors import WeightsError
from dataengine.experts import vitpose as module
from tests.support.torch_setup import BOXES, one_thread, random_weights, scene


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    one_thread()
    return tmp_path_factory.mktemp("transformers")


@pytest.mark.parametrize(
    "model",
    ["plus-small", pytest.param("base-simple", marks=pytest.mark.slow), pytest.param("base", marks=pytest.mark.slow)],
)
def test_as_the_published_processing(model: str, folder: Path) -> None:
    import torch
    from transformers import VitPoseImageProcessor

    expert: Any = random_weights.vitpose(folder, model, min_score=0.0, min_mean=0.0)
    picture = scene()
    session = expert.load()
    inputs = session.preprocess(picture[None], [BOXES])
    mine = np.stack(session.infer(inputs.pixels))
    coords = np.stack([inputs.to_frame(n, one[:, :2]) for n, one in enumerate(mine)])

    processor = VitPoseImageProcessor()
    boxes = np.concatenate([BOXES[:, :2], BOXES[:, 2:] - BOXES[:, :2]], 1)
    pixels = processor(picture, boxes=[boxes], return_tensors="pt").pixel_values
    given = (
        torch.from_numpy(inputs.pixels).permute(0, 3, 1, 2) / 255 - torch.tensor(module.MEAN / 255).view(3, 1, 1)
    ) / torch.tensor(module.STD / 255).view(3, 1, 1)
    # theirs interpolates more finely than a 32nd of a pixel, ours does not
    assert float((given - pixels).abs().mean()) < 0.02

    which = {"dataset_index": torch.zeros(len(boxes), dtype=torch.long)} if "plus" in model else {}
    network = session.network.module
    with torch.inference_mode():
        outputs = network(pixel_values=given.float(), **which)
    (found,) = processor.post_process_pose_estimation(outputs, boxes=[boxes])
    theirs, scores = np.stack([f["keypoints"].numpy() for f in found]), np.stack([f["scores"].numpy() for f in found])
    seen = scores > 0
    assert seen.mean() > 0.5
    np.testing.assert_allclose(mine[..., 2][seen], scores[seen], atol=1e-4)
    assert np.isnan(coords[~seen]).all()
    # a flat random map sends the Newton step anywhere; where it stays within three cells both agree
    steady = seen & (np.abs(mine[..., :2] - expert_peaks(network, given.float(), which)).max(-1) < 12)
    assert steady.mean() > 0.5
    assert np.linalg.norm(coords - theirs, axis=-1)[steady].max() < 0.02


def expert_peaks(network: Any, pixels: Any, which: dict[str, Any]) -> np.ndarray:
    """Peaks of the maps in pixels of the picture."""
    import torch

    with torch.inference_mode():
        heat = network(pixel_values=pixels, **which).heatmaps.numpy()
    h, w = heat.shape[2:]
    y, x = np.unravel_index(heat.reshape(*heat.shape[:2], -1).argmax(-1), (h, w))
    return np.stack([x * (module.WIDTH - 1) / (w - 1), y * (module.HEIGHT - 1) / (h - 1)], -1)


def test_a_map_with_one_gaussian_is_found_to_a_hundredth_of_a_cell() -> None:
    import torch

    at = np.array([[20.3, 30.7], [5.0, 60.2], [40.45, 10.1]])
    y, x = np.mgrid[:64, :48]
    heat = np.exp(-((x - at[:, 0, None, None]) ** 2 + (y - at[:, 1, None, None]) ** 2) / 8)
    got = module.decode(torch.from_numpy(heat[None].astype(np.float32)), (48, 64)).numpy()[0]
    np.testing.assert_allclose(got[:, :2], at, atol=0.01)


def test_mirrored_maps_are_averaged(folder: Path) -> None:
    """A network that sees a picture and its mirror image gives mirrored joints with left and right exchanged."""
    expert: Any = random_weights.vitpose(folder, "plus-small", flip=True)
    picture = scene(192, 256)[None]
    session = expert.load()
    there, back = session.infer(picture)[0], session.infer(np.ascontiguousarray(picture[:, :, ::-1]))[0]
    order = list(module.layout_of("coco17").flip)
    np.testing.assert_allclose(there[:, 2], back[order, 2], atol=1e-4)


def test_weights_of_another_network_are_refused(folder: Path) -> None:
    small: Any = random_weights.vitpose(folder, "plus-small")
    with pytest.raises(WeightsError, match="not of ViTPose base"):
        module.VitPose(checkpoint=small.checkpoint, model="base").load()


def test_rtdetr_as_the_published_processing(folder: Path) -> None:
    import torch
    from transformers import RTDetrImageProcessor

    detector: Any = random_weights.rtdetr(folder, threshold=0.0, max_people=5)
    picture = scene(400, 300)
    session = detector.load()
    inputs = session.preprocess(picture[None])
    (mine,) = session.infer(inputs.pixels)
    processor = RTDetrImageProcessor()
    pixels = processor(picture, return_tensors="pt").pixel_values
    given = torch.from_numpy(inputs.pixels).permute(0, 3, 1, 2) / 255
    assert float((given - pixels).abs().mean()) < 0.005
    with torch.no_grad():
        outputs = session.network.module(pixel_values=given)
    outputs.logits[..., 1:] = -20
    (found,) = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=[(300, 400)])
    np.testing.assert_allclose(mine[:, 4], found["scores"][:5].numpy(), atol=1e-5)
    corners = inputs.to_frame(0, mine[:, :4].reshape(-1, 2, 2)).reshape(-1, 4)
    # theirs counts from the edge of the first pixel
    np.testing.assert_allclose(corners + 0.5, found["boxes"][:5].numpy(), atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["v2_r18vd", "r34vd", "r50vd"])
def test_the_other_detectors_load_and_look(model: str, folder: Path) -> None:
    detector: Any = random_weights.rtdetr(folder, model, threshold=0.0, max_people=3)
    (boxes,) = detector.load().detect(scene()[None])
    assert boxes.shape[1] == 5
    assert len(boxes) <= 3
