"""Boxes between detections, and a calibration in a build."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import dataengine
from dataengine.core import registry
from dataengine.core.component import ClipFrames, DetectorSession, ExpertSession
from dataengine.core.errors import RecipeError, WeightsError
from dataengine.core.skeletons import COMMON, convert
from dataengine.core.types import Clip, Float, Frames, Poses
from dataengine.fusion.calibration import Calibration
from dataengine.media.encode import write_video
from dataengine.passes.pose_estimation import PoseEstimator
from dataengine.pipeline.engine import Engine
from dataengine.pipeline.recipe import load
from dataengine.rendering import render_clip


class Counting(DetectorSession):
    """The built-in detector, and how often it was asked."""

    def __init__(self) -> None:
        self.own = registry.create("detectors", "synthetic_detector").load()
        self.frames = 0

    def detect(self, frames: Frames) -> list[Float]:
        self.frames += len(frames)
        found: list[Float] = self.own.detect(frames)
        return found


def whole(frames: Frames) -> ClipFrames:
    """Frames as those of a clip."""
    indices = np.arange(len(frames))
    return ClipFrames(Clip("a-b-0-1", "a", "b", "b.mp4"), frames, indices, indices / 25, Fraction(25))


@pytest.mark.parametrize("every", [1, 4, 8])
def test_boxes_follow_people_between_detections(every: int) -> None:
    """Few detections cost little accuracy, and batches of any size give the same."""
    components = [registry.create("experts", f"synthetic_{name}") for name in ("topdown", "bottomup", "regression")]
    experts = [(component.load(), component.needs_boxes) for component in components]
    right, count = 0, 0
    for seed in range(70, 73):
        clip = render_clip(seed, 24, condition="clean", num_people=1)
        detector = Counting()
        answers = PoseEstimator(detector, experts, every).predict(whole(clip.frames))
        assert detector.frames == 24 // every
        estimator, parts = PoseEstimator(Counting(), experts, every), [[], [], []]
        for start, stop in ((0, 5), (5, 6), (6, 17), (17, 24)):
            for part, more in zip(parts, estimator.predict(whole(clip.frames)[start:stop])):
                part += more
        for one, part in zip(answers, parts):
            assert [len(p) for p in one] == [len(p) for p in part]
            for a, b in zip(one, part):
                np.testing.assert_allclose(a.coords, b.coords, atol=0.1)
        truth, _ = convert(clip.joints[:, 0], None, "body14", COMMON)
        for t, poses in enumerate(answers[0]):
            count += 13
            if len(poses):
                given, _ = convert(poses.coords[0], poses.scores[0], "body14", COMMON)
                right += int((np.linalg.norm(given - truth[t], axis=-1) < 0.5 * clip.head[t, 0]).sum())
    assert right / count > 0.7


class Boxed(ExpertSession):
    """Finds a person in every box that lies far enough to the left, the surer the lower its score; keeps its boxes."""

    def __init__(self) -> None:
        self.boxes: list[Float] = []

    def predict(self, frames: Frames, boxes: Sequence[Float] | None = None) -> list[Poses]:
        assert boxes is not None and len(boxes) == len(frames)
        self.boxes += [np.asarray(some) for some in boxes]
        kept = [some[some[:, 0] < 100] for some in self.boxes[-len(boxes) :]]
        return [
            Poses(
                np.tile(some[:, None, :2] + [[10, 20]], (1, 17, 1)).astype(np.float32) + np.arange(17)[:, None],
                np.tile(1 - some[:, 4:], (1, 17)).astype(np.float32),
                some.astype(np.float32),
            )
            for some in kept
        ]


class Fixed(DetectorSession):
    def detect(self, frames: Frames) -> list[Float]:
        left = np.arange(5) * 40.0
        return [np.stack([left, left, left + 30, left + 60, 0.9 - left / 200], 1).astype(np.float32)] * len(frames)


@pytest.mark.parametrize("every", [1, 3])
def test_later_experts_look_at_people_that_the_first_one_found(every: int) -> None:
    first, second, third = Boxed(), Boxed(), Boxed()
    frames = whole(np.zeros((4, 300, 300, 3), np.uint8))
    estimator = PoseEstimator(Fixed(), [(first, True), (second, True), (third, True)], every, max_boxes=2)
    estimator.predict(frames)
    assert [len(some) for some in first.boxes[:1]] == [5] and len(first.boxes) == len(second.boxes) == 4
    for session in (second, third):
        assert [len(some) for some in session.boxes] == [2, 2, 2, 2]  # of three people, those with the best poses
        assert session.boxes[0][:, 0].tolist() == [80, 40]
    plain, other = Boxed(), Boxed()
    PoseEstimator(Fixed(), [(plain, True), (other, True)], every).predict(frames)
    assert all(np.array_equal(a, b) for a, b in zip(plain.boxes, other.boxes))


class Numbered(ExpertSession):
    """Finds one person at the number of the frame, which is the colour of its first pixel."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def predict(self, frames: Frames, boxes: Sequence[Float] | None = None) -> list[Poses]:
        assert boxes is None or len(boxes) == len(frames)
        self.seen += frames[:, 0, 0, 0].tolist()
        ones = np.ones((1, 5), np.float32)
        return [Poses(np.full((1, 5, 2), f, np.float32), np.ones((1, 5), np.float32), ones) for f in frames[:, 0, 0, 0]]


