"""The built-in experts: a detector and three small pose networks trained on rendered people.

They need no download and run at tens of frames a second on one core, so that every part of a build
can run anywhere. They know rendered people (`dataengine.rendering`) and little else: see
weights/MODEL_CARD.md. The networks are trained by `tools.synthetic_experts`; each file carries the
calibration of its scores, so that its hash covers everything an answer depends on.

Coordinates: the middle of a picture's first pixel is (0, 0); the middle of cell c of a network's
maps is input pixel 8 c + 3.5.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
from blake3 import blake3

from dataengine.core.errors import WeightsError
from dataengine.core.types import Float, Frames, Poses
from dataengine.experts.batching import Cuts, answer
from dataengine.experts.preprocess import GREY, box_cuts, crop_move

NUM_JOINTS = 14
STRIDE = 8
WHOLE = (192, 144)
TOPDOWN = (96, 128)
REGRESSION = (128, 128)
BATCH = 16
"""Pictures given to a network at a time; bounds memory, not results."""
GROUP_UNIT = 8.0
"""Cells in a unit of the bottom-up network's grouping vectors."""


def weights_folder() -> Path:
    """Where the shipped networks lie."""
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

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """(N, h, w, 3) uint8 -> the network's answers, float32."""
        return np.asarray(self.session.run(None, {"image": pictures})[0])

    def chance(self, evidence: Float) -> Float:
        """(..., 14) log-odds of the network -> probability that the joint lies within half a head of the truth."""
        slope, shift = (1.0, 0.0) if self.calibration is None else (self.calibration[:, 0], self.calibration[:, 1])
        return _sigmoid(slope * evidence + shift)


@cache
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
            f"weights {path.name} have blake3 {blake3(content).hexdigest()[:12]}..., promised {promised[:12]}...: install the package again"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    carried = session.get_modelmeta().custom_metadata_map.get("calibration")
    return Network(session, None if carried is None else np.array(json.loads(carried), np.float64))


def _sigmoid(x: Float) -> Float:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -30, 30))))


class _Shipped:
    """What the four have in common: one shipped file each, and batches of the same pictures whatever the device."""

    file = ""
    batch = BATCH

    def weights(self) -> dict[str, str]:
        """The shipped file with its blake3."""
        return {self.file: shipped_hashes()[self.file]}

    def load(self, device: str = "cpu") -> None:
        """Open the network; these run on the CPU whatever the device.

        Raises:
            WeightsError: the file is missing or altered.
        """
        self._network()

    def infer(self, pixels: Frames) -> np.ndarray:
        """Pictures (N, h, w, 3) -> what the network says of each, float32."""
        return self._network()(pixels)

    def _network(self) -> Network:
        return open_network(weights_folder() / self.file, self.weights()[self.file])


@dataclass(frozen=True)
class SyntheticDetector(_Shipped):
    """Finds people in whole frames: a map of box middles with sizes."""

    threshold: float = 0.35
    """least score of a box"""
    overlap: float = 0.55
    """of two boxes that share more of their union than this, the better stays"""
    max_people: int = 8
    """most people per frame"""

    file = "synthetic_detector.onnx"

    def detect(self, frames: Frames) -> list[Float]:
        """One (M, 5) float32 array of x0, y0, x1, y1, score a frame, best first, in pixels of the frame."""
        return answer(self, frames)

    def cut(self, frames: Frames, boxes: Sequence[Float] | None = None) -> Cuts:
        """Every frame as one picture."""
        return _letterboxed(frames)

    def read(self, answers: Sequence[Float], cuts: Cuts) -> list[Float]:
        """One (M, 5) float32 array a frame."""
        return [
            self._boxes(maps, move[0, 0], move[:, 2], cuts.width, cuts.height)
            for maps, move in zip(answers, cuts.moves)
        ]

    def _boxes(self, maps: Float, scale: float, shift: Float, width: int, height: int) -> Float:
        heat = _sigmoid(maps[0])
        y, x = _maxima(heat, self.threshold, 4 * self.max_people)
        middle = (np.stack([x + maps[1, y, x], y + maps[2, y, x]], -1) + 0.5) * STRIDE - 0.5
        half = np.exp(np.clip(maps[3:5, y, x].T, -3, 4)) * STRIDE / 2
        low, high = (middle - half - shift) / scale, (middle + half - shift) / scale
        boxes = np.concatenate(
            [np.clip(low, 0, (width - 1, height - 1)), np.clip(high, 0, (width - 1, height - 1)), heat[y, x, None]], -1
        )
        kept: list[Float] = []
        for box in boxes[(boxes[:, 2:4] - boxes[:, :2] > 2).all(-1)]:
            if all(_overlap(box, other) < self.overlap for other in kept):
                kept.append(box)
        return np.array(kept[: self.max_people], np.float32).reshape(-1, 5)


