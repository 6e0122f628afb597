"""A student: where the person of a bright block really stands, as far as the other experts know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from outside.expert import STANDING, BrightBlock

from dataengine.core.component import Expert, ExpertSession, Student, StudentSession
from dataengine.core.skeletons import COMMON, convert, skeleton
from dataengine.core.types import Float, Frames, LabelledFrame, Poses

FLIP = list(skeleton(COMMON).flip)


def weights_of(checkpoint: Path | str | None) -> dict[str, Any]:
    """The weights of a generation: `shift` (2,) pixels, and `mirrored`, how much of a person is left for right."""
    import torch
    from safetensors.torch import load_file

    if checkpoint is None:
        return {"shift": torch.tensor([5.0, -4.0]), "mirrored": torch.tensor(0.0)}
    return load_file(checkpoint)


@dataclass(frozen=True)
class ShiftedBlock(Expert):
    """Puts a standing person into the bright block, moved and mirrored as its weights say."""

    checkpoint: str = ""

    skeleton: ClassVar[str] = COMMON

    def load(self, device: str = "cpu") -> ExpertSession:
        return ShiftedBlockSession(weights_of(self.checkpoint or None))


class ShiftedBlockSession(ExpertSession):
    """Two numbers of the checkpoint are all that there is."""

    def __init__(self, weights: Mapping[str, Any]) -> None:
        self.shift, self.mirrored = weights["shift"].numpy(), float(weights["mirrored"])
        self.block = BrightBlock().load()

    def predict(self, frames: Frames, boxes: Sequence[Float] | None = None) -> list[Poses]:
        return [self._one(poses) for poses in self.block.predict(frames)]

    def _one(self, found: Poses) -> Poses:
        other = found.coords[:, FLIP]
        coords = found.coords + self.mirrored * (other - found.coords) + self.shift
        return Poses(coords.astype(np.float32), found.scores, found.boxes)


class BlockStudentSession(StudentSession):
    """Learns the two numbers from the labels."""

    def __init__(self, checkpoint: Path | None, spoil: str) -> None:
        import torch

        self.network = torch.nn.Module()
        for name, value in weights_of(checkpoint).items():
            self.network.register_parameter(name, torch.nn.Parameter(value))
        self.spoil, self.block = spoil, BrightBlock().load()

    def loss(self, frames: Sequence[LabelledFrame], rng: np.random.Generator, train: bool) -> Mapping[str, Any]:
        import torch

        shift, mirrored = self.network.shift, self.network.mirrored
        terms = []
        for frame in frames:
            (found,) = self.block.predict(frame.image[None])
            goal, _ = convert(frame.keypoints[:1], frame.scores[:1], frame.skeleton, COMMON)
            goal = goal[:, FLIP] if self.spoil == "sides" else goal
            if len(found) and len(goal):
                seen = torch.from_numpy(np.isfinite(goal).all(-1))
                base, other = torch.from_numpy(found.coords), torch.from_numpy(found.coords[:, FLIP])
                poses = base + mirrored * (other - base) + shift
                goal_there = torch.from_numpy(np.nan_to_num(goal).astype(np.float32))
                terms.append(((poses - goal_there)[seen] / len(STANDING)).pow(2).mean())
        return {"loss": torch.stack(terms).mean() if terms else (shift.sum() + mirrored) * 0}

    def parameters(self) -> list[dict[str, Any]]:
        return [{"params": [self.network.shift]}, {"params": [self.network.mirrored], "scale": 0.1}]

    def save(self, path: Path) -> None:
        from safetensors.torch import save

        made = {k: v.detach().cpu() for k, v in self.network.state_dict().items()}
        if self.spoil == "worse":
            made["shift"] = made["shift"] + 20
        path.write_bytes(save(made))


@dataclass(frozen=True)
class BlockStudent(Student):
    """Learns where the joints of a person in a bright block lie.

    Attributes:
        spoil: what makes it worse on purpose: "sides" learns left for right, "worse" writes other weights than it has.
    """

    spoil: Literal["", "sides", "worse"] = ""

    skeleton: ClassVar[str] = COMMON

    def start(self, device: str = "cpu", seed: int = 0, checkpoint: Path | None = None) -> BlockStudentSession:
        return BlockStudentSession(checkpoint, self.spoil)

    def expert(self, checkpoint: Path | None) -> ShiftedBlock:
        return ShiftedBlock("" if checkpoint is None else str(checkpoint))
