"""The student `movenet`: what its loss asks for, what it leaves alone, and that it learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dataengine.core import registry
from dataengine.core.errors import ComponentError, WeightsError
from dataengine.core.types import Float
from dataengine.experts.movenet import decode
from dataengine.refine.person_crops import PersonCrops
from dataengine.testing import example_frames, example_labels
from tests.support.movenet_files import random_movenet

torch = pytest.importorskip("torch")
from dataengine.experts.movenet_network import as_heads
from dataengine.refine.movenet import MoveNetStudent, _gaussians, losses

SIDE = 24
JOINTS = 17


def labels(seed: int = 0, missing: tuple[int, ...] = ()) -> PersonCrops:
    rng = np.random.default_rng(seed)
    points = rng.uniform(12, 4 * SIDE - 12, (2, JOINTS, 2)).astype(np.float32)
    weights = np.full((2, JOINTS), 0.9, np.float32)
    points[:, missing], weights[:, missing] = np.nan, 0
    return PersonCrops(np.zeros((2, 96, 96, 3), np.uint8), points, weights)


def perfect(crops: PersonCrops) -> dict[str, torch.Tensor]:
    """The maps that labels ask for: joints without one are zero."""
    points = torch.from_numpy((np.nan_to_num(crops.points, nan=-1e3) + 0.5) / 4)
    heat = _gaussians(points, SIDE, SIDE) * torch.from_numpy(crops.weights)[..., None, None]
    center = _gaussians(torch.full((2, 1, 2), SIDE / 2), SIDE, SIDE)
    grid = torch.stack(torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij"))
    away = (points.flip(-1)[..., None, None] - grid).flatten(1, 2).float()
    tiny = 1e-7
    return {
        "heatmap": torch.logit(heat.clamp(tiny, 1 - tiny)),
        "center": torch.logit(center.clamp(tiny, 1 - tiny)),
        "regress": away,
        "offset": away.clone(),
    }


def test_perfect_maps_cost_nothing_and_decode_to_the_labels() -> None:
    crops = labels()
    maps = perfect(crops)
    parts = losses(maps, maps, crops)
    assert set(parts) == {"joints", "displacement", "offset", "kept"}
    assert all(abs(float(value)) < 1e-3 for value in parts.values())
    found = decode(as_heads(maps))
    np.testing.assert_allclose(found[..., :2] - 0.5, crops.points, atol=1e-3)
    assert (found[..., 2] > 0.6).all()


@pytest.mark.parametrize(("head", "part"), [("heatmap", "joints"), ("regress", "displacement"), ("offset", "offset")])
def test_each_part_tells_of_its_head_alone(head: str, part: str) -> None:
    crops = labels()
    before = perfect(crops)
    worse = before | {head: before[head].roll(1, 3) if head == "heatmap" else before[head] + 0.5}
    parts = losses(worse, before, crops)
    assert [name for name, value in parts.items() if float(value) > 1e-2] == [part]


def test_labels_move_peaks_and_leave_scores_alone() -> None:
    """A map that is right and half as likely costs nothing but its change from before."""
    crops = labels()
    before = perfect(crops)
    lower = before | {"heatmap": torch.logit(torch.sigmoid(before["heatmap"]) / 2)}
    parts = losses(lower, before, crops)
    assert float(parts["joints"]) < 1e-3
    assert float(parts["kept"]) > 0.1
    assert float(losses(lower, lower, crops)["kept"]) < 1e-3


def test_what_has_no_label_is_taught_to_stay() -> None:
    eyes = (1, 2)
    crops = labels(missing=eyes)
    rng = torch.Generator().manual_seed(0)
    before = perfect(labels())
    before["heatmap"][:, eyes] += 0.1 * torch.randn(2, 2, SIDE, SIDE, generator=rng)
    same = {name: one.clone().requires_grad_() for name, one in before.items()}
    parts = losses(same, before, crops)
    assert float(parts["kept"].detach()) == pytest.approx(0, abs=1e-4)
    moved = {name: one.clone() for name, one in before.items()}
    moved["heatmap"][:, eyes] += 1
    assert float(losses(moved, before, crops)["kept"]) > 0.1
    centre = before | {"center": before["center"] + 1}
    assert float(losses(centre, before, crops)["kept"]) > 0.1
    sum(one for name, one in parts.items() if name != "kept").backward()
    assert same["heatmap"].grad is not None and not same["heatmap"].grad[:, eyes].any()


def test_sure_labels_count_more() -> None:
    crops = labels()
    before = perfect(crops)
    worse = before | {"offset": before["offset"] + torch.tensor([1.0, *[0.0] * 33])[None, :, None, None]}
    doubted = PersonCrops(crops.pixels, crops.points, crops.weights.copy())
    doubted.weights[:, 0] = 0.1
    assert float(losses(worse, before, doubted)["offset"]) < 0.3 * float(losses(worse, before, crops)["offset"])


def predicted(student: MoveNetStudent, checkpoint: Path) -> list[Float]:
    frames = example_frames((2, 96, 128))
    boxes = [np.array([[10, 5, 90, 90, 1]], np.float32)] * 2
    with student.expert(checkpoint).load() as session:
        return [poses.coords for poses in session.predict(frames, boxes)]


@pytest.mark.slow
def test_it_learns_and_frozen_parts_stay(tmp_path: Path) -> None:
    base = random_movenet(tmp_path / "base.onnx", "lightning")
    student = MoveNetStudent(frozen=4)
    frames = example_labels(3)
    with student.start(checkpoint=base) as session:
        before = {name: value.clone() for name, value in session.network.state_dict().items()}
        optimizer = torch.optim.AdamW([dict(group) for group in session.parameters()], lr=5e-3)
        first = session.loss(frames, np.random.default_rng(0), False)
        for step in range(16):
            optimizer.zero_grad()
            session.loss(frames, np.random.default_rng(step), True)["loss"].backward()
            optimizer.step()
        last = session.loss(frames, np.random.default_rng(0), False)
        assert float(last["loss"]) < float(first["loss"]) and float(last["offset"]) < 0.95 * float(first["offset"])
        session.save(tmp_path / "after.onnx")
        for name, value in session.network.state_dict().items():
            frozen = name.startswith(("stem.", "stages.0.", "stages.1.", "stages.2.", "scale"))
            assert torch.equal(value, before[name]) == frozen, name
    assert len(predicted(student, tmp_path / "after.onnx")) == 2


def test_a_batch_without_people_teaches_nothing(tmp_path: Path) -> None:
    student = MoveNetStudent()
    with student.start(checkpoint=random_movenet(tmp_path / "base.onnx", "lightning")) as session:
        loss = session.loss(example_labels(3)[2:3], np.random.default_rng(0), True)["loss"]
        loss.backward()
        assert loss.item() == 0
        assert not any(p.grad.any() for group in session.parameters() for p in group["params"])


def test_weights_of_another_variant_and_wrong_options_are_one_line(tmp_path: Path) -> None:
    path = random_movenet(tmp_path / "small.onnx", "lightning")
    with pytest.raises(WeightsError, match="lightning, not thunder"):
        MoveNetStudent(variant="thunder").start(checkpoint=path)
    for wrong in ({"frozen": 9}, {"keep": -1.0}, {"scale": (1.3, 0.9)}, {"variant": "storm"}):
        with pytest.raises(ComponentError, match=next(iter(wrong))) as caught:
            registry.create("students", "movenet", wrong)
        assert "\n" not in str(caught.value)
