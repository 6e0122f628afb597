"""Prepared clips are kept, on disk and in memory, and change nothing."""

from __future__ import annotations

import dataclasses
import os
import shutil
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dataengine.core.errors import TrainingError
from tests.support.motions import Motions
from training.data import clip_store
from training.data.clip_store import ClipStore, make_room, sizes
from training.data.formats import open_datasets
from training.data.loader import DataLoader
from training.data.subsets import random_subset
from training.data.types import SkeletonSequence
from training.methods.base import RandomViews
from training.methods.mcc import PLAYBACK, PlaybackSampling
from training.transforms.prepared import ClipCache, PreparedDataset, prepared
from training.transforms.preprocess import Preprocess
from training.transforms.view import View

PREPROCESS = Preprocess("body13", people=2, score=True)
VIEWS = RandomViews(PREPROCESS, {"motion": View(16, "strong", "body13", score=True)}, ("video",))


def motions():
    return Motions(24, 1, video=6)


def epochs(dataset, transform=VIEWS, count=2, workers=0):
    loader = DataLoader(dataset, transform, 8, seed=3, workers=workers)
    return [batch for _ in range(count) for batch in loader]


def equal(one, two):
    return len(one) == len(two) and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in zip(one, two)
    )


@pytest.fixture(scope="module")
def plain():
    return epochs(motions())


@pytest.fixture
def counted(monkeypatch):
    """Grows with every clip that is prepared."""
    made = []
    whole = Preprocess._normalised
    monkeypatch.setattr(Preprocess, "_normalised", lambda self, *given: made.append(1) or whole(self, *given))
    return made


def on_disk(root, limit=1e9, memory=0.0, preprocess=PREPROCESS):
    return PreparedDataset(motions(), preprocess, ClipCache(root, limit, memory))


@pytest.mark.parametrize("memory", [0.0, 60_000.0, 1e9])
def test_batches_are_the_same_with_clips_that_are_held(memory, plain):
    held = PreparedDataset(motions(), PREPROCESS, ClipCache(None, 0, memory))
    assert equal(epochs(held), plain) and held.bytes <= memory
    assert len(held._held) == {0.0: 0, 1e9: 24}.get(memory, len(held._held)) and (memory < 1) == (not held._held)
    sampling = PlaybackSampling(PREPROCESS, PLAYBACK)
    assert equal(epochs(held, sampling), epochs(motions(), sampling))


def test_a_clip_is_prepared_once(counted):
    held = PreparedDataset(motions(), PREPROCESS, ClipCache(None, 0, 1e9))
    epochs(held, count=3)
    assert len(counted) == 24
    clips = random_subset([held], 5)[0].read([0, 0, 1])
    assert clips[0] is clips[1] and len(counted) == 24
    with pytest.raises(ValueError, match="read-only"):
        clips[0].keypoints[...] = 0
    assert held.fingerprint == held.source.fingerprint and np.array_equal(held.label_ids, held.source.label_ids)


def test_what_is_on_disk_serves_others_and_changes_nothing(tmp_path, counted, plain):
    cold = on_disk(tmp_path)
    assert equal(epochs(cold), plain) and not cold._held
    made = len(counted)
    warm = on_disk(tmp_path)
    assert equal(epochs(warm), plain) and len(counted) == made
    bones = on_disk(tmp_path, preprocess=Preprocess("body13", people=2, score=True, stream="bone"))
    assert len(bones.read(range(24))) == 24 and len(counted) == made  # joints are the same, whatever stream is taken
    for one, other in zip(warm.read(range(24)), map(warm._prepared, warm.source.read(range(24)))):
        for field in dataclasses.fields(SkeletonSequence):
            a, b = (getattr(clip, field.name) for clip in (one, other))
            if field.name in ("features", "placed"):
                assert a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
            else:
                np.testing.assert_equal(a, b) if isinstance(b, np.ndarray) else _same(a, b)
    assert sizes(tmp_path).keys() == {warm._store.folder.name} == {bones._store.folder.name}
    assert on_disk(tmp_path, preprocess=Preprocess("body13", people=1, score=True))._store.folder != warm._store.folder


def _same(one, other):
    assert one == other and type(one) is type(other)


