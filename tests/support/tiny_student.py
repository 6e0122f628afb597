"""A student with a network of a few weights, which learns the colours of joints in seconds; for tests of what surrounds
students.

It is top-down: the box of a person is shrunk to `SIDE` pixels, and two convolutions make a likelihood map per joint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from dataengine.core.component import Expert, ExpertSession, Student, StudentSession
from dataengine.core.skeletons import COMMON, convert, skeleton
from dataengine.core.types import Float, Frames, LabelledFrame, Poses

SIDE = 32
JOINTS = 13
Spoil = Literal["", "sides", "noise"]


def crop(image: Frames, box: Float) -> Float:
    """(SIDE, SIDE, 3) float32 in [0, 1], nearest pixels of a box, black beyond the picture."""
    height, width = image.shape[:2]
    x = np.floor(box[0] + (np.arange(SIDE) + 0.5) * (box[2] - box[0]) / SIDE).astype(int)
    y = np.floor(box[1] + (np.arange(SIDE) + 0.5) * (box[3] - box[1]) / SIDE).astype(int)
    inside = ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))[None]
    found = image[np.clip(y, 0, height - 1)[:, None], np.clip(x, 0, width - 1)[None]]
    made: Float = np.where(inside[..., None], found, 0).astype(np.float32) / 255
    return made


def network(seed: int) -> Any:
    """Two convolutions of SIDE x SIDE crops, after which each joint has a map."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(5, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 24, 5, 1, 2), nn.ReLU(), nn.Conv2d(24, JOINTS, 5, 1, 2)
        )


def prepared(crops: Sequence[Float]) -> Any:
    """(N, 5, SIDE, SIDE): colours, and where a pixel lies."""
    import torch

    where = np.stack(np.meshgrid(*[np.linspace(-1, 1, SIDE, dtype=np.float32)] * 2), -1)
    stacked = np.stack([np.concatenate([one, where], -1) for one in crops]) if len(crops) else np.zeros((0, 1, 1, 5))
    return torch.from_numpy(np.ascontiguousarray(stacked.transpose(0, 3, 1, 2), np.float32))


class TinySession(StudentSession):
    """See the module."""

    def __init__(self, seed: int, checkpoint: Path | None, spoil: Spoil = "") -> None:
        self.network = network(seed)
        self.spoil = spoil
        if checkpoint is not None:
            from safetensors.torch import load_file

            self.network.load_state_dict(load_file(checkpoint))

    def loss(self, frames: Sequence[LabelledFrame], rng: np.random.Generator, train: bool) -> Mapping[str, Any]:
        """Cross entropy of the cell of each joint."""
        import torch

        self.network.train(train)
        crops, cells, known = [], [], []
        for frame in frames:
            points, _ = convert(frame.keypoints, frame.scores, frame.skeleton, COMMON)
            if self.spoil == "sides":
                points = points[:, list(skeleton(COMMON).flip)]
            for pose, box in zip(points, frame.boxes):
                shift = rng.normal(0, 0.02, 2) * (box[2:] - box[:2]) if train else np.zeros(2)
                moved = (box + np.tile(shift, 2)).astype(np.float32)
                crops.append(crop(frame.image, moved))
                at = (pose - moved[:2]) / (moved[2:] - moved[:2]) * (SIDE // 2)
                seen = np.isfinite(at).all(-1) & (at >= 0).all(-1) & (at < SIDE // 2).all(-1)
                cell = np.where(seen[:, None], at, 0).astype(int)
                cells.append(cell[:, 1] * (SIDE // 2) + cell[:, 0])
                known.append(seen)
        if not crops:
            return {"loss": sum(p.sum() * 0 for p in self.network.parameters())}
        maps = self.network(prepared(crops)).flatten(2)
        each = torch.nn.functional.cross_entropy(
            maps.flatten(0, 1), torch.from_numpy(np.concatenate(cells)), reduction="none"
        )
        mask = torch.from_numpy(np.concatenate(known))
        return {"loss": (each * mask).sum() / mask.sum().clamp(min=1)}

    def parameters(self) -> list[dict[str, Any]]:
        """All of them."""
        return [{"params": list(self.network.parameters())}]

    def save(self, path: Path) -> None:
        """As safetensors; a student that is spoilt with noise forgets what it learned."""
        from safetensors.torch import save

        kept = (network(99) if self.spoil == "noise" else self.network).state_dict()
        path.write_bytes(save({k: v.detach().cpu().contiguous() for k, v in kept.items()}))


class TinyExpertSession(ExpertSession):
    """Predicts with the network of a generation."""

    def __init__(self, seed: int, checkpoint: Path | None) -> None:
        self.inner = TinySession(seed, checkpoint)
        self.inner.network.eval()

    def predict(self, frames: Frames, boxes: Sequence[Float] | None = None) -> list[Poses]:
        """The likeliest cell of each joint inside each box."""
        return [self._one(frame, given) for frame, given in zip(np.asarray(frames), boxes or [])]

    def _one(self, frame: Frames, boxes: Float) -> Poses:
        import torch

        boxes = boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]
        if not len(boxes):
            return Poses.empty(JOINTS)
        with torch.no_grad():
            maps = self.inner.network(prepared([crop(frame, box) for box in boxes])).flatten(2).softmax(-1).numpy()
        best = maps.argmax(-1)
        at = np.stack([best % (SIDE // 2), best // (SIDE // 2)], -1) + 0.5
        low, size = boxes[:, None, :2], (boxes[:, 2:4] - boxes[:, :2])[:, None]
        coords = (low + at / (SIDE // 2) * size).astype(np.float32)
        scores = np.sqrt(np.clip(maps.max(-1), 1e-4, 1)).astype(np.float32)
        given = np.concatenate([boxes[:, :4], scores.mean(1, keepdims=True)], -1).astype(np.float32)
        return Poses(coords, scores, given)


@dataclass(frozen=True)
class TinyExpert(Expert):
    """The expert of `TinyStudent`."""

    seed: int = 0
    checkpoint: str | None = None
    skeleton: ClassVar[str] = COMMON  # type: ignore[misc]
    needs_boxes: ClassVar[bool] = True  # type: ignore[misc]

    def load(self, device: str = "cpu") -> TinyExpertSession:
        """Open a session."""
        return TinyExpertSession(self.seed, None if self.checkpoint is None else Path(self.checkpoint))


@dataclass(frozen=True)
class TinyStudent(Student):
    """A student of a few weights for tests of what surrounds students.

    Attributes:
        weights_seed: of the weights before learning.
        spoil: make it worse on purpose: "sides" learns left for right, "noise" forgets all.
    """

    weights_seed: int = 0
    spoil: Spoil = ""
    skeleton: ClassVar[str] = COMMON  # type: ignore[misc]

    def start(self, device: str = "cpu", seed: int = 0, checkpoint: Path | None = None) -> TinySession:
        """Open a session."""
        return TinySession(self.weights_seed, checkpoint, self.spoil)

    def expert(self, checkpoint: Path | None) -> TinyExpert:
        """The expert with the weights of a generation."""
        return TinyExpert(self.weights_seed, None if checkpoint is None else str(checkpoint))
