"""YOLO pose networks by way of ultralytics. Its code and its published weights are AGPL-3.0: whoever distributes or
offers over a network something made of them owes its users the source, or needs a licence from Ultralytics.

Nothing of it is imported, and no file of it read, unless a recipe names this expert; then it is told to stay offline,
to install nothing and to keep its settings in a folder that goes with the process. A .pt file is read without
unpickling the module that lies in it (`dataengine.experts.checkpoints`).

Frames are fitted into squares, and the whole batch is decoded at once from the raw answer of the network's head;
boxes are distributions over distances (Li et al., "Generalized Focal Loss", arXiv 2006.04388, section 3).
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from dataengine.core.errors import ComponentError, MissingExtraError
from dataengine.experts.checkpoints import fill, read_state
from dataengine.experts.nms import best, cells, split
from dataengine.experts.preprocess import FrameProcessing
from dataengine.experts.torch_runtime import Runtime, TorchExpert

if TYPE_CHECKING:
    import torch

EXTRA = "yolo"
Model = Literal[
    "yolo11n-pose", "yolo11s-pose", "yolo11m-pose", "yolo11l-pose", "yolo11x-pose",
    "yolov8n-pose", "yolov8s-pose", "yolov8m-pose", "yolov8l-pose", "yolov8x-pose",
]  # fmt: skip
NUM_JOINTS = 17
STRIDES = (8.0, 16.0, 32.0)
"""Pixels a cell of the maps of all these networks."""
OFFLINE = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}
TOUCHED = ("OMP_NUM_THREADS", "NUMEXPR_MAX_THREADS", "TF_CPP_MIN_LOG_LEVEL", "TORCH_CPP_LOG_LEVEL", "KINETO_LOG_LEVEL")
"""What ultralytics sets in the environment of the process that imports it."""
_LOCK = threading.Lock()
_FOLDER: list[tempfile.TemporaryDirectory[str]] = []


@dataclass(frozen=True)
class Ultralytics(TorchExpert):
    """YOLO pose networks on COCO's 17 joints, whole frames; scores say how visible a joint is.

    Attributes:
        model: which network.
        side: pixels of the squares that frames are fitted into, a multiple of 32.
        threshold: least score of a person.
        overlap: of two people whose boxes have a larger intersection over union than this, the better one is kept.
        max_people: most people per frame.
        min_score: joints with a lower score are left out.
        min_mean: people with a lower mean score are left out.
    """

    model: Model = "yolo11m-pose"
    side: int = 640
    threshold: float = 0.3
    overlap: float = 0.7
    max_people: int = 8
    min_score: float = 0.05
    min_mean: float = 0.2

    title: ClassVar[str] = "[experts.ultralytics]"
    extra: ClassVar[str | None] = EXTRA
    licence: ClassVar[str | None] = "AGPL-3.0 (code and weights)"
    skeleton: ClassVar[str] = "coco17"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.side < 32 or self.side % 32:
            raise ComponentError(f"{self.title} side = {self.side}: a multiple of 32")

    @property
    def published(self) -> str:
        return f"{self.model}.pt"

    @property
    def cpu_batch(self) -> int:
        return 2

    @property
    def processing(self) -> FrameProcessing:
        """Frames in the centre of grey squares."""
        return FrameProcessing((self.side, self.side), self.skeleton, self.min_score, self.min_mean)

    def build(self, runtime: Runtime, path: Path) -> Any:
        network = empty_network(self.model, self.title)
        fill(network, read_state(path), path, self.model)
        network.eval()
        network.fuse(verbose=False)
        runtime.place(network, lower=(network,))
        # a head in training gives what it computed, undecoded; its layers are not in training
        network.model[-1].training = True
        return network

    def forward(self, runtime: Runtime, network: Any, pixels: Any) -> list[np.ndarray]:
        raw = network(runtime.images(pixels, 0.0, 255.0))
        size = (self.side, self.side)
        return decode(raw, STRIDES, size, self.threshold, self.overlap, self.max_people)


def empty_network(model: str, what: str) -> Any:
    """The network of a name, its weights not yet set.

    Raises:
        MissingExtraError: ultralytics is not installed; `what` needs it.
    """
    import_ultralytics(what)
    from ultralytics.nn.tasks import PoseModel

    return PoseModel(f"{model}.yaml", nc=1, verbose=False)


def import_ultralytics(what: str) -> Any:
    """The ultralytics module, imported offline; what it changes in this process is put back.

    Raises:
        MissingExtraError: it is not installed; `what` needs it.
    """
    import cv2
    import torch

    with _LOCK:
        if not _FOLDER:
            _FOLDER.append(tempfile.TemporaryDirectory(prefix="dataengine-ultralytics-"))
        names = (*TOUCHED, *OFFLINE, "YOLO_CONFIG_DIR")
        before = {name: os.environ.get(name) for name in names}
        threads, printing, saving = cv2.getNumThreads(), np.get_printoptions(), torch.save
        os.environ.update(OFFLINE, YOLO_CONFIG_DIR=_FOLDER[0].name)
        try:
            import ultralytics
        except ImportError as error:
            raise MissingExtraError(what, EXTRA) from error
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            cv2.setNumThreads(threads)
            np.set_printoptions(**printing)
            torch.save = saving
        return ultralytics


def decode(
    raw: dict[str, torch.Tensor],
    strides: Sequence[float],
    size: tuple[int, int],
    threshold: float,
    overlap: float,
    most: int,
) -> list[np.ndarray]:
    """The raw answer of the head for N pictures of `size` -> per picture people (M, 5 + 3 V).

    Args:
        raw: "boxes" (N, 4 B, P) distributions over distances of 0 .. B - 1 cells to the left, upper, right and lower
            side; "scores" (N, 1, P) and "kpts" (N, 3 V, P), for the P cells of all maps.
        strides: of the maps, in the order of their cells.
    """
    import torch

    grid, stride = cells([(round(size[0] / s), round(size[1] / s)) for s in strides], strides, raw["boxes"].device)
    score = raw["scores"].float().sigmoid().amax(1)
    num, _, count = raw["boxes"].shape
    spread = raw["boxes"].float().view(num, 4, -1, count).softmax(2)
    away = (spread * torch.arange(spread.shape[2], device=grid.device)[:, None]).sum(2).transpose(1, 2) * stride
    boxes = torch.cat([grid - away[..., :2], grid + away[..., 2:]], -1)
    picture, cell = best(boxes, score, threshold, overlap, most)
    joints = raw["kpts"].float().transpose(1, 2)[picture, cell].view(-1, NUM_JOINTS, 3)
    # joints are told from a cell's upper left corner, in half cells
    at = joints[..., :2] * 2 * stride[cell][:, None] + (grid[cell] - stride[cell] / 2)[:, None]
    return split(
        boxes[picture, cell], score[picture, cell], torch.cat([at, joints[..., 2:].sigmoid()], -1), picture, num, size
    )
