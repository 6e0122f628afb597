"""The command `calibrate`: curves from a finished build, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dataengine.core.errors import DataEngineError, DatasetError
from dataengine.core.skeletons import COMMON
from dataengine.dataset.takedown import takedown
from dataengine.fusion.calibration import load_calibration
from dataengine.inspect.build import job_of
from dataengine.inspect.calibrate import calibrate, expert_tracks, to_text
from tests.support.shared import copied


def test_the_experts_of_a_build_get_a_curve_each(sample_build: Path, tmp_path: Path) -> None:
    result = calibrate(sample_build, tmp_path / "scores.json")
    names = ["synthetic_topdown", "synthetic_bottomup", "synthetic_regression"]
    assert list(result["experts"]) == names and result["tracks"] > 0
    for chances in result["experts"].values():
        assert list(chances.values()) == sorted(chances.values()) and chances["0.9"] > 0.5
    found = load_calibration(tmp_path / "scores.json")
    made = found.apply(np.zeros((3, 1, 13, 2)), np.full((3, 1, 13), 0.7), COMMON, names)[1]
    assert ((made > 0) & (made < 1)).all()
    assert "pose.calibration" in to_text(result)
    assert "tracks of a build" in json.loads((tmp_path / "scores.json").read_text())["experts"][names[0]]["fitted_on"]


def test_clips_that_were_taken_down_are_not_learned_from(sample_build: Path, tmp_path: Path) -> None:
    out = copied(sample_build, tmp_path)
    job = job_of(out)
    before = sum(1 for _ in expert_tracks(out, job))
    from dataengine import open as open_dataset

    takedown(out, open_dataset(out).clips.collect()["clip_id"].to_list()[:2], "asked for")
    assert sum(1 for _ in expert_tracks(out, job)) < before


def test_what_it_cannot_do_is_said(sample_build: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"writes a \.json"):
        calibrate(sample_build, tmp_path / "scores.toml")
    (tmp_path / "mine.json").write_text('{"of": "somebody"}')
    with pytest.raises(DatasetError, match="holds no calibration of scores"):
        calibrate(sample_build, tmp_path / "mine.json")
    with pytest.raises(DataEngineError, match="not a build"):
        calibrate(tmp_path, tmp_path / "scores.json")