@pytest.mark.parametrize("boxed", [True, False])
@pytest.mark.parametrize("detect_every", [1, 3])
def test_an_expert_may_look_at_every_kth_frame(detect_every: int, boxed: bool) -> None:
    pictures = np.zeros((11, 300, 300, 3), np.uint8) + np.arange(11, dtype=np.uint8)[:, None, None, None]
    frames = whole(pictures)
    for cuts in ((0, 11), (0, 1, 2, 6, 11)):
        leader, other = Boxed(), Numbered()
        estimator = PoseEstimator(Fixed(), [(leader, True), (other, boxed)], detect_every, every=[1, 4])
        found: list[Poses] = []
        for start, stop in pairwise(cuts):
            found += estimator.predict(frames[start:stop])[1]
        assert other.seen == [0, 4, 8] and len(leader.boxes) == 11
        assert [len(poses) for poses in found] == [1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0]
        assert [int(found[n].coords[0, 0, 0]) for n in (0, 4, 8)] == [0, 4, 8]
        assert {poses.coords.shape[1:] for poses in found} == {(5, 2)}


def test_looks_of_experts_are_checked() -> None:
    three = ["movenet", "efficientpose", "movenet_multipose"]
    given = [f"pose.experts={three}".replace("'", '"')]
    for every, told in (
        ("{ efficientpos = 2 }", "did you mean 'efficientpose'"),
        ("{ efficientpose = 0 }", "1 to 100"),
        ("{ movenet = 2 }", "looks at every frame"),
    ):
        with pytest.raises(RecipeError, match=told):
            load("posecap", "cpu", [*given, f"pose.expert_every={every}"])


def videos(folder: Path) -> Path:
    folder.mkdir()
    for seed in (80, 81):
        write_video(folder / f"v{seed}.mp4", iter(render_clip(seed, 24, condition="clean", num_people=1).frames), 25)
    return folder


def test_a_recipe_may_name_a_calibration(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(60, 1, 13, 2)) * 40 + 200 + rng.normal(size=(60, 10, 1, 1)).cumsum(1)
    names = ["synthetic_topdown", "synthetic_bottomup", "synthetic_regression"]
    shifts = np.array([[0, 0], [12, 0], [0, -12.0]])[:, None, None]
    coords = [some + shifts + rng.normal(size=(3, 10, 13, 2)) * 2 for some in truth]
    for some in coords:
        some[rng.random(some.shape[:-1]) < 0.1] += 60  # far off, now and then
    seen = [np.ones((10, 13), bool)] * 60
    Calibration.fit(coords, list(truth), seen, [40.0] * 60, COMMON, names).save(tmp_path / "c.npz")
    folder, settings = videos(tmp_path / "videos"), ["curate.filters=[]", "report.gallery=0", "pose.max_fps=8.0"]
    given = [*settings, f'pose.calibration="{tmp_path / "c.npz"}"']
    serial = Engine(serial=True)
    dataengine.build(
        "posecap", {"folder": str(folder)}, tmp_path / "plain", overlay="core", overrides=settings, engine=serial
    )
    dataengine.build(
        "posecap", {"folder": str(folder)}, tmp_path / "calibrated", overlay="core", overrides=given, engine=serial
    )
    plain, calibrated = dataengine.open(tmp_path / "plain"), dataengine.open(tmp_path / "calibrated")
    clip_id = plain.clips.collect()["clip_id"][0]
    away = np.linalg.norm(plain.sample(clip_id)["keypoints"] - calibrated.sample(clip_id)["keypoints"], axis=-1)
    assert np.nanmedian(away) > 0.5
    with pytest.raises((WeightsError, RecipeError), match=r"absent\.npz"):
        absent = [*settings, f'pose.calibration="{tmp_path / "absent.npz"}"']
        dataengine.build(
            "posecap", {"folder": str(folder)}, tmp_path / "x", overlay="core", overrides=absent, engine=serial
        )
