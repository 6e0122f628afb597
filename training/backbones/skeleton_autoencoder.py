"""The autoencoder of LAC: skeleton sequences as motion and static codes in one latent space.

Source: Yang et al., LAC - Latent Action Composition for Skeleton-based Action Segmentation, ICCV 2023 (chapter 4.3 and
table 4.1 of the thesis). The networks follow Aberman et al., Learning Character-Agnostic Motion for Motion Retargeting
in 2D, 2019, whose two encoders are the other layout. Published constants; nothing of the code.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dataengine.core.errors import TrainingError
from dataengine.core.skeletons import Skeleton
from training.backbones.base import Backbone
from training.backbones.joint_channels import (
    DROPOUT,
    SLOPE,
    Codes,
    JointChannels,
    Retargeter,
    at_least,
    decoder,
    orthonormal,
)
from training.transforms import bodies

KERNEL, STRIDE, LAYERS = 8, 2, 3
"""Of the encoder's convolutions over time."""
STATIC_KERNEL = 7
"""Of the static encoder's convolutions."""


def _encoder(widths: tuple[int, ...]) -> nn.Sequential:
    """Convolutions over time that halve the length, each padded by reflection and rectified."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        pad = nn.ReflectionPad1d((KERNEL - STRIDE) // 2)
        layers += [pad, nn.Conv1d(inputs, outputs, KERNEL, STRIDE), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers)


class StaticEncoder(nn.Module):
    """One code of a whole sequence: convolutions over time, rectified and mean-pooled, and the mean over time."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            pad = nn.ReflectionPad1d((STATIC_KERNEL - 1) // 2)
            layers += [pad, nn.Conv1d(before, after, STATIC_KERNEL), nn.LeakyReLU(SLOPE), nn.AvgPool1d(2)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(N, widths[-1]) of (N, widths[0], T)."""
        code: Tensor = self.layers(x).mean(-1)
        return code


class SkeletonAutoencoder(Backbone, JointChannels, Retargeter):
    """Encoder, action dictionary and decoder of LAC, or two encoders and a decoder.

    Joints are taken relative to the middle of the hips, whose velocity is appended, and standardised per channel. With
    the dictionary, a sequence's code (N, W, T') is projected on the first `directions` vectors of an orthogonal basis
    at every time step (motion), and its mean over time on the others (static). `sequence` gives the magnitudes of the
    motion directions. A joint that lies at the middle of the hips is left out of the input.

    Inputs are 2D joints as images have them (x right, y down) of any size and place: they are divided by `bodies.size`.
    Of 3D joints (y up) a network of `axes` 2 takes what a camera in front sees.

    Args:
        num_classes: K of a linear classifier on the mean magnitudes of the motion.
        skeleton, channels: of the input.
        layout: "dictionary", or "two_encoder": motion and static code from an encoder each, side by side.
        directions: J, motion directions; the others of the `widths[-1]` are static.
        widths: of the encoder's three convolutions.
        axes: coordinates that are coded, 2 or 3.
        dropout: of the decoder.
        people: M at most.

    Raises:
        TrainingError: an option out of range, or fewer channels than `axes`.
    """

    def __init__(
        self,
        num_classes: int = 0,
        skeleton: str | Skeleton = "posetics17",
        channels: int = 2,
        *,
        layout: Literal["dictionary", "two_encoder"] = "dictionary",
        directions: int = 128,
        widths: tuple[int, ...] = (64, 96, 160),
        axes: int = 2,
        dropout: float = DROPOUT,
        people: int = 2,
    ) -> None:
        code = widths[-1] if widths else 0
        if len(widths) != LAYERS or min(widths, default=0) < 1 or not 0 < directions < code:
            raise TrainingError(
                f"directions {directions}, widths {list(widths)}; allowed: {LAYERS} widths of 1 and more, and "
                "directions from 1 to below the last width"
            )
        if axes not in (2, 3) or channels < axes or not 0 <= dropout < 1:
            raise TrainingError(
                f"axes {axes}, dropout {dropout}, of data with {channels} coordinates; allowed: 2 or 3 axes, at most "
                "as many as the data have, and a dropout below 1"
            )
        super().__init__(num_classes, skeleton, channels, width=directions, stride=STRIDE**LAYERS, people=people)
        self.layout, self.axes, self.code = layout, axes, code
        inputs = self.set_channels(self.skeleton, axes)
        first, second = widths[0], widths[1]
        if layout == "dictionary":
            self.motion_encoder = _encoder((inputs, *widths))
            self.dictionary = nn.Parameter(nn.init.orthogonal_(torch.empty(code, code)))
            self.static_encoder = None
        else:
            self.motion_encoder = _encoder((inputs, first, second, directions))
            self.static_encoder = StaticEncoder((inputs - axes, first, second, directions, code - directions))
        self.decoder = decoder((code, min(2 * first, code), first, inputs), dropout, self.stride)
        if num_classes:
            self.fc = nn.Linear(directions, num_classes)

    def images(self, x: Tensor) -> Tensor:
        """Joints (N M, T, V, axes) as the network codes them, of a batch (N, C, T, V, M) of 2D or 3D joints."""
        joints = x.permute(0, 4, 2, 3, 1).flatten(0, 1)
        if joints.shape[-1] == 3:
            still = joints.new_zeros(len(joints))
            return bodies.project(joints, still, still, self.axes)
        return joints

    def basis(self) -> Tensor:
        """The orthogonal basis (W, W), directions in columns: those of the motion, then the static ones. The signs are
        such that the triangular factor of the dictionary has a positive diagonal."""
        return orthonormal(self.dictionary)

    def codes(self, values: Tensor) -> Codes:
        """Motion (N, J, T') and static (N, K) magnitudes of standardised channels (N, inputs, T).

        T' is T / 8, rounded up: the last frame is repeated until 8 divides T.
        """
        rest = -values.shape[-1] % self.stride
        values = functional.pad(values, (0, rest), mode="replicate") if rest else values
        code = self.motion_encoder(at_least(values, 2 * self.stride))
        code = code[:, :, : values.shape[-1] // self.stride]
        if self.static_encoder is not None:
            return code, self.static_encoder(at_least(values[:, : -self.axes], 4 * self.stride))
        basis = self.basis().to(code)
        motion = torch.einsum("nwt,wj->njt", code, basis[:, : self.width])
        return motion, code.mean(-1) @ basis[:, self.width :]

    def decode(self, motion: Tensor, static: Tensor, frames: int) -> Tensor:
        """Standardised channels (N, inputs, frames) of magnitudes (N, J, T') and (N, K)."""
        if self.static_encoder is not None:
            code = torch.cat([motion, static[:, :, None].expand(-1, -1, motion.shape[-1])], 1)
        else:
            basis = self.basis().to(motion)
            code = torch.einsum("njt,wj->nwt", motion, basis[:, : self.width])
            code = code + (static @ basis[:, self.width :].T)[:, :, None]
        values: Tensor = self.decoder(at_least(code, 2))
        return values[:, :, :frames]

    def encode(self, joints: Tensor) -> Codes:
        """Magnitudes (N, J, T') and (N, K) of joints (N, T, V, axes) of any size."""
        unit_size = joints / bodies.size(joints, self.skeleton)[:, None, None, None]
        return self.codes(self.standardised(unit_size))

    def generate(self, motion: Tensor, static: Tensor, frames: int) -> Tensor:
        """Joints (N, frames, V, axes) of about unit size of magnitudes (N, J, T') and (N, K)."""
        return self.joints_of(self.decode(motion, static, frames))

    def people_sequence(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Motion magnitudes of each person per time step (N, M, J, T')."""
        self.check(x)
        motion, _ = self.encode(self.images(x))
        people: Tensor = motion.unflatten(0, (-1, x.shape[-1]))
        return people

    def static(self, x: Tensor) -> Tensor:
        """Static magnitudes (N, K), the mean over people."""
        self.check(x)
        _, static = self.encode(self.images(x))
        mean: Tensor = static.unflatten(0, (-1, x.shape[-1])).mean(1)
        return mean

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of the two published layouts: convolutions by their order, `mot_encoder.v` as the dictionary.
        Statistics, which the published files do not hold, stay as they are; see `load_statistics`."""
        if not any(key.startswith("mot_encoder.") for key in state):
            return state
        own = self.state_dict()
        adapted = {name: own[name] for name in ("mean", "deviation", "measured")}
        names = {"mot_encoder.model": "motion_encoder", "static_encoder.model": "static_encoder.layers"}
        names["decoder.model"] = "decoder"
        singles = {"mot_encoder.v": "dictionary"}
        for theirs, ours in names.items():
            targets = sorted(_numbered(own, ours))
            for place, number in enumerate(sorted(_numbered(state, theirs))):
                target = targets[place] if place < len(targets) else number
                for part in ("weight", "bias"):
                    if f"{theirs}.{number}.{part}" in state:
                        adapted[f"{ours}.{target}.{part}"] = state[f"{theirs}.{number}.{part}"]
        known = tuple(names)
        for key, value in state.items():
            if not key.startswith(known):
                adapted[singles.get(key, key)] = value
        return adapted

    def load_statistics(self, mean: str | Path, deviation: str | Path) -> None:
        """Take the published statistics of the input, two .npy files of (V, axes): one row for each joint that is
        coded, the last for the velocity.

        Raises:
            TrainingError: a file cannot be read, or has another shape.
        """
        for name, path in (("mean", mean), ("deviation", deviation)):
            try:
                values = np.load(Path(path), allow_pickle=False)
            except (OSError, ValueError) as error:
                raise TrainingError(f"{path}: no .npy file of numbers: {str(error).splitlines()[0]}") from None
            if values.shape != (len(self.kept) + 1, self.axes) or values.dtype.kind != "f":
                raise TrainingError(
                    f"{path}: it is {values.dtype} {values.shape}; allowed: floats ({len(self.kept) + 1}, {self.axes})"
                )
            getattr(self, name).copy_(torch.from_numpy(values).reshape(-1))
        self.measured.fill_(True)


def _numbered(state: dict[str, Tensor], prefix: str) -> set[int]:
    """Numbers of the layers with weights under a prefix."""
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.weight")
    return {int(match.group(1)) for match in map(pattern.fullmatch, state) if match}
