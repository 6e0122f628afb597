"""BlazeFace: which squares of a frame are looked at, the decoding of its maps, and its published weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dataengine.core import registry
from dataengine.core.errors import ComponentError, WeightsError
from dataengine.experts.blazeface import BlazeFace, cut, decoded, squares
from dataengine.io import weights
from tests.support.blank_faces import face_file


def blank() -> dict[str, np.ndarray]:
    shapes = {"scores_16": (16, 16, 2), "boxes_16": (16, 16, 32), "scores_32": (8, 8, 6), "boxes_32": (8, 8, 96)}
    return {name: np.full((2, *shape), -100.0 if "scores" in name else 0.0) for name, shape in shapes.items()}


def test_boxes_are_read_from_their_anchors() -> None:
    maps = blank()
    maps["scores_16"][1, 3, 5, 1] = 2.0
    maps["boxes_16"][1, 3, 5, 16:20] = [4.0, -2.0, 20.0, 30.0]
    maps["scores_32"][1, 7, 0, 4] = 0.0
    maps["boxes_32"][1, 7, 0, 64:68] = [0.0, 0.0, 64.0, 64.0]
    maps["scores_32"][0, 1, 1, 0] = 9.0  # without a size: no face
    first, second = decoded(maps, 0.5)
    assert first.shape == (0, 5)
    near = 1 / (1 + np.exp(-2.0))
    np.testing.assert_allclose(second, [[82, 39, 102, 69, near], [-16, 208, 48, 272, 0.5]])


@pytest.mark.parametrize(("width", "height"), [(640, 360), (340, 256), (100, 300), (256, 256), (1, 1)])
@pytest.mark.parametrize("zoom", [1, 2, 3])
def test_squares_cover_the_frame(width: int, height: int, zoom: int) -> None:
    found = squares(width, height, zoom)
    assert found[0] == (0, 0, max(width, height))
    seen = np.zeros((height, width), np.int64)
    for left, top, side in found[1:]:
        assert left >= 0 and top >= 0
        seen[top : top + side, left : left + side] += 1
    assert zoom == 1 or seen.min() >= 1


def test_a_square_keeps_its_place() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (300, 400, 3)).astype(np.uint8)
    assert np.array_equal(cut(frame, (100, 20, 256)), frame[20:276, 100:356])
    beyond = cut(frame, (200, 100, 256))
    assert np.array_equal(beyond[:200, :200], frame[100:, 200:]) and not beyond[200:].any()


def test_faces_of_all_squares_come_in_pixels_of_the_frame(tmp_path: Path) -> None:
    """A network that sees one face in the first cell of every square."""
    detector = BlazeFace(model=str(face_file(tmp_path, first_only=True)), batch=3)
    frames = np.zeros((2, 300, 512, 3), np.uint8)
    with detector.load() as session:
        one, two = session.detect(frames)
        assert session.detect(frames[:0]) == []
    assert np.array_equal(one, two) and one.dtype == np.float32
    middles = {(round(float(x)), round(float(y))) for x, y in (one[:, :2] + one[:, 2:4]) / 2}
    expected = {(round(x + side / 32 - 0.5), round(y + side / 32 - 0.5)) for x, y, side in squares(512, 300, 2)}
    assert middles <= expected and len(middles) >= len(expected) - 1
    with pytest.raises(ComponentError, match="closed"):
        session.detect(frames)


def test_wrong_options_and_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ComponentError, match=r"zoom = 9: from 1 to 8"):
        registry.create("face_detectors", "blazeface", {"zoom": 9})
    with pytest.raises(WeightsError, match="no output scores_32"):
        BlazeFace(model=str(face_file(tmp_path, heads=("scores_16", "boxes_16")))).load()


def test_the_published_weights_find_a_face(shared_data: Path) -> None:
    import cv2

    if not weights.present("blazeface"):
        pytest.skip("dataengine weights blazeface")
    picture = cv2.imread(str(next((shared_data / "keypoints2d").rglob("000000000785.jpg"))))[None, ..., ::-1]
    with BlazeFace().load() as session:
        (faces,) = session.detect(np.ascontiguousarray(picture))
    x, y = (faces[0, :2] + faces[0, 2:4]) / 2
    assert np.hypot(x - 368, y - 80) < 15  # the skier's head
