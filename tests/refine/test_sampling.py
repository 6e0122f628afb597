"""Frames and held-out videos: evenly spread, the same for the same names, and blind to everything else."""

from __future__ import annotations

import numpy as np
import pytest

from dataengine.refine.sampling import drawn, is_held_out, sampled_frames


@pytest.mark.parametrize(
    ("count", "share", "wanted"), [(300, 0.1, 30), (7, 0.1, 1), (1, 0.1, 1), (10, 1.0, 10), (0, 0.5, 0)]
)
def test_as_many_frames_as_asked_for_and_at_least_one(count: int, share: float, wanted: int) -> None:
    found = sampled_frames("a", count, share, 0)
    assert len(found) == wanted and found.dtype == np.int64
    assert (np.diff(found) > 0).all() and ((found >= 0) & (found < count)).all()


def test_frames_depend_on_the_clip_and_the_seed_alone() -> None:
    first = sampled_frames("a", 300, 0.1, 0).tolist()
    assert sampled_frames("a", 300, 0.1, 0).tolist() == first
    assert sampled_frames("b", 300, 0.1, 0).tolist() != first != sampled_frames("a", 300, 0.1, 1).tolist()


def test_every_frame_has_the_same_chance() -> None:
    counts = np.zeros(40)
    for n in range(2000):
        counts[sampled_frames(f"clip-{n}", 40, 0.1, 0)] += 1
    assert counts.sum() == 8000 and abs(counts / 200 - 1).max() < 0.3


def test_a_fifth_of_the_videos_is_held_out_with_all_their_clips() -> None:
    held = [is_held_out("source", f"video-{n}", 0, 0.2) for n in range(4000)]
    assert 0.17 < np.mean(held) < 0.23
    assert held == [is_held_out("source", f"video-{n}", 0, 0.2) for n in range(4000)]
    assert held != [is_held_out("source", f"video-{n}", 1, 0.2) for n in range(4000)]
    more = [is_held_out("source", f"video-{n}", 0, 0.3) for n in range(4000)]
    assert all(b for a, b in zip(held, more) if a), "a larger share holds out what a smaller one does"


def test_what_is_drawn_is_even() -> None:
    values = [drawn("x", n) for n in range(2000)]
    assert min(values) >= 0 and max(values) < 1 and abs(np.mean(values) - 0.5) < 0.03
