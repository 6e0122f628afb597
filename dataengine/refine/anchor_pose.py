"""Student `anchor_pose`: localisation and classification of anchor poses learn from pseudo-labels (SSTA-PRS).

Source: "Selective Spatio-Temporal Aggregation Based Pose Refinement System", section 3.3: the loss is that of the
region proposals plus the cross entropy of the class of poses; the regression of joints stays as it is, since
pseudo-labels are accurate enough to say where a person is and which anchor pose is nearest, but not where each joint
is. The other choices of `losses` are for comparison and for labels that are accurate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from dataengine.core.component import Expert, Student, StudentSession
from dataengine.core.errors import ComponentError, WeightsError
from dataengine.core.types import Float, LabelledFrame
from dataengine.experts.anchor_pose import AnchorPose, load_network
from dataengine.experts.anchor_pose_spec import NetworkSpec
from dataengine.experts.torch_runtime import Runtime
from dataengine.io.storage import write_durably
from dataengine.refine.anchor_pose_labels import Augmentation, Labelled, label

if TYPE_CHECKING:
    from torch import Tensor

    from dataengine.experts.anchor_pose_network import AnchorPoseNetwork

Losses = Literal["paper", "localisation", "classification", "full"]
Assignment = Literal["person", "region"]
POSITIVE = 0.5
"""Least intersection over union of a region with a person that it shows (Ren et al. 2015)."""
POSITIVE_SHARE = 0.25
"""Most regions with people among those that are classified (Girshick, "Fast R-CNN", 2015)."""
SMOOTH = 0.05
"""Where the loss of joints turns from quadratic to linear, in lengths of a region."""
POSE_WEIGHT = 4.0


@dataclass(frozen=True)
class AnchorPoseStudent(Student):
    """Anchor poses after LCR-Net++, which learn where people are and which anchor pose they show.

    Attributes:
        base: weights to begin with; not given: the built-in ones, which were trained on rendered people.
        losses: paper: region proposals and class, the regression of joints frozen; localisation: region proposals
            alone; classification: class alone; full: all three.
        assignment: whether the class of a region is that of its person, normalised by the person's box, or is found
            anew with the person's joints normalised by the region, as published code has it.
        regions: most regions per picture that are classified in a step.
        flip: mirror half of the pictures.
        augment: share of pictures that are scaled, shifted, covered in parts, blurred and recoloured.
    """

    base: str = ""
    losses: Losses = "paper"
    assignment: Assignment = "person"
    regions: int = 512
    flip: bool = False
    augment: float = 0.5

    title: ClassVar[str] = "[students.anchor_pose]"
    extra: ClassVar[str | None] = "torch"

    def __post_init__(self) -> None:
        if self.regions < 2 or not 0 <= self.augment <= 1:
            raise ComponentError(
                f"{self.title} regions = {self.regions}, augment = {self.augment}: at least 2, and a share in [0, 1]"
            )

    @property
    def skeleton(self) -> str:
        return self.expert(None).skeleton

    def needs(self) -> list[str]:
        return self._expert("").needs()

    def weights(self) -> dict[str, str]:
        return self._expert("").weights()

    def expert(self, checkpoint: Path | None) -> Expert:
        return self._expert("" if checkpoint is None else str(checkpoint))

    def _expert(self, checkpoint: str) -> AnchorPose:
        return AnchorPose(checkpoint=checkpoint or self.base)

    def start(self, device: str = "cpu", seed: int = 0, checkpoint: Path | None = None) -> StudentSession:
        runtime = Runtime.open(device, "float32", self.title)
        expert = self._expert("" if checkpoint is None else str(checkpoint))
        from dataengine.io import weights

        network = load_network(weights.locate(expert.file), self.title)
        return AnchorPoseSession(self, network.to(runtime.device))


class AnchorPoseSession(StudentSession):
    """The network while it learns.

    Args:
        student: its configuration. network: on its device.
        settle: whether batch normalisation follows the batches, for weights drawn at random; else it stays as it is.
        heads: whether only the branches learn, upon a backbone that has learned elsewhere.
    """

    def __init__(
        self, student: AnchorPoseStudent, network: AnchorPoseNetwork, settle: bool = False, heads: bool = False
    ) -> None:
        self.student, self.heads = student, heads
        self.network: AnchorPoseNetwork = network
        self.settle = settle
        self._anchors: Float = network.anchors.cpu().numpy().astype(np.float64)

    def parameters(self) -> Sequence[Mapping[str, Any]]:
        """All but the last layer of the branches that do not learn."""
        out = {"paper": ("joints",), "localisation": ("joints", "classes"), "classification": ("joints", "rpn")}
        frozen = out.get(self.student.losses, ()) + (("backbone",) if self.heads else ())
        named = self.network.named_parameters()
        return [
            {"params": [p for name, p in named if not name.startswith(frozen)] if frozen else [p for _, p in named]}
        ]

    def loss(self, frames: Sequence[LabelledFrame], rng: np.random.Generator, train: bool) -> Mapping[str, Tensor]:
        """The loss of a batch; its parts are "objectness", "boxes", "classes" and "joints"."""
        import torch

        self.require_open()
        spec, student = self.network.spec, self.student
        given = Augmentation(student.flip, student.augment) if train else None
        made = [label(frame, (spec.width, spec.height), spec.skeleton, given, rng) for frame in frames]
        self.network.train(train and self.settle)
        # in training mode proposals come with their losses
        self.network.rpn.train()
        if train:
            return self._loss(made, True)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            return self._loss(made, False)

    def _loss(self, made: Sequence[Labelled], train: bool) -> Mapping[str, Tensor]:
        import torch

        from dataengine.experts.anchor_pose_network import MEAN, STD

        network, spec = self.network, self.network.spec
        device = network.anchors.device
        images = Runtime(device, torch.float32).images(np.stack([one.image for one in made]), MEAN, STD)
        targets = [{"boxes": torch.from_numpy(one.boxes).to(device)} for one in made]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.heads):
            features = network.features(images)
        boxes, losses = network.propose(images, features, targets)
        parts = {"objectness": losses["loss_objectness"], "boxes": losses["loss_rpn_box_reg"]}
        if not train:
            # proposals change from epoch to epoch, and their losses cannot be compared
            boxes = [reference_boxes(target["boxes"], spec.width, spec.height) for target in targets]
        wanted = self.student.losses
        total = parts["objectness"] + parts["boxes"]
        if wanted == "classification":
            total = torch.zeros((), device=device)
        if wanted != "localisation":
            parts |= self._regions(made, images, features, boxes)
            total = total + parts["classes"] + (POSE_WEIGHT * parts["joints"] if wanted == "full" else 0)
        return {"loss": total} | {name: value.detach() for name, value in parts.items()}

    def _regions(
        self, made: Sequence[Labelled], images: Tensor, features: dict[str, Tensor], boxes: list[Tensor]
    ) -> dict[str, Tensor]:
        """Cross entropy of the classes and smooth L1 of the joints of sampled regions."""
        import torch
        from torch.nn import functional

        sampled = [sample(some, one, self.student, self._anchors) for some, one in zip(boxes, made, strict=True)]
        device = images.device
        logits, offsets = self.network.judge(images, features, [region.boxes.to(device) for region in sampled])
        classes = torch.cat([region.classes for region in sampled]).to(device)
        parts = {"classes": functional.cross_entropy(logits, classes) if len(classes) else logits.sum() * 0}
        shown = torch.nonzero(classes > 0)[:, 0]
        wanted = torch.cat([region.poses for region in sampled]).to(device)[shown]
        which = classes[shown] - 1
        return parts | {"joints": joint_loss(self.network.anchors[which] + offsets[shown, which], wanted)}

    def save(self, path: Path) -> None:
        """Write tensors and what the network looks like as safetensors."""
        from safetensors.torch import save

        from dataengine.experts.anchor_pose_network import state_of

        self.require_open()
        write_durably(path, save(state_of(self.network), self.network.spec.metadata()))


def reference_boxes(people: Tensor, width: int, height: int) -> Tensor:
    """The regions that validation judges: moved and scaled boxes of people (M, 4), and a grid over the image."""
    import torch

    moves = torch.cartesian_prod(*(torch.tensor([-0.1, 0.0, 0.1]),) * 2, torch.tensor([0.85, 1.15])).to(people)
    middle, half = (people[:, :2] + people[:, 2:]) / 2, (people[:, 2:] - people[:, :2]) / 2
    centres = middle[:, None] + 2 * half[:, None] * moves[:, :2]
    sides = half[:, None] * moves[:, 2:]
    around = torch.cat([centres - sides, centres + sides], -1).reshape(-1, 4)
    steps = torch.arange(4).to(people)
    corners = torch.cartesian_prod(steps, steps) / 4 * torch.tensor([width, height]).to(people)
    grid = torch.cat([corners, corners + torch.tensor([width / 4, height / 2]).to(people)], 1)
    limit = torch.tensor([width, height] * 2).to(people)
    return torch.minimum(torch.cat([around, grid]).clamp(min=0), limit)


def joint_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean smooth L1 of joints (R, V, 2) over those that are labelled; 0 where none is."""
    from torch.nn import functional

    known = wanted.isfinite()
    gaps = functional.smooth_l1_loss(found, wanted.nan_to_num(), reduction="none", beta=SMOOTH)
    return (gaps * known).sum() / known.sum().clamp(min=1)


