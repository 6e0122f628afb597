"""The built-in experts: a detector and three small pose networks trained on rendered people.

They need no download and run at tens of frames per second on one core, so that every part of a build
can run anywhere. They find rendered people (`dataengine.rendering`) and fail on real video: see
weights/MODEL_CARD.md. The networks are trained by `tools.synthetic_experts`; each file carries the
calibration of its scores, so that its hash covers everything an answer depends on.

Coordinates: the centre of an image's first pixel is (0, 0); the centre of cell c of a network's
maps is input pixel 8 c + 3.5.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime
from blake3 import blake3

from dataengine.core.component import Component, Detector, DetectorSession, Expert, ExpertSession
from dataengine.core.errors import WeightsError
from dataengine.core.types import Float, Frames, Poses
from dataengine.experts.batching import InputBatch, NetworkDetectorSession, NetworkExpertSession, Processing
from dataengine.experts.preprocess import crop_boxes
from dataengine.experts.synthetic_images import (
    NUM_JOINTS,
    crop_area,
    intersection_over_union,
    letterbox_grey,
    maxima,
    peaks,
    poses_of_people,
    sigmoid,
    square,
)

STRIDE = 8
TOPDOWN = (96, 128)
REGRESSION = (128, 128)
BATCH = 16
"""Images per batch; bounds memory, not results."""
GROUP_UNIT = 8.0
"""Cells in a unit of the bottom-up network's grouping vectors."""


def weights_folder() -> Path:
    """The folder of the shipped networks."""
    return Path(__file__).parent / "weights"


def shipped_hashes() -> dict[str, str]:
    """blake3 of every shipped file by name.

    Raises:
        WeightsError: the manifest is missing.
    """
    path = weights_folder() / "manifest.json"
    if not path.is_file():
        raise WeightsError(
            f"{path.name} of the built-in experts is missing beside their weights: install the package again"
        )
    return dict(json.loads(path.read_text())["files"])


@dataclass(frozen=True)
class Network:
    """A loaded network and the calibration it carries: (14, 2) slope and intercept a joint, None for the detector."""

    session: Any
    calibration: Float | None

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """(N, h, w, 3) uint8 -> the network's answers, float32."""
        return np.asarray(self.session.run(None, {"image": pixels})[0])

    def chance(self, evidence: Float) -> Float:
        """(..., 14) log-odds of the network -> probability that the joint lies within half a head of the truth."""
        slope, shift = (1.0, 0.0) if self.calibration is None else (self.calibration[:, 0], self.calibration[:, 1])
        return sigmoid(slope * evidence + shift)


