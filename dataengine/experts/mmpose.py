"""RTMPose, HRNet and RTMO by way of mmpose 1.3.2: its networks and configurations, our own way through them.

Jiang et al., "RTMPose" (arXiv 2303.07399); Sun et al., "Deep High-Resolution Representation Learning" (CVPR 2019,
arXiv 1902.09212); Lu et al., "RTMO" (CVPR 2024, arXiv 2312.07526). Code and weights: Apache-2.0 (open-mmlab/mmpose).

mmpose's inferencer takes one picture at a time through its pipeline, data samples and loops over joints in numpy.
Here a batch goes through backbone, neck and head, and joints are found on the device for all of it at once; the
answers are the same (tests/experts/test_mmpose.py). Pictures are not also looked at mirrored.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np

from dataengine.experts.checkpoints import fill, read_state
from dataengine.experts.device_images import constant
from dataengine.experts.mmpose_shims import EXTRA, mmpose_importable
from dataengine.experts.nms import best, cells, split
from dataengine.experts.preprocess import CropProcessing, FrameProcessing
from dataengine.experts.rtmpose import decode_simcc
from dataengine.experts.torch_runtime import Runtime, TorchExpert

if TYPE_CHECKING:
    import torch


class Network(NamedTuple):
    """A published network: its kind, configuration in the package, weights, and width and height of pictures."""

    kind: Literal["simcc", "heatmap", "rtmo"]
    config: str
    weights: str
    size: tuple[int, int]


_BODY8, _HRNET, _RTMO = "rtmpose/body8", "topdown_heatmap/coco", "rtmo/body7"
NETWORKS: dict[str, Network] = {
    "rtmpose-t": Network(
        "simcc",
        f"{_BODY8}/rtmpose-t_8xb256-420e_body8-256x192",
        "rtmpose-t_simcc-body7_pt-body7_420e-256x192-026a1439_20230504",
        (192, 256),
    ),
    "rtmpose-s": Network(
        "simcc",
        f"{_BODY8}/rtmpose-s_8xb256-420e_body8-256x192",
        "rtmpose-s_simcc-body7_pt-body7_420e-256x192-acd4a1ef_20230504",
        (192, 256),
    ),
    "rtmpose-m": Network(
        "simcc",
        f"{_BODY8}/rtmpose-m_8xb256-420e_body8-256x192",
        "rtmpose-m_simcc-body7_pt-body7_420e-256x192-e48f03d0_20230504",
        (192, 256),
    ),
    "rtmpose-l": Network(
        "simcc",
        f"{_BODY8}/rtmpose-l_8xb256-420e_body8-256x192",
        "rtmpose-l_simcc-body7_pt-body7_420e-256x192-4dba18fc_20230504",
        (192, 256),
    ),
    "rtmpose-m-384": Network(
        "simcc",
        f"{_BODY8}/rtmpose-m_8xb256-420e_body8-384x288",
        "rtmpose-m_simcc-body7_pt-body7_420e-384x288-65e718c4_20230504",
        (288, 384),
    ),
    "rtmpose-l-384": Network(
        "simcc",
        f"{_BODY8}/rtmpose-l_8xb256-420e_body8-384x288",
        "rtmpose-l_simcc-body7_pt-body7_420e-384x288-3f5a1437_20230504",
        (288, 384),
    ),
    "rtmpose-x": Network(
        "simcc",
        f"{_BODY8}/rtmpose-x_8xb256-700e_body8-halpe26-384x288",
        "rtmpose-x_simcc-body7_pt-body7_700e-384x288-71d7b7e9_20230629",
        (288, 384),
    ),
    "hrnet-w32": Network(
        "heatmap",
        f"{_HRNET}/td-hm_hrnet-w32_8xb64-210e_coco-256x192",
        "td-hm_hrnet-w32_8xb64-210e_coco-256x192-81c58e40_20220909",
        (192, 256),
    ),
    "hrnet-w48": Network(
        "heatmap",
        f"{_HRNET}/td-hm_hrnet-w48_8xb32-210e_coco-256x192",
        "td-hm_hrnet-w48_8xb32-210e_coco-256x192-0e67c616_20220913",
        (192, 256),
    ),
    "hrnet-w32-384": Network(
        "heatmap",
        f"{_HRNET}/td-hm_hrnet-w32_8xb64-210e_coco-384x288",
        "td-hm_hrnet-w32_8xb64-210e_coco-384x288-ca5956af_20220909",
        (288, 384),
    ),
    "hrnet-w48-384": Network(
        "heatmap",
        f"{_HRNET}/td-hm_hrnet-w48_8xb32-210e_coco-384x288",
        "td-hm_hrnet-w48_8xb32-210e_coco-384x288-c161b7de_20220915",
        (288, 384),
    ),
    "rtmo-t": Network(
        "rtmo",
        f"{_RTMO}/rtmo-t_8xb32-600e_body7-416x416",
        "rtmo-t_8xb32-600e_body7-416x416-f48f75cb_20231219",
        (416, 416),
    ),
    "rtmo-s": Network(
        "rtmo",
        f"{_RTMO}/rtmo-s_8xb32-600e_body7-640x640",
        "rtmo-s_8xb32-600e_body7-640x640-dac2bf74_20231211",
        (640, 640),
    ),
    "rtmo-m": Network(
        "rtmo",
        f"{_RTMO}/rtmo-m_16xb16-600e_body7-640x640",
        "rtmo-m_16xb16-600e_body7-640x640-39e78cc4_20231211",
        (640, 640),
    ),
    "rtmo-l": Network(
        "rtmo",
        f"{_RTMO}/rtmo-l_16xb16-600e_body7-640x640",
        "rtmo-l_16xb16-600e_body7-640x640-b37118ce_20231211",
        (640, 640),
    ),
}
"""mmpose 1.3.2, its model index; the eight digits in a file's name begin its sha256. the package has
no configuration of rtmpose-x for COCO's joints; it is that for Halpe's 26 with 17."""
Model = Literal[
    "rtmpose-t", "rtmpose-s", "rtmpose-m", "rtmpose-l", "rtmpose-m-384", "rtmpose-l-384", "rtmpose-x",
    "hrnet-w32", "hrnet-w48", "hrnet-w32-384", "hrnet-w48-384", "rtmo-t", "rtmo-s", "rtmo-m", "rtmo-l",
]  # fmt: skip
NUM_JOINTS = 17
MEAN = np.array([123.675, 116.28, 103.53])
STD = np.array([58.395, 57.12, 57.375])
ROOM = 1.25
"""RTMO looks for joints in the person's box times this."""


