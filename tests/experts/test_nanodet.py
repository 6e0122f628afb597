"""Detectors `nanodet` and `nanodet_multipose`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dataengine.core import registry
from dataengine.core.errors import ComponentError, WeightsError
from dataengine.core.types import Float, Frames
from dataengine.experts import nanodet
from dataengine.experts.nanodet_multipose import JoinedSession, NanoDetMultiPose
from dataengine.experts.onnx_decode import NonMaximumSuppression
from tests.support.head_files import detector, multipose


def test_distances_are_expectations_over_bins() -> None:
    logits = np.zeros((1, 2, 3, 44), np.float32)
    logits[0, 1, 2].reshape(4, 11)[range(4), [1, 2, 3, 4]] = 60.0
    found = nanodet.corners(logits, 8)
    assert found[0, 1, 2] == pytest.approx([19.5 - 8, 11.5 - 16, 19.5 + 24, 11.5 + 32])
    assert found[0, 0, 0] == pytest.approx([3.5 - 40, 3.5 - 40, 3.5 + 40, 3.5 + 40])  # the mean of all bins is 5


class Planted:
    """The maps of a file in which cells hold people."""

    file, dtype = "planted.onnx", np.float32

    def __init__(self, people: dict[tuple[int, int, int], float]) -> None:
        self.people = people
        self.images: list[Float] = []

    def __call__(self, images: Float) -> dict[str, Float]:
        self.images.append(images)
        out = {}
        for stride in nanodet.STRIDES:
            rows, columns = (side // stride for side in images.shape[1:3])
            scores = np.zeros((len(images), rows, columns, 80), np.float32)
            sides = np.zeros((len(images), rows, columns, 44), np.float32)
            scores[..., 1] = 0.99  # bicycles everywhere
            for (of, x, y), score in self.people.items():
                if of == stride:
                    scores[:, y, x, 0] = score
                    sides[:, y, x].reshape(-1, 4, 11)[..., 2] = 50
            out[f"scores_{stride}"], out[f"boxes_{stride}"] = scores, sides
        return out


def test_people_are_read_from_all_levels_and_others_are_not() -> None:
    heads = Planted({(8, 3, 5): 0.4, (16, 7, 2): 0.9, (32, 1, 1): 0.6, (32, 5, 9): 0.1})
    network = nanodet.NanoDetNetwork(heads, NonMaximumSuppression(0.3, 0.6, 20))  # type: ignore[arg-type]
    (boxes,) = network(np.full((1, 320, 416, 3), (124, 116, 104), np.uint8))
    middles = (boxes[:, :2] + boxes[:, 2:4]) / 2 + 0.5
    assert boxes[:, 4] == pytest.approx([0.9, 0.6, 0.4])
    assert middles == pytest.approx(np.array([[7.5 * 16, 2.5 * 16], [48, 48], [3.5 * 8, 5.5 * 8]]))
    assert (boxes[:, 2] - boxes[:, 0]) == pytest.approx([64, 128, 32])
    assert abs(heads.images[0]).max() < 0.01  # the mean colour becomes 0


def test_the_network_gets_blue_first() -> None:
    heads = Planted({})
    network = nanodet.NanoDetNetwork(heads, NonMaximumSuppression(0.3, 0.6, 20))  # type: ignore[arg-type]
    network(np.full((1, 416, 416, 3), (255, 0, 0), np.uint8))
    blue, green, red = heads.images[0][0, 0, 0]
    assert red == pytest.approx((255 - 123.675) / 58.395) and blue == pytest.approx(-103.53 / 57.375)
    assert green == pytest.approx(-116.28 / 57.12)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="has no output scores_8"):
        registry.create("detectors", "nanodet", {"model": str(multipose(tmp_path / "m.onnx"))}).load()


class Fixed:
    def __init__(self, boxes: list[list[float]]) -> None:
        self.boxes, self.closed = np.array(boxes, np.float32).reshape(-1, 5), 0

    def detect(self, frames: Frames) -> list[Float]:
        return [self.boxes] * len(frames)

    def close(self) -> None:
        self.closed += 1


def test_boxes_of_both_are_joined() -> None:
    one = Fixed([[10, 10, 50, 90, 0.8], [100, 10, 140, 90, 0.3]])
    other = Fixed([[101, 11, 141, 91, 0.5], [200, 10, 240, 90, 0.2]])
    session = JoinedSession([one, other, Fixed([])], NonMaximumSuppression(0.0, 0.6, 20))  # type: ignore[list-item]
    first, second = session.detect(np.zeros((2, 100, 300, 3), np.uint8))
    assert np.array_equal(first, second) and first.dtype == np.float32
    assert first[:, [0, 4]] == pytest.approx(np.array([[10, 0.8], [101, 0.5], [200, 0.2]]))
    session.close()
    assert (one.closed, other.closed) == (1, 1)


def test_needs_the_files_of_both(tmp_path: Path) -> None:
    files = {"nanodet": detector(tmp_path / "n.onnx"), "multipose": multipose(tmp_path / "m.onnx")}
    made = NanoDetMultiPose(**{name: str(path) for name, path in files.items()})
    assert sorted(made.weights()) == ["m.onnx", "n.onnx"]
    with pytest.raises(WeightsError, match="no output"):
        NanoDetMultiPose(nanodet=str(files["nanodet"]), multipose=str(files["nanodet"])).load()


def test_wrong_options_are_named() -> None:
    with pytest.raises(ComponentError, match="size = 100"):
        registry.create("detectors", "nanodet_multipose", {"size": 100})
    with pytest.raises(ComponentError, match="person_threshold"):
        registry.create("detectors", "nanodet_multipose", {"person_threshold": 2.0})
