"""EfficientPose: the decoding of its maps, its layout, and its published weights on a drawn figure."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from dataengine.core.skeletons import convert, skeleton
from dataengine.core.types import Float
from dataengine.experts.efficientpose import ORDER, SIZE, EfficientPoseNetwork, decode
from dataengine.experts.heads import open_heads
from dataengine.io import weights


def bumps(at: Float, height: float = 0.7, cells: int = 46) -> Float:
    """Maps (1, cells, cells, 16) of Gaussians at (16, 2) x, y in pixels of the crop."""
    middles = (np.arange(cells) + 0.5) * SIZE / cells
    x, y = (np.exp(-((middles[:, None] - at[:, axis]) ** 2) / (2 * 10.0**2)) for axis in (0, 1))
    return np.asarray(height * y[None, :, None] * x[None, None], np.float32)


def whole(maps: Float) -> Float:
    """The same decoding over whole maps, joint by joint, in the order of the network."""
    found = []
    for j in range(maps.shape[-1]):
        fine = cv2.resize(maps[0, ..., j], None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
        fine = cv2.GaussianBlur(fine, (0, 0), 1.0)
        y, x = np.unravel_index(fine.argmax(), fine.shape)
        found.append([2 * (x + 0.5), 2 * (y + 0.5), fine[y, x]])
    return np.array(found)


def test_peaks_are_found_within_a_pixel() -> None:
    at = np.random.default_rng(0).uniform(20, SIZE - 20, (16, 2))
    found = decode(bumps(at))[0]
    named = dict(zip(skeleton("mpii16").joints, found, strict=True))
    for joint, place in zip(ORDER, at, strict=True):
        np.testing.assert_allclose(named[joint][:2], place, atol=1.6)
        assert 0.6 < named[joint][2] <= 0.72


def test_looking_around_the_best_cell_is_enough() -> None:
    rng = np.random.default_rng(1)
    maps = np.concatenate([bumps(rng.uniform(0, SIZE, (16, 2))) for _ in range(4)])
    maps += rng.normal(0, 0.01, maps.shape).astype(np.float32)
    found = decode(maps)
    order = [ORDER.index(joint) for joint in skeleton("mpii16").joints]
    for n in range(len(maps)):
        np.testing.assert_allclose(found[n], whole(maps[n : n + 1])[order], atol=1e-4)
        np.testing.assert_array_equal(found[n], decode(maps[n : n + 1])[0])


def test_the_head_point_of_other_layouts_is_made_of_head_top_and_upper_neck() -> None:
    coords = np.random.default_rng(2).uniform(0, 100, (16, 2))
    names = skeleton("mpii16").joints
    for target in ("body13", "posetics17"):
        found, scores = convert(coords, np.full(16, 0.5), "mpii16", target)
        joints = skeleton(target).joints
        head = (coords[names.index("upper_neck")] + coords[names.index("head_top")]) / 2
        np.testing.assert_allclose(found[joints.index("nose")], head)
        assert (scores == 0.5).all()
    hidden = coords.copy()
    hidden[names.index("head_top")] = np.nan
    found, scores = convert(hidden, np.full(16, 0.5), "mpii16", "body13")
    assert np.isnan(found[0]).all()
    assert scores[0] == 0
    assert np.isfinite(found[1:]).all()


def test_the_drawn_figure_is_found_as_by_the_original_runtime() -> None:
    if not weights.names_of("efficientpose") or not weights.present("efficientpose"):
        pytest.skip("weights efficientpose are not here")
    parity = Path(__file__).parents[1] / "golden"
    figure = cv2.imread(str(parity / "figure_368x368.png"))[None, ..., ::-1]
    golden = np.load(parity / "tfjs_efficientpose.npz", allow_pickle=False)
    (found,) = EfficientPoseNetwork(open_heads(weights.locate("efficientpose")))(np.ascontiguousarray(figure))
    order = [ORDER.index(joint) for joint in skeleton("mpii16").joints]
    sure = golden["peak_value"][order] > 0.1
    assert sure.sum() >= 12
    np.testing.assert_allclose(found[sure, :2], golden["peak_yx"][order][sure, ::-1] + 0.5, atol=2.0)
    np.testing.assert_allclose(found[:, 2], golden["peak_value"][order], atol=0.1)
