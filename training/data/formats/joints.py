"""Which joints a file's clips have, and conversion of clips to another layout."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from blake3 import blake3 as Hasher

from dataengine.core.errors import ComponentError, TrainingError, suggestion
from dataengine.core.skeletons import SKELETONS, Skeleton, convert
from training.data.types import ROTATION, Array, Numbers, SkeletonDataset, SkeletonSequence, remark

Layout = str | Skeleton | Mapping[str, Any] | None
"""A layout by name, one of your own, a table of `joints` and `parents`, or None: by number and names of joints."""
TABLE = ("joints", "parents")
"""Keys of a layout that is a table."""
SHOWN = 4
"""Joints that a message names."""


def from_parents(name: str, joints: Sequence[str], parents: Sequence[int]) -> Skeleton:
    """A layout from each joint's parent, -1 or itself for the root.

    Raises:
        ComponentError: joints of one name, parents that are no joints or go round in a circle.
    """
    if twice := [joint for joint, count in Counter(joints).items() if count > 1]:
        raise ComponentError(f"several joints are called {twice[0]!r}; give each a name of its own, or none a name")
    if far := [joint for joint, above in enumerate(parents) if not -1 <= above < len(parents)]:
        raise ComponentError(
            f"the parent of {joints[far[0]]!r} is {parents[far[0]]}; allowed: 0 to {len(parents) - 1}, -1 of a root"
        )
    for joint in range(len(parents)):
        way = [joint]
        while (above := int(parents[way[-1]])) not in (-1, way[-1]):
            if above in way:
                circle = " of ".join(repr(joints[one]) for one in [*way[way.index(above) :], above])
                raise ComponentError(f"parents go round in a circle: {circle}; the parent of a root is -1")
            way.append(above)
    return Skeleton(
        name, tuple(joints), tuple((int(p), child) for child, p in enumerate(parents) if p not in (-1, child))
    )


def layout_of(
    layout: Layout, number: int, name: str, names: Sequence[str] = (), parents: Sequence[int] = (), likely: str = ""
) -> Skeleton:
    """The layout of a file's joints.

    Args:
        layout: what the user says; None to infer it.
        number: how many joints the file has.
        name: of the dataset, for messages.
        names: the file's names of its joints, if it has any.
        parents: each joint's parent, -1 for the root, if the file has them.
        likely: the layout to assume where a file has neither names nor parents; a note says so.

    Raises:
        TrainingError: `layout` is unknown, is no table of joints and parents, or has another number of joints.
    """
    try:
        result = _found(layout, number, name, names, parents, likely)
    except ComponentError as error:
        raise TrainingError(f"{name}: {error}") from None
    if result.num_joints != number:
        raise TrainingError(
            f"{name}: its clips have {number} joints, layout {result.name!r} has {result.num_joints}; give layout="
        )
    return result


def _found(
    layout: Layout, number: int, name: str, names: Sequence[str], parents: Sequence[int], likely: str
) -> Skeleton:
    """What `layout_of` gives, whatever its number of joints.

    Raises:
        ComponentError: joints of one name, parents that are no joints or go round in a circle.
        TrainingError: see `layout_of`.
    """
    result: Skeleton
    if isinstance(layout, Mapping):
        result = _of_names(*_described(layout, name))
    elif layout is not None:
        if not isinstance(layout, str | Skeleton):
            raise TrainingError(f"{name}: layout {layout!r}; allowed: {ALLOWED}")
        if isinstance(layout, str) and layout not in SKELETONS:
            raise TrainingError(f"{name}: unknown layout {layout!r}{suggestion(layout, SKELETONS)}; allowed: {ALLOWED}")
        result = SKELETONS[layout] if isinstance(layout, str) else layout
    elif names:
        result = _of_names(names, parents)
    elif likely:
        result = SKELETONS[likely]
        remark(
            f"{name}: its {number} joints have no names and are taken for {likely}; if they are others, say so with "
            "data.layout"
        )
    else:
        result = from_parents(f"custom{number}", [f"joint{k:02d}" for k in range(number)], parents)
    return result


ALLOWED = "the name of a layout, or {joints = [names], parents = [the parent of each by name or number, -1 of a root]}"


def _described(layout: Mapping[str, Any], name: str) -> tuple[list[str], list[int]]:
    """Joints and the number of each one's parent (none at all, where no parents are given) of a layout that is a table.

    Raises:
        TrainingError: unknown keys, joints that are not all different, or parents that are none of them.
    """
    if unknown := [key for key in layout if key not in TABLE]:
        raise TrainingError(f"{name}: a layout has no {unknown[0]!r}; allowed: {', '.join(TABLE)}")
    joints, parents = layout.get("joints"), layout.get("parents", ())
    if (
        not isinstance(joints, list | tuple)
        or not joints
        or not all(isinstance(joint, str) and joint for joint in joints)
        or len(set(joints)) < len(joints)
    ):
        raise TrainingError(f"{name}: joints of a layout are {joints!r}; allowed: a list of names, all different")
    if not isinstance(parents, list | tuple) or len(parents) not in (0, len(joints)):
        raise TrainingError(
            f"{name}: parents of a layout are {parents!r}; allowed: one for each of its {len(joints)} joints"
        )
    numbers = {**{joint: number for number, joint in enumerate(joints)}, "": -1}
    found = [numbers.get(one) if isinstance(one, str) else one for one in parents]
    for given, one in zip(parents, found):
        if not isinstance(one, int) or isinstance(one, bool) or not -1 <= one < len(joints):
            raise TrainingError(
                f"{name}: parents of a layout name {given!r}; allowed: one of its joints, or -1 for a root"
            )
    return list(joints), [number for number in found if number is not None]


def _of_names(names: Sequence[str], parents: Sequence[int]) -> Skeleton:
    """The known layout of these joints, or one of their own."""
    sided = with_sides(names)
    same = [candidate for candidate in SKELETONS.values() if candidate.joints == sided]
    return same[0] if same and not len(parents) else from_parents(f"custom{len(names)}", sided, parents)


_SIDES = (
    re.compile(r"^(left|right)_?(.+)$"),
    re.compile(r"^([lr])_(.+)$"),
    re.compile(r"^(.+)_(left|right|l|r)$"),
    re.compile(r"^([lr])(.+)$"),
)


def with_sides(names: Sequence[str]) -> tuple[str, ...]:
    """Joint names in lower case, sides written as left_X and right_X where both of a pair are there, so that mirroring
    works."""
    plain = [re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace(" ", "_") for name in names]
    sided = list(plain)
    for pattern in _SIDES:
        split: dict[tuple[str, str], int] = {}
        for position, name in enumerate(sided):
            if (match := pattern.match(name)) and not name.startswith(("left_", "right_")):
                one, other = match.groups()
                side, rest = (one, other) if one[0] in "lr" and one in ("l", "r", "left", "right") else (other, one)
                split[side[0], rest] = position
        for (side, rest), position in split.items():
            if ("r" if side == "l" else "l", rest) in split:
                sided[position] = f"{'left' if side == 'l' else 'right'}_{rest}"
    return tuple(sided if len(set(sided)) == len(sided) else plain)


def _contained(own: Skeleton) -> tuple[Skeleton, list[int]] | None:
    """The largest known layout whose joints all occur in this one by name (a head stands for the nose), and their
    positions."""
    if SKELETONS.get(own.name) == own:
        return own, list(range(own.num_joints))
    positions = {joint: position for position, joint in enumerate(own.joints)}
    if "nose" not in positions and "head" in positions:
        positions["nose"] = positions["head"]
    fitting = [candidate for candidate in SKELETONS.values() if set(candidate.joints) <= positions.keys()]
    if not fitting:
        return None
    best = max(fitting, key=lambda candidate: candidate.num_joints)
    return best, [positions[joint] for joint in best.joints]


class ConvertedDataset(SkeletonDataset):
    """A dataset whose clips are converted to another layout as they are read.

    Raises:
        TrainingError: the dataset's joints cannot be converted, or the target is no known layout.
    """

    def __init__(self, dataset: SkeletonDataset, target: str) -> None:
        if target not in SKELETONS:
            raise TrainingError(f"{dataset.name}: unknown skeleton {target!r}{suggestion(target, SKELETONS)}")
        origin = _contained(dataset.skeleton)
        if origin is None:
            raise TrainingError(
                f"{dataset.name}: its joints ({dataset.skeleton.name}) are no layout that can be converted to "
                f"{target!r}; "
                f"say what they are with layout=, one of {', '.join(sorted(SKELETONS))}"
            )
        self._origin, self._columns = origin
        self._source = dataset
        self.name, self.labels, self.keys = dataset.name, dataset.labels, dataset.keys
        self.label_ids: Numbers = dataset.label_ids
        self.named, self.groups, self.columns = dataset.named, dataset.groups, dataset.columns
        self.span_labels, self.lengths = dataset.span_labels, dataset.lengths
        self.spans_known, self.spans_proposed = dataset.spans_known, dataset.spans_proposed
        self.skeleton = SKELETONS[target]
        self.fingerprint = Hasher(f"{dataset.fingerprint} {target}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._source)

    def read(self, indices: Sequence[int]) -> list[SkeletonSequence]:
        """The clips at these positions, in this order, converted together."""
        clips = self._source.read(indices)
        shapes = [clip.keypoints.shape for clip in clips]
        cuts = np.cumsum([people * frames for people, frames, *_ in shapes])[:-1]
        groups: dict[int, list[int]] = {}
        for position, shape in enumerate(shapes):
            groups.setdefault(shape[-1], []).append(position)
        if ROTATION in groups:
            raise TrainingError(f"{self.name}: rotations are of their own joints and cannot be converted to others")
        if len(groups) > 1:
            raise TrainingError(
                f"{self.name}: clips of {' and '.join(map(str, sorted(groups)))} coordinates cannot be converted "
                "together"
            )
        if not clips:
            return []
        columns = self._columns
        keypoints: Array = np.concatenate(
            [clip.keypoints.reshape(-1, *shape[2:])[:, columns] for clip, shape in zip(clips, shapes)]
        )
        known_scores = [
            np.isfinite(clip.keypoints).all(-1).astype(np.float32) if clip.scores is None else clip.scores
            for clip in clips
        ]
        scores: Array = np.concatenate(
            [one.reshape(-1, shape[2])[:, columns] for one, shape in zip(known_scores, shapes)]
        )
        converted, converted_scores = convert(keypoints, scores, self._origin.name, self.skeleton.name)
        parts = zip(clips, shapes, np.split(converted, cuts), np.split(converted_scores, cuts))
        return [
            dataclasses.replace(
                clip,
                keypoints=one.reshape(*shape[:2], *one.shape[1:]),
                scores=None if clip.scores is None else other.reshape(*shape[:2], -1),
            )
            for clip, shape, one, other in parts
        ]


class ReorderedDataset(SkeletonDataset):
    """A dataset whose clips have some of its joints, by name and in an order of their own."""

    def __init__(self, dataset: SkeletonDataset, target: Skeleton) -> None:
        self._source = dataset
        self._columns = dataset.skeleton.indices(target.joints)
        self.name, self.labels, self.keys = dataset.name, dataset.labels, dataset.keys
        self.label_ids: Numbers = dataset.label_ids
        self.named, self.groups, self.columns = dataset.named, dataset.groups, dataset.columns
        self.span_labels, self.lengths = dataset.span_labels, dataset.lengths
        self.spans_known, self.spans_proposed = dataset.spans_known, dataset.spans_proposed
        self.skeleton = target
        self.fingerprint = Hasher(f"{dataset.fingerprint} {' '.join(target.joints)}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._source)

    def read(self, indices: Sequence[int]) -> list[SkeletonSequence]:
        """The clips at these positions, in this order."""
        return [
            dataclasses.replace(
                clip,
                keypoints=clip.keypoints[:, :, self._columns],
                scores=None if clip.scores is None else clip.scores[:, :, self._columns],
            )
            for clip in self._source.read(indices)
        ]


def has_names(skeleton: Skeleton) -> bool:
    """Whether the joints have names, and not only the numbers that they get in a file without names."""
    return not all(re.fullmatch(r"joint\d\d+", joint) for joint in skeleton.joints)


def aligned(datasets: Sequence[SkeletonDataset]) -> list[SkeletonDataset]:
    """The datasets, those with the very joints of the first one in another order brought into its order."""
    first = datasets[0].skeleton if datasets else None
    return [
        ReorderedDataset(dataset, first)
        if first is not None
        and dataset.skeleton.joints != first.joints
        and set(dataset.skeleton.joints) == set(first.joints)
        else dataset
        for dataset in datasets
    ]


def in_joints_of(dataset: SkeletonDataset, skeleton: Skeleton) -> SkeletonDataset:
    """The dataset in the joints of a network: as it is, converted between known layouts, or reordered by name.

    Raises:
        TrainingError: it does not have these joints.
    """
    own = dataset.skeleton
    if own.joints == skeleton.joints:
        return dataset
    if SKELETONS.get(skeleton.name) == skeleton and _contained(own) is not None:
        return ConvertedDataset(dataset, skeleton.name)
    if has_names(own) and set(skeleton.joints) <= set(own.joints):
        return ReorderedDataset(dataset, skeleton)
    missing = [joint for joint in skeleton.joints if joint not in own.joints] or list(skeleton.joints)
    more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
    what = f"has joints without names ({own.num_joints})" if not has_names(own) else f"lacks them ({own.name})"
    raise TrainingError(
        f"{dataset.name}: the network takes {', '.join(missing[:SHOWN])}{more}, and the data {what}; give data with "
        "these joints, or say what the joints are with data.layout = {joints = [...], parents = [...]}"
    )