@dataclass(frozen=True)
class MmPose(TorchExpert):
    """mmpose's networks on COCO's 17 joints: RTMPose and HRNet on crops around people, RTMO on whole frames.

    Scores are the height of the bins' peak (RTMPose), of the map's peak (HRNet), or how visible a joint is (RTMO).

    Attributes:
        model: which network.
        threshold: least score of a person (RTMO).
        overlap: of two people whose boxes have a larger intersection over union than this, the better one is kept
            (RTMO).
        max_people: most people per frame (RTMO).
        min_score: joints with a lower score are left out.
        min_mean: people with a lower mean score are left out.
    """

    model: Model = "rtmpose-m"
    threshold: float = 0.3
    overlap: float = 0.65
    max_people: int = 8
    min_score: float = 0.05
    min_mean: float = 0.2

    title: ClassVar[str] = "[experts.mmpose]"
    extra: ClassVar[str | None] = EXTRA
    licence: ClassVar[str | None] = "Apache-2.0 (code and weights)"
    skeleton: ClassVar[str] = "coco17"

    @property
    def cpu_batch(self) -> int:
        return 8 if self.needs_boxes else 2

    @property
    def needs_boxes(self) -> bool:
        return NETWORKS[self.model].kind != "rtmo"

    @property
    def processing(self) -> CropProcessing | FrameProcessing:
        """Crops around people, or for RTMO frames in the centre of grey squares."""
        size = NETWORKS[self.model].size
        if self.needs_boxes:
            return CropProcessing("MmPose", size, self.skeleton, self.min_score, self.min_mean)
        return FrameProcessing(size, self.skeleton, self.min_score, self.min_mean)

    @property
    def published(self) -> str:
        return f"{NETWORKS[self.model].weights}.pth"

    def build(self, runtime: Runtime, path: Path) -> Any:
        with mmpose_importable(self.title):
            from mmcv.cnn import fuse_conv_bn

            network = empty_network(self.model)
            fill(network, read_state(path), path, f"mmpose's {self.model}")
            network = fuse_conv_bn(network.eval())
            lower = [part for part in (network.backbone, getattr(network, "neck", None)) if part is not None]
            network = runtime.place(network, lower)
        # what mmpose calls by older names, at every picture
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"mmpose\.")
        warnings.filterwarnings("ignore", message="torch.meshgrid", category=UserWarning)
        return network

    def forward(self, runtime: Runtime, network: Any, pixels: Any) -> torch.Tensor | list[np.ndarray]:
        kind, size = NETWORKS[self.model].kind, NETWORKS[self.model].size
        if kind == "rtmo":
            # RTMO was trained on blue, green, red in units of 0 to 255
            raw = network.head(network.neck(network.backbone(runtime.images(pixels, 0.0, 1.0, bgr=True))))
            return decode_rtmo(network.head, raw, size, self.threshold, self.overlap, self.max_people)
        raw = network.head(network.backbone(runtime.images(pixels, MEAN, STD)))
        return decode_simcc(*raw) if kind == "simcc" else decode_heatmap(raw, size)


