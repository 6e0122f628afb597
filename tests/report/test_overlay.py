"""Drawn skeletons: what is drawn, where, and what is left out."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dataengine.core.errors import ComponentError, DataEngineError
from dataengine.core.skeletons import SKELETONS, convert
from dataengine.core.types import Float, Frames
from dataengine.rendering import render_clip
from dataengine.report import overlay

CLIP = render_clip(1, 12, condition="clean")
FRAME: Frames = CLIP.frames[8]
POSE: Float = convert(CLIP.joints[8, 0], None, "body14", "posetics17")[0]


def drawn(picture: Frames, frame: Frames = FRAME) -> Float:
    """(H, W) bool: what differs from the frame."""
    return np.asarray((picture != frame).any(-1))


@pytest.mark.parametrize("layout", SKELETONS)
def test_every_layout_is_drawn_where_its_joints_are(layout: str) -> None:
    coords, scores = convert(POSE, None, "posetics17", layout)
    picture = overlay.draw(FRAME, coords, scores, layout)
    assert picture.shape == FRAME.shape and picture.dtype == np.uint8
    changed = drawn(picture)
    for x, y in coords[np.isfinite(coords).all(-1)]:
        assert changed[round(float(y)), round(float(x))]
    rows, columns = np.nonzero(changed)
    margin = 2 * overlay.stroke(coords) + 3
    assert columns.min() > np.nanmin(coords[:, 0]) - margin and columns.max() < np.nanmax(coords[:, 0]) + margin
    assert rows.min() > np.nanmin(coords[:, 1]) - margin and rows.max() < np.nanmax(coords[:, 1]) + margin


def test_the_frame_given_is_left_alone() -> None:
    before = FRAME.copy()
    overlay.draw(FRAME, POSE, None, "posetics17", label="a")
    overlay.draw_people(FRAME, POSE[None], None, "posetics17")
    overlay.draw_people(FRAME, POSE[:0].reshape(0, 17, 2), None, "posetics17")[:] = 0
    assert (before == FRAME).all()


def test_sides_have_their_own_colours() -> None:
    grey = np.full((300, 300, 3), 128, np.uint8)
    coords = np.full((13, 2), np.nan)
    coords[[5, 6]] = [[80, 150], [220, 150]]  # body13: left and right wrist
    picture = overlay.draw(grey, coords, None, "body13")
    assert tuple(picture[150, 80]) == overlay.PEOPLE[0].left
    assert tuple(picture[150, 220]) == overlay.PEOPLE[0].right
    assert tuple(overlay.draw(grey, coords, None, "body13", person=1)[150, 80]) == overlay.PEOPLE[1].left
    assert len(set(overlay.PEOPLE)) == len(overlay.PEOPLE)


def test_nothing_seen_draws_nothing() -> None:
    assert not drawn(overlay.draw(FRAME, np.full((17, 2), np.nan), None, "posetics17", label="nobody")).any()
    half = POSE.copy()
    half[7:] = np.nan
    assert (
        0
        < drawn(overlay.draw(FRAME, half, None, "posetics17")).sum()
        < drawn(overlay.draw(FRAME, POSE, None, "posetics17")).sum()
    )


def test_low_scores_are_drawn_faint() -> None:
    sure = overlay.draw(FRAME, POSE, np.ones(17), "posetics17").astype(int)
    faint = overlay.draw(FRAME, POSE, np.full(17, 0.05), "posetics17").astype(int)
    assert 0 < np.abs(faint - FRAME).sum() < 0.6 * np.abs(sure - FRAME).sum()


def test_far_outside_and_tiny_poses_do_not_fail() -> None:
    for coords in (POSE + 1e7, POSE * 1e-6, POSE - 5e3, np.where(np.arange(17)[:, None] % 2, POSE, 1e9)):
        assert overlay.draw(FRAME, coords, None, "posetics17", label="x" * 80).shape == FRAME.shape


def test_lines_grow_with_the_body() -> None:
    assert overlay.stroke(POSE * 4) > overlay.stroke(POSE) >= 1.2


def test_enlarged_pictures_keep_joints_in_place() -> None:
    picture = overlay.draw_people(FRAME, POSE[None], None, "posetics17", ["#0"], scale=2)
    assert picture.shape == (512, 680, 3)
    x, y = POSE[3] * 2 + 0.5
    assert tuple(picture[round(float(y)), round(float(x))]) == overlay.PEOPLE[0].middle


def test_sheets_hold_every_frame_and_caption() -> None:
    frames = [np.full((40 + 10 * n, 60, 3), 40 * n + 20, np.uint8) for n in range(5)]
    grid = overlay.sheet(frames, columns=3, gap=4)
    assert grid.shape == (2 * 84 + 4, 3 * 64 + 4, 3)
    for n in range(5):
        assert (grid == 40 * n + 20).all(-1).sum() >= (40 + 10 * n) * 60
    assert overlay.sheet(frames, columns=3, gap=4, captions=["a"] * 5).shape[0] > grid.shape[0]
    with pytest.raises(DataEngineError, match="at least one"):
        overlay.sheet([])


def test_panels_show_one_frame_a_name() -> None:
    grid = overlay.panels(
        FRAME, {"one": (POSE, None), "two": (POSE[None], np.ones((1, 17))), "SST-A": (POSE, None)}, "posetics17"
    )
    assert grid.shape[1] == 3 * (340 + 6) + 6


@pytest.mark.parametrize(("form", "head"), [(".jpg", b"\xff\xd8"), (".png", b"\x89PNG")])
def test_pictures_are_encoded(form: str, head: bytes) -> None:
    data = overlay.encode(FRAME, form)
    assert data.startswith(head) and data == overlay.encode(FRAME, form)
    back = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert np.abs(back.astype(int) - FRAME).mean() < 6


def test_mistakes_are_explained() -> None:
    with pytest.raises(DataEngineError, match=r"\(13, 2\); given \(17, 2\)"):
        overlay.draw(FRAME, POSE, None, "body13")
    with pytest.raises(ComponentError, match="did you mean 'posetics17'"):
        overlay.draw(FRAME, POSE, None, "posetic17")
    with pytest.raises(DataEngineError, match=r"\.png"):
        overlay.encode(FRAME, ".gif")
