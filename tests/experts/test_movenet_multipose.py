"""Expert and detector `movenet_multipose`: people planted in its maps are found as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dataengine import experts
from dataengine.core import registry
from dataengine.core.errors import ComponentError, WeightsError
from dataengine.core.types import Float
from dataengine.experts import movenet_multipose as multipose
from dataengine.experts.duplicates import distinct
from dataengine.experts.preprocess import fit_longer
from tests.support.head_files import detector, pixelwise
from tests.support.head_files import multipose as random_file

HEIGHT, WIDTH = 48, 64


def blank() -> dict[str, Float]:
    return {name: np.zeros((HEIGHT, WIDTH, n), np.float32) for name, n in multipose.HEADS.items()}


def plant(maps: dict[str, Float], joints: Float, score: float = 0.8, off: float = 0.0) -> None:
    """A person with joints (17, 2) x, y in pixels of the image; its centre expects the joints `off` cells away."""
    cells = (joints + 0.5) / multipose.STRIDE
    low, high = cells.min(0) - 1, cells.max(0) + 1
    column, row = ((low + high) / 2).astype(int)
    maps["center"][row, column] = 0.9
    maps["box_offset"][row, column] = (low + high)[::-1] / 2 - [row, column]
    maps["box_scale"][row, column] = (high - low)[::-1]
    maps["regress"][row, column] = (cells[:, ::-1] - [row, column] + off).ravel()
    for j, (x, y) in enumerate(cells):
        maps["heatmap"][int(y), int(x), j] = score
        maps["offset"][int(y), int(x), 2 * j : 2 * j + 2] = y - int(y), x - int(x)


def figure(left: float, seed: int = 0) -> Float:
    rng = np.random.default_rng(seed)
    return np.stack([rng.uniform(left, left + 60, 17), rng.uniform(20, 170, 17)], -1)


def test_planted_people_are_found() -> None:
    maps, people = blank(), [figure(20, 1), figure(160, 2)]
    plant(maps, people[0], 0.9)
    plant(maps, people[1], 0.6, off=0.4)
    found = multipose.decode(maps, 0.127, 20)
    assert len(found) == 2
    for one, true in zip(found, people, strict=True):
        joints = one[5:].reshape(17, 3)
        assert np.allclose(joints[:, :2], true, atol=1e-3)
        assert (one[:2] < true.min(0)).all() and (one[2:4] > true.max(0)).all()
    assert found[0, 4] > found[1, 4] > 0.3


def test_each_of_two_overlapping_people_has_its_own_scores() -> None:
    """The joints of one lie within the box of the other, and score much higher."""
    maps, near, far = blank(), figure(100, 3), figure(100, 3) + [24, 0]
    plant(maps, near, 0.9)
    plant(maps, far, 0.3)
    first, second = multipose.decode(maps, 0.127, 20)[:, 5:].reshape(-1, 17, 3)
    assert np.allclose(first[:, :2], near, atol=1e-3) and np.allclose(second[:, :2], far, atol=1e-3)
    assert first[:, 2].min() > 0.8 and second[:, 2].max() < 0.35


def test_more_than_six_people_are_found() -> None:
    maps = blank()
    people = [np.stack([np.linspace(x, x + 12, 17), np.linspace(y, y + 40, 17)], -1) for y in (10, 100)
              for x in range(10, 230, 45)]  # fmt: skip
    for one in people:
        plant(maps, one)
    assert len(multipose.decode(maps, 0.127, 20)) == 10
    assert len(multipose.decode(maps, 0.127, 4)) == 4


def test_one_person_with_two_centres_is_found_once() -> None:
    maps, person = blank(), figure(60, 4)
    plant(maps, person)
    (row, column), = np.argwhere(maps["center"][..., 0] > 0)  # fmt: skip
    other = (row + 4, column)
    maps["center"][other] = 0.5
    for name in ("box_offset", "regress"):
        maps[name][other] = maps[name][row, column] - np.tile([4, 0], multipose.HEADS[name] // 2)
    maps["box_scale"][other] = maps["box_scale"][row, column]
    (found,) = multipose.decode(maps, 0.127, 20)
    assert found[4] == pytest.approx(0.9 * found[5:].reshape(17, 3)[:, 2].mean())


def test_a_joint_without_any_cell_in_the_box_is_not_given() -> None:
    maps, person = blank(), figure(60, 5)
    plant(maps, person)
    maps["heatmap"][..., 3] = 0
    joints = multipose.decode(maps, 0.127, 20)[0, 5:].reshape(17, 3)
    assert np.isnan(joints[3, :2]).all() and joints[3, 2] == 0
    maps["box_scale"][...] = 0
    assert len(multipose.decode(maps, 0.127, 20)) == 0


@pytest.mark.parametrize(
    ("frame", "image"), [((240, 320), (192, 256)), ((640, 360), (256, 160)), ((9, 400), (32, 256))]
)
def test_images_are_padded_on_the_right_and_below(frame: tuple[int, int], image: tuple[int, int]) -> None:
    batch = fit_longer(np.full((2, *frame, 3), 200, np.uint8), 256)
    assert batch.pixels.shape == (2, *image, 3)
    scale = 256 / max(frame)
    tall, wide = round(frame[0] * scale), round(frame[1] * scale)
    assert (batch.pixels[:, : max(tall, 1), :wide] == 200).all() and not batch.pixels[:, max(tall, 1) :].any()
    corner = batch.to_frame(0, np.array([wide - 0.5, tall - 0.5]))
    assert corner == pytest.approx([frame[1] - 0.5, frame[0] - 0.5], abs=1e-6)


def test_the_detector_gives_the_boxes_of_the_expert(tmp_path: Path) -> None:
    options = {"model": str(random_file(tmp_path / "m.onnx")), "size": 128, "threshold": 0.01}
    frames = np.random.default_rng(0).integers(0, 255, (3, 6, 8, 3), np.uint8).repeat(20, 1).repeat(20, 2)
    with (
        experts.create("movenet_multipose", **options, min_mean=0.0).load() as expert,
        registry.create("detectors", "movenet_multipose", options).load() as found,
    ):
        poses, boxes = expert.predict(frames), found.detect(frames)
    assert any(len(some) for some in boxes)
    assert any(len(one) for one in poses)
    for one, some in zip(poses, boxes, strict=True):
        for box in np.clip(one.boxes[:, :4], 0, [159, 119, 159, 119]):
            assert np.abs(some[:, :4] - box).max(1).min() < 1e-3


@pytest.mark.parametrize("size", [0, 100, 250, 2048])
def test_wrong_sizes(size: int) -> None:
    with pytest.raises(ComponentError, match=rf"size = {size}: a multiple of 32"):
        experts.create("movenet_multipose", size=size)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="has no output center"):
        experts.create("movenet_multipose", model=str(detector(tmp_path / "d.onnx"))).load()
    outputs = {name: (4, n) for name, n in multipose.HEADS.items()}
    fixed = pixelwise(tmp_path / "f.onnx", outputs, size=256)
    with pytest.raises(ComponentError, match=r"takes images of \[256, 256\] only"):
        experts.create("movenet_multipose", model=str(fixed)).load()


def test_duplicates_are_left_out() -> None:
    pose = figure(50, 6)[None]
    coords = np.concatenate([pose, pose + 1, pose + [30, 0], np.full((1, 17, 2), np.nan)])
    scores, boxes = np.ones((4, 17)), np.tile([50.0, 20, 110, 170], (4, 1))
    scores[3] = 0
    assert distinct(coords, scores, boxes).tolist() == [0, 2, 3]
    assert distinct(coords[:0], scores[:0], boxes[:0]).tolist() == []
