"""AS-GCN: graph convolutions over links of several bones and over links inferred from the clip, and a branch that
predicts what follows.

Source: Li et al., Actional-Structural Graph Convolutional Networks for Skeleton-based Action Recognition, CVPR 2019,
section 4; keys and constants of limaosen0/AS-GCN@ab6951c `net/as_gcn.py` and `config/as_gcn/ntu-xsub`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from dataengine.core.errors import TrainingError
from dataengine.core.skeletons import Skeleton
from training.backbones.action_links import ActionLinks, sampled
from training.backbones.base import Backbone, read_weights
from training.backbones.graph import adjacency
from training.backbones.graph_units import KERNEL, block_sizes, partitioned, people_apart, person_rows
from training.backbones.stgcn import initialise_weights, shortcut, temporal

LINK_WEIGHT = 0.5
"""Weight of inferred links beside structural ones (lambda of equation 11)."""
PREDICTION_WEIGHT = 0.01
"""Weight of the prediction beside the classification, as published."""
PREDICTORS = ((KERNEL, 1), (KERNEL, 2), (KERNEL, 2), (KERNEL, 2), (3, 2))
"""Kernel and stride of the first five blocks of the prediction."""
CONTEXT = 5
"""Frames that the sixth block joins into one."""
IMPORTANCES = 9
"""Learnt link weights of the prediction in the published state dict; seven are used."""


class ActionalConv(nn.Module):
    """A 1x1 convolution for each partition and link type, summed over neighbours (equation 11)."""

    def __init__(self, inputs: int, outputs: int, partitions: int, transposed: bool = False) -> None:
        super().__init__()
        self.outputs, self.layer = outputs, "deconv" if transposed else "conv"
        self.add_module(self.layer, (nn.ConvTranspose2d if transposed else nn.Conv2d)(inputs, outputs * partitions, 1))

    def forward(self, x: Tensor, links: Tensor, inferred: Tensor) -> Tensor:
        x = self.get_submodule(self.layer)(x)
        n, _, t, v = x.shape
        features = x[:, len(links) * self.outputs :].view(n, -1, self.outputs, t, v)
        actional = torch.einsum("nkctv,nkvw->nctw", features, inferred)
        return partitioned(x[:, : len(links) * self.outputs], links) + LINK_WEIGHT * actional


class Block(nn.Module):
    """Graph convolution, temporal part and shortcut."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        partitions: int,
        kernel: int,
        stride: int,
        dropout: float,
        residual: bool,
        padding: bool = True,
    ) -> None:
        super().__init__()
        self.gcn = ActionalConv(inputs, outputs, partitions)
        self.tcn = temporal(outputs, kernel, stride, dropout, padding)
        if residual:
            self.residual = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor, links: Tensor, inferred: Tensor) -> Tensor:
        y = self.tcn(self.gcn(x, links, inferred))
        return torch.relu(y + self.residual(x) if hasattr(self, "residual") else y)


class LastBlock(nn.Module):
    """The block that gives coordinates: transposed convolutions, no shortcut, no relu."""

    def __init__(self, inputs: int, outputs: int, partitions: int, dropout: float) -> None:
        super().__init__()
        self.gcn_recon = ActionalConv(inputs, outputs, partitions, transposed=True)
        over_time = nn.ConvTranspose2d(outputs, outputs, 1)
        self.tcn_recon = nn.Sequential(
            nn.BatchNorm2d(outputs), nn.ReLU(), over_time, nn.BatchNorm2d(outputs), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor, links: Tensor, inferred: Tensor) -> Tensor:
        y: Tensor = self.tcn_recon(self.gcn_recon(x, links, inferred))
        return y


def _resampled(x: Tensor, frames: int) -> Tensor:
    """(N, C, T, V) brought to `frames`: each the mean of the frames that it covers, at least one."""
    t = x.shape[2]
    if t == frames:
        return x
    weights = x.new_zeros(t, frames)
    for number in range(frames):
        begin, end = number * t // frames, -(-(number + 1) * t // frames)
        weights[begin:end, number] = 1 / (end - begin)
    return torch.einsum("nctv,tf->ncfv", x, weights)


