"""Which calibration a recipe uses, and that it counts for the fingerprint of the poses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dataengine.builder import resolve
from dataengine.core.errors import WeightsError
from dataengine.core.types import Track
from dataengine.fusion.score_calibration import ScoreCalibration, ScoreCurve
from dataengine.passes import pose, pose_session
from dataengine.passes.job import Job
from dataengine.passes.pose_session import PoseComponents, built_in_curves
from dataengine.pipeline.recipe import Recipe

CURVE = ScoreCurve(0.5, (-1.0,) * 13, "nothing but this test")


def recipe(**changed: str) -> Recipe:
    plain = resolve("posecap", "sample")
    return plain.model_copy(update={"pose": plain.pose.model_copy(update=changed)})


def settings(given: Recipe) -> dict[str, object]:
    return Job.of(given, Path("/nowhere"), "cpu").passes["pose"].config(given)


def test_rendered_experts_give_probabilities_as_they_are() -> None:
    assert built_in_curves(recipe()) == {}
    assert PoseComponents.of(recipe()).calibration is None
    assert settings(recipe()) == settings(recipe(calibration="none"))
    assert "dataengine.fusion.score_calibration" in Job.of(recipe(), Path("/nowhere"), "cpu").passes["pose"].unused(
        recipe()
    )


def test_built_in_curves_are_used_and_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = settings(recipe())
    monkeypatch.setattr(pose_session, "built_in", lambda: ScoreCalibration({"synthetic": CURVE}))
    names = ["synthetic_topdown", "synthetic_bottomup", "synthetic_regression"]
    assert list(built_in_curves(recipe())) == names
    assert PoseComponents.of(recipe()).calibration == ScoreCalibration(dict.fromkeys(names, CURVE))
    after = settings(recipe())
    assert after != before and set(after) - set(before) == {"score_curves"}
    unused = Job.of(recipe(), Path("/nowhere"), "cpu").passes["pose"].unused(recipe())
    assert "dataengine.fusion.score_calibration" not in unused
    assert settings(recipe(calibration="none")).keys() == before.keys()


def test_a_file_of_curves_is_used_in_place_of_the_built_in_ones(tmp_path: Path) -> None:
    ScoreCalibration({"synthetic_topdown": CURVE}).save(tmp_path / "a.json")
    given = recipe(calibration=str(tmp_path / "a.json"))
    tools = PoseComponents.of(given)
    assert tools.calibration == ScoreCalibration({"synthetic_topdown": CURVE})
    rng = np.random.default_rng(0)
    coords = (rng.uniform(0, 100, (1, 5, 13, 2)) + rng.normal(size=(3, 5, 13, 2))).astype(np.float32)
    track = Track(0, coords, np.full((3, 5, 13), 0.9, np.float32), np.zeros((5, 4), np.float32))
    made, plain = (pose._fuse([track], PoseComponents.of(r), "body13", {}) for r in (given, recipe()))
    np.testing.assert_array_equal(made["expert_scores.npy"], plain["expert_scores.npy"])
    assert (made["scores.npy"] < plain["scores.npy"]).all()
    with pytest.raises(WeightsError, match=r"absent\.json"):
        PoseComponents.of(recipe(calibration=str(tmp_path / "absent.json")))