def empty_network(model: str) -> Any:
    """The network of a name, its weights not yet set; to be called where mmpose is importable."""
    import mmpose
    from mmengine import Config
    from mmpose.models import build_pose_estimator

    config = Config.fromfile(
        Path(mmpose.__file__).parent / ".mim" / "configs" / "body_2d_keypoint" / f"{NETWORKS[model].config}.py"
    )
    plain = _own_parts(config.model.to_dict())
    if NETWORKS[model].kind == "simcc":
        plain["head"]["out_channels"] = NUM_JOINTS
    return build_pose_estimator({**plain, "_scope_": "mmpose"})


def _own_parts(part: Any) -> Any:
    """A configuration with mmpose's own parts in place of mmdet's, normalisation of one device, and no first
    weights."""
    if isinstance(part, dict):
        kept = {key: _own_parts(value) for key, value in part.items() if key not in ("_scope_", "init_cfg")}
        return {**kept, "type": "BN"} if kept.get("type") == "SyncBN" else kept
    return type(part)(_own_parts(one) for one in part) if isinstance(part, (list, tuple)) else part


def decode_heatmap(heat: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Maps (N, V, h, w) -> joints (N, V, 3): the peak, moved a quarter of a cell to its higher neighbour, and its
    height.

    Peaks in the outermost two columns or rows on one side and the outermost on the other stay where they are, as in
    mmpose@759b39c13fea, mmpose/codecs/utils/refinement.py. Joints whose peak is not above 0 are NaN with score 0.
    """
    import torch

    heat = heat.float()
    h, w = heat.shape[2:]
    flat = heat.flatten(2)
    score, best = flat.max(-1)
    x, y = best % w, torch.div(best, w, rounding_mode="floor")

    def beside(across: int, down: int) -> torch.Tensor:
        cell = (y + down).clamp(0, h - 1) * w + (x + across).clamp(0, w - 1)
        return flat.gather(-1, cell[..., None])[..., 0]

    dx = torch.where((x > 1) & (x < w - 1) & (y > 0), torch.sign(beside(1, 0) - beside(-1, 0)), 0)
    dy = torch.where((y > 1) & (y < h - 1) & (x > 0), torch.sign(beside(0, 1) - beside(0, -1)), 0)
    at = torch.stack([x + dx / 4, y + dy / 4], -1) * constant(
        np.array([size[0] / w, size[1] / h], np.float32), heat.device
    )
    return torch.cat([torch.where((score > 0)[..., None], at, torch.nan), score.clamp(min=0)[..., None]], -1)


def decode_rtmo(
    head: Any, raw: Any, size: tuple[int, int], threshold: float, overlap: float, most: int
) -> list[np.ndarray]:
    """What RTMO's head says of N pictures -> per picture people (M, 5 + 3 V): box, score, x, y, score of every joint.

    Boxes are of YOLOX's form (arXiv 2107.08430, section 2.2); the people of all pictures go through the dynamic
    coordinate classifier (RTMO, section 3.2) together.
    """
    import torch

    maps = {name: [m.float() for m in raw[n]] for n, name in ((0, "person"), (1, "box"), (3, "seen"), (4, "pose"))}
    flat = {name: torch.cat([m.permute(0, 2, 3, 1).flatten(1, 2) for m in some], 1) for name, some in maps.items()}
    grid, stride = cells(
        [(m.shape[3], m.shape[2]) for m in maps["person"]], head.featmap_strides, maps["person"][0].device
    )
    grid = grid - 0.5  # RTMO counts from the middle of the first pixel
    score = flat["person"].sigmoid().amax(-1)
    middle, half = flat["box"][..., :2] * stride + grid, flat["box"][..., 2:].exp() * stride / 2
    boxes = torch.cat([middle - half, middle + half], -1)
    picture, cell = best(boxes, score, threshold, overlap, most)
    box = boxes[picture, cell]
    around = torch.cat([(box[:, :2] + box[:, 2:]) / 2, (box[:, 2:] - box[:, :2]) * ROOM], 1)
    at = (
        head.dcc.forward_test(flat["pose"][picture, cell], around, grid[cell])
        if len(cell)
        else box.new_zeros((0, NUM_JOINTS, 2))
    )
    joints = torch.cat([at, flat["seen"][picture, cell].sigmoid()[..., None]], -1)
    return split(box, score[picture, cell], joints, picture, len(score), size)
