"""Experts in a process, and where needed an environment, of their own.

Some experts pin libraries that the rest cannot live with, and native code crashes and hangs. `Isolated`
runs any registered expert in a process of its own; an expert whose worker has an environment of its own
too (`dataengine.experts.mediapipe`) uses the same `IsolatedProcess`.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dataengine.core import registry
from dataengine.core.errors import ComponentError, ExpertError
from dataengine.core.skeletons import skeleton
from dataengine.core.types import Float, Frames, Poses
from dataengine.experts.isolation.process import IsolatedProcess
from dataengine.experts.isolation.workers import serving
from dataengine.experts.isolation.workers.serving import Arrays, Header


def join_poses(poses: Sequence[Poses], num_joints: int) -> tuple[Header, Arrays]:
    """What a worker answers for the poses of several frames."""
    every = [Poses.empty(num_joints), *poses]
    return {"counts": [len(p) for p in poses]}, [
        np.concatenate([getattr(p, a) for p in every]) for a in ("coords", "scores", "boxes")
    ]


def split_poses(header: Header, arrays: Arrays, num_frames: int, num_joints: int) -> list[Poses]:
    """The poses of each frame in a worker's answer.

    Raises:
        ExpertError: the answer does not fit the question.
    """
    counts = header.get("counts", [])
    total = sum(counts)
    shapes = [(total, num_joints, 2), (total, num_joints), (total, 5)]
    if len(counts) != num_frames or [a.shape for a in arrays] != shapes:
        given = f"{len(counts)} frames, {[a.shape for a in arrays]}"
        raise ExpertError(
            "expert_failed", f"an answer of {given} to {num_frames} frames of {num_joints} joints", retryable=False
        )
    parts = [np.split(np.asarray(a, np.float32), np.cumsum(counts)[:-1]) for a in arrays] if counts else [[], [], []]
    return [Poses(*part) for part in zip(*parts, strict=True)]


@dataclass(frozen=True)
class Isolated:
    """Any expert of the registry, run in a process of its own.

    For experts whose answer depends on the given frames alone: one that remembers earlier frames
    (it has `begin_clip`) would forget them when its process is restarted.

    Attributes:
        expert: name of the expert.
        options: its options.
        deadline: seconds one `predict` may take.
    """

    expert: str
    options: dict[str, Any] = field(default_factory=dict)
    deadline: float = 60.0
    _live: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if hasattr(self._described, "begin_clip"):
            raise ComponentError(f"expert {self.expert!r} remembers earlier frames and cannot be wrapped in Isolated")
        if hasattr(self._described, "recall"):
            raise ComponentError(f"expert {self.expert!r} only looks up what was saved: it needs no process of its own")

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(type(self), **registry.config(self)), ()

    @property
    def _described(self) -> Any:
        """The expert itself, never loaded here."""
        if "expert" not in self._live:
            self._live["expert"] = registry.create("experts", self.expert, self.options)
        return self._live["expert"]

    @property
    def skeleton(self) -> str:
        return str(self._described.skeleton)

    @property
    def needs_boxes(self) -> bool:
        return bool(self._described.needs_boxes)

    def needs(self) -> list[str]:
        """Names of the weight files that the wrapped expert needs."""
        return list(self._described.needs()) if hasattr(self._described, "needs") else []

    def weights(self) -> dict[str, str]:
        """Weight files of the wrapped expert, by name, with their hashes."""
        return dict(self._described.weights())

    def load(self, device: str = "cpu") -> None:
        """Start the process and load the expert there. Idempotent.

        Raises:
            ExpertError: the process cannot be started or the expert not be loaded.
        """
        if "process" not in self._live:
            command = [
                sys.executable,
                "-m",
                "dataengine.experts.isolation.isolated",
                self.expert,
                json.dumps(self.options),
            ]
            self._live["process"] = IsolatedProcess(self.expert, command, {"device": device}, self.deadline)
        self._live["process"].start()

    def predict(self, frames: Frames, boxes: Sequence[Float] | None = None) -> list[Poses]:
        """As the wrapped expert's `predict`.

        Raises:
            ExpertError: the process crashed or hung twice, or the expert refused the frames.
        """
        self.load()
        arrays = [np.asarray(b, np.float32) for b in boxes or ()]
        answer, parts = self._live["process"].ask({"boxes": boxes is not None}, arrays, frames)
        return split_poses(answer, parts, len(frames), skeleton(self.skeleton).num_joints)


def main(name: str, options: str) -> None:
    """Serve the registered expert `name` with `options` (a JSON object) on standard input and output."""

    def make(given: Header) -> tuple[Header, serving.Handler]:
        expert = registry.create("experts", name, json.loads(options))
        expert.load(given["device"])
        num_joints = skeleton(expert.skeleton).num_joints

        def answer(header: Header, arrays: Arrays, frames: Frames | None) -> serving.Answer:
            return join_poses(expert.predict(frames, arrays if header["boxes"] else None), num_joints)

        return {}, answer

    serving.serve(make)


if __name__ == "__main__":
    main(*sys.argv[1:])
