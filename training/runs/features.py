"""A network over whole sources, clip by clip in their order: features, logits, and what stands beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.backbones.base import Backbone
from training.data.loader import Feed
from training.data.types import Clip, Numbers, Source
from training.methods.base import Views
from training.transforms.preprocess import Prepare
from training.transforms.view import View

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
    view: View | None = None,
    seed: int = 0,
) -> tuple[Rows, Numbers]:
    """What a function says of every clip, the mean over parts of it, or of one random view of it.

    Args:
        function: motions (N, C, T, V, M) -> (N, D), such as a backbone or a method's `embed`; a module is put into evaluation.
        softmax: average probabilities, not the numbers themselves.
        view: seen in place of the parts, drawn by the seed: rows of several seeds make a probe of few labels steadier.

    Returns:
        (clips, D) float32 in the order of the source, and the labels (clips,).
    """
    owner = function if isinstance(function, nn.Module) else getattr(function, "__self__", None)
    before = owner.training if isinstance(owner, nn.Module) else False
    if isinstance(owner, nn.Module):
        owner.eval()
    kind = next(owner.parameters()).dtype if isinstance(owner, nn.Module) else torch.float32
    spans = spans if view is None else WHOLE
    draw = Parts(prepare, frames, tuple(spans)) if view is None else Views(prepare, {"part0": view})
    feed = Feed(source, draw, batch, seed, shuffle=False, workers=workers)
    rows: list[Tensor] = []
    for drawn in feed:
        said = [function(drawn[f"part{k}"].to(device, kind)).float() for k in range(len(spans))]
        rows.append(torch.stack([torch.softmax(s, 1) if softmax else s for s in said]).mean(0).cpu())
    if isinstance(owner, nn.Module):
        owner.train(before)
    return torch.cat(rows).numpy(), feed.label_ids


@torch.no_grad()
def calibrate(
    backbone: Backbone, source: Source | Sequence[Source], prepare: Prepare, frames: int, device: Any = "cpu"
) -> Backbone:
    """The network with the statistics of its norms measured on whole clips: what a network as it was drawn is probed with.

    A drawn network's norms have statistics that fit nothing, and its features would be worth less than its weights are.
    """
    for module in backbone.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches
    backbone.train()
    for drawn in Feed(source, Parts(prepare, frames), 128, shuffle=False):
        backbone.features(drawn["part0"].to(device))
    return backbone.eval()


@torch.no_grad()
def joint_weights(
    backbone: nn.Module,
    source: Source | Sequence[Source],
    prepare: Prepare,
    frames: int,
    clips: int = 64,
    seed: int = 0,
) -> NDArray[np.float64]:
    """How much each joint decides what a network says (V,), summing to 1: how far the answer moves when the joint's path is
    exchanged for that of another clip (permutation importance, Breiman 2001, section 10). For any network.

    The answer is the classes' probabilities, or the direction of the features where there is no classifier; what moves is the
    mean absolute difference, over so many clips chosen by the seed.
    """
    before = backbone.training
    backbone.eval()

    def answer(motion: Tensor) -> Tensor:
        said = backbone(motion)
        return torch.softmax(said, 1) if getattr(backbone, "num_classes", 0) else nn.functional.normalize(said, dim=1)

    drawn = next(iter(Feed(source, Parts(prepare, frames), clips, seed=seed, drop_last=False)))
    weight = next(backbone.parameters())
    motion = drawn["part0"].to(weight.device, weight.dtype)
    own = answer(motion)
    moved = []
    for joint in range(motion.shape[3]):
        other = motion.clone()
        other[:, :, :, joint] = motion.roll(1, 0)[:, :, :, joint]
        moved.append(float((answer(other) - own).abs().mean()))
    backbone.train(before)
    weights = np.asarray(moved, np.float64)
    found: NDArray[np.float64] = weights / max(float(weights.sum()), 1e-30)
    return found
