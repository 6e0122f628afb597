"""Networks from ONNX files as people have them: pose networks and person detectors, on onnxruntime.

No torch is needed. Known families: RTMPose, RTMW and others with SimCC outputs; HRNet and others with
a map a joint; RTMO; Ultralytics' YOLO, pose and detection; RTMDet; YOLOX. Files come from a path or,
by name, from the manifest of weights.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from dataengine.core import registry
from dataengine.core.errors import ComponentError, ExpertError, WeightsError
from dataengine.core.skeletons import skeleton as layout_of
from dataengine.core.types import Float, Frames, Poses
from dataengine.experts import onnx_decode as decode
from dataengine.experts.batching import Cuts, answer
from dataengine.experts.onnx_graphs import (
    IMAGENET,
    Graph,
    Look,
    Provider,
    kind_by_name,
    kind_of_detector,
    kind_of_pose,
    open_graph,
)
from dataengine.experts.preprocess import Boxes, TopDown, Whole, crop_move, whole_cuts
from dataengine.io import weights

PoseKind = Literal["auto", "simcc", "heatmap", "rtmo", "yolo"]
DetectorKind = Literal["auto", "rtmdet", "yolox", "yolo"]
POSE_NAMES = (
    ("rtmo", "rtmo"),
    ("rtmpose|rtmw|simcc|dwpose|dw-ll", "simcc"),
    ("yolo", "yolo"),
    ("hrnet|heatmap|td-hm", "heatmap"),
)
DETECTOR_NAMES = (("rtmdet", "rtmdet"), ("yolox", "yolox"), ("yolo", "yolo"))
BOXED = ("simcc", "heatmap")
"""Kinds that look into person boxes; the others look at whole frames."""
UNIT = Look(std=(255.0, 255.0, 255.0))
LOOKS = {
    "simcc": Look(*IMAGENET),
    "heatmap": Look(*IMAGENET),
    "rtmo": Look(bgr=True),
    "yolo": UNIT,
    "rtmdet": Look(*IMAGENET, bgr=True),
    "yolox": Look(bgr=True),
}
"""How each family was trained to see: open-mmlab/mmpose@759b39c (configs), Megvii YOLOX 0.3, Ultralytics 8."""
CENTRED = ("yolo",)
"""Kinds that have a frame in the middle of the picture; the others at its top left."""


@dataclass
class _Live:
    lock: Any = field(default_factory=threading.RLock)
    seen: Graph | None = None
    graph: Graph | None = None
    device: str | None = None


class _Owned:
    """What the ways of looking below take from the component that they belong to."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.owner, name)

    @property
    def picture(self) -> tuple[int, int]:
        size: tuple[int, int] = self.owner.picture
        return size


class OnnxCrops(_Owned, TopDown):
    """How kinds that look into boxes cut frames and read answers."""

    def move(self, box: Float) -> Float:
        return crop_move(box, self.picture, self.owner.padding)


class OnnxWholes(_Owned, Whole):
    """The same for kinds that look at whole frames."""

    def cut(self, frames: Frames, boxes: Sequence[Float] | None = None) -> Cuts:
        return whole_cuts(frames, self.picture, self.owner.family in CENTRED, self.fill)


class OnnxBoxes(_Owned, Boxes):
    """The same for detectors."""

    def cut(self, frames: Frames, boxes: Sequence[Float] | None = None) -> Cuts:
        return whole_cuts(frames, self.picture, self.owner.family in CENTRED, self.fill)