@dataclass(frozen=True)
class Sampled:
    """Regions of a picture that are classified.

    Attributes:
        boxes: (R, 4) float32 pixels. classes: (R,) int64, 0 for background, else the anchor pose + 1.
        poses: (R, V, 2) float32 joints of the person of each region in lengths of the region, NaN where unknown.
    """

    boxes: Tensor
    classes: Tensor
    poses: Tensor


def sample(boxes: Tensor, one: Labelled, student: AnchorPoseStudent, anchors: Float) -> Sampled:
    """Regions among the proposals `boxes` (R, 4) and the people's own boxes, up to `student.regions`.

    A region shows the person with whom it overlaps most if that is half of their union, else background. Regions of
    people without a class are left out. Draws from torch's generator.
    """
    import torch
    from torchvision.ops import box_iou

    from dataengine.refine.anchor_pose_labels import classes_of

    people = torch.from_numpy(one.boxes)
    every = torch.cat([people, boxes.detach().cpu()])
    if len(people):
        share, whose = box_iou(every, people).max(1)
        shows = share >= POSITIVE
    else:
        whose, shows = torch.zeros(len(every), dtype=torch.int64), torch.zeros(len(every), dtype=torch.bool)
    positive, negative = torch.nonzero(shows)[:, 0], torch.nonzero(~shows)[:, 0]
    most = max(1, int(POSITIVE_SHARE * student.regions))
    positive = positive[torch.randperm(len(positive))[:most]]
    negative = negative[torch.randperm(len(negative))[: student.regions - len(positive)]]
    poses = torch.full((len(positive) + len(negative), *anchors.shape[1:]), torch.nan)
    classes = torch.zeros(len(poses), dtype=torch.int64)
    if len(positive):
        points = one.keypoints[whose[positive].numpy()]
        around, mine = every[positive].numpy(), one.boxes[whose[positive].numpy()]
        relative, found = classes_of(points, around, mine if student.assignment == "person" else around, anchors)
        poses[: len(positive)] = torch.from_numpy(relative)
        classes[: len(positive)] = torch.from_numpy(found + 1)
    chosen = torch.cat([positive, negative])
    known = torch.ones(len(chosen), dtype=torch.bool)
    known[: len(positive)] = classes[: len(positive)] > 0
    return Sampled(every[chosen][known], classes[known], poses[known])


def fresh_session(
    student: AnchorPoseStudent,
    spec: NetworkSpec,
    anchors: Float,
    seed: int,
    device: str = "cpu",
    initial: Mapping[str, Tensor] | None = None,
    heads: bool = False,
) -> AnchorPoseSession:
    """A session for base training: weights drawn from a seed, and those of `initial` where name and shape fit.

    Args:
        anchors: (K, V, 2) anchor poses.
        heads: only the branches learn, upon a backbone that `initial` holds.

    Raises:
        WeightsError: nothing of `initial` fits.
    """
    runtime = Runtime.open(device, "float32", student.title)
    from dataengine.experts.anchor_pose_network import build

    network = build(spec, anchors, seed)
    if initial is not None:
        own = network.state_dict()
        fitting = {name: t for name, t in initial.items() if name in own and own[name].shape == t.shape}
        if not fitting:
            raise WeightsError(f"the weights to begin with have no tensor of a network with a {spec.backbone}")
        network.load_state_dict(fitting, strict=False)
    return AnchorPoseSession(student, network.to(runtime.device), not heads, heads)
