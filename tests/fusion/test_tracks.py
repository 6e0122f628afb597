"""Fusions on annotated clips with real errors, and on the published demo."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

from dataengine.core.skeletons import convert
from dataengine.fusion import fuse

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def protocol(shared_data):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
        yield importlib.import_module("track_protocol")


@pytest.mark.parametrize("faults", [True, False])
def test_fusion_is_better_than_the_best_expert(protocol, faults):
    sample = list(protocol.tracks("train", 0, 25, faults=faults))

    def pck(method, **options):
        found = protocol.evaluate(lambda t: fuse(t.coords, method=method, skeleton="body13", **options).coords, sample)
        return found.pck[0], found.jitter

    best = max(protocol.evaluate(lambda t, e=e: t.coords[e], sample).pck[0] for e in range(3))
    for method in ("consensus", "spline"):
        right, jitter = pck(method)
        assert right > max(best, pck("ssta")[0]) + 3 and abs(jitter) < 0.03
    if faults:
        assert best < pck("median")[0] < pck("viterbi_path")[0] < pck("consensus")[0]


def test_the_protocol_is_what_it_says(protocol):
    track = next(protocol.tracks("train", 0, 1, mean_length=8, faults=False))
    again = next(protocol.tracks("train", 0, 1, mean_length=8, faults=False))
    np.testing.assert_array_equal(track.coords, again.coords)
    assert np.isfinite(track.coords).all() and track.clip.scale > 8
    error = (track.coords - track.clip.truth) / track.clip.scale
    still = np.abs(np.diff(error, axis=1)).max((0, 2, 3)) < 0.3
    assert 0.7 < still.mean() < 0.98  # errors are held
    truth = protocol.score([(track.clip, track.clip.truth)])
    np.testing.assert_allclose(truth.pck, 100)
    assert truth.jitter == 0
    assert protocol.score([(track.clip, np.full_like(track.clip.truth, np.nan))]).pck[0] == 0
    faulty = next(protocol.tracks("train", 0, 1))
    assert np.isnan(faulty.coords).any()
    splits = [{c.index for c in protocol.clips(split)} for split in ("train", "test")]
    assert not splits[0] & splits[1]


def test_the_demo_is_followed_smoothly_and_from_any_start(shared_data):
    files = [
        np.load(shared_data / "fusion" / "ssta_demo" / f"WatchTV_p02_r03_v05_c05_{n}.npz")["kpts"]
        for n in ("Alphapose2d", "LCRNet2d", "OP2d")
    ]
    coords = np.full((3, 1380, 17, 2), np.nan, np.float32)
    for view, pose in zip(coords, files, strict=True):
        view[: len(pose)] = pose
    coords[(coords == 0).all(-1)] = np.nan
    coords, _ = convert(coords, None, "coco17", "body13")
    found = fuse(coords, method="consensus", skeleton="body13")
    assert np.linalg.norm(np.diff(found.coords, 2, axis=0), axis=-1).mean() < 1
    assert found.kept.mean() > 0.84
    assert (
        np.median(np.linalg.norm(found.coords - coords[1], axis=-1)[9:75]) < 4
    )  # the first expert is on another person
    late = fuse(coords[:, 900:], method="consensus", skeleton="body13")
    assert np.linalg.norm(late.coords[-60:] - found.coords[-60:], axis=-1).mean() < 1
