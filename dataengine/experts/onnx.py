"""Networks from ONNX files as people have them: pose networks and person detectors, on onnxruntime.

No torch is needed. Known families: RTMPose, RTMW and others with SimCC outputs; HRNet and others with
one heatmap per joint; RTMO; Ultralytics' YOLO, pose and detection; RTMDet; YOLOX. Files come from a path
or, by name, from the manifest of weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from dataengine.core.component import Component, Detector, DetectorSession, Expert, ExpertSession
from dataengine.core.errors import ComponentError, ExpertError, WeightsError
from dataengine.core.skeletons import skeleton as layout_of
from dataengine.core.types import Float, Frames
from dataengine.experts import onnx_decode as decode
from dataengine.experts.batching import NetworkDetectorSession, NetworkExpertSession
from dataengine.experts.onnx_graphs import (
    IMAGENET,
    Graph,
    GraphInfo,
    Normalisation,
    Provider,
    describe,
    kind_by_name,
    kind_of_detector,
    kind_of_pose,
    open_graph,
)
from dataengine.experts.options import check_ranges
from dataengine.experts.preprocess import BoxProcessing, CropProcessing, FrameProcessing
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
"""Top-down kinds; the others look at whole frames."""
UNIT = Normalisation(std=(255.0, 255.0, 255.0))
NORMALISATIONS = {
    "simcc": Normalisation(*IMAGENET),
    "heatmap": Normalisation(*IMAGENET),
    "rtmo": Normalisation(bgr=True),
    "yolo": UNIT,
    "rtmdet": Normalisation(*IMAGENET, bgr=True),
    "yolox": Normalisation(bgr=True),
}
"""How each family was trained: open-mmlab/mmpose@759b39c (configs), Megvii YOLOX 0.3, Ultralytics 8."""
CENTRED = ("yolo",)
"""Kinds that have a frame in the centre of the image; the others have it at the top left."""


@dataclass(frozen=True)
class _OnnxFile(Component, ABC):
    """What the expert and the detector have in common: the options of one ONNX file."""

    model: str
    size: tuple[int, int] | None = None
    batch: int = 16
    threshold: float = 0.3
    overlap: float = 0.65
    max_people: int = 20
    provider: Provider = "auto"

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.size is not None and min(self.size) < 32:
            raise ComponentError(f"{self.title} size = {list(self.size)}: width and height in pixels, at least 32")

    @property
    @abstractmethod
    def family(self) -> str:
        """Which of the kinds the file is."""

    @abstractmethod
    def fits(self, graph: GraphInfo) -> bool:
        """Whether a file has the outputs of this family."""

    def needs(self) -> list[str]:
        """The file's name, where it is one of the manifest."""
        return weights.names_of(self.model)

    def weights(self) -> dict[str, str]:
        """The file with its sha256.

        Raises:
            WeightsError: it is not here, or is another one.
        """
        return weights.hashes(self.model)

    def open(self, device: str) -> Graph:
        """The file on a device; raises as `Expert.load`, also where options do not fit the network."""
        graph = open_graph(weights.locate(self.model), device, self.provider)
        info = graph.info
        if info.size is None and self.size is None:
            raise ComponentError(f"{self.title} {info.file} takes images of any size: give size = [width, height]")
        if info.size is not None and self.size is not None and tuple(self.size) != info.size:
            raise ComponentError(f"{self.title} size = {list(self.size)}, but {info.file} takes {list(info.size)} only")
        if not self.fits(info):
            raise WeightsError(
                f"{info.file} does not have the outputs of {self.family} (it has {info.shown_outputs}): "
                "give another kind or file"
            )
        return graph

    def image_size(self, graph: Graph) -> tuple[int, int]:
        """Width and height of images: the file's, or `size` where the file takes any."""
        return graph.info.size or self.size or (0, 0)

    @property
    def nms(self) -> decode.NonMaximumSuppression:
        """Which people are kept."""
        return decode.NonMaximumSuppression(self.threshold, self.overlap, self.max_people)

    def _kind(self, given: str, names: Sequence[tuple[str, str]], by_outputs: Callable[[GraphInfo], str | None]) -> str:
        """The kind given, or told by the file's name, or by its outputs."""
        known = given if given != "auto" else kind_by_name(Path(self.model).name, names)
        if known is not None:
            return known
        info = describe(weights.locate(self.model))
        known = by_outputs(info)
        if known is None:
            raise ComponentError(
                f"{self.title} cannot tell what {info.file} is (outputs {info.shown_outputs}): give kind"
            )
        return known