def open_network(path: Path, promised: str) -> Network:
    """Load one file, one thread, after checking its hash.

    Raises:
        WeightsError: the file is missing or is not the one promised.
    """
    if not path.is_file():
        raise WeightsError(f"weights {path.name} are missing: install the package again")
    content = path.read_bytes()
    if blake3(content).hexdigest() != promised:
        raise WeightsError(
            f"weights {path.name} have blake3 {blake3(content).hexdigest()[:12]}..., promised {promised[:12]}...: "
            "install the package again"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    carried = session.get_modelmeta().custom_metadata_map.get("calibration")
    return Network(session, None if carried is None else np.array(json.loads(carried), np.float64))


@dataclass(frozen=True)
class _ShippedNetwork(Component):
    """What the four have in common: one shipped file each, which runs on the CPU whatever the device."""

    file: ClassVar[str]

    def weights(self) -> dict[str, str]:
        """The shipped file with its blake3."""
        return {self.file: shipped_hashes()[self.file]}

    def open_network(self) -> Network:
        """The network.

        Raises:
            WeightsError: the file is missing or altered.
        """
        return open_network(weights_folder() / self.file, self.weights()[self.file])


@dataclass(frozen=True)
class SyntheticDetector(_ShippedNetwork, Detector):
    """A detector for rendered people, on whole frames: a map of box centres with sizes.

    Attributes:
        threshold: least score of a person.
        overlap: of two boxes with a larger intersection over union than this, the better one is kept.
        max_people: most people per frame.
    """

    threshold: float = 0.35
    """least score of a box"""
    overlap: float = 0.55
    max_people: int = 8
    """most people per frame"""

    title: ClassVar[str] = "[detectors.synthetic_detector]"
    file: ClassVar[str] = "synthetic_detector.onnx"

    def load(self, device: str = "cpu") -> DetectorSession:
        """Open the network; raises as `open_network`."""
        return NetworkDetectorSession(_DetectorProcessing(self), self.open_network(), BATCH)


@dataclass(frozen=True)
class _DetectorProcessing(Processing):
    options: SyntheticDetector

    def preprocess(self, frames: Frames, boxes: Sequence[Float] | None = None) -> InputBatch:
        """Every frame as one image."""
        return letterbox_grey(frames)

    def postprocess(self, answers: Sequence[Float], batch: InputBatch) -> list[Float]:
        """One (M, 5) float32 array per frame."""
        return [
            self._boxes(maps, affine[0, 0], affine[:, 2], batch.width, batch.height)
            for maps, affine in zip(answers, batch.affines)
        ]

    def _boxes(self, maps: Float, scale: float, shift: Float, width: int, height: int) -> Float:
        most, overlap = self.options.max_people, self.options.overlap
        heat = sigmoid(maps[0])
        y, x = maxima(heat, self.options.threshold, 4 * most)
        middle = (np.stack([x + maps[1, y, x], y + maps[2, y, x]], -1) + 0.5) * STRIDE - 0.5
        half = np.exp(np.clip(maps[3:5, y, x].T, -3, 4)) * STRIDE / 2
        low, high = (middle - half - shift) / scale, (middle + half - shift) / scale
        boxes = np.concatenate(
            [np.clip(low, 0, (width - 1, height - 1)), np.clip(high, 0, (width - 1, height - 1)), heat[y, x, None]], -1
        )
        kept: list[Float] = []
        for box in boxes[(boxes[:, 2:4] - boxes[:, :2] > 2).all(-1)]:
            if all(intersection_over_union(box, other) < overlap for other in kept):
                kept.append(box)
        return np.array(kept[:most], np.float32).reshape(-1, 5)


@dataclass(frozen=True)
class _TopDown(_ShippedNetwork, Expert):
    """A network on crops around rendered people.

    Attributes:
        min_score: joints with a lower score are left out.
        min_mean: people with a lower mean score are left out.
        padding: side of the crop over the side of the box.
    """

    min_score: float = 0.05
    min_mean: float = 0.2
    padding: float = 1.15

    size: ClassVar[tuple[int, int]]
    skeleton: ClassVar[str] = "body14"
    needs_boxes: ClassVar[bool] = True

    @property
    def score_calibration(self) -> str | None:
        return "synthetic"

    @abstractmethod
    def decode(self, answer: Float) -> tuple[Float, Float]:
        """The network's answer -> joints (N, 14, 2) in pixels of the crop, and log-odds (N, 14)."""

    def load(self, device: str = "cpu") -> ExpertSession:
        """Open the network; raises as `open_network`."""
        network = self.open_network()
        return NetworkExpertSession(_TopDownProcessing(self, network), network, BATCH)


@dataclass(frozen=True)
class _TopDownProcessing(Processing):
    options: _TopDown
    network: Network

    def preprocess(self, frames: Frames, boxes: Sequence[Float] | None = None) -> InputBatch:
        """A crop around the part of every box that lies in the frame, as in training.

        Raises:
            ExpertError: no boxes, or not one array of boxes per frame.
        """
        size, padding = self.options.size, self.options.padding
        who = type(self.options).__name__
        return crop_boxes(frames, boxes, who, size, lambda frame, box: crop_area(frame, box, size, padding))

    def postprocess(self, answers: Sequence[Float], batch: InputBatch) -> list[Poses]:
        """One `Poses` per frame; scores say how likely a joint is right."""
        people: list[list[tuple[Float, Float, Float]]] = [[] for _ in range(batch.num_frames)]
        if len(answers):
            at, evidence = self.options.decode(np.stack(answers))
            chance = self.network.chance(evidence)
            for n, t in enumerate(batch.frame):
                people[t].append((batch.to_frame(n, at[n]), chance[n], batch.boxes[n]))
        least = self.options.min_score, self.options.min_mean
        return [poses_of_people(some, batch.width, batch.height, *least) for some in people]


@dataclass(frozen=True)
class SyntheticTopDown(_TopDown):
    """Rendered people in crops: one heatmap per joint; the joint is the mean of the best cell's neighbourhood.

    Attributes:
        min_score: joints with a lower score are left out.
        min_mean: people with a lower mean score are left out.
        padding: side of the crop over the side of the box.
    """

    title: ClassVar[str] = "[experts.synthetic_topdown]"
    file: ClassVar[str] = "synthetic_topdown.onnx"
    size: ClassVar[tuple[int, int]] = TOPDOWN

    def decode(self, answer: Float) -> tuple[Float, Float]:
        """The network's answer -> joints (N, 14, 2) in pixels of the crop, and log-odds (N, 14)."""
        n, j, h, w = answer.shape
        p = np.exp(answer.reshape(n, j, -1) - answer.reshape(n, j, -1).max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        best = p.argmax(-1)
        y, x = best // w, best % w
        padded = np.pad(p.reshape(n, j, h, w), ((0, 0), (0, 0), (1, 1), (1, 1)))
        rows, cols = np.arange(n)[:, None, None, None], np.arange(j)[:, None, None]
        step = np.arange(3)
        near = padded[rows, cols, y[..., None, None] + step[:, None], x[..., None, None] + step]
        mass = near.sum((-1, -2))
        dx, dy = (near.sum(-2) * (step - 1)).sum(-1) / mass, (near.sum(-1) * (step - 1)).sum(-1) / mass
        at = (np.stack([x + dx, y + dy], -1) + 0.5) * STRIDE - 0.5
        mass = np.clip(mass, 1e-4, 1 - 1e-4)
        return at, np.log(mass / (1 - mass))


@dataclass(frozen=True)
class SyntheticRegression(_TopDown):
    """Rendered people in crops: coordinates regressed directly, each with the error that the network expects.

    Attributes:
        min_score: joints with a lower score are left out.
        min_mean: people with a lower mean score are left out.
        padding: side of the crop over the side of the box.
    """

    title: ClassVar[str] = "[experts.synthetic_regression]"
    file: ClassVar[str] = "synthetic_regression.onnx"
    size: ClassVar[tuple[int, int]] = REGRESSION

    def decode(self, answer: Float) -> tuple[Float, Float]:
        """The network's answer -> joints (N, 14, 2) in pixels of the crop, and log-odds (N, 14)."""
        half = np.array(self.size) / 2
        return (answer[..., :2].astype(np.float64) + 1) * half - 0.5, -np.clip(answer[..., 2].astype(np.float64), -6, 4)


@dataclass(frozen=True)
class SyntheticBottomUp(_ShippedNetwork, Expert):
    """Rendered people in whole frames: all joints of all people at once, grouped around body centres.

    Attributes:
        threshold: least likelihood of a body centre.
        peak: least likelihood of a joint's cell.
        min_score: joints with a lower score are left out.
        min_mean: people with a lower mean score are left out.
        max_people: most people per frame.
    """

    threshold: float = 0.3
    peak: float = 0.06
    min_score: float = 0.05
    """joints less likely right than this are not given"""
    min_mean: float = 0.2
    """poses whose mean score is less than this are not given"""
    max_people: int = 8
    """most people per frame"""

    title: ClassVar[str] = "[experts.synthetic_bottomup]"
    file: ClassVar[str] = "synthetic_bottomup.onnx"
    skeleton: ClassVar[str] = "body14"

    @property
    def score_calibration(self) -> str | None:
        return "synthetic"

    def load(self, device: str = "cpu") -> ExpertSession:
        """Open the network; raises as `open_network`."""
        network = self.open_network()
        return NetworkExpertSession(_BottomUpProcessing(self, network), network, BATCH)


@dataclass(frozen=True)
class _BottomUpProcessing(Processing):
    options: SyntheticBottomUp
    network: Network

    def preprocess(self, frames: Frames, boxes: Sequence[Float] | None = None) -> InputBatch:
        """Every frame as one image; boxes are not needed."""
        return letterbox_grey(frames)

    def postprocess(self, answers: Sequence[Float], batch: InputBatch) -> list[Poses]:
        """One `Poses` per frame."""
        out = []
        for n, maps in enumerate(answers):
            people: list[tuple[Float, Float, Float]] = []
            for at, evidence, sure in self.people_in(maps.astype(np.float64)):
                coords = batch.to_frame(n, (at + 0.5) * STRIDE - 0.5)
                box = np.concatenate([coords.min(0), coords.max(0), [sure]])
                people.append((coords, self.network.chance(evidence), box))
            out.append(
                poses_of_people(people, batch.width, batch.height, self.options.min_score, self.options.min_mean)
            )
        return out

    def people_in(self, maps: Float) -> Iterator[tuple[Float, Float, float]]:
        """Maps (99, h, w) -> per person joints (14, 2) in cells, log-odds (14,), and the centre's likelihood."""
        heat = sigmoid(maps[: NUM_JOINTS + 1])
        offset, to_centre, to_joint = maps[NUM_JOINTS + 1 :].reshape(3, NUM_JOINTS, 2, *heat.shape[1:])
        cy, cx = maxima(heat[NUM_JOINTS], self.options.threshold, 4 * self.options.max_people)
        apart = np.hypot(cx[:, None] - cx, cy[:, None] - cy) < 2
        first = [k for k in range(len(cx)) if not apart[k, :k].any()][: self.options.max_people]
        cy, cx = cy[first], cx[first]
        centres = np.stack([cx, cy], -1).astype(np.float64)
        # where the centre says its joints are: the answer for joints without a cell of their own
        at = centres[:, None] + GROUP_UNIT * to_joint[:, :, cy, cx].transpose(2, 0, 1)
        evidence = np.full(at.shape[:2], -5.0)
        joint, y, x = peaks(heat[:NUM_JOINTS], self.options.peak)
        cell = np.stack([x, y], -1)
        spot = cell + offset[joint, :, y, x]
        vote = cell + GROUP_UNIT * to_centre[joint, :, y, x]
        likely = heat[joint, y, x]
        far = square(centres[:, None] - vote) / 8 + square(at[:, joint] - spot) / 12
        worth = likely * np.exp(-far)
        free, used = np.ones(evidence.shape, np.bool_), np.zeros(len(joint), np.bool_)
        order = np.argsort(-worth, axis=None, kind="stable")
        for person, one in zip(*np.unravel_index(order[: int((worth > 0.01).sum())], worth.shape), strict=True):
            j = joint[one]
            if free[person, j] and not used[one]:
                free[person, j], used[one] = False, True
                at[person, j] = spot[one]
                p = min(max(float(worth[person, one]), 1e-4), 1 - 1e-4)
                evidence[person, j] = np.log(p / (1 - p))
        for k in range(len(first)):
            yield at[k], evidence[k], float(heat[NUM_JOINTS, cy[k], cx[k]])
