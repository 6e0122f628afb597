"""Regions of a whole batch at once: the boxes that torchvision finds image by image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from dataengine.core.accelerator import cpu_as_accelerator
from dataengine.experts.region_proposals import suppress
from tests.support.torch_setup import one_thread, random_weights, scene


@pytest.mark.parametrize("overlap", [0.3, 0.5, 0.7])
def test_suppression_is_the_greedy_one(overlap: float) -> None:
    """Crowded boxes in several groups, some of which do not take part."""
    from torchvision.ops import nms

    one_thread()
    drawn = torch.Generator().manual_seed(0)
    middle = 100 * torch.rand((3, 200, 2), generator=drawn)
    half = 5 + 15 * torch.rand((3, 200, 2), generator=drawn)
    boxes, counts = torch.cat([middle - half, middle + half], -1), torch.rand((3, 200), generator=drawn) > 0.2
    stays = suppress(boxes, counts, overlap)
    for group in range(3):
        which = counts[group].nonzero()[:, 0]
        scores = torch.arange(200, 0, -1.0)[which]  # best first
        expected = which[nms(boxes[group][which], scores, overlap)].sort().values
        assert stays[group].nonzero()[:, 0].tolist() == expected.tolist()


@pytest.mark.slow
def test_a_batch_at_once_finds_what_torchvision_finds_image_by_image(tmp_path: Path) -> None:
    one_thread()
    made: Any = random_weights.keypoint_rcnn(
        tmp_path, width=192, height=160, proposals=40, threshold=0.55, min_score=0.0, min_mean=0.0
    )
    frames = np.stack([scene(192, 160), scene(192, 160)[:, ::-1], np.zeros((160, 192, 3), np.uint8)])
    one_by_one = made.load().infer(frames)
    with cpu_as_accelerator():
        session: Any = made.load()
    together = session.infer(frames)
    assert [len(a) for a in one_by_one] == [len(b) for b in together]
    assert len(one_by_one[0]) > 2
    for a, b in zip(one_by_one, together, strict=True):
        np.testing.assert_allclose(a[:, :5], b[:, :5], atol=1e-3)
        assert np.median(np.abs(a - b)) < 1e-3
