"""Classes frame by frame: a head over the features of every step of a network, trained on windows of untrimmed clips.

Sources: sections 4.4 and 4.5 of Yang's thesis (heads per frame on UNIK, trained by binary cross-entropy on TSU and
Charades, and by softmax with a class of background on PKU-MMD); the dilated temporal convolutions of MS-TCN (Farha and
Gall, CVPR 2019, section 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dataengine.core.errors import TrainingError
from training.backbones.base import Backbone
from training.data.entries import Motion
from training.data.spans import cut, dense
from training.data.types import SampleTransform, SkeletonSequence
from training.distributed import masked_mean
from training.methods.base import Batch, LossOutput, Method, Needs, View
from training.transforms.preprocess import Preprocess
from training.transforms.view import View as RandomView
from training.transforms.windows import prepared_window

HEADS = ("linear", "tcn", "window")
LOSSES = ("sigmoid", "softmax")
SHARE = 0.5
"""Part of a window that an action fills at least, for the window to be of its class (head "window")."""


@dataclass(frozen=True)
class TcnOptions:
    """Sizes of the dilated temporal convolutions.

    Attributes:
        width: channels.
        layers: convolutions of kernel 3, the l-th with dilation 2^l: the head sees 2^(layers + 1) - 1 steps.
        dropout: after each layer.
    """

    width: int = 64
    layers: int = 5
    dropout: float = 0.3


@dataclass(frozen=True)
class WindowSample:
    """Makes of a clip a random window of it: motion, the classes of its frames, and which frames there are.

    Attributes:
        preprocess: prepares the window alone, as at test: what lies outside has no influence.
        view: augments it.
        frames: of a window.
        num_classes: K.
    """

    preprocess: Preprocess
    view: View
    frames: int
    num_classes: int

    def __call__(self, sequence: SkeletonSequence, rng: np.random.Generator) -> dict[str, Any]:
        """`motion` (M, T, V, C), `dense` (T, K) float32 and `valid` (T,) bool."""
        total = sequence.keypoints.shape[1]
        start = int(rng.integers(0, max(total - self.frames, 0) + 1))
        window = cut(sequence, start, start + self.frames, sequence.spans)
        joints, valid = prepared_window(self.preprocess, window, self.frames)
        targets = dense(window.spans, self.frames, self.num_classes)
        motion = self.preprocess.finish(self.view(joints, rng))
        return {"motion": Motion(motion), "dense": targets, "valid": valid}


class DilatedConvolutions(nn.Module):
    """Residual dilated convolutions over steps, (N, D, T) -> (N, K, T); MS-TCN, one stage."""

    def __init__(self, features: int, num_classes: int, options: TcnOptions) -> None:
        super().__init__()
        self.first = nn.Conv1d(features, options.width, 1)
        self.dilated = nn.ModuleList(
            nn.Conv1d(options.width, options.width, 3, padding=2**layer, dilation=2**layer)
            for layer in range(options.layers)
        )
        self.mixed = nn.ModuleList(nn.Conv1d(options.width, options.width, 1) for _ in range(options.layers))
        self.dropout = nn.Dropout(options.dropout)
        self.last = nn.Conv1d(options.width, num_classes, 1)

    def forward(self, steps: Tensor) -> Tensor:
        y: Tensor = self.first(steps)
        for dilated, mixed in zip(self.dilated, self.mixed):
            y = y + self.dropout(mixed(functional.relu(dilated(y))))
        logits: Tensor = self.last(y)
        return logits


class Segmentation(Method):
    """Classes of every frame of a window, by a head over the features of every step of the network.

    Logits lie at the steps of the network, one every `stride` frames, and are interpolated linearly to the frames.

    Args:
        backbone: a network; it needs no classifier.
        num_classes: K, classes of the spans of the data.
        head: "linear" (one linear layer a step), "tcn" (dilated temporal convolutions), or "window": the mean over the
            window is classified, and all its frames get that class, as a classifier that slides over a clip does.
        loss: "sigmoid": binary cross-entropy, summed over classes, for actions that overlap (TSU, Charades).
            "softmax": one class a frame, with one more for frames in which nothing happens (PKU-MMD); of actions that
            overlap the class of the lowest number counts.
        hop: frames between windows, in training and at test; 0: half a window.
        tcn: sizes of the head "tcn".

    Raises:
        TrainingError: no class, or an unknown head or loss.
    """

    per_frame = True
    probes = ("frames",)

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int = 0,
        head: Literal["linear", "tcn", "window"] = "linear",
        loss: Literal["sigmoid", "softmax"] = "sigmoid",
        hop: int = 0,
        tcn: TcnOptions = TcnOptions(),
    ) -> None:
        super().__init__(backbone)
        if num_classes < 1:
            raise TrainingError("segmentation needs data with spans of at least one class")
        if head not in HEADS or loss not in LOSSES or hop < 0:
            raise TrainingError(
                f"segment: head is one of {', '.join(HEADS)}, loss one of {', '.join(LOSSES)}, hop 0 or more; given "
                f"{head!r}, {loss!r}, {hop}"
            )
        self.num_classes, self.head_name, self.loss_name, self.hop = num_classes, head, loss, hop
        outputs = num_classes + (loss == "softmax")
        self.head: nn.Module = (
            DilatedConvolutions(backbone.width, outputs, tcn)
            if head == "tcn"
            else nn.Conv1d(backbone.width, outputs, 1)
        )
        if (
            loss == "sigmoid" and num_classes > 1
        ):  # every class as likely as by chance, as most are absent in most frames
            last = self.head.last if isinstance(self.head, DilatedConvolutions) else self.head
            nn.init.constant_(last.get_parameter("bias"), -math.log(num_classes - 1))

    @classmethod
    def needs(cls, options: Mapping[str, Any]) -> Needs:
        """Spans of the clips."""
        return Needs(spans=True)

    def sample_transform(self, preprocess: Preprocess, view: View) -> SampleTransform:
        """A random window, its dense targets, and which of its frames there are; steps on time are left out."""
        if not isinstance(view, RandomView):
            raise TrainingError(f"segmentation cuts windows of the frames of a View; given {type(view).__name__}")
        return WindowSample(preprocess, view.without_time(), view.frames, self.num_classes)

    def logits(self, motion: Tensor) -> Tensor:
        """Logits of the frames of windows (N, C, T, V, M): (N, outputs, T); the last output of "softmax" is
        the background."""
        return self._logits(self.backbone.sequence(motion), motion.shape[2])

    def _logits(self, steps: Tensor, frames: int) -> Tensor:
        if self.head_name == "window":
            of_window: Tensor = single(self.head(steps.mean(-1, keepdim=True)))
            return of_window.expand(-1, -1, frames)
        return at_frames(single(self.head(steps)), frames, self.backbone.stride)

    def frame_scores(self, motion: Tensor) -> Tensor:
        """Probabilities (N, T, K) of the classes in the frames of windows (N, C, T, V, M)."""
        logits = self.logits(motion)
        scores = torch.sigmoid(logits) if self.loss_name == "sigmoid" else torch.softmax(logits, 1)
        return scores[:, : self.num_classes].transpose(1, 2)

    def loss(self, batch: Batch) -> LossOutput:
        targets, valid = batch["dense"], batch["valid"]
        steps = self.backbone.sequence(batch["motion"])
        logits = self._logits(steps, batch["motion"].shape[2])
        targets = targets.to(logits)
        if self.head_name == "window":
            share = (targets * valid[..., None]).sum(1) / valid.sum(1, keepdim=True).clamp(min=1)
            nothing = ((targets.amax(-1) == 0) & valid).sum(1, keepdim=True) / valid.sum(1, keepdim=True).clamp(min=1)
            targets, valid = self._of_window(share, nothing)[:, None], valid.any(1, keepdim=True)
            logits = logits[..., :1]
        logits, targets, valid = logits.transpose(1, 2).flatten(0, 1), targets.flatten(0, 1), valid.flatten()
        if self.loss_name == "sigmoid":
            each = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(-1)
            right = ((logits > 0) == (targets > 0.5)).to(each).mean(-1)
        else:
            truth = torch.cat([targets, (targets.amax(-1, keepdim=True) == 0).to(targets)], -1).argmax(-1)
            each = functional.cross_entropy(logits, truth, reduction="none")
            right = (logits.argmax(-1) == truth).to(each)
        loss = masked_mean(each, valid)
        return LossOutput(loss, {"frame_accuracy": masked_mean(right, valid)}, steps.mean(-1))

    def _of_window(self, share: Tensor, nothing: Tensor) -> Tensor:
        """Classes (N, K) of windows of which each class fills a part (N, K), and nothing a part (N, 1)."""
        if self.loss_name == "sigmoid":
            return (share >= SHARE).to(share)
        largest = functional.one_hot(share.argmax(1), share.shape[1]).to(share)
        return largest * (share.amax(1, keepdim=True) >= nothing)


def single(values: Tensor) -> Tensor:
    """Values of half precision in single precision, others as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def at_frames(steps: Tensor, frames: int, stride: int) -> Tensor:
    """Values (N, K, T') at steps, of which step s lies at frame s `stride`, interpolated linearly to (N, K, frames);
    frames after the last step have its value."""
    if stride == 1 and steps.shape[-1] == frames:
        return steps
    place = torch.arange(frames, device=steps.device, dtype=torch.float32) / stride
    low = place.floor().long().clamp(max=steps.shape[-1] - 1)
    high = (low + 1).clamp(max=steps.shape[-1] - 1)
    return torch.lerp(steps[..., low], steps[..., high], (place - low).clamp(0, 1).to(steps.dtype))
