"""MoveNet: the decoding of its maps, and its published weights on a drawn figure."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from dataengine import experts
from dataengine.core.errors import ComponentError, WeightsError
from dataengine.core.types import Float
from dataengine.experts.heads import open_heads
from dataengine.experts.movenet import MoveNetNetwork, decode
from dataengine.io import weights
from tests.support.onnx_files import random_network

JOINTS = 17


def random_heads(num: int, side: int, seed: int = 0) -> dict[str, Float]:
    rng = np.random.default_rng(seed)
    return {
        "heatmap": rng.random((num, side, side, JOINTS), np.float32),
        "center": rng.random((num, side, side, 1), np.float32),
        "regress": rng.normal(0, 3, (num, side, side, 2 * JOINTS)).astype(np.float32),
        "offset": rng.normal(0, 0.3, (num, side, side, 2 * JOINTS)).astype(np.float32),
    }


def by_loops(heads: dict[str, Float], n: int) -> Float:
    """The decoding of one crop cell by cell."""
    side = heads["heatmap"].shape[1]
    cells = [(y, x) for y in range(side) for x in range(side)]
    center = heads["center"][n, ..., 0].astype(np.float64)
    cy, cx = max(cells, key=lambda c: center[c] / (np.hypot(c[0] - side / 2, c[1] - side / 2) + 1.8))
    found = np.empty((JOINTS, 3))
    for j in range(JOINTS):
        dy, dx = heads["regress"][n, cy, cx, 2 * j : 2 * j + 2].astype(np.float64)
        heat = heads["heatmap"][n, ..., j].astype(np.float64)
        y, x = max(cells, key=lambda c: heat[c] / (np.hypot(c[0] - cy - dy, c[1] - cx - dx) + 1.8))
        oy, ox = heads["offset"][n, y, x, 2 * j : 2 * j + 2]
        found[j] = (x + ox) * 4, (y + oy) * 4, heat[y, x]
    return found


def test_decoding_equals_loops_for_any_number_of_people() -> None:
    heads = random_heads(3, 12)
    found = decode(heads)
    for n in range(3):
        np.testing.assert_allclose(found[n], by_loops(heads, n), atol=1e-4)
        one = decode({name: maps[n : n + 1] for name, maps in heads.items()})
        np.testing.assert_array_equal(one[0], found[n])


def test_the_person_nearest_the_middle_is_taken() -> None:
    """Two people of equal likelihood: that of the middle, and each joint near where its displacement points."""
    side = 64
    heads = {name: np.zeros_like(maps) for name, maps in random_heads(1, side).items()}
    heads["center"][0, [30, 30], [34, 60]] = 0.8
    heads["regress"][0, 30, 34] = np.tile([-10, 2], JOINTS)
    heads["heatmap"][0, [20, 21], [37, 60]] = np.array([[0.6], [0.9]])
    heads["offset"][0, 20, 37] = np.tile([0.25, 0.75], JOINTS)
    np.testing.assert_allclose(decode(heads)[0], np.tile([(37 + 0.75) * 4, (20 + 0.25) * 4, 0.6], (JOINTS, 1)))


@pytest.mark.parametrize(("variant", "size"), [("thunder", 256), ("lightning", 192)])
def test_the_drawn_figure_is_found_as_by_the_original_runtime(variant: str, size: int) -> None:
    if not weights.names_of(f"movenet_{variant}") or not weights.present(f"movenet_{variant}"):
        pytest.skip(f"weights movenet_{variant} are not here")
    parity = Path(__file__).parents[1] / "golden"
    figure = cv2.imread(str(parity / f"figure_{size}x{size}.png"))[None, ..., ::-1]
    wanted = np.load(parity / f"tfjs_movenet-{variant}.npz", allow_pickle=False)["Identity"][0, 0]
    network = MoveNetNetwork(open_heads(weights.locate(f"movenet_{variant}")))
    (found,) = network(np.ascontiguousarray(figure))
    # the graph of lightning divides by 48 in half precision: up to 0.05 pixels
    np.testing.assert_allclose(found[:, :2], wanted[:, 1::-1] * size, atol=0.06)
    np.testing.assert_allclose(found[:, 2], wanted[:, 2], atol=1e-4)
    several = network(np.ascontiguousarray(np.concatenate([figure, figure[:, ::-1], figure])))
    np.testing.assert_allclose(several[2], found, atol=1e-3)


def test_files_of_other_networks_are_refused(tmp_path: Path) -> None:
    shapes = {"heatmap": [8, 8, 17], "center": [8, 8, 1], "regress": [8, 8, 34]}
    without = random_network(tmp_path / "without.onnx", shapes, (192, 192))
    with pytest.raises(WeightsError, match="has no output offset"):
        experts.create("movenet", variant="lightning", model=str(without)).load()
    wrong = random_network(tmp_path / "wrong.onnx", shapes | {"offset": [8, 8, 17]}, (192, 192))
    with pytest.raises(WeightsError, match=r"output offset is .* wanted 34 channels"):
        experts.create("movenet", variant="lightning", model=str(wrong)).load()
    with pytest.raises(ComponentError, match="192 x 192"):
        experts.create("movenet", variant="thunder", model=str(wrong)).load()


@pytest.mark.parametrize("wrong", [{"variant": "storm"}, {"batch": 0}, {"min_score": 2.0}, {"provider": "gpu"}])
def test_wrong_options(wrong: dict[str, object]) -> None:
    with pytest.raises(ComponentError, match=next(iter(wrong))):
        experts.create("movenet", **wrong)
