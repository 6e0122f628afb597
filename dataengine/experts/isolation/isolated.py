"""Experts in a process, and where needed an environment, of their own.

Some experts pin libraries that the rest cannot live with, and native code crashes and hangs. `Isolated`
runs any registered expert in a process of its own; an expert whose worker has an environment of its own
too (`dataengine.experts.mediapipe`) uses the same `IsolatedProcess`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dataengine.core import registry
from dataengine.core.component import Expert, ExpertSession
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


class ProcessSession(ExpertSession):
    """An expert whose work is done by a worker process; the session owns the process.

    Args:
        process: the worker; it is started here.
        num_joints: joints per pose.

    Raises:
        ExpertError: the process cannot be started or the expert not be loaded.
    """

    def __init__(self, process: IsolatedProcess, num_joints: int) -> None:
        self.process = process
        self.num_joints = num_joints
        process.start()

    def ask(self, header: Header, arrays: Arrays, frames: Frames) -> tuple[Header, list[Poses]]:
        """Send frames to the worker: its answer and one `Poses` per frame."""
        self.require_open()
        answer, parts = self.process.ask(header, arrays, frames)
        return answer, split_poses(answer, parts, len(frames), self.num_joints)

    def predict(self, frames: Frames, boxes: Sequence[Float] | None = None) -> list[Poses]:
        """As the wrapped expert's `predict`.

        Raises:
            ExpertError: the process crashed or hung twice, or the expert refused the frames.
        """
        return self.ask({"boxes": boxes is not None}, [np.asarray(b, np.float32) for b in boxes or ()], frames)[1]

    def release(self) -> None:
        """End the worker."""
        self.process.close()


@dataclass(frozen=True)
class Isolated(Expert):
    """Any expert of the registry, run in a process of its own.

    Only for experts whose answer depends on the given frames alone. An expert that remembers earlier frames
    would forget them when its process is restarted.

    Attributes:
        expert: name of the expert.
        options: its options.
        deadline: seconds one `predict` may take.

    Raises:
        ComponentError: the expert remembers frames, or looks up saved poses.
    """

    expert: str
    options: dict[str, Any] = field(default_factory=dict)
    deadline: float = 60.0

    def __post_init__(self) -> None:
        wrapped = self.wrapped
        if wrapped.remembers_frames:
            raise ComponentError(f"expert {self.expert!r} remembers earlier frames and cannot be wrapped in Isolated")
        if wrapped.looks_up:
            raise ComponentError(f"expert {self.expert!r} only looks up what was saved: it needs no process of its own")

    @property
    def wrapped(self) -> Expert:
        """The expert itself, which is never loaded in this process."""
        expert: Expert = registry.create("experts", self.expert, self.options)
        return expert

    @property
    def skeleton(self) -> str:
        return self.wrapped.skeleton

    @property
    def needs_boxes(self) -> bool:
        return self.wrapped.needs_boxes

    def check(self) -> None:
        """As the wrapped expert's `check`."""
        self.wrapped.check()

    def needs(self) -> list[str]:
        """Names of the weight files that the wrapped expert needs."""
        return self.wrapped.needs()

    def weights(self) -> dict[str, str]:
        """Weight files of the wrapped expert, by name, with their hashes."""
        return self.wrapped.weights()

    def load(self, device: str = "cpu") -> ProcessSession:
        """Start the process and load the expert there.

        Raises:
            ExpertError: the process cannot be started or the expert not be loaded.
        """
        module = ["-m", "dataengine.experts.isolation.isolated"]
        command = [sys.executable, *module, self.expert, json.dumps(self.options)]
        process = IsolatedProcess(self.expert, command, {"device": device}, self.deadline)
        return ProcessSession(process, skeleton(self.skeleton).num_joints)


def main(name: str, options: str) -> None:
    """Serve the registered expert `name` with `options` (a JSON object) on standard input and output."""

    def make(given: Header) -> tuple[Header, serving.Handler]:
        expert: Expert = registry.create("experts", name, json.loads(options))
        session, num_joints = expert.load(given["device"]), skeleton(expert.skeleton).num_joints

        def answer(header: Header, arrays: Arrays, frames: Frames | None) -> serving.Answer:
            assert frames is not None
            return join_poses(session.predict(frames, arrays if header["boxes"] else None), num_joints)

        return {}, answer

    serving.serve(make)


if __name__ == "__main__":
    main(*sys.argv[1:])