@dataclass(frozen=True)
class _Crop(_Shipped):
    """A network that looks into a person's box."""

    min_score: float = 0.05
    """joints less likely right than this are not given"""
    min_mean: float = 0.2
    """poses whose mean score is less than this are not given"""
    padding: float = 1.15
    """side of the crop over the side of the box"""

    size = (0, 0)
    skeleton = "body14"
    needs_boxes = True

    def predict(self, frames: Frames, boxes: Sequence[Float] | None = None) -> list[Poses]:
        """Poses in layout `body14` inside `boxes`, (M, 4 or 5) xyxy a frame; scores say how likely a joint is right.

        Raises:
            ExpertError: no boxes, or not one array of them a frame.
        """
        return answer(self, frames, boxes)

    def cut(self, frames: Frames, boxes: Sequence[Float] | None = None) -> Cuts:
        """A picture around the part of every box that lies in the frame, as in training.

        Raises:
            ExpertError: no boxes, or not one array of them a frame.
        """
        return box_cuts(
            frames, boxes, type(self).__name__, self.size, lambda frame, box: _cut(frame, box, self.size, self.padding)
        )

    def read(self, answers: Sequence[Float], cuts: Cuts) -> list[Poses]:
        """One `Poses` a frame."""
        people: list[list[tuple[Float, Float, Float]]] = [[] for _ in range(cuts.num_frames)]
        if len(answers):
            at, evidence = self._read(np.stack(answers))
            chance = self._network().chance(evidence)
            for n, t in enumerate(cuts.frame):
                people[t].append((cuts.back(n, at[n]), chance[n], cuts.boxes[n]))
        return [_poses(some, cuts.width, cuts.height, self.min_score, self.min_mean) for some in people]

    def _read(self, answer: Float) -> tuple[Float, Float]:
        """The network's answer -> joints (N, 14, 2) in pixels of the crop, and log-odds (N, 14)."""
        raise NotImplementedError


@dataclass(frozen=True)
class SyntheticTopDown(_Crop):
    """A map a joint within the person's box; the joint lies at the mean of the best cell's neighbourhood."""

    file = "synthetic_topdown.onnx"
    size = TOPDOWN

    def _read(self, answer: Float) -> tuple[Float, Float]:
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
class SyntheticRegression(_Crop):
    """Coordinates straight from the person's box, each with the error the network expects of it."""

    file = "synthetic_regression.onnx"
    size = REGRESSION

    def _read(self, answer: Float) -> tuple[Float, Float]:
        half = np.array(self.size) / 2
        return (answer[..., :2].astype(np.float64) + 1) * half - 0.5, -np.clip(answer[..., 2].astype(np.float64), -6, 4)


