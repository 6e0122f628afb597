"""A network over whole sources, clip by clip in their order: features, logits, and what stands beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.data import Feed
from training.prepare import Prepare
from training.sequences import Clip, Numbers, Source
from training.views import View

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Parts:
    """Fixed parts of a clip, each resampled to `frames`, as arrays part0, part1 ...

    Attributes:
        spans: begin and end of each part as shares of the clip.
        score: whether the last channel of what `prepare` makes is a score.
    """

    prepare: Prepare
    frames: int
    spans: tuple[tuple[float, float], ...] = ((0.0, 1.0),)

    def __call__(self, clip: Clip, rng: np.random.Generator) -> dict[str, Any]:
        joints = self.prepare.joints(clip)
        total = joints.shape[1]
        view = View(self.frames, "none", score=self.prepare.score)
        drawn = {}
        for number, (begin, end) in enumerate(self.spans):
            first = min(int(begin * total), total - 1)
            part = joints[:, first : max(first + 1, round(end * total))]
            drawn[f"part{number}"] = self.prepare.finish(view(part, rng))
        return drawn


WHOLE = ((0.0, 1.0),)
"""One view: the whole clip."""
THREE = ((0.0, 1.0), (0.0, 0.8), (0.2, 1.0))
"""Three views, fixed beforehand: whole, first and last four fifths."""


@torch.no_grad()
def encode(
    function: Callable[[Tensor], Tensor],
    source: Source | Sequence[Source],
    prepare: Prepare,
    frames: int,
    spans: Sequence[tuple[float, float]] = WHOLE,
    batch: int = 256,
    workers: int = 0,
    device: Any = "cpu",
    softmax: bool = False,
) -> tuple[Rows, Numbers]:
    """What a function says of every clip, the mean over parts of it.

    Args:
        function: motions (N, C, T, V, M) -> (N, D), such as a backbone or a method's `embed`; a module is put into evaluation.
        softmax: average probabilities, not the numbers themselves.

    Returns:
        (clips, D) float32 in the order of the source, and the labels (clips,).
    """
    owner = function if isinstance(function, nn.Module) else getattr(function, "__self__", None)
    before = owner.training if isinstance(owner, nn.Module) else False
    if isinstance(owner, nn.Module):
        owner.eval()
    feed = Feed(source, Parts(prepare, frames, tuple(spans)), batch, shuffle=False, workers=workers)
    rows: list[Tensor] = []
    for drawn in feed:
        said = [function(drawn[f"part{k}"].to(device)).float() for k in range(len(spans))]
        rows.append(torch.stack([torch.softmax(s, 1) if softmax else s for s in said]).mean(0).cpu())
    if isinstance(owner, nn.Module):
        owner.train(before)
    return torch.cat(rows).numpy(), feed.label_ids


def joint_weights(
    backbone: nn.Module, source: Source | Sequence[Source], prepare: Prepare, frames: int, clips: int = 256
) -> NDArray[np.float64]:
    """How much each joint decides what a network says (V,), summing to 1: the length of the gradient of the highest logit, or of
    the features' length where there is no classifier, by the joint's coordinates; the mean over frames, people and the first clips.

    Gradients of the input say what a small movement would change (Simonyan et al. 2014, section 3), for any network.
    """
    before = backbone.training
    backbone.eval()
    total: Tensor | None = None
    seen = 0
    for drawn in Feed(source, Parts(prepare, frames), min(64, clips), shuffle=False):
        motion = drawn["part0"].requires_grad_()
        said = backbone(motion)
        score = said.max(1).values if getattr(backbone, "num_classes", 0) else said.norm(dim=1)
        (gradient,) = torch.autograd.grad(score.sum(), motion)
        each = gradient.norm(dim=1).mean((1, 3)).sum(0)
        total = each if total is None else total + each
        seen += len(motion)
        if seen >= clips:
            break
    backbone.train(before)
    assert total is not None  # a feed has a batch
    weights: NDArray[np.float64] = (total / total.sum().clamp(min=1e-30)).double().numpy()
    return weights