def test_a_subset_shares_the_clips_of_the_whole(tmp_path, counted):
    cache = ClipCache(tmp_path, 1e9, 0)
    (whole,) = prepared(motions(), PREPROCESS, cache)
    whole.read(range(24))
    made = len(counted)
    (part,) = prepared(random_subset([motions()], 5), PREPROCESS, cache)
    part.read(range(5))
    assert len(counted) == made and part.fingerprint == random_subset([motions()], 5)[0].fingerprint
    assert prepared([whole, part], PREPROCESS, cache) == [whole, part] and prepared(whole, PREPROCESS, None) == [whole]
    other = Preprocess("body13", people=1)
    (again,) = prepared(part, other, cache)
    assert again.read([0])[0].prepared_by == other and prepared(part, other, None)[0].read([0])[0].prepared_by is None


@pytest.mark.parametrize("harm", ["cut data", "cut index", "flipped", "zeros", "noise", "deleted", "data deleted"])
def test_a_torn_store_is_prepared_anew(tmp_path, plain, harm):
    epochs(on_disk(tmp_path), count=1)
    folder = on_disk(tmp_path)._store.folder
    (data,), (index,) = folder.glob("*.data"), folder.glob("*.index")
    rng = np.random.default_rng(0)
    if harm == "cut data":
        os.truncate(data, data.stat().st_size // 2 + 3)
    elif harm == "cut index":
        os.truncate(index, index.stat().st_size - 5)
    elif harm == "flipped":
        content = np.memmap(data, np.uint8)
        content[rng.integers(len(content), size=200)] ^= 255
        content.flush()
    elif harm == "zeros":
        index.write_bytes(index.read_bytes() + bytes(320))
    elif harm == "noise":
        index.write_bytes(rng.bytes(index.stat().st_size))
    elif harm == "deleted":
        shutil.rmtree(folder)
    else:
        data.unlink()
    mended = on_disk(tmp_path)
    assert equal(epochs(mended), plain)
    assert len(mended._store.read(range(24))) == 24


def test_deleted_while_in_use_changes_nothing(tmp_path, plain):
    held = on_disk(tmp_path, memory=1e9)
    loader = DataLoader(held, VIEWS, 8, seed=3)
    found = []
    for epoch in range(2):
        for number, batch in enumerate(loader):
            found.append(batch)
            if epoch == 0 and number == 1:
                shutil.rmtree(tmp_path / held._store.folder.name)
    assert equal(found, plain) and on_disk(tmp_path)._store.complete  # begun anew


def test_a_full_disk_is_given_up(tmp_path, monkeypatch, plain):
    written = []

    def full(handle, content):
        written.append(len(content))
        if sum(written) > 20_000:
            os.write(handle, bytes(memoryview(content)[: len(content) // 2]))
            raise OSError(28, "No space left on device")
        return os.write(handle, content)

    monkeypatch.setattr(clip_store, "_write", full)
    held = on_disk(tmp_path, memory=1e9)
    assert equal(epochs(held), plain) and held._held and not held._store.writes
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        later = on_disk(tmp_path)
        assert equal(epochs(later), plain) and later._store.complete
    monkeypatch.setattr(clip_store.shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(2e9, 1.9e9, 1e8))
    with pytest.warns(UserWarning, match=r"not written to .* \(0.1 GB of its disk are free\); they are held in memory"):
        starved = on_disk(tmp_path / "other", memory=1e9)
    assert equal(epochs(starved), plain) and len(starved._held) == 24


def test_a_folder_that_cannot_be_written_is_told_and_read(tmp_path, plain, counted):
    epochs(on_disk(tmp_path / "whole"), count=1)
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="prepared clips are not written to .*file"):
        held = on_disk(tmp_path / "file", memory=1e9)
    assert equal(epochs(held), plain) and len(held._held) == 24
    complete = on_disk(tmp_path / "whole")
    complete._store.writes = False
    made = len(counted)
    assert equal(epochs(complete), plain) and len(counted) == made


def test_the_limit_holds_and_old_stores_make_room(tmp_path, monkeypatch):
    epochs(on_disk(tmp_path), count=1)
    whole = sum(sizes(tmp_path).values())
    monkeypatch.setattr(clip_store, "LOOKED_AT", 0.0)
    small = on_disk(tmp_path / "small", limit=whole / 3)
    epochs(small, count=1)
    assert 0 < sum(sizes(tmp_path / "small").values()) < whole / 2
    (tmp_path / "mine.txt").write_text("kept")
    (store,) = sizes(tmp_path / "small")
    make_room(tmp_path / "small", 1.0, "another")
    assert sizes(tmp_path / "small")  # used within a day
    for file in (tmp_path / "small" / store / "about.json", tmp_path / "small" / store):
        os.utime(file, (0, 0))
    make_room(tmp_path / "small", 1.0, store)
    assert sizes(tmp_path / "small")
    make_room(tmp_path / "small", 1.0, "another")
    assert not sizes(tmp_path / "small") and (tmp_path / "mine.txt").exists()


def test_whatever_a_clip_carries_comes_back(tmp_path):
    rich = SkeletonSequence(
        "a", np.ones((1, 2, 3, 2), np.float32), np.zeros((1, 2, 3), np.float32), 3, (640, 480), 29.97,
        {"text": "jump", "k": np.float16(2), "many": np.arange(6).reshape(2, 3), "none": None, "words": ["a", ("b", 1)],
         "empty": np.zeros((0, 4)), "names": np.array(["x", "yy"]), "deep": {"nan": float("nan")}},
    )  # fmt: skip
    store = ClipStore(tmp_path, "k", 2, 1e9, {})
    assert store.write(1, rich) and not store.write(0, dataclasses.replace(rich, features={"o": object()}))
    assert store.writes and store.read([0]) == {}
    back = store.read([1])[1]
    assert (back.key, back.label, back.size, back.fps) == ("a", 3, (640, 480), 29.97)
    assert back.features["words"] == ["a", ("b", 1)] and back.features["text"] == "jump"
    assert type(back.features["k"]) is np.float16 and back.features["names"].tolist() == ["x", "yy"]
    assert back.features["empty"].shape == (0, 4) and np.isnan(back.features["deep"]["nan"])
    assert np.array_equal(back.features["many"], rich.features["many"]) and not back.keypoints.flags.writeable


def test_changed_data_have_a_store_of_their_own(tmp_path):
    """Also where poses are the same and what else decides their preparation is not; nothing stale is read."""
    poses = np.random.default_rng(0).normal(size=(4, 2, 6, 13, 2)).astype(np.float32)
    plain: dict[str, np.ndarray] = {"keypoints": poses, "scores": np.full((4, 2, 6, 13), 0.5)}
    long = {"keypoints": poses.reshape(4 * 6, 2, 13, 2), "offsets": np.array([0, 6, 12, 18, 24])}
    files = [plain, {**plain, "scores": plain["scores"] * np.arange(1, 3)[None, :, None, None]}]
    files += [{**plain, "frame_size": np.full((4, 2), side)} for side in (100, 200)]
    files += [long, {**long, "offsets": np.array([0, 5, 12, 18, 24])}]
    stores = []
    for arrays in files:
        np.savez(tmp_path / "same.npz", **arrays)
        (data,) = open_datasets(tmp_path / "same.npz", layout="body13")
        (clips,) = prepared(data, Preprocess("body13"), ClipCache(tmp_path / "cache", 1e9, 0))
        for clip, stored in zip(clips.read(range(4)), data.read(range(4))):
            assert np.array_equal(clip.keypoints, Preprocess("body13").joints(stored))
        stores.append(clips._store.folder.name)
    assert len(set(stores)) == len(files)


def test_places(monkeypatch, tmp_path):
    monkeypatch.setenv("DATAENGINE_PREPARED", str(tmp_path))
    assert ClipCache.of("auto", 1.0).root == tmp_path and ClipCache.of("memory", 1.0).root is None
    assert ClipCache.of("off", 1.0) is None and ClipCache.of("auto", 0.0) is None
    assert ClipCache.of(str(tmp_path / "x"), 2.0, 4) == ClipCache(
        tmp_path / "x", 2e9, ClipCache.of("memory", 2, 4).memory
    )
    with pytest.raises(TrainingError, match="allowed: auto, memory, off, or a folder"):
        ClipCache.of("", 1.0)


@pytest.mark.slow
def test_workers_hold_clips_of_their_own_and_share_the_disk(tmp_path, plain):
    held = PreparedDataset(motions(), PREPROCESS, ClipCache(None, 0, 1e9))
    assert equal(epochs(held, workers=2), plain)
    shared = on_disk(tmp_path)
    assert equal(epochs(shared, workers=2), plain) and equal(epochs(shared), plain)
    assert shared._store.complete and len(list(shared._store.folder.glob("*.data"))) == 2