@dataclass(frozen=True)
class SyntheticBottomUp(_Shipped):
    """All joints of all people in the whole frame at once, grouped about the bodies' centres."""

    threshold: float = 0.3
    """least likelihood of a body's centre"""
    peak: float = 0.06
    """least likelihood of a joint's cell"""
    min_score: float = 0.05
    """joints less likely right than this are not given"""
    min_mean: float = 0.2
    """poses whose mean score is less than this are not given"""
    max_people: int = 8
    """most people per frame"""

    file = "synthetic_bottomup.onnx"
    skeleton = "body14"
    needs_boxes = False

    def predict(self, frames: Frames, boxes: Sequence[Float] | None = None) -> list[Poses]:
        """Poses in layout `body14`; `boxes` are not looked at."""
        return answer(self, frames)

    def cut(self, frames: Frames, boxes: Sequence[Float] | None = None) -> Cuts:
        """Every frame as one picture."""
        return _letterboxed(frames)

    def read(self, answers: Sequence[Float], cuts: Cuts) -> list[Poses]:
        """One `Poses` a frame."""
        network = self._network()
        out = []
        for n, maps in enumerate(answers):
            people: list[tuple[Float, Float, Float]] = []
            for at, evidence, sure in self._people(maps.astype(np.float64)):
                coords = cuts.back(n, (at + 0.5) * STRIDE - 0.5)
                box = np.concatenate([coords.min(0), coords.max(0), [sure]])
                people.append((coords, network.chance(evidence), box))
            out.append(_poses(people, cuts.width, cuts.height, self.min_score, self.min_mean))
        return out

    def _people(self, maps: Float) -> Iterator[tuple[Float, Float, float]]:
        """Maps (99, h, w) -> per person joints (14, 2) in cells, log-odds (14,), and the centre's likelihood."""
        heat = _sigmoid(maps[: NUM_JOINTS + 1])
        offset, to_centre, to_joint = maps[NUM_JOINTS + 1 :].reshape(3, NUM_JOINTS, 2, *heat.shape[1:])
        cy, cx = _maxima(heat[NUM_JOINTS], self.threshold, 4 * self.max_people)
        apart = np.hypot(cx[:, None] - cx, cy[:, None] - cy) < 2
        first = [k for k in range(len(cx)) if not apart[k, :k].any()][: self.max_people]
        cy, cx = cy[first], cx[first]
        centres = np.stack([cx, cy], -1).astype(np.float64)
        # where the centre says its joints are: the answer for joints without a cell of their own
        at = centres[:, None] + GROUP_UNIT * to_joint[:, :, cy, cx].transpose(2, 0, 1)
        evidence = np.full(at.shape[:2], -5.0)
        joint, y, x = _peaks(heat[:NUM_JOINTS], self.peak)
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


def _letterboxed(frames: Frames) -> Cuts:
    """Frames scaled into the middle of grey pictures (T, 144, 192, 3)."""
    num, height, width = frames.shape[:3]
    scale = min(WHOLE[0] / width, WHOLE[1] / height)
    move = np.array(
        [
            [scale, 0, (WHOLE[0] - 1) / 2 - scale * (width - 1) / 2],
            [0, scale, (WHOLE[1] - 1) / 2 - scale * (height - 1) / 2],
        ]
    )
    pixels = (
        np.stack([_warped(frame, move, WHOLE) for frame in frames]) if num else np.zeros((0, *WHOLE[::-1], 3), np.uint8)
    )
    boxes = np.tile(np.array([0.0, 0.0, width, height, 1.0]), (num, 1))
    return Cuts(pixels, np.arange(num), np.tile(move, (num, 1, 1)), boxes, num, width, height)


def _cut(frame: np.ndarray, box: Float, size: tuple[int, int], padding: float) -> tuple[np.ndarray, Float]:
    """The part of a frame around a box, as a picture of `size`, and the move (2, 3) of pixels."""
    move = crop_move(box, size, padding)
    return _warped(frame, move, size), move


def _warped(frame: np.ndarray, move: Float, size: tuple[int, int]) -> np.ndarray:
    """A scaled and shifted frame; shrinks by areas first where interpolation alone would alias."""
    scale = float(move[0, 0])
    if scale < 0.5:
        # only the rows and columns that will be seen
        low = np.maximum(np.floor(-move[:, 2] / scale).astype(int), 0)
        high = np.minimum(
            np.ceil((np.array(size) - move[:, 2]) / scale).astype(int) + 1, (frame.shape[1], frame.shape[0])
        )
        if (high <= low).any():
            return np.full((size[1], size[0], 3), GREY, np.uint8)
        part = np.ascontiguousarray(frame[low[1] : high[1], low[0] : high[0]])
        wide, tall = (max(1, round(2 * scale * side)) for side in part.shape[1::-1])
        small = cv2.resize(part, (wide, tall), interpolation=cv2.INTER_AREA)
        ratio = np.array((small.shape[1] / part.shape[1], small.shape[0] / part.shape[0]))
        # pixel u of the small part is pixel (u + 0.5) / ratio - 0.5 + low of the frame
        shift = scale * (0.5 / ratio - 0.5 + low) + move[:, 2]
        move = np.concatenate([np.diag(scale / ratio), shift[:, None]], 1)
        frame = small
    return np.asarray(
        cv2.warpAffine(frame, move, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=GREY)
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
