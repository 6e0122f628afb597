"""Queues of any shape, several keys of a query, and negatives of one query alone."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from tests.support.motions import Motions
from training import create_backbone, create_method
from training.data.loader import DataLoader
from training.distributed import unit
from training.methods.losses import queue_info_nce
from training.methods.queue import Queue
from training.transforms.preprocess import Preprocess
from training.transforms.view import View


def by_loops(query, keys, queue, negatives, excluded, temperature):
    """-log sum_p e^s / (sum_p e^s + sum_n e^s), with loops."""
    losses = []
    for n in range(len(query)):

        def like(other, n=n):
            return float((query[n] * other).sum(0).mean()) / temperature

        positives = [like(key) for key in keys[n]]
        others = [like(key) for q, key in enumerate(queue) if not excluded[n, q]] + [like(key) for key in negatives[n]]
        total = sum(map(math.exp, positives))
        losses.append(-math.log(total / (total + sum(map(math.exp, others)))))
    return torch.tensor(losses, dtype=torch.float64)


@pytest.mark.parametrize("frames", [None, 5])
def test_the_loss_is_that_of_loops(frames):
    torch.manual_seed(0)
    more = () if frames is None else (frames,)

    def vectors(*count):
        values = torch.randn(*count, 6, *more, dtype=torch.float64)
        return values / values.norm(dim=len(count), keepdim=True)

    query, keys, queue, negatives = vectors(4), vectors(4, 3), vectors(7), vectors(4, 2)
    excluded = torch.rand(4, 7) < 0.3
    loss = queue_info_nce(query, keys, queue, 0.2, excluded, negatives=negatives)
    torch.testing.assert_close(loss, by_loops(query, keys, queue, negatives, excluded, 0.2))
    one = queue_info_nce(query, keys[:, 0], queue, 0.2)
    nothing = torch.zeros(4, 7, dtype=torch.bool)
    torch.testing.assert_close(one, by_loops(query, keys[:, :1], queue, negatives[:, :0], nothing, 0.2))


def test_a_queue_of_frames_is_a_ring():
    queue = Queue(4, 3, 2)
    keys = torch.randn(6, 3, 2)
    queue.enqueue(keys[:3], torch.arange(3), torch.zeros(3, dtype=torch.long))
    torch.testing.assert_close(queue.mean, keys[:3].mean(0))
    queue.enqueue(keys[3:], torch.arange(3, 6), torch.zeros(3, dtype=torch.long))
    assert queue.keys.shape == (4, 3, 2) and queue.owners.tolist() == [4, 5, 2, 3]
    assert torch.equal(queue.keys[0], keys[4])


def test_the_changed_clip_may_be_a_hard_negative_of_mcc():
    losses = {}
    for hard in (False, True):
        torch.manual_seed(0)
        backbone = create_backbone("stgcn", 0, "body13", 2, people=1, channels_base=4, blocks=(1, 1))
        options = {"playback": {"frames": 16}, "queue": {"size": 8}, "interpolation": 0, "triplet": 0}
        method = create_method("mcc", backbone=backbone, hard_negative=hard, **options).eval()
        method.queue.enqueue(unit(torch.randn(8, 128)), torch.arange(100, 108), torch.zeros(8, dtype=torch.long))
        transform = method.sample_transform(Preprocess("body13"), View(16, "none"))
        losses[hard] = method.loss(next(iter(DataLoader(Motions(8, 1), transform, 8)))).loss
    assert losses[True] > losses[False], "one more negative"
