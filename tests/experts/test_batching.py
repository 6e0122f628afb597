"""Batches across clips, and what happens when memory runs out."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from dataengine.core import registry
from dataengine.core.errors import ExpertError
from dataengine.core.types import Float, Frames, Poses
from dataengine.experts.batching import AdaptiveBatchSize, NetworkExpertSession
from dataengine.experts.dynamic_batcher import DynamicBatcher
from dataengine.experts.preprocess import FrameProcessing, crop_affine, letterbox, letterbox_affine
from dataengine.rendering import render_clip


class Brightest(NetworkExpertSession):
    """Finds the brightest pixel of an image and calls it every joint of a body."""

    def __init__(self, batch: int = 4, fits: int = 99, seconds: float = 0.0, uploads: bool = False) -> None:
        upload: Any = (lambda frames: frames) if uploads else None
        super().__init__(FrameProcessing((64, 48), "body13", 0.0, 0.0), self.brightest, batch, upload)
        self.fits = fits
        self.seconds = seconds
        self.sizes: list[int] = []

    def pooled(self, batcher: DynamicBatcher) -> Brightest:
        self.use_batcher(batcher)
        return self

    def brightest(self, pixels: Frames) -> Sequence[Float]:
        self.sizes.append(len(pixels))
        if len(pixels) > self.fits:
            raise MemoryError("too many images")
        time.sleep(self.seconds)
        grey = pixels.astype(int).sum(-1).reshape(len(pixels), -1)
        y, x = np.divmod(grey.argmax(-1), pixels.shape[2])
        joints = np.tile(np.stack([x, y, np.ones_like(x)], -1)[:, None], (1, 13, 1)).reshape(len(pixels), -1)
        box = np.stack([x - 2, y - 2, x + 2, y + 2, np.ones_like(x)], -1)
        return [row[None] for row in np.concatenate([box, joints], 1).astype(float)]


def spots(count: int, seed: int) -> tuple[Frames, np.ndarray]:
    rng = np.random.default_rng(seed)
    frames = np.zeros((count, 96, 128, 3), np.uint8)
    at = np.stack([rng.integers(4, 124, count), rng.integers(4, 92, count)], -1)
    for frame, (x, y) in zip(frames, at):
        frame[y - 2 : y + 3, x - 2 : x + 3] = 255
    return frames, at


def found(poses: list[Poses]) -> np.ndarray:
    return np.stack([p.coords[0, 0] for p in poses])


@pytest.mark.parametrize("fits", [1, 2, 3, 99])
def test_out_of_memory_halves_and_loses_nothing(fits: int) -> None:
    frames, at = spots(11, 0)
    expert = Brightest(batch=8, fits=fits)
    size = AdaptiveBatchSize(expert.batch)
    inputs = expert.preprocess(frames)
    answers = size.run(expert, inputs.pixels)
    assert np.abs(found(expert.postprocess(answers, inputs)) - at).max() <= 2.5
    assert size.batch == {1: 1, 2: 2, 3: 2, 99: 8}[fits]
    before = len(expert.sizes)
    size.run(expert, inputs.pixels)
    assert max(expert.sizes[before:]) <= fits  # what was learnt is kept


def test_a_picture_that_never_fits_is_a_typed_error() -> None:
    with pytest.raises(ExpertError, match=r"one image of 64 x 48 pixels does not fit: too many") as caught:
        Brightest(fits=0).predict(spots(3, 0)[0])
    assert (caught.value.kind, caught.value.retryable) == ("out_of_memory", True)


def test_a_batcher_fills_batches_from_several_clips() -> None:
    pool = DynamicBatcher(max_wait=0.5)
    expert = Brightest(batch=8, seconds=0.005).pooled(pool)
    clips = [spots(3, seed) for seed in range(24)]
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda clip: expert.predict(clip[0]), clips))
    pool.close()
    for poses, (_, at) in zip(answers, clips):
        assert np.abs(found(poses) - at).max() <= 2.5
    assert sum(pool.batches) == 72
    assert max(pool.batches) <= 8
    assert np.mean(pool.batches) > 4  # 3 is what each clip alone would give


def test_a_lone_request_waits_no_longer_than_the_age() -> None:
    pool = DynamicBatcher(max_wait=0.05)
    begun = time.monotonic()
    Brightest(batch=64).pooled(pool).predict(spots(1, 0)[0])
    assert time.monotonic() - begun < 60  # it would wait for ever
    pool.close()
    with pytest.raises(ExpertError, match="closed"):
        Brightest().pooled(pool).predict(spots(1, 0)[0])


def test_a_request_larger_than_a_batch() -> None:
    frames, at = spots(21, 3)
    pool = DynamicBatcher(max_wait=0.0)
    assert np.abs(found(Brightest(batch=4).pooled(pool).predict(frames)) - at).max() <= 2.5
    assert Brightest().pooled(pool).predict(frames[:0]) == []
    pool.close()


def test_one_clips_error_is_not_the_others() -> None:
    """A picture that the network cannot take fails its own clip only, though both were in one batch."""

    class Choosy(Brightest):
        def infer(self, pixels: Frames) -> Sequence[Float]:
            if (pixels[:, 0, 0] == 77).any():
                raise ValueError("I do not like this one")
            return super().infer(pixels)

    expert, pool, together = Choosy(batch=8), DynamicBatcher(max_wait=0.2), threading.Barrier(2)
    expert.use_batcher(pool)
    good, at = spots(2, 5)
    bad = np.full((2, 96, 128, 3), 77, np.uint8)

    def one(frames: Frames) -> Any:
        together.wait()
        try:
            return expert.predict(frames)
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(2) as threads:
        fine, refused = threads.map(one, [good, bad])
    pool.close()
    assert refused == "I do not like this one"
    assert np.abs(found(fine) - at).max() <= 2.5


@pytest.mark.parametrize("name", ["synthetic_topdown", "synthetic_bottomup", "synthetic_regression"])
def test_pooled_answers_are_the_experts_own(name: str) -> None:
    expert, detector = registry.create("experts", name), registry.create("detectors", "synthetic_detector")
    own, finder = expert.load(), detector.load()
    shared = expert.load(), detector.load()
    clips = [render_clip(seed, 4, condition="clean", num_people=1).frames for seed in (31, 32, 33)]
    pool = DynamicBatcher(max_wait=0.05)
    for session in shared:
        session.use_batcher(pool)

    def both(frames: Frames) -> list[Poses]:
        return shared[0].predict(frames, shared[1].detect(frames))

    with ThreadPoolExecutor(3) as threads:
        together = list(threads.map(both, clips))
    pool.close()
    for frames, poses in zip(clips, together):
        alone = own.predict(frames, finder.detect(frames))
        for a, b in zip(alone, poses, strict=True):
            np.testing.assert_allclose(a.coords, b.coords, atol=0.05)
            np.testing.assert_allclose(a.scores, b.scores, atol=1e-3)


@pytest.mark.parametrize("size", [(192, 256), (64, 48), (97, 33)])
def test_crops_centre_the_box(size: tuple[int, int]) -> None:
    box = np.array([10.0, 20.0, 90.0, 180.0])
    affine = crop_affine(box, size, 1.25)
    np.testing.assert_allclose(affine[:, :2] @ [50, 100] + affine[:, 2], np.array(size) / 2)
    low, high = (affine[:, :2] @ np.array(corner) + affine[:, 2] for corner in (box[:2], box[2:]))
    assert ((high - low) <= np.array(size) / 1.25 + 1e-9).all()
    assert np.isclose((high - low) / np.array(size), 1 / 1.25).any()


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("shape", [(48, 64), (100, 30), (300, 500), (7, 9)])
def test_whole_frames_keep_their_geometry(shape: tuple[int, int], centred: bool) -> None:
    """A horizontal and a vertical ramp are found where the map says they are."""
    height, width = shape
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    frames = np.stack([x * 255 / width, y * 255 / height, np.full(shape, 200)], -1)[None].astype(np.uint8)
    inputs = letterbox(frames, (64, 48), centred, (0, 0, 0))
    rows, cols = np.nonzero(inputs.pixels[0, :, :, 2] == 200)
    assert len(rows) > 0.2 * 48 * 64 * min(1, height / width * 64 / 48, width / height * 48 / 64)
    inner = (rows > rows.min()) & (rows < rows.max()) & (cols > cols.min()) & (cols < cols.max())
    at = inputs.to_frame(0, np.stack([cols, rows], -1)[inner].astype(float))
    seen = inputs.pixels[0][rows[inner], cols[inner], :2] * np.array([width, height]) / 255
    assert np.abs(at - seen).mean() < 0.02 * max(width, height) + 0.6
    assert np.allclose(letterbox_affine(width, height, (64, 48), centred), inputs.affines[0], atol=1.0)


def test_a_batch_is_filled_with_parts_of_requests() -> None:
    """Requests of three images fill batches of eight exactly, and every clip gets its own answers in order."""
    before = sys.getswitchinterval()
    pool, expert = DynamicBatcher(max_wait=30.0, threads=1), Brightest(batch=8)
    expert.use_batcher(pool)
    assert sys.getswitchinterval() < before
    clips = [spots(3, seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda clip: expert.predict(clip[0]), clips))
    pool.close()
    assert sys.getswitchinterval() == pytest.approx(before)
    assert expert.sizes == [8, 8, 8]
    for poses, (_, at) in zip(answers, clips):
        assert np.abs(found(poses) - at).max() <= 2.5


def test_a_failed_part_ends_its_request_and_no_other() -> None:
    """One request spans several batches, and one of its images is refused: neighbours in these batches are answered."""

    class Choosy(Brightest):
        def infer(self, pixels: Frames) -> Sequence[Float]:
            if (pixels[:, 0, 0] == 77).any():
                raise ValueError("I do not like this one")
            return super().infer(pixels)

    expert, pool = Choosy(batch=4), DynamicBatcher(max_wait=0.2)
    expert.use_batcher(pool)
    long, _ = spots(10, 5)
    long[6] = 77
    clips = [long, *(spots(3, seed)[0] for seed in range(4))]

    def one(frames: Frames) -> Any:
        try:
            return found(expert.predict(frames))
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(5) as threads:
        refused, *fine = threads.map(one, clips)
    pool.close()
    assert refused == "I do not like this one"
    for got, seed in zip(fine, range(4)):
        assert np.abs(got - spots(3, seed)[1]).max() <= 2.5


def test_a_failed_gpu_is_not_tried_again_image_by_image() -> None:
    class Lost(Brightest):
        def infer(self, pixels: Frames) -> Sequence[Float]:
            self.sizes.append(len(pixels))
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    expert, pool = Lost(batch=6), DynamicBatcher(max_wait=30.0, threads=1)
    expert.use_batcher(pool)

    def one(seed: int) -> str:
        with pytest.raises(RuntimeError, match="illegal memory access") as caught:
            expert.predict(spots(3, seed)[0])
        return str(caught.value)

    with ThreadPoolExecutor(2) as threads:
        assert len(list(threads.map(one, range(2)))) == 2
    pool.close()
    assert expert.sizes == [6]


def test_what_fits_is_remembered_on_an_accelerator_and_not_on_a_cpu() -> None:
    frames, _ = spots(8, 0)
    cpu, accelerator = Brightest(batch=8, fits=3), Brightest(batch=8, fits=3, uploads=True)
    for expert in (cpu, accelerator):
        expert.predict(frames)
        before = len(expert.sizes)
        expert.predict(frames)
        again = expert.sizes[before:]
        assert again == ([8, 4, 2, 2, 2, 2] if expert is cpu else [2, 2, 2, 2])
