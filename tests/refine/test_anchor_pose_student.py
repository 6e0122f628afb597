"""The student anchor_pose: what its losses are, what they teach, and that equal runs are equal bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from dataengine.core.errors import ComponentError
from dataengine.core.types import LabelledFrame
from dataengine.experts.anchor_classes import classify, normalise
from dataengine.experts.anchor_pose_spec import NetworkSpec
from dataengine.refine.anchor_pose import (
    AnchorPoseSession,
    AnchorPoseStudent,
    fresh_session,
    joint_loss,
    reference_boxes,
    sample,
)
from dataengine.refine.anchor_pose_labels import Augmentation, Labelled, classes_of, label
from dataengine.refine.loop import FitSettings, fit
from dataengine.testing import example_labels

SPEC = NetworkSpec("tiny", 96, 64, "body13", 16, 12)
ANCHORS = np.random.default_rng(0).uniform(0, 1, (4, 13, 2)).astype(np.float32)


def session(losses: str = "paper", **options: Any) -> AnchorPoseSession:
    torch.set_num_threads(1)
    return fresh_session(AnchorPoseStudent(losses=losses, regions=16, **options), SPEC, ANCHORS, 0)  # type: ignore[arg-type]


def test_loss_of_joints_is_that_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    found, wanted = rng.normal(0, 0.1, (2, 5, 13, 2)).astype(np.float32)
    wanted[0, 3], wanted[4] = np.nan, np.nan
    total, count = 0.0, 0
    for a, b in zip(found.ravel().tolist(), wanted.ravel().tolist(), strict=True):
        if np.isfinite(b):
            gap = abs(a - b)
            total += gap**2 / (2 * 0.05) if gap < 0.05 else gap - 0.025
            count += 1
    assert float(joint_loss(torch.from_numpy(found), torch.from_numpy(wanted))) == pytest.approx(
        total / count, rel=1e-4
    )
    assert float(joint_loss(torch.zeros(0, 13, 2), torch.zeros(0, 13, 2))) == 0


@pytest.mark.parametrize("assignment", ["person", "region"])
def test_regions_get_the_class_of_the_person_whom_they_show(assignment: Any) -> None:
    rng = np.random.default_rng(3)
    people = np.array([[5.0, 5, 30, 55], [50, 5, 80, 60]], np.float32)
    points = people[:, None, :2] + rng.uniform(0, 1, (2, 13, 2)) * (people[:, None, 2:] - people[:, None, :2])
    proposals = np.concatenate(
        [people[[0, 0, 1]] + rng.normal(0, 3, (3, 4)), rng.uniform(0, 20, (4, 4)) + [0, 40, 4, 44]]
    )
    proposals = proposals.astype(np.float32)
    torch.manual_seed(0)
    student = AnchorPoseStudent(regions=64, assignment=assignment)
    found = sample(
        torch.from_numpy(proposals), Labelled(np.zeros((64, 96, 3), np.uint8), people, points), student, ANCHORS
    )
    every = np.concatenate([people, proposals])
    assert len(found.boxes) == len(every)
    for box, chosen, pose in zip(found.boxes.numpy(), found.classes.tolist(), found.poses.numpy(), strict=True):
        shares = [overlap(box, one) for one in people]
        who = int(np.argmax(shares))
        if shares[who] < 0.5:
            assert chosen == 0
            continue
        around = people[who] if assignment == "person" else box
        assert chosen == 1 + int(classify(normalise(points[who], around.astype(float))[None], ANCHORS)[0])
        assert pose == pytest.approx(normalise(points[who], box.astype(float)), abs=1e-4)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    wide, tall = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, float(wide)) * max(0.0, float(tall))
    return both / float((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def test_validation_judges_the_same_regions_whatever_is_proposed() -> None:
    people = torch.tensor([[10.0, 10, 30, 50], [60, 5, 95, 60]])
    boxes = reference_boxes(people, 96, 64)
    shares = [max(overlap(box, one) for one in people.numpy()) for box in boxes.numpy()]
    assert sum(share >= 0.5 for share in shares) >= 2 * 9
    assert min(shares) < 0.1
    assert float(boxes.min()) >= 0 and bool((boxes <= torch.tensor([96.0, 64, 96, 64])).all())
    assert len(reference_boxes(people[:0], 96, 64)) == 16


def test_people_with_few_joints_have_no_class() -> None:
    points = np.full((1, 13, 2), np.nan)
    points[0, :2] = 3
    box = np.array([[0.0, 0, 10, 10]], np.float32)
    assert classes_of(points, box, box, ANCHORS)[1].tolist() == [-1]


FROZEN = {
    "paper": {"joints"},
    "localisation": {"joints", "classes"},
    "classification": {"joints", "rpn"},
    "full": set[str](),
}


@pytest.mark.parametrize("losses", FROZEN)
def test_what_learns(losses: str) -> None:
    """Branches that are out of the loss stay as they are, all others move."""
    one = session(losses)
    before = {name: p.detach().clone() for name, p in one.network.named_parameters()}
    optimizer = torch.optim.SGD([dict(g) for g in one.parameters()], lr=0.1)
    torch.manual_seed(0)
    found = one.loss(example_labels(3), np.random.default_rng(0), True)
    found["loss"].backward()
    optimizer.step()
    moved = {name.split(".")[0] for name, p in one.network.named_parameters() if not torch.equal(p, before[name])}
    assert moved >= {"backbone"}
    assert {"rpn", "classes", "joints"} - moved == FROZEN[losses]
    parts = {name: float(value) for name, value in found.items() if name != "loss"}
    weights = {"objectness": "rpn", "boxes": "rpn", "classes": "classes", "joints": "joints"}
    total = sum(v * (4 if n == "joints" else 1) for n, v in parts.items() if weights[n] not in FROZEN[losses])
    assert float(found["loss"].detach()) == pytest.approx(total, rel=1e-5)


def test_batch_normalisation_stays_as_it_is_while_a_student_learns() -> None:
    one = session()
    one.settle = False
    before = {name: b.clone() for name, b in one.network.named_buffers()}
    one.loss(example_labels(3), np.random.default_rng(0), True)
    assert all(torch.equal(b, before[name]) for name, b in one.network.named_buffers())


def test_labels_move_with_the_picture() -> None:
    """A white spot at every joint is at the joint after any change."""
    image = np.zeros((64, 96, 3), np.uint8)
    rng = np.random.default_rng(1)
    points = rng.integers((20, 15), (76, 50), (1, 13, 2)).astype(np.float32)
    for x, y in points[0].astype(int):
        image[y - 1 : y + 2, x - 1 : x + 2] = 255
    box = np.concatenate([points.min(1), points.max(1)], 1)
    frame = LabelledFrame("c:0", image, points, np.ones((1, 13), np.float32), box, "body13")
    plain = label(frame, (96, 64), "body13", None, rng)
    assert plain.keypoints[0] == pytest.approx(points[0])
    assert plain.image.tobytes() == image.tobytes()
    every = [label(frame, (96, 64), "body13", Augmentation(True, 0), np.random.default_rng(n)) for n in range(20)]
    flipped = next(made for made in every if not np.allclose(made.keypoints, points))
    for x, y in flipped.keypoints[0].round().astype(int):
        assert flipped.image[y, x].max() > 200
    assert flipped.keypoints[0, 1, 0] == pytest.approx(95 - points[0, 2, 0])
    assert flipped.boxes[0] == pytest.approx([95 - box[0, 2], box[0, 1], 95 - box[0, 0], box[0, 3]])


SETTINGS = FitSettings(epochs=2, batch=2, rate=1e-3, threads=1)


@pytest.mark.slow
def test_equal_runs_and_runs_that_were_stopped_are_equal_bytes(tmp_path: Path) -> None:
    frames = example_labels(6)

    def learned(folder: Path, fail_at: int | None = None) -> bytes:
        one = session("full")
        if fail_at is not None:
            calls, real = [0], one.loss

            def failing(*given: Any, **named: Any) -> Any:
                calls[0] += 1
                if calls[0] == fail_at:
                    raise KeyboardInterrupt
                return real(*given, **named)

            one.loss = failing  # type: ignore[method-assign]
        fit(one, frames[:4], frames[4:], SETTINGS, folder)
        one.save(folder / "w.safetensors")
        return (folder / "w.safetensors").read_bytes()

    first = learned(tmp_path / "a")
    assert learned(tmp_path / "b") == first
    with pytest.raises(KeyboardInterrupt):
        learned(tmp_path / "c", fail_at=6)
    assert learned(tmp_path / "c") == first


@pytest.mark.slow
def test_it_learns_a_handful_of_pictures(tmp_path: Path) -> None:
    from tools.anchor_pose.data import rendered

    frames = [f for f in rendered(31_000_000, 3, "clean") if len(f)][:8]
    one = session("full", augment=0.0)
    fitted = fit(one, frames, frames, FitSettings(epochs=30, batch=4, rate=3e-3, patience=30, threads=1), tmp_path)
    losses = [row["validation"] for row in fitted.history]
    assert min(losses) < 0.5 * losses[0]


def test_wrong_options() -> None:
    with pytest.raises(ComponentError, match="regions"):
        AnchorPoseStudent(regions=1)
