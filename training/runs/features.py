"""Features and scores of a network for whole datasets, clip by clip in their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dataengine.core.resources import cpu_count
from dataengine.core.types import Bool
from training.backbones.base import Backbone
from training.data.loader import DataLoader
from training.data.rgb import is_pictures
from training.data.types import Numbers, SkeletonDataset, SkeletonSequence
from training.methods.base import RandomViews
from training.transforms.prepared import ClipCache, prepared
from training.transforms.preprocess import Preprocess
from training.transforms.view import View

Rows = NDArray[np.float32]
WHOLE_CLIP = ((0.0, 1.0),)
"""One crop: the whole clip."""
THREE_CROPS = ((0.0, 1.0), (0.0, 0.8), (0.2, 1.0))
"""Three crops, fixed in advance: the whole clip, its first and its last four fifths."""
MANY = 1000
"""Clips above which worker processes read them; fewer are read before the processes have started."""


def mirror_view(preprocess: Preprocess, frames: int) -> View | None:
    """The view that is the mirror image of a clip; None where the layout does not say what is left and right."""
    layout = preprocess.layout
    if tuple(layout.flip) == tuple(range(layout.num_joints)):
        return None
    return View(frames, ({"name": "flip", "chance": 1.0},), layout, preprocess.score)


def flat(motion: Tensor, mask: Tensor | None = None) -> Tensor:
    """(N, D) the numbers of motions; people and frames that are not there are zeros, whatever a mask says of them."""
    del mask
    return motion.flatten(1)


MOST_USEFUL = 8
"""Workers that keep one GPU busy; more of a machine's cores are left to others."""