@dataclass(frozen=True)
class _File:
    """What the expert and the detector have in common: one ONNX file, opened once whichever thread comes first."""

    model: str
    size: tuple[int, int] | None = None
    batch: int = 16
    threshold: float = 0.3
    overlap: float = 0.65
    max_people: int = 20
    provider: Provider = "auto"
    _live: Any = field(default_factory=_Live, init=False, repr=False, compare=False)

    title: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for name in ("threshold", "overlap", "min_score", "min_mean"):
            if not 0 <= getattr(self, name, 0) <= 1:
                raise ComponentError(f"{self.title} {name} = {getattr(self, name)}: lies in [0, 1]")
        for name, least in (("batch", 1), ("max_people", 1)):
            if getattr(self, name) < least:
                raise ComponentError(f"{self.title} {name} = {getattr(self, name)}: at least {least}")
        if self.size is not None and min(self.size) < 32:
            raise ComponentError(f"{self.title} size = {list(self.size)}: width and height in pixels, at least 32")

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(type(self), **registry.config(self)), ()

    def needs(self) -> list[str]:
        """The file's name, where it is one of the manifest."""
        return weights.names_of(self.model)

    def weights(self) -> dict[str, str]:
        """The file with its sha256.

        Raises:
            WeightsError: it is not here, or is another one.
        """
        return weights.hashes(self.model)

    def load(self, device: str = "cpu") -> None:
        """Open the file on a device: 'cpu', 'cuda' or 'cuda:N'. Idempotent.

        Raises:
            WeightsError: it is not here, is another one, or is no network of this kind.
            ComponentError: the wanted provider is not there, or options do not fit the network.
        """
        with self._live.lock:
            if self._live.device != device:
                graph = open_graph(weights.locate(self.model), device, self.provider)
                self._fits(graph)
                self._live.graph, self._live.device = graph, device

    @property
    def graph(self) -> Graph:
        """The open file; opens it on the CPU where nothing is open yet."""
        if self._live.graph is None:
            self.load()
        opened: Graph = self._live.graph
        return opened

    @property
    def picture(self) -> tuple[int, int]:
        """Width and height of the pictures: the file's, or `size` where it takes any."""
        return self.graph.size or self.size or (0, 0)

    def _fits(self, graph: Graph) -> None:
        """Raise what does not fit between the options and a file."""
        if graph.size is None and self.size is None:
            raise ComponentError(f"{self.title} {graph.file} takes pictures of any size: give size = [width, height]")
        if graph.size is not None and self.size is not None and tuple(self.size) != graph.size:
            raise ComponentError(
                f"{self.title} size = {list(self.size)}, but {graph.file} takes {list(graph.size)} only"
            )

    def _kind(self, given: str, names: Sequence[tuple[str, str]], by_graph: Any) -> str:
        """The kind given, or told by the file's name, or by its outputs."""
        known = given if given != "auto" else kind_by_name(Path(self.model).name, names)
        if known is None:
            with self._live.lock:
                if self._live.seen is None:
                    self._live.seen = open_graph(weights.locate(self.model), optimized=False)
            known = by_graph(self._live.seen)
        if known is None:
            outputs = "; ".join(f"{name} {list(shape)}" for name, shape in self._live.seen.outputs)
            raise ComponentError(
                f"{self.title} cannot tell what {self._live.seen.file} is (outputs {outputs}): give kind"
            )
        return str(known)

    @property
    def _sieve(self) -> decode.Sieve:
        return decode.Sieve(self.threshold, self.overlap, self.max_people)

    def _run(self, kind: str, pixels: Frames) -> list[Float]:
        graph = self.graph
        return graph(LOOKS[kind](pixels, graph.dtype))


@dataclass(frozen=True)
class Onnx(_File):
    """A pose network from an ONNX file: RTMPose, HRNet, RTMO or YOLO-pose exports, without torch.

    Attributes:
        model: a name of the manifest of weights, or the path of an .onnx file.
        size: width and height of pictures, for files that take any.
        batch: most pictures at once; a file of a fixed batch keeps its own.
        threshold, overlap, max_people: whom to keep among people found in whole frames: a score, the share of the
            union that two may have in common, a number.
        provider: auto takes the fastest of TensorRT, CUDA and CPU that works on the device.
        kind: auto tells it from the file's name, else from its outputs.
        skeleton: the layout of its joints.
        padding: side of a crop over side of the person's box.
        min_score: joints below this are not given.
        min_mean: nor people whose mean score is below this.
    """

    model: str = "rtmpose-m_simcc-body7_pt-body7_420e-256x192-e48f03d0_20230504.onnx"
    kind: PoseKind = "auto"
    skeleton: str = "coco17"
    padding: float = 1.25
    min_score: float = 0.05
    min_mean: float = 0.2

    title: ClassVar[str] = "[experts.onnx]"

    def __post_init__(self) -> None:
        super().__post_init__()
        layout_of(self.skeleton)
        if not 0.5 <= self.padding <= 4:
            raise ComponentError(f"{self.title} padding = {self.padding}: lies in [0.5, 4]")

    @property
    def family(self) -> str:
        """Which of the kinds the file is."""
        return self._kind(self.kind, POSE_NAMES, kind_of_pose)

    @property
    def needs_boxes(self) -> bool:
        return self.family in BOXED

    @property
    def _form(self) -> OnnxCrops | OnnxWholes:
        return OnnxCrops(self) if self.needs_boxes else OnnxWholes(self)

    def cut(self, frames: Frames, boxes: Sequence[Float] | None = None) -> Cuts:
        """The pictures to look at.

        Raises:
            ExpertError: the network looks into boxes, and there is not one array of them a frame.
        """
        return self._form.cut(frames, boxes)

    def infer(self, pixels: Frames) -> list[Float]:
        """(N, h, w, 3) uint8 -> one answer a picture, in any thread."""
        if not len(pixels):
            return []
        family, joints = self.family, layout_of(self.skeleton).num_joints
        outputs = self._run(family, pixels)
        if family == "simcc":
            return list(self._of_joints(decode.simcc(self._by_axis(outputs), self.picture), joints))
        if family == "heatmap":
            return list(self._of_joints(decode.heatmap(outputs, self.picture), joints))
        reader = decode.rtmo if family == "rtmo" else decode.yolo_pose
        return reader(outputs, self.picture, joints, self._sieve)

    def read(self, answers: Sequence[Any], cuts: Cuts) -> list[Poses]:
        """One `Poses` a frame."""
        return self._form.read(answers, cuts)

    def predict(self, frames: Frames, boxes: Sequence[Float] | None = None) -> list[Poses]:
        """Poses inside `boxes`, (M, 4 or 5) xyxy a frame, or, for networks that look at whole frames, of everybody.

        Raises:
            ExpertError: boxes are missing; out of memory for a single picture.
        """
        return answer(self, frames, boxes)

    def _by_axis(self, outputs: list[Float]) -> list[Float]:
        """The two outputs of SimCC, the one along x first; told by their names, else by their order."""
        names = [name for name, _ in self.graph.outputs]
        return outputs[::-1] if names == ["simcc_y", "simcc_x"] else outputs

    def _of_joints(self, found: Float, joints: int) -> Float:
        if found.shape[1] != joints:
            raise ExpertError(
                "expert_failed",
                f"{self.graph.file} gives {found.shape[1]} joints, {self.skeleton} has {joints}",
                retryable=False,
            )
        return found

    def _fits(self, graph: Graph) -> None:
        super()._fits(graph)
        family, joints = self.family, layout_of(self.skeleton).num_joints
        ranks = {"simcc": [3, 3], "heatmap": [4], "rtmo": [3, 4], "yolo": [3]}[family]
        if sorted(len(shape) for _, shape in graph.outputs) != ranks:
            outputs = "; ".join(f"{name} {list(shape)}" for name, shape in graph.outputs)
            raise WeightsError(
                f"{graph.file} does not have the outputs of {family} (it has {outputs}): give another kind or file"
            )
        wrong = _misfit(family, graph, joints)
        if wrong is not None:
            raise ComponentError(
                f"{self.title} {graph.file} {wrong}: give its skeleton, {self.skeleton!r} has {joints} joints"
            )