class ASGCN(Backbone):
    """AS-GCN over motions (N, C, T, V, M); by default 256 features, one step every 4 frames.

    Links are inferred from the motion by `links`, which the classification does not train: train it
    first by `links.loss`, or beside by `auxiliary_loss`. Published weights come as two files, one for
    the network (`load_published`) and one for the links (`load_links`).

    Args:
        num_classes: 0 leaves `fcn` out.
        skeleton: name of a layout, or your own `Skeleton`.
        channels: coordinates of a joint.
        channels_base: channels of the first level; each further level doubles them. 64 published.
        blocks: blocks of each level; every level after the first halves the frames.
        people: M at most.
        hops: how many bones a structural link may span.
        dropout: after each temporal convolution.
        link_width: width of the link inference.
        predicted_frames: frames that `predict` gives; 0: no prediction branch.
        variant: "standard" adds each predicted coordinate to the same coordinate of the last frame; "published" adds
            the last frame in the order of the published program, which mixes coordinates and which its weights want.
    """

    A: Tensor
    classifier = "fcn"

    def __init__(
        self,
        num_classes: int,
        skeleton: str | Skeleton,
        channels: int,
        channels_base: int = 64,
        blocks: Sequence[int] = (3, 3, 3),
        people: int = 2,
        hops: int = 4,
        dropout: float = 0.5,
        link_width: int = 128,
        predicted_frames: int = 10,
        variant: Literal["standard", "published"] = "standard",
    ) -> None:
        rows = block_sizes("ASGCN", channels, channels_base, blocks)
        if variant not in ("standard", "published") or predicted_frames < 0 or link_width < 1:
            raise TrainingError(
                "ASGCN: variant is 'standard' or 'published', predicted_frames 0 or more, link_width 1 or more; "
                f"given {variant!r}, {predicted_frames}, {link_width}"
            )
        super().__init__(
            num_classes, skeleton, channels, width=rows[-1][1], stride=2 ** (len(blocks) - 1), people=people
        )
        self.variant, self.predicted_frames = variant, predicted_frames
        self.links = ActionLinks(self.skeleton.num_joints, channels, hidden=link_width)
        structural = torch.from_numpy(adjacency(self.skeleton, "spatial", hops)).float()
        partitions = len(structural) + self.links.types - 1
        self.register_buffer("A", structural)
        self.data_bn = nn.BatchNorm1d(channels * self.skeleton.num_joints)
        self.num_blocks = len(rows)
        for n, (inputs, outputs, stride) in enumerate(rows):
            self.add_module(f"class_layer_{n}", Block(inputs, outputs, partitions, KERNEL, stride, dropout, n > 0))
        self.edge_importance = nn.ParameterList(nn.Parameter(torch.ones_like(structural)) for _ in rows)
        if predicted_frames:
            self._add_prediction(2 * channels_base, partitions, dropout)
        if num_classes:
            self.fcn = nn.Conv2d(self.width, num_classes, 1)
        initialise_weights(self)

    def _add_prediction(self, width: int, partitions: int, dropout: float) -> None:
        before = self.width
        for n, (kernel, stride) in enumerate(PREDICTORS):
            self.add_module(f"recon_layer_{n}", Block(before, width, partitions, kernel, stride, dropout, True))
            before = width
        self.recon_layer_5 = Block(width, width, partitions, CONTEXT, 1, dropout, False, padding=False)
        self.recon_layer_6 = LastBlock(
            width + self.channels, self.channels * self.predicted_frames, partitions, dropout
        )
        used = len(PREDICTORS) + 2
        self.edge_importance_recon = nn.ParameterList(
            nn.Parameter(torch.ones_like(self.A), requires_grad=n < used) for n in range(max(IMPORTANCES, used))
        )

    def infer(self, x: Tensor) -> Tensor:
        """Action links (N M, 2, V, V) of motions of any length; no gradient."""
        with torch.no_grad():
            inferred: Tensor = self.links(self._shortened(x))
        return inferred

    def _shortened(self, x: Tensor) -> Tensor:
        return x[:, :, sampled(x.shape[2], self.links.frames)]

    def encode(self, x: Tensor, inferred: Tensor) -> Tensor:
        """Features of each joint (N M, D, T', V) of motions and their action links."""
        self.check(x)
        y = person_rows(self.data_bn, x)
        for n in range(self.num_blocks):
            y = self.get_submodule(f"class_layer_{n}")(y, self.A * self.edge_importance[n], inferred)
        return y

    def people_sequence(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features of each person a time step (N, M, D, T'), the mean over joints."""
        self.check(x)
        return people_apart(self.encode(x, self.infer(x)).mean(-1), x.shape[0])

    def classify(self, features: Tensor) -> Tensor:
        """Logits (N, K) of features (N, D); the features themselves where there is no classifier."""
        return self.fcn(features[..., None, None]).flatten(1) if self.num_classes else features

    def predict(self, x: Tensor, last: Tensor | None = None, inferred: Tensor | None = None) -> Tensor:
        """The frames after a motion.

        Args:
            x: (N, C, T, V, M), of any length: where T is not within 257 to 320 the features of the last block
                but two are brought to the five frames that the next one joins.
            last: (N, C, 1, V, M) the frame that differences are added to; None: the last of x.
            inferred: action links; None: inferred from x.

        Returns:
            (N, C, predicted_frames, V, M).

        Raises:
            TrainingError: the network has no prediction branch.
        """
        if not self.predicted_frames:
            raise TrainingError("ASGCN has predicted_frames=0 and predicts nothing")
        n, c, _, v, m = x.shape
        inferred = self.infer(x) if inferred is None else inferred
        last = x[:, :, -1:] if last is None else last
        y = self.encode(x, inferred)
        frame = last.permute(0, 4, 1, 2, 3).reshape(n * m, c, 1, v)
        for number in range(len(PREDICTORS) + 2):
            if number == len(PREDICTORS):
                y = _resampled(y, CONTEXT)
            if number == len(PREDICTORS) + 1:
                y = torch.cat([y, frame], 1)
            y = self.get_submodule(f"recon_layer_{number}")(y, self.A * self.edge_importance_recon[number], inferred)
        y = y.view(n * m, c * self.predicted_frames, v)
        start = frame[:, :, 0]
        y = y + (
            start.repeat(1, self.predicted_frames, 1)
            if self.variant == "published"
            else start.repeat_interleave(self.predicted_frames, 1)
        )
        return y.view(n, m, c, self.predicted_frames, v).permute(0, 2, 3, 4, 1)

    def auxiliary_loss(self, x: Tensor) -> Tensor:
        """What the classification does not train: the links, and the prediction of the last frames from those before.

        As published the prediction is judged on the first person and weighs 0.01.

        Raises:
            TrainingError: the motion is no longer than what is to be predicted.
        """
        loss: Tensor = self.links.loss(self._shortened(x))
        if not self.predicted_frames:
            return loss
        if x.shape[2] <= self.predicted_frames:
            raise TrainingError(
                f"ASGCN predicts {self.predicted_frames} frames: motions must be longer; given {x.shape[2]} frames"
            )
        past, future = x[:, :, : -self.predicted_frames], x[:, :, -self.predicted_frames :]
        return loss + PREDICTION_WEIGHT * nn.functional.mse_loss(self.predict(past)[..., 0], future[..., 0])

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Published weights of the network, the own links kept where they bring none."""
        if not any(key.startswith("links.") for key in state):
            state = state | {key: value for key, value in self.state_dict().items() if key.startswith("links.")}
        unused = () if self.predicted_frames else ("recon_layer_", "edge_importance_recon.")
        return {key: value for key, value in state.items() if not key.startswith(unused)} if unused else state

    def load_links(self, path: str | Path) -> None:
        """Take the weights of the link inference from its published file.

        Raises:
            TrainingError: not such a file, or links of other sizes.
        """
        try:
            self.links.load_state_dict(read_weights(path))
        except RuntimeError as error:
            raise TrainingError(f"{path} does not fit these action links: {error}") from error