def workers_of(asked: int | str, device: Any = "cpu", devices: int = 1) -> int:
    """How many processes make batches for one device.

    Args:
        asked: `run.workers`. "auto": for a GPU its share of the cores, but one, from 1 to `MOST_USEFUL`; on a CPU none,
            as the network's own threads use the cores and making a batch takes a hundredth of a step.
        device: where the network runs.
        devices: how many devices of this machine train together.
    """
    if not isinstance(asked, str):
        return asked
    if "cpu" in str(device):
        return 0
    return min(MOST_USEFUL, max(1, cpu_count() // max(1, devices) - 1))


def workers_for(datasets: Sequence[SkeletonDataset], workers: int | str, device: Any = "cpu") -> int:
    """How many processes read these clips, of `workers` (see `workers_of`)."""
    return workers_of(workers, device) if sum(map(len, datasets)) > MANY else 0


SHOWS_POSE = "shows_pose"
"""Entry of a sample: whether the clip shows a pose."""


@dataclass(frozen=True)
class TemporalCrops:
    """Fixed crops of a clip, each resampled to `frames`, as entries crop0, crop1 ...; and `SHOWS_POSE`.

    A clip shows no pose where no joint is seen, or all joints lie at one point: its prepared coordinates are all 0.
    Pictures always count as a pose.

    Attributes:
        preprocess: makes the input of the network.
        frames: T of each crop.
        spans: begin and end of each crop as fractions of the clip.
        mirrored: whether the mirror images of all crops follow them.
    """

    preprocess: Preprocess
    frames: int
    spans: tuple[tuple[float, float], ...] = WHOLE_CLIP
    mirrored: bool = False

    @property
    def number(self) -> int:
        """How many crops there are of a clip."""
        return len(self.spans) * len(self._views)

    @property
    def _views(self) -> list[View]:
        mirror = mirror_view(self.preprocess, self.frames) if self.mirrored else None
        return [View(self.frames, "none", score=self.preprocess.score), *([] if mirror is None else [mirror])]

    def __call__(self, sequence: SkeletonSequence, rng: np.random.Generator) -> dict[str, Any]:
        joints = self.preprocess.joints(sequence)
        total, score = joints.shape[1], self.preprocess.score
        shows = is_pictures(self.preprocess.layout) or bool(joints[..., : joints.shape[-1] - score].any())
        sample: dict[str, Any] = {}
        for view in self._views:
            for begin, end in self.spans:
                first = min(int(begin * total), total - 1)
                crop = joints[:, first : max(first + 1, round(end * total))]
                sample[f"crop{len(sample)}"] = self.preprocess.entry(view(crop, rng))
        sample[SHOWS_POSE] = np.bool_(shows)
        return sample


def motion_and_mask(sample: Mapping[str, Any], name: str, device: Any, dtype: Any = None) -> list[Tensor]:
    """What a network takes of an entry of a batch: the motion, and the mask where there is one."""
    mask = sample.get(f"{name}_mask")
    return [sample[name].to(device, dtype), *([] if mask is None else [mask.to(device)])]


class Extracted(NamedTuple):
    """The output of a network for N clips.

    Attributes:
        rows: (N, D) float32 in the order of the dataset.
        labels: (N,) int64.
        shows_pose: (N,) whether each clip shows a pose, see `TemporalCrops`; of random views all True.
    """

    rows: Rows
    labels: Numbers
    shows_pose: Bool


def extract_features(
    function: Callable[..., Tensor],
    dataset: SkeletonDataset | Sequence[SkeletonDataset],
    preprocess: Preprocess,
    frames: int,
    spans: Sequence[tuple[float, float]] = WHOLE_CLIP,
    **options: Any,
) -> tuple[Rows, Numbers]:
    """`rows` and `labels` of `extract`, which has the arguments."""
    found = extract(function, dataset, preprocess, frames, spans, **options)
    return found.rows, found.labels


@torch.no_grad()
def extract(
    function: Callable[..., Tensor],
    dataset: SkeletonDataset | Sequence[SkeletonDataset],
    preprocess: Preprocess,
    frames: int,
    spans: Sequence[tuple[float, float]] = WHOLE_CLIP,
    batch: int = 256,
    workers: int = 0,
    device: Any = "cpu",
    softmax: bool = False,
    view: View | None = None,
    seed: int = 0,
    advance: Callable[[int], None] | None = None,
    cache: ClipCache | None = None,
    mirrored: bool = False,
) -> Extracted:
    """The output of a network for every clip, the mean over crops of the clip.

    Args:
        function: motions (N, C, T, V, M) -> (N, D), for example a backbone or the `embed` of a method; with
            `preprocess.mask` a mask (N, T, M) is given beside the motions. A module is put into evaluation mode
            meanwhile.
        dataset: one or several.
        preprocess: makes the input of the network.
        frames: T of the input.
        spans: crops of each clip, as fractions of it.
        batch: clips per forward pass.
        workers: processes that read clips.
        device: where the network runs.
        softmax: whether probabilities are averaged instead of the outputs themselves.
        view: one random view per clip in place of the crops; rows of several seeds make a probe of few labels steadier.
        seed: of the random view.
        advance: is given the number of clips done after every batch.
        cache: where prepared clips are kept; see `training.transforms.prepared`.
        mirrored: whether mirror images of the crops count in the mean, too.
    """
    owner = function if isinstance(function, nn.Module) else getattr(function, "__self__", None)
    before = owner.training if isinstance(owner, nn.Module) else False
    if isinstance(owner, nn.Module):
        owner.eval()
    dtype = next(owner.parameters()).dtype if isinstance(owner, nn.Module) else torch.float32
    crops = TemporalCrops(preprocess, frames, tuple(spans), mirrored)
    transform = crops if view is None else RandomViews(preprocess, {"crop0": view})
    number = crops.number if view is None else 1
    loader = DataLoader(prepared(dataset, preprocess, cache), transform, batch, seed, shuffle=False, workers=workers)
    rows: list[Tensor] = []
    shown: list[Tensor] = []
    for sample in loader:
        inputs = [motion_and_mask(sample, f"crop{k}", device, dtype) for k in range(number)]
        outputs = [function(*each).float() for each in inputs]
        rows.append(torch.stack([torch.softmax(o, 1) if softmax else o for o in outputs]).mean(0).cpu())
        shown.append(sample[SHOWS_POSE] if SHOWS_POSE in sample else torch.ones(len(rows[-1]), dtype=torch.bool))
        if advance is not None:
            advance(len(rows[-1]))
    if isinstance(owner, nn.Module):
        owner.train(before)
    return Extracted(torch.cat(rows).numpy(), loader.label_ids, torch.cat(shown).numpy())


@torch.no_grad()
def calibrate(
    backbone: Backbone,
    dataset: SkeletonDataset | Sequence[SkeletonDataset],
    preprocess: Preprocess,
    frames: int,
    device: Any = "cpu",
    cache: ClipCache | None = None,
) -> Backbone:
    """The network with the statistics of its norms measured on whole clips.

    A network with random weights is probed so: the norms of a new network have statistics that fit no data, and its
    features would be worth less than its weights are.
    """
    for module in backbone.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches
    backbone.train()
    clips = prepared(dataset, preprocess, cache)
    for sample in DataLoader(clips, TemporalCrops(preprocess, frames), 128, shuffle=False):
        backbone.features(*motion_and_mask(sample, "crop0", device))
    return backbone.eval()


@torch.no_grad()
def joint_weights(
    backbone: Backbone,
    dataset: SkeletonDataset | Sequence[SkeletonDataset],
    preprocess: Preprocess,
    frames: int,
    clips: int = 64,
    seed: int = 0,
    seen: Callable[[Tensor], Tensor] | None = None,
) -> NDArray[np.float64]:
    """How much each joint decides the output of a network, (V,) summing to 1.

    The path of one joint is exchanged for that of another clip, and the change of the output is measured: the mean
    absolute difference of the classes' probabilities, or of the direction of the features where there is no classifier.

    Args:
        backbone: the network.
        dataset: one or several.
        preprocess: makes the input of the network.
        frames: T of the input.
        clips: how many clips are measured.
        seed: chooses the clips.
        seen: what the network is given of motions. Default: all.
    """
    before = backbone.training
    backbone.eval()

    def answer(motion: Tensor) -> Tensor:
        output = backbone(motion if seen is None else seen(motion))
        return torch.softmax(output, 1) if backbone.num_classes else nn.functional.normalize(output, dim=1)

    whole = prepared(dataset, preprocess, None)
    sample = next(iter(DataLoader(whole, TemporalCrops(preprocess, frames), clips, seed=seed, drop_last=False)))
    weight = next(backbone.parameters())
    motion = sample["crop0"].to(weight.device, weight.dtype)
    original = answer(motion)
    changes = []
    for joint in range(motion.shape[3]):
        shuffled = motion.clone()
        shuffled[:, :, :, joint] = motion.roll(1, 0)[:, :, :, joint]
        changes.append(float((answer(shuffled) - original).abs().mean()))
    backbone.train(before)
    weights = np.asarray(changes, np.float64)
    normalised: NDArray[np.float64] = weights / max(float(weights.sum()), 1e-30)
    return normalised
