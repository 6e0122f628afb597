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

import cv2
import numpy as np
import onnxruntime
from blake3 import blake3

from dataengine.core.component import Component, Detector, DetectorSession, Expert, ExpertSession
from dataengine.core.errors import WeightsError
from dataengine.core.types import Float, Frames, Poses
from dataengine.experts.batching import InputBatch, NetworkDetectorSession, NetworkExpertSession, Processing
from dataengine.experts.preprocess import GREY, crop_affine, crop_boxes

NUM_JOINTS = 14
STRIDE = 8
WHOLE = (192, 144)
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
        return _sigmoid(slope * evidence + shift)


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


def _sigmoid(x: Float) -> Float:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -30, 30))))


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
        return _letterbox(frames)

    def postprocess(self, answers: Sequence[Float], batch: InputBatch) -> list[Float]:
        """One (M, 5) float32 array per frame."""
        return [
            self._boxes(maps, affine[0, 0], affine[:, 2], batch.width, batch.height)
            for maps, affine in zip(answers, batch.affines)
        ]

    def _boxes(self, maps: Float, scale: float, shift: Float, width: int, height: int) -> Float:
        most, overlap = self.options.max_people, self.options.overlap
        heat = _sigmoid(maps[0])
        y, x = _maxima(heat, self.options.threshold, 4 * most)
        middle = (np.stack([x + maps[1, y, x], y + maps[2, y, x]], -1) + 0.5) * STRIDE - 0.5
        half = np.exp(np.clip(maps[3:5, y, x].T, -3, 4)) * STRIDE / 2
        low, high = (middle - half - shift) / scale, (middle + half - shift) / scale
        boxes = np.concatenate(
            [np.clip(low, 0, (width - 1, height - 1)), np.clip(high, 0, (width - 1, height - 1)), heat[y, x, None]], -1
        )
        kept: list[Float] = []
        for box in boxes[(boxes[:, 2:4] - boxes[:, :2] > 2).all(-1)]:
            if all(_overlap(box, other) < overlap for other in kept):
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
        return crop_boxes(frames, boxes, who, size, lambda frame, box: _crop(frame, box, size, padding))

    def postprocess(self, answers: Sequence[Float], batch: InputBatch) -> list[Poses]:
        """One `Poses` per frame; scores say how likely a joint is right."""
        people: list[list[tuple[Float, Float, Float]]] = [[] for _ in range(batch.num_frames)]
        if len(answers):
            at, evidence = self.options.decode(np.stack(answers))
            chance = self.network.chance(evidence)
            for n, t in enumerate(batch.frame):
                people[t].append((batch.to_frame(n, at[n]), chance[n], batch.boxes[n]))
        least = self.options.min_score, self.options.min_mean
        return [_poses(some, batch.width, batch.height, *least) for some in people]


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
        return _letterbox(frames)

    def postprocess(self, answers: Sequence[Float], batch: InputBatch) -> list[Poses]:
        """One `Poses` per frame."""
        out = []
        for n, maps in enumerate(answers):
            people: list[tuple[Float, Float, Float]] = []
            for at, evidence, sure in self._people(maps.astype(np.float64)):
                coords = batch.to_frame(n, (at + 0.5) * STRIDE - 0.5)
                box = np.concatenate([coords.min(0), coords.max(0), [sure]])
                people.append((coords, self.network.chance(evidence), box))
            out.append(_poses(people, batch.width, batch.height, self.options.min_score, self.options.min_mean))
        return out

    def _people(self, maps: Float) -> Iterator[tuple[Float, Float, float]]:
        """Maps (99, h, w) -> per person joints (14, 2) in cells, log-odds (14,), and the centre's likelihood."""
        heat = _sigmoid(maps[: NUM_JOINTS + 1])
        offset, to_centre, to_joint = maps[NUM_JOINTS + 1 :].reshape(3, NUM_JOINTS, 2, *heat.shape[1:])
        cy, cx = _maxima(heat[NUM_JOINTS], self.options.threshold, 4 * self.options.max_people)
        apart = np.hypot(cx[:, None] - cx, cy[:, None] - cy) < 2
        first = [k for k in range(len(cx)) if not apart[k, :k].any()][: self.options.max_people]
        cy, cx = cy[first], cx[first]
        centres = np.stack([cx, cy], -1).astype(np.float64)
        # where the centre says its joints are: the answer for joints without a cell of their own
        at = centres[:, None] + GROUP_UNIT * to_joint[:, :, cy, cx].transpose(2, 0, 1)
        evidence = np.full(at.shape[:2], -5.0)
        joint, y, x = _peaks(heat[:NUM_JOINTS], self.options.peak)
        cell = np.stack([x, y], -1)
        spot = cell + offset[joint, :, y, x]
        vote = cell + GROUP_UNIT * to_centre[joint, :, y, x]
        likely = heat[joint, y, x]
        far = _square(centres[:, None] - vote) / 8 + _square(at[:, joint] - spot) / 12
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


