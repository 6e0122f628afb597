"""The small networks' training: targets and decoders agree, and a short run learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dataengine.experts.synthetic import STRIDE, SyntheticBottomUp
from dataengine.rendering import render_clip
from tools.synthetic_experts.calibrate import logistic, matched
from tools.synthetic_experts.data import MAX_PEOPLE, Material, inside, render_part
from tools.synthetic_experts.losses import CENTRE, GROUP_UNIT, LOSSES, cells
from tools.synthetic_experts.nets import JOINTS, NETS
from tools.synthetic_experts.train import Training, train


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("material")
    render_part(folder / "part000", 77, 12)
    return folder


@pytest.mark.parametrize("net", NETS)
def test_networks_answer_in_the_stated_shape(net: str) -> None:
    kind = NETS[net]
    answer = kind().eval()(torch.zeros(2, 3, kind.height, kind.width))
    rows, columns = kind.height // STRIDE, kind.width // STRIDE
    wanted = {
        "detector": (5, rows, columns),
        "topdown": (14, rows, columns),
        "bottomup": (99, rows, columns),
        "regression": (14, 3),
    }
    assert tuple(answer.shape) == (2, *wanted[net])


def _ideal(joints: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The bottom-up answer that says exactly what is true, built cell by cell: the slow obvious version."""
    out = np.zeros((99, 18, 24))
    out[: JOINTS + 1] = -8
    at = (joints - 3.5) / STRIDE
    offset, to_centre, to_joint = out[JOINTS + 1 :].reshape(3, JOINTS, 2, 18, 24)
    for p in range(len(joints)):
        centre = at[p, list(CENTRE)].mean(0)
        cx, cy = np.round(centre).astype(int)
        out[JOINTS, cy, cx] = 8
        for j in np.flatnonzero(mask[p]):
            x, y = np.round(at[p, j]).astype(int)
            out[j, y, x] = 8
            offset[j, :, y, x] = at[p, j] - (x, y)
            to_centre[j, :, y, x] = (centre - (x, y)) / GROUP_UNIT
            to_joint[j, :, cy, cx] = (at[p, j] - (cx, cy)) / GROUP_UNIT
    return out


def _people_in_view() -> tuple[np.ndarray, np.ndarray]:
    for seed in range(50):
        joints = render_clip(seed, 1, size=(192, 144), condition="multi", num_people=2).joints[0].astype(np.float64)
        if inside(joints, (188, 140)).all() and (joints > 4).all():
            return joints, inside(joints, (192, 144)).astype(float)
    raise AssertionError("no seed shows two people wholly in the picture")


def test_bottomup_decoder_reads_ideal_maps_back() -> None:
    joints, mask = _people_in_view()
    found = list(SyntheticBottomUp().load().processing.people_in(_ideal(joints, mask)))
    assert len(found) == 2
    coords = np.stack([(at + 0.5) * STRIDE - 0.5 for at, _, _ in found])
    pairs = matched(coords, joints, np.full(2, 10.0))
    assert len(pairs) == 2
    for m, p in pairs:
        assert np.abs(coords[m] - joints[p]).max() < 0.01


def test_bottomup_loss_is_least_at_the_truth() -> None:
    joints, mask = _people_in_view()
    ideal = torch.from_numpy(_ideal(joints, mask)).float()[None]
    padded, seen = np.zeros((1, MAX_PEOPLE, 14, 2), np.float32), np.zeros((1, MAX_PEOPLE, 14), np.float32)
    padded[0, :2], seen[0, :2] = joints, mask
    truth = torch.from_numpy(padded), torch.from_numpy(seen)
    good = float(LOSSES["bottomup"](ideal, *truth))
    assert good < float(LOSSES["bottomup"](ideal.roll(2, 3), *truth)) - 1
    assert good < float(LOSSES["bottomup"](torch.zeros_like(ideal), *truth)) - 1


def test_topdown_loss_is_least_at_the_truth() -> None:
    joints = torch.rand(3, 14, 2) * 80 + 8
    mask = torch.ones(3, 14)
    at = cells(joints).round().long()
    right = torch.zeros(3, 14, 16, 12)
    for n in range(3):
        for j in range(14):
            right[n, j, at[n, j, 1], at[n, j, 0]] = 6
    losses = [float(LOSSES["topdown"](m, joints, mask)) for m in (right, torch.zeros_like(right), right.roll(3, 2))]
    assert losses[0] < losses[1] < losses[2]


def test_absent_joints_do_not_count() -> None:
    joints, none = torch.rand(2, 14, 2) * 90, torch.zeros(2, 14)
    assert float(LOSSES["topdown"](torch.randn(2, 14, 16, 12), joints, none)) == 0
    assert float(LOSSES["regression"](torch.randn(2, 14, 3), joints, none)) == 0


@pytest.mark.parametrize("net", ["detector", "topdown"])
def test_a_short_run_learns_and_its_weights_load(net: str, material: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    seen = train(Training(net, 0.02, batch=8), material, tmp_path / "net.pt", report=lines.append)
    assert seen >= 8
    state = torch.load(tmp_path / "net.pt", weights_only=True)
    NETS[net]().load_state_dict(state)
    train(Training(net, 0.001, batch=8), material, tmp_path / "next.pt", start=tmp_path / "net.pt", report=lines.append)
    assert any("took over" in line for line in lines)


def test_material_gives_back_what_was_rendered(material: Path) -> None:
    stored = Material(material)
    assert len(stored) == 72
    assert stored.frame(71).shape == (256, 340, 3)
    assert stored.inside[np.isnan(stored.joints[..., 0])].sum() == 0


def test_logistic_finds_the_curve() -> None:
    rng = np.random.default_rng(0)
    evidence = rng.normal(0, 2, 20000)
    right = (rng.random(20000) < 1 / (1 + np.exp(-(0.6 * evidence - 0.8)))).astype(float)
    assert np.allclose(logistic(evidence, right), (0.6, -0.8), atol=0.08)