def _misfit(family: str, graph: Graph, joints: int) -> str | None:
    """What does not fit between a graph's outputs and a number of joints; None where it fits or cannot be told."""
    shapes = [shape for _, shape in graph.outputs]
    if family == "yolo":
        rows, last = shapes[0][1:]
        if rows is None or last is None or last == 6 + 3 * joints or rows == 5 + 3 * joints:
            return None
        return f"gives {min(rows, last)} numbers a person, not {5 + 3 * joints} (box, score of one class, joints)"
    given = next(shape[2] for shape in shapes if len(shape) == 4) if family == "rtmo" else shapes[0][1]
    return None if given in (None, joints) else f"gives {given} joints"


@dataclass(frozen=True)
class OnnxDetector(_File):
    """A person detector from an ONNX file: RTMDet, YOLOX or YOLO exports, without torch.

    Attributes:
        model: a name of the manifest of weights, or the path of an .onnx file.
        size: width and height of pictures, for files that take any.
        batch: most pictures at once; a file of a fixed batch keeps its own.
        threshold, overlap, max_people: whom to keep: a score, the share of the union that two may have in common,
            a number.
        provider: auto takes the fastest of TensorRT, CUDA and CPU that works on the device.
        kind: auto tells it from the file's name, else from its outputs.
    """

    model: str = "yolox_m_8xb8-300e_humanart-c2c7a14a.onnx"
    kind: DetectorKind = "auto"

    title: ClassVar[str] = "[detectors.onnx_detector]"

    @property
    def family(self) -> str:
        """Which of the kinds the file is."""
        return self._kind(self.kind, DETECTOR_NAMES, kind_of_detector)

    def cut(self, frames: Frames, boxes: Sequence[Float] | None = None) -> Cuts:
        """Every frame as one picture."""
        return OnnxBoxes(self).cut(frames, boxes)

    def infer(self, pixels: Frames) -> list[Float]:
        """(N, h, w, 3) uint8 -> boxes (M, 5) of each picture, in any thread."""
        if not len(pixels):
            return []
        family = self.family
        reader = {"rtmdet": decode.labelled_boxes, "yolox": decode.yolox, "yolo": decode.yolo}[family]
        return reader(self._run(family, pixels), self.picture, self._sieve)

    def read(self, answers: Sequence[Any], cuts: Cuts) -> list[Float]:
        """One (M, 5) float32 array a frame, in pixels of the frame."""
        return OnnxBoxes(self).read(answers, cuts)

    def detect(self, frames: Frames) -> list[Float]:
        """One (M, 5) float32 array of x0, y0, x1, y1, score a frame, best first.

        Raises:
            ExpertError: out of memory for a single picture.
        """
        return answer(self, frames)

    def _fits(self, graph: Graph) -> None:
        super()._fits(graph)
        ranks = sorted(len(shape) for _, shape in graph.outputs)
        if ranks not in ([[3]] if self.family == "yolo" else [[3], [2, 3]]):
            outputs = "; ".join(f"{name} {list(shape)}" for name, shape in graph.outputs)
            raise WeightsError(
                f"{graph.file} does not have the outputs of {self.family} (it has {outputs}): give another kind or file"
            )
