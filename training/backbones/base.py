"""What every network over motions has in common: its input, its three outputs, and reading published weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dataengine.core import skeletons
from dataengine.core.errors import ComponentError, TrainingError
from dataengine.core.skeletons import Skeleton

PREFIXES = ("module.", "model_action.", "backbone.")
"""What programs put before the keys of a network that they wrap."""


def resolve(skeleton: str | Skeleton) -> Skeleton:
    """The joint layout of a name, or the given one, checked, so that any set of joints can be used.

    Raises:
        TrainingError: no layout has this name, or joints or bones of the given one cannot be used.
    """
    if isinstance(skeleton, str):
        try:
            return skeletons.skeleton(skeleton)
        except ComponentError as error:
            raise TrainingError(f"{error}; or give a dataengine.core.skeletons.Skeleton of your own joints") from None
    if not skeleton.joints or len(set(skeleton.joints)) != len(skeleton.joints):
        raise TrainingError(
            f"skeleton {skeleton.name!r}: joints must be at least one and all different; given {list(skeleton.joints)}"
        )
    faults = [
        bone for bone in skeleton.bones if bone[0] == bone[1] or not all(0 <= j < skeleton.num_joints for j in bone)
    ]
    if faults:
        raise TrainingError(
            f"skeleton {skeleton.name!r}: bones are pairs of two of its {skeleton.num_joints} joint indices; given "
            f"{faults}"
        )
    return skeleton


def masked(x: Tensor, mask: Tensor) -> Tensor:
    """Motions (N, C, T, V, M), zero where the mask (N, T, M) is False.

    Raises:
        TrainingError: the mask is not of the clips, frames and people of the motions.
    """
    n, _, t, _, m = x.shape
    if mask.shape != (n, t, m) or mask.dtype != torch.bool:
        raise TrainingError(
            f"a mask says of each clip, frame and person whether it is there, ({n}, {t}, {m}) bool; given "
            f"{tuple(mask.shape)} {str(mask.dtype).removeprefix('torch.')}"
        )
    return x.masked_fill(~mask[:, None, :, None], 0)


def at_steps(mask: Tensor, stride: int) -> Tensor:
    """(N, T', M) bool of a mask (N, T, M): whether one of the `stride` frames of a step is there; T' = ceil(T /
    stride)."""
    rest = -mask.shape[1] % stride
    padded = nn.functional.pad(mask, (0, 0, 0, rest))
    return padded.view(mask.shape[0], -1, stride, mask.shape[2]).any(2)


def present_rows(mask: Tensor | None, people: int) -> Tensor | None:
    """Numbers (P,) of the rows (N M) of people who are there in some frame; None where all rows are computed.

    Only these rows go through a network of rows, so an absent second person costs nothing, and the statistics of norms
    are of people alone. Where nobody is there at all, the first row stands for them.

    Args:
        mask: (N, T, M) bool, or None.
        people: M of the rows, at least that of the mask.
    """
    if mask is None:
        return None
    there = nn.functional.pad(mask.any(1), (0, people - mask.shape[2])).flatten()
    there[0] |= ~there.any()
    return there.nonzero().flatten()


def all_rows(rows: Tensor, present: Tensor | None, total: int) -> Tensor:
    """Rows (P, ...) of `present_rows` in their places among `total`; the others are 0."""
    return rows if present is None else rows.new_zeros(total, *rows.shape[1:]).index_copy(0, present, rows)


class Backbone(nn.Module):
    """A network over motions x (N, C, T, V, M) float.

    A network implements `people_sequence` and owns its classifier; the rest follows. Sizes that do not fit
    are refused by `check`, which `people_sequence` calls first. A network that does not keep people apart implements
    `sequence` in its place, and takes no mask.

    A mask (N, T, M) bool says which frames of which people are there. What is not is set to zero, and neither a frame
    nor a person that is not there counts in a mean: the features do not depend on what stands there. Without a mask all
    count, as published.

    Attributes:
        num_classes: K; 0: no classifier.
        skeleton: the joint layout; V is its number of joints.
        channels: C of the input.
        width: D, the size of the features.
        stride: input frames for each step of `sequence`.
        people: M at most; fewer people are allowed where the network says so.
        classifier: name of the layer that makes logits of features.
        takes_pictures: whether the input is pictures (N, 3, T, H, W), see `training.data.rgb`, and no motions.
        former_options: options by the names they once had.
    """

    takes_pictures: ClassVar[bool] = False
    former_options: ClassVar[Mapping[str, str]] = {}
    num_classes: int
    skeleton: Skeleton
    channels: int
    width: int
    stride: int
    people: int
    classifier: str = "fc"

    def __init__(
        self, num_classes: int, skeleton: str | Skeleton, channels: int, *, width: int, stride: int, people: int
    ) -> None:
        super().__init__()
        for what, value, least in (("num_classes", num_classes, 0), ("channels", channels, 1), ("people", people, 1)):
            if value < least:
                raise TrainingError(f"{type(self).__name__}: {what} must be {least} or more; given {value}")
        self.num_classes, self.channels, self.people = num_classes, channels, people
        self.skeleton = resolve(skeleton)
        self.width, self.stride = width, stride

    def check(self, x: Tensor) -> None:
        """Refuse an input of another layout.

        Raises:
            TrainingError: x is not (N, C, T, V, M) with this network's C and V and at most its M.
        """
        v = self.skeleton.num_joints
        if (
            x.ndim != 5
            or x.shape[1] != self.channels
            or x.shape[3] != v
            or not 1 <= x.shape[4] <= self.people
            or x.shape[2] < 1
        ):
            raise TrainingError(
                f"{type(self).__name__} takes (N, {self.channels}, T, {v}, M up to {self.people}) of skeleton "
                f"{self.skeleton.name!r}; "
                f"given {tuple(x.shape)}: make the network with the channels, skeleton and people of the data"
            )

    def people_sequence(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features of each person a time step (N, M', D, T'), the mean over joints; T' = ceil(T / stride).

        Args:
            x: (N, C, T, V, M), zero where the mask says that nobody is there.
            mask: (N, T, M) bool, for networks whose frames see one another; others need not look at it.

        Raises:
            TrainingError: the network does not keep people apart.
        """
        raise TrainingError(
            f"{type(self).__name__} does not keep people apart and takes no mask: leave out preprocess.mask, or "
            "implement people_sequence"
        )

    def sequence(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features a time step (N, D, T'), the mean over joints and people; 0 where the mask has nobody."""
        if mask is None:
            return self.people_sequence(x).mean(1)
        return self.mean_over_people(self.people_sequence(masked(x, mask), mask), mask)

    def mean_over_people(self, people: Tensor, mask: Tensor | None = None) -> Tensor:
        """(N, D, T') of `people_sequence` (N, M', D, T'); 0 where the mask has nobody."""
        if mask is None:
            return people.mean(1)
        there = at_steps(mask, self.stride).transpose(1, 2)  # (N, M, T')
        rows = people[:, : there.shape[1]].masked_fill(~there[:, :, None], 0)
        mean: Tensor = rows.sum(1) / there.sum(1)[:, None].clamp(min=1)
        return mean

    def mean_over_time(self, steps: Tensor, mask: Tensor | None = None) -> Tensor:
        """(N, D) of `sequence` (N, D, T'): the steps at which somebody is there."""
        if mask is None:
            return steps.mean(-1)
        there = at_steps(mask, self.stride).any(2)
        mean: Tensor = steps.sum(-1) / there.sum(1, keepdim=True).clamp(min=1)
        return mean

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features of the whole motion (N, D), the mean over time, joints and people."""
        return self.mean_over_time(self.sequence(x) if mask is None else self.sequence(x, mask), mask)

    def features_and_people(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`features` (N, D) and `people_sequence` (N, M', D, T') of one pass."""
        people = self.people_sequence(x) if mask is None else self.people_sequence(masked(x, mask), mask)
        return self.mean_over_time(self.mean_over_people(people, mask), mask), people

    def people_blocks(self, x: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """What `block_features` is made of: outputs of several blocks, each (N, M', D, T', V'); arguments as of
        `people_sequence`. Here the last alone."""
        apart = mask is not None or type(self).people_sequence is not Backbone.people_sequence
        last = self.people_sequence(x, mask) if apart else self.sequence(x)[:, None]
        return [last[..., None]]

    def block_features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Richer features of the whole motion (N, D'): means and maxima over time and joints of several blocks, the
        mean over people.

        Early blocks know where joints are, late ones what they do; a linear probe takes what it needs.
        """
        if mask is None:
            parts = [part for y in self.people_blocks(x) for part in (y.mean((-1, -2)), y.amax((-1, -2)))]
            return torch.cat(parts, 2).mean(1)
        parts = []
        for y in self.people_blocks(masked(x, mask), mask):
            y = y[:, : mask.shape[2]]
            given, steps = mask.shape[1], y.shape[3]
            strides = [s for s in range(1, self.stride + 1) if self.stride % s == 0 and -(-given // s) == steps]
            there = at_steps(mask, strides[0]).transpose(1, 2)[:, :, None, :, None]  # (N, M, 1, T', 1)
            total = there.sum(3, keepdim=True).clamp(min=1) * y.shape[4]
            parts.append((y.masked_fill(~there, 0) / total).sum((-1, -2)))
            maximum = y.masked_fill(~there, -torch.inf).amax((-1, -2))
            parts.append(maximum.masked_fill(~there.any(3)[..., 0], 0))
        seen = mask.any(1)[..., None]
        mean: Tensor = torch.cat(parts, 2).masked_fill(~seen, 0).sum(1) / seen.sum(1).clamp(min=1)
        return mean

    def classify(self, features: Tensor) -> Tensor:
        """Logits (N, K) of features (N, D); the features themselves where there is no classifier."""
        if not self.num_classes:
            return features
        logits: Tensor = getattr(self, self.classifier)(features)
        return logits

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits (N, K), or features (N, D) where there is no classifier."""
        return self.classify(self.features(x) if mask is None else self.features(x, mask))

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Published weights under this network's own keys; networks with other keys override this."""
        return state

    def load_published(self, path: str | Path, classifier: bool = True) -> None:
        """Take weights from a file of the published program or of this one.

        Args:
            path: a `torch.save`d state dict or checkpoint (read with weights_only), or .safetensors.
            classifier: whether the classifier is taken too; without it the file's may have any number of classes.

        Raises:
            TrainingError: not such a file, or weights of another network.
        """
        self.load_weights(read_weights(path), classifier, str(path))

    def load_weights(self, state: Mapping[str, Tensor], classifier: bool = True, name: str = "weights") -> None:
        """Take weights of a state dict, prefixes of wrapping programs taken off.

        Raises:
            TrainingError: keys or shapes are not this network's, each named.
        """
        own = self.state_dict()
        weights = self.adapt({_bare(key): value for key, value in state.items()})
        if not classifier:
            weights = {key: value for key, value in weights.items() if not key.startswith(f"{self.classifier}.")}
            weights |= {key: value for key, value in own.items() if key.startswith(f"{self.classifier}.")}
        elif not self.num_classes:
            weights = {key: value for key, value in weights.items() if not key.startswith(f"{self.classifier}.")}
        faults = [f"lacks {key}" for key in own if key not in weights]
        faults += [f"has {key}, unknown here" for key in weights if key not in own]
        both = [key for key in weights if key in own and weights[key].shape != own[key].shape]
        faults += [f"{key} is {tuple(weights[key].shape)}, here {tuple(own[key].shape)}" for key in both]
        if faults:
            shown = "; ".join(faults[:4]) + (f"; and {len(faults) - 4} more" if len(faults) > 4 else "")
            raise TrainingError(
                f"{name} is not a {type(self).__name__} of these options: {shown}. Make the network with the options "
                "of the weights "
                "(classes, skeleton, channels, people), or leave the classifier out with classifier=False"
            )
        self.load_state_dict(weights)


def _bare(key: str) -> str:
    while (prefix := next((p for p in PREFIXES if key.startswith(p)), None)) is not None:
        key = key[len(prefix) :]
    return key


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weight file by key; nothing in it is executed.

    A checkpoint that holds its state dict under `state_dict`, `model` or `model_state_dict` is opened.

    Raises:
        TrainingError: the file is absent, cannot be read without running code, or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise TrainingError(f"weights {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0].partition(" In PyTorch")[0] if str(error) else type(error).__name__
        raise TrainingError(
            f"weights {path} cannot be read as plain tensors ({reason}): give a state dict or .safetensors"
        ) from error
    for name in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(value, Tensor) for value in content.values())
    ):
        raise TrainingError(f"weights {path} hold no state dict: expected tensors by key")
    return {str(key): value for key, value in content.items()}
