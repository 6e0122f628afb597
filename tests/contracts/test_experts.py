"""What every registered pose expert and person detector promises; see `dataengine.testing`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataengine import experts, testing
from dataengine.core import registry
from dataengine.core.component import Expert
from dataengine.core.errors import ComponentError
from dataengine.core.skeletons import convert, skeleton
from dataengine.fusion.score_calibration import built_in
from dataengine.rendering import render_clip
from tests.support.local_experts import is_trained, make

LARGE = {"keypoint_rcnn", "rtdetr", "vitpose"}
"""Networks whose contract takes longer than ten seconds of one core."""
NAMES = [
    pytest.param(
        n, marks=[pytest.mark.network, pytest.mark.slow] if n == "mediapipe" else [pytest.mark.slow] * (n in LARGE)
    )
    for n in registry.names("experts")
    if n != "precomputed"
]
"""MediaPipe makes an environment of its own first. `precomputed` looks poses up by clip: see test_precomputed.py."""
DETECTORS = [pytest.param(n, marks=[pytest.mark.slow] * (n in LARGE)) for n in registry.names("detectors")]


@pytest.fixture(scope="module", params=NAMES)
def expert(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Expert:
    made: Expert = make(request.param, tmp_path_factory.mktemp(request.param))
    return made


def test_it_keeps_the_promises_of_an_expert(expert: Expert) -> None:
    testing.check_expert(expert, render_clip(11, 4, condition="clean", num_people=1).frames)


def test_its_scores_have_the_calibration_that_it_names(expert: Expert) -> None:
    assert expert.score_calibration is None or expert.score_calibration in built_in().curves


def around(joints: np.ndarray, width: int, height: int) -> list[np.ndarray]:
    """A box for each person around (T, P, V, 2) joints, a little larger."""
    low, high = np.nanmin(joints, 2), np.nanmax(joints, 2)
    room = 0.15 * (high - low)
    corners = np.concatenate([low - room, high + room, np.ones((*low.shape[:2], 1))], -1)
    return list(np.clip(corners, 0, [width, height, width, height, 1]).astype(np.float32))


def test_it_finds_a_person_where_one_is(expert: Expert, request: pytest.FixtureRequest) -> None:
    """Half of the joints within a third of the person's height: above all not mirrored, transposed or off in scale."""
    if not is_trained(request.node.callspec.params["expert"]):
        pytest.skip("its weights are random here")
    near = []
    with expert.load() as session:
        for seed in (11, 12, 13, 14):
            clip = render_clip(seed, 3, condition="clean", num_people=1)
            height, width = clip.frames.shape[1:3]
            poses = testing.predict(expert, session, clip.frames, around(clip.joints, width, height))
            testing.check_poses(poses, len(clip.frames), skeleton(expert.skeleton).num_joints)
            for pose, truth in zip(poses, clip.joints[:, 0], strict=True):
                if len(pose):
                    given, _ = convert(pose.coords[0], pose.scores[0], expert.skeleton, "body13")
                    true, _ = convert(truth, None, "body14", "body13")
                    distance = np.linalg.norm(given - true, axis=-1) / np.ptp(true[:, 1])
                    near.append(np.mean(np.nan_to_num(distance, nan=9.0) < 1 / 3))
    assert len(near) >= 6
    assert np.mean(near) > 0.5


@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_keep_their_promises(name: str, tmp_path: Path) -> None:
    testing.check_detector(make(name, tmp_path, "detectors"), render_clip(11, 3, condition="clean").frames)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_people": 0},
        {"tiles": -1},
        {"detect_every": 0},
        {"min_score": 2.0},
        {"deadline": 0},
        {"max_people": "many"},
    ],
)
def test_wrong_values_of_mediapipe(wrong: dict[str, Any]) -> None:
    with pytest.raises(ComponentError, match=next(iter(wrong))):
        experts.create("mediapipe", **wrong)