def _square(v: Float) -> Float:
    return np.asarray((v * v).sum(-1))


def _peaks(heat: Float, least: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Map, row and column of all local maxima of (J, h, w) above `least`."""
    across = np.pad(heat, ((0, 0), (1, 1), (1, 1)))
    rows = np.maximum(np.maximum(across[:, :-2], across[:, 1:-1]), across[:, 2:])
    around = np.maximum(np.maximum(rows[..., :-2], rows[..., 1:-1]), rows[..., 2:])
    j, y, x = np.nonzero((heat >= around) & (heat > least))
    return j, y, x


def _maxima(heat: Float, least: float, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the local maxima of (h, w) above `least`, best first, at most `most`."""
    _, y, x = _peaks(heat[None], least)
    order = np.argsort(-heat[y, x], kind="stable")[:most]
    return y[order], x[order]


def _overlap(a: Float, b: Float) -> float:
    sides = np.clip(np.minimum(a[2:4], b[2:4]) - np.maximum(a[:2], b[:2]), 0, None)
    union = np.prod(a[2:4] - a[:2]) + np.prod(b[2:4] - b[:2]) - np.prod(sides)
    return float(np.prod(sides) / max(union, 1e-9))


def _letterbox(frames: Frames) -> InputBatch:
    """Frames scaled into the centre of grey images (T, 144, 192, 3)."""
    num, height, width = frames.shape[:3]
    scale = min(WHOLE[0] / width, WHOLE[1] / height)
    affine = np.array(
        [
            [scale, 0, (WHOLE[0] - 1) / 2 - scale * (width - 1) / 2],
            [0, scale, (WHOLE[1] - 1) / 2 - scale * (height - 1) / 2],
        ]
    )
    pixels = (
        np.stack([_warp(frame, affine, WHOLE) for frame in frames]) if num else np.zeros((0, *WHOLE[::-1], 3), np.uint8)
    )
    boxes = np.tile(np.array([0.0, 0.0, width, height, 1.0]), (num, 1))
    return InputBatch(pixels, np.arange(num), np.tile(affine, (num, 1, 1)), boxes, num, width, height)


def _crop(frame: np.ndarray, box: Float, size: tuple[int, int], padding: float) -> tuple[np.ndarray, Float]:
    """The part of a frame around a box as an image of `size`, and the affine map (2, 3) of pixels."""
    affine = crop_affine(box, size, padding)
    return _warp(frame, affine, size), affine


def _warp(frame: np.ndarray, affine: Float, size: tuple[int, int]) -> np.ndarray:
    """A scaled and shifted frame; area interpolation first where bilinear interpolation alone would alias."""
    scale = float(affine[0, 0])
    if scale < 0.5:
        # only the rows and columns that will be seen
        low = np.maximum(np.floor(-affine[:, 2] / scale).astype(int), 0)
        high = np.minimum(
            np.ceil((np.array(size) - affine[:, 2]) / scale).astype(int) + 1, (frame.shape[1], frame.shape[0])
        )
        if (high <= low).any():
            return np.full((size[1], size[0], 3), GREY, np.uint8)
        part = np.ascontiguousarray(frame[low[1] : high[1], low[0] : high[0]])
        wide, tall = (max(1, round(2 * scale * side)) for side in part.shape[1::-1])
        small = cv2.resize(part, (wide, tall), interpolation=cv2.INTER_AREA)
        ratio = np.array((small.shape[1] / part.shape[1], small.shape[0] / part.shape[0]))
        # pixel u of the small part is pixel (u + 0.5) / ratio - 0.5 + low of the frame
        shift = scale * (0.5 / ratio - 0.5 + low) + affine[:, 2]
        affine = np.concatenate([np.diag(scale / ratio), shift[:, None]], 1)
        frame = small
    return np.asarray(
        cv2.warpAffine(frame, affine, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=GREY)
    )


def _poses(
    people: list[tuple[Float, Float, Float]], width: int, height: int, min_score: float, min_mean: float
) -> Poses:
    """Joints (14, 2), scores (14,) and box (5,) of each person -> `Poses`, doubtful and far-out joints left out."""
    keep = []
    for coords, scores, box in people:
        reach = 0.1 * np.array((width, height))
        near = ((coords > -reach) & (coords < np.array((width, height)) + reach)).all(-1)
        seen = near & (scores >= min_score)
        if seen.sum() >= 3 and scores.mean() >= min_mean:
            keep.append((np.where(seen[:, None], coords, np.nan), np.where(seen, scores, 0), box))
    if not keep:
        return Poses.empty(NUM_JOINTS)
    coords, scores, boxes = (np.stack(part).astype(np.float32) for part in zip(*keep, strict=True))
    return Poses(coords, scores, boxes)
