"""Which joints a file's clips have, and clips brought into another layout."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from blake3 import blake3 as Hasher

from dataengine.core.errors import TrainingError, suggestion
from dataengine.core.skeletons import SKELETONS, Skeleton, convert
from training.data.types import Array, Numbers, SkeletonDataset, SkeletonSequence

Layout = str | Skeleton | None
"""A layout by name, one of your own, or None: by number and names of joints."""


def from_parents(name: str, joints: Sequence[str], parents: Sequence[int]) -> Skeleton:
    """A layout from each joint's parent, -1 for the root."""
    return Skeleton(name, tuple(joints), tuple((int(p), child) for child, p in enumerate(parents) if p >= 0))


def layout_of(
    given: Layout, number: int, name: str, names: Sequence[str] = (), parents: Sequence[int] = (), likely: str = ""
) -> Skeleton:
    """The layout of a file's joints.

    Args:
        given: what the user says they are; otherwise it is found out.
        number: how many joints the file has.
        name: of the dataset, for messages.
        names: the file's names of its joints, if it has any.
        parents: each joint's parent, -1 for the root, if the file says it.
        likely: the layout that such a file has when nothing else is known.

    Raises:
        TrainingError: `given` is unknown or has another number of joints.
    """
    if given is not None:
        if isinstance(given, str) and given not in SKELETONS:
            raise TrainingError(f"{name}: unknown layout {given!r}{suggestion(given, SKELETONS)}")
        found = SKELETONS[given] if isinstance(given, str) else given
    elif names:
        sided = with_sides(names)
        same = [known for known in SKELETONS.values() if known.joints == sided]
        found = same[0] if same and not len(parents) else from_parents(f"custom{number}", sided, parents)
    elif likely:
        found = SKELETONS[likely]
    else:
        found = from_parents(f"custom{number}", [f"joint{k:02d}" for k in range(number)], parents)
    if found.num_joints != number:
        raise TrainingError(
            f"{name}: its clips have {number} joints, layout {found.name!r} has {found.num_joints}; give layout="
        )
    return found


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
        for place, name in enumerate(sided):
            if (match := pattern.match(name)) and not name.startswith(("left_", "right_")):
                one, other = match.groups()
                side, rest = (one, other) if one[0] in "lr" and one in ("l", "r", "left", "right") else (other, one)
                split[side[0], rest] = place
        for (side, rest), place in split.items():
            if ("r" if side == "l" else "l", rest) in split:
                sided[place] = f"{'left' if side == 'l' else 'right'}_{rest}"
    return tuple(sided if len(set(sided)) == len(sided) else plain)


def _contained(own: Skeleton) -> tuple[Skeleton, list[int]] | None:
    """The largest known layout whose joints all occur in this one by name (a head stands for the nose), and their
    places."""
    if SKELETONS.get(own.name) == own:
        return own, list(range(own.num_joints))
    places = {joint: place for place, joint in enumerate(own.joints)}
    if "nose" not in places and "head" in places:
        places["nose"] = places["head"]
    fitting = [known for known in SKELETONS.values() if set(known.joints) <= places.keys()]
    if not fitting:
        return None
    best = max(fitting, key=lambda known: known.num_joints)
    return best, [places[joint] for joint in best.joints]


class ConvertedDataset(SkeletonDataset):
    """A dataset whose clips are brought into another layout as they are read.

    Raises:
        TrainingError: the joints of the dataset or the wanted ones are no layout that can be converted.
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
        self.skeleton = SKELETONS[target]
        self.fingerprint = Hasher(f"{dataset.fingerprint} {target}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._source)

    def read(self, indices: Sequence[int]) -> list[SkeletonSequence]:
        """The clips at these places, in this order, converted together."""
        clips = self._source.read(indices)
        shapes = [clip.keypoints.shape for clip in clips]
        cuts = np.cumsum([people * frames for people, frames, *_ in shapes])[:-1]
        groups: dict[int, list[int]] = {}
        for place, shape in enumerate(shapes):
            groups.setdefault(shape[-1], []).append(place)
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
        given = [
            np.isfinite(clip.keypoints).all(-1).astype(np.float32) if clip.scores is None else clip.scores
            for clip in clips
        ]
        scores: Array = np.concatenate([one.reshape(-1, shape[2])[:, columns] for one, shape in zip(given, shapes)])
        moved, trust = convert(keypoints, scores, self._origin.name, self.skeleton.name)
        parts = zip(clips, shapes, np.split(moved, cuts), np.split(trust, cuts))
        return [
            SkeletonSequence(
                clip.key,
                one.reshape(*shape[:2], *one.shape[1:]),
                None if clip.scores is None else other.reshape(*shape[:2], -1),
                clip.label,
                clip.size,
                clip.fps,
                clip.features,
            )
            for clip, shape, one, other in parts
        ]