@dataclass(frozen=True)
class Onnx(_OnnxFile, Expert):
    """A pose network from an ONNX file: RTMPose, HRNet, RTMO or YOLO-pose exports, without torch.

    Attributes:
        model: a name of the manifest of weights, or the path of an .onnx file.
        size: width and height of images, for files that take any.
        batch: most images at once; a file with a fixed batch keeps its own.
        threshold, overlap, max_people: which people of whole frames are kept: least score, largest intersection over
            union with a better person, most people per frame.
        provider: auto takes the faster of TensorRT and CUDA that works on a GPU, and the CPU on the CPU.
        kind: family of the network; auto tells it from the file's name, else from the outputs.
        skeleton: the layout of the joints.
        padding: side of a crop over side of the person's box.
        min_score: joints with a lower score are left out.
        min_mean: people with a lower mean score are left out.
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

    def fits(self, graph: GraphInfo) -> bool:
        """Whether a file has the outputs of this family.

        Raises:
            ComponentError: the number of joints is that of another skeleton.
        """
        family, joints = self.family, layout_of(self.skeleton).num_joints
        if graph.ranks != {"simcc": [3, 3], "heatmap": [4], "rtmo": [3, 4], "yolo": [3]}[family]:
            return False
        wrong = _other_joints(family, graph, joints)
        if wrong is not None:
            raise ComponentError(
                f"{self.title} {graph.file} {wrong}: give its skeleton, {self.skeleton!r} has {joints} joints"
            )
        return True

    def load(self, device: str = "cpu") -> ExpertSession:
        """Open the file on a device: 'cpu', 'cuda' or 'cuda:N'.

        Raises:
            WeightsError: it is not here, is another one, or is no network of this kind.
            ComponentError: the provider is not available, or options do not fit the network.
        """
        graph, family = self.open(device), self.family
        size, least = self.image_size(graph), (self.min_score, self.min_mean)
        processing = (
            CropProcessing("Onnx", size, self.skeleton, *least, self.padding)
            if family in BOXED
            else FrameProcessing(size, self.skeleton, *least, family in CENTRED)
        )
        network = OnnxPoseNetwork(graph, family, size, layout_of(self.skeleton).num_joints, self.skeleton, self.nms)
        return NetworkExpertSession(processing, network, self.batch)


@dataclass(frozen=True)
class OnnxPoseNetwork:
    """An open pose network and the decoding of its outputs."""

    graph: Graph
    family: str
    size: tuple[int, int]
    num_joints: int
    skeleton: str
    nms: decode.NonMaximumSuppression

    def __call__(self, pixels: Frames) -> list[Float]:
        """(N, h, w, 3) uint8 -> one answer per image."""
        if not len(pixels):
            return []
        outputs = self.graph(NORMALISATIONS[self.family](pixels, self.graph.info.dtype))
        if self.family == "simcc":
            return list(self._checked(decode.simcc(self._x_first(outputs), self.size)))
        if self.family == "heatmap":
            return list(self._checked(decode.heatmap(outputs, self.size)))
        reader = decode.rtmo if self.family == "rtmo" else decode.yolo_pose
        return reader(outputs, self.size, self.num_joints, self.nms)

    def _x_first(self, outputs: list[Float]) -> list[Float]:
        """The two outputs of SimCC, the one along x first; told by their names, else by their order."""
        names = [name for name, _ in self.graph.info.outputs]
        return outputs[::-1] if names == ["simcc_y", "simcc_x"] else outputs

    def _checked(self, joints: Float) -> Float:
        if joints.shape[1] != self.num_joints:
            raise ExpertError(
                "expert_failed",
                f"{self.graph.info.file} gives {joints.shape[1]} joints, {self.skeleton} has {self.num_joints}",
                retryable=False,
            )
        return joints


def _other_joints(family: str, graph: GraphInfo, joints: int) -> str | None:
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
class OnnxDetector(_OnnxFile, Detector):
    """A person detector from an ONNX file: RTMDet, YOLOX or YOLO exports, without torch.

    Attributes:
        model: a name of the manifest of weights, or the path of an .onnx file.
        size: width and height of images, for files that take any.
        batch: most images at once; a file with a fixed batch keeps its own.
        threshold, overlap, max_people: which people are kept: least score, largest intersection over union with a
            better person, most people per frame.
        provider: auto takes the faster of TensorRT and CUDA that works on a GPU, and the CPU on the CPU.
        kind: family of the network; auto tells it from the file's name, else from the outputs.
    """

    model: str = "yolox_m_8xb8-300e_humanart-c2c7a14a.onnx"
    kind: DetectorKind = "auto"

    title: ClassVar[str] = "[detectors.onnx_detector]"

    @property
    def family(self) -> str:
        """Which of the kinds the file is."""
        return self._kind(self.kind, DETECTOR_NAMES, kind_of_detector)

    def fits(self, graph: GraphInfo) -> bool:
        """Whether a file has the outputs of this family."""
        return graph.ranks in ([[3]] if self.family == "yolo" else [[3], [2, 3]])

    def load(self, device: str = "cpu") -> DetectorSession:
        """Open the file on a device; raises as `Onnx.load`."""
        graph, family = self.open(device), self.family
        size = self.image_size(graph)
        network = OnnxDetectionNetwork(graph, family, size, self.nms)
        return NetworkDetectorSession(BoxProcessing(size, family in CENTRED), network, self.batch)


@dataclass(frozen=True)
class OnnxDetectionNetwork:
    """An open detection network and the decoding of its outputs."""

    graph: Graph
    family: str
    size: tuple[int, int]
    nms: decode.NonMaximumSuppression

    def __call__(self, pixels: Frames) -> list[Float]:
        """(N, h, w, 3) uint8 -> boxes (M, 5) of each image."""
        if not len(pixels):
            return []
        reader: Any = {"rtmdet": decode.labelled_boxes, "yolox": decode.yolox, "yolo": decode.yolo}[self.family]
        outputs = self.graph(NORMALISATIONS[self.family](pixels, self.graph.info.dtype))
        found: list[Float] = reader(outputs, self.size, self.nms)
        return found
