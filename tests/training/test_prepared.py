"""Prepared clips are held, and change nothing."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.support.motions import Motions
from training.data.loader import DataLoader
from training.data.subsets import random_subset
from training.methods.base import RandomViews
from training.methods.mcc import PLAYBACK, PlaybackSampling
from training.transforms.prepared import PreparedDataset
from training.transforms.preprocess import Preprocess
from training.transforms.view import View

PREPROCESS = Preprocess("body13", people=2, score=True)
VIEWS = RandomViews(PREPROCESS, {"motion": View(16, "strong", "body13", score=True)}, ("video",))


def epochs(dataset, transform=VIEWS, count=2, workers=0):
    loader = DataLoader(dataset, transform, 8, seed=3, workers=workers)
    return [batch for _ in range(count) for batch in loader]


def equal(one, two):
    return len(one) == len(two) and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in zip(one, two)
    )


@pytest.mark.parametrize("limit", [0.0, 40_000.0, 1e9])
def test_batches_are_the_same_with_clips_that_are_held(limit):
    plain = epochs(Motions(24, 1, video=6))
    held = PreparedDataset(Motions(24, 1, video=6), PREPROCESS, limit)
    assert equal(epochs(held), plain) and held.bytes <= limit
    assert len(held._held) == {0.0: 0, 1e9: 24}.get(limit, len(held._held)) and (limit < 1) == (not held._held)
    sampling = PlaybackSampling(PREPROCESS, PLAYBACK)
    assert equal(epochs(held, sampling), epochs(Motions(24, 1, video=6), sampling))


def test_a_clip_is_prepared_once(monkeypatch):
    prepared = []
    whole = Preprocess._normalised
    monkeypatch.setattr(Preprocess, "_normalised", lambda self, *given: prepared.append(1) or whole(self, *given))
    held = PreparedDataset(Motions(24, 1, video=6), PREPROCESS, 1e9)
    epochs(held, count=3)
    assert len(prepared) == 24
    clips = random_subset([held], 5)[0].read([0, 0, 1])
    assert clips[0] is clips[1] and len(prepared) == 24
    with pytest.raises(ValueError, match="read-only"):
        clips[0].keypoints[...] = 0
    assert held.fingerprint == held.source.fingerprint and np.array_equal(held.label_ids, held.source.label_ids)


@pytest.mark.slow
def test_workers_hold_clips_of_their_own():
    held = PreparedDataset(Motions(24, 1, video=6), PREPROCESS, 1e9)
    assert equal(epochs(held, workers=2), epochs(Motions(24, 1, video=6)))
