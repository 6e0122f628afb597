"""A method with a decoder, partners, a head per frame and a text encoder that learns, as another package has it."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.backbones.base import Backbone
from training.data.entries import PerFrame, Text
from training.data.partners import Partner
from training.data.types import SkeletonSequence
from training.distributed import gather, gather_with_gradient, unit
from training.methods.base import Batch, LossOutput, Method, Needs, RandomViews
from training.methods.losses import batch_info_nce
from training.transforms.view import View

WORDS = 64
"""Rows of the table of letter trigrams."""


class Trigrams(nn.Module):
    """The mean of learnt vectors of the letter trigrams of a text: (N, width) of N texts."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, width)

    def forward(self, texts: list[str]) -> Tensor:
        rows = [[zlib.crc32(text[k : k + 3].encode()) % WORDS for k in range(max(1, len(text) - 2))] for text in texts]
        device = self.table.weight.device
        return torch.stack([self.table(torch.tensor(row, device=device)).mean(0) for row in rows])


@dataclass(frozen=True)
class Sample:
    """A view of a clip with the time of each of its frames, whole views of its partners, and its caption."""

    views: RandomViews
    plain: View

    def __call__(self, sequence: SkeletonSequence, rng: np.random.Generator) -> dict[str, Any]:
        sample = self.views(sequence, rng)
        part = sample.pop("motion_frames") / (sequence.keypoints.shape[1] if sequence.prepared_by is None else 50)
        preprocess = self.views.preprocess
        whole = {
            name: preprocess.entry(self.plain(preprocess.joints(clip), rng))
            for name, clip in {"own": sequence, **sequence.partners}.items()
        }
        caption = Text(str(sequence.features["caption"]))
        return sample | whole | {"part": PerFrame(part[:, None].astype(np.float32)), "caption": caption}


class TwoNetworks(Method):
    """Retargeting between bodies, the time of every frame, and captions.

    Args:
        backbone: the encoder.
        width: of the space that motions and captions share.
    """

    def __init__(self, backbone: Backbone, width: int = 8) -> None:
        super().__init__(backbone)
        joints = backbone.channels * backbone.skeleton.num_joints
        self.decoder = nn.Sequential(nn.Linear(2 * backbone.width, 16), nn.BatchNorm1d(16), nn.Linear(16, joints))
        self.text = Trigrams(width)
        self.frame_head = nn.Conv1d(backbone.width, 1, 1)
        self.project_motion = nn.Linear(backbone.width, width)

    @classmethod
    def needs(cls, options: Mapping[str, Any]) -> Needs:
        return Needs(features=("caption",))

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {**super().networks, "decoder": self.decoder, "text": self.text}

    @property
    def partners(self) -> dict[str, Partner]:
        return {
            "other": Partner(other=("motion", "body")),
            "cross": Partner(same=("motion", ("body", "other"))),
        }

    probes = ("measures",)

    def sample_transform(self, preprocess: Any, view: Any) -> Sample:
        return Sample(RandomViews(preprocess, {"motion": view}, frames=True), View(view.frames, "none"))

    def _retargeting(self, batch: Batch) -> Tensor:
        own, other = (self.backbone.features(batch[name]) for name in ("own", "other"))
        wanted = batch["cross"].mean((2, 4)).flatten(1)
        return (self.decoder(torch.cat([own, other], 1)) - wanted).square().mean()

    def measures(self, batch: Batch) -> dict[str, Tensor]:
        return {"retargeting": self._retargeting(batch)}

    def loss(self, batch: Batch) -> LossOutput:
        steps = self.backbone.sequence(batch["motion"])
        features = steps.mean(-1)
        parts = functional.interpolate(self.frame_head(steps), batch["motion"].shape[2], mode="linear")
        valid = batch["part_valid"]
        time = ((parts[:, 0] - batch["part"][..., 0]).square() * valid).sum() / valid.sum()
        rows = (self.project_motion(features), self.text(batch["caption"]))
        motion, text = (gather_with_gradient(unit(each)) for each in rows)
        labels = gather(batch["label"])
        named = batch_info_nce(motion, text, 0.2, labels[:, None] == labels)[0].mean()
        losses = {"retargeting": self._retargeting(batch), "time": time, "caption": named}
        return LossOutput(torch.stack(list(losses.values())).sum(), losses, features)
